//! Does the lab itself hold? A fault here would look like a fault of the balancer in every other
//! test.
//!
//! No daemon takes part: a client is told by hand that the VIP is at the MAC address of one
//! backend, which is what the mode `dsr` makes of a packet.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt,
    panic,
    path::Path,
};

use pen_tests::{
    Capture, Demo, Dnsmasq, Host, Lab, Netns, Nginx, VIP4, VIP6,
    client::{TcpTalk, curl, dig, http, udp_ask},
    process::SHORT,
    server::{HTTP_PORT, UDP_PORT},
    wait_until,
};

fn believe(client: &Host, vip: IpAddr, at: &Host) {
    let entry = format!("neighbour replace {vip} lladdr {} dev eth0", at.mac);
    client.netns.ip(&entry).expect("the neighbour table takes entries");
}

#[test]
fn a_backend_that_holds_the_vips_answers_from_them() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let client = lab.client();
    let _demos: Vec<_> = lab.backends.iter().map(|backend| Demo::on(backend).unwrap()).collect();
    for backend in &lab.backends {
        for vip in [VIP4, VIP6] {
            believe(client, vip, backend);
            let (web, echo) = (SocketAddr::new(vip, HTTP_PORT), SocketAddr::new(vip, UDP_PORT));
            assert_eq!(curl(&client.netns, &format!("http://{web}/")).as_ref(), Ok(&backend.name));
            assert_eq!(http(&client.netns, web).unwrap(), backend.name);
            assert_eq!(udp_ask(&client.netns, echo).as_ref(), Some(&backend.name));
            let mut talk = TcpTalk::open(&client.netns, web).unwrap();
            assert_eq!([talk.ask().unwrap(), talk.ask().unwrap()], [&*backend.name; 2]);
            talk.close().unwrap();
        }
    }
}

#[test]
fn nginx_and_dnsmasq_say_who_they_are() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let (client, backend) = (lab.client(), &lab.backends[0]);
    let nginx = Nginx::start(&backend.netns, "b1", 80).unwrap();
    let _dnsmasq = Dnsmasq::start(&backend.netns, "b1").unwrap();
    fs::write(nginx.files().join("bulk"), "x".repeat(100_000)).unwrap();
    for vip in [VIP4, VIP6] {
        believe(client, vip, backend);
        let web = SocketAddr::new(vip, 80);
        assert_eq!(curl(&client.netns, &format!("http://{web}/")), Ok("b1".to_owned()));
        assert_eq!(
            curl(&client.netns, &format!("http://{web}/files/bulk")).unwrap().len(),
            100_000
        );
        let answer = dig(&client.netns, SocketAddr::new(vip, 53), Dnsmasq::WHO, "TXT");
        assert_eq!(answer, Ok("\"b1\"".to_owned()));
    }
}

#[test]
fn nobody_on_the_wire_answers_for_a_vip_that_sits_on_lo() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let client = &lab.client().netns;
    let capture = Capture::start(lab.switch.netns(), "b1", "arp or icmp6").unwrap();
    assert!(curl(client, &format!("http://{VIP4}/")).is_err());
    assert!(curl(client, &format!("http://[{VIP6}]/")).is_err());
    let lines = capture.stop().unwrap();
    assert!(lines.iter().any(|line| line.contains("who-has 10.77.0.100")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("who has fd77::100")), "{lines:#?}");
    let from_backend: BTreeSet<_> =
        lines.iter().filter(|line| line.contains(&format!("{} >", lab.backends[0].mac))).collect();
    assert!(
        !from_backend.iter().any(|line| line.contains("is-at") || line.contains("advertisement"))
    );
}

#[test]
fn only_the_balancers_wire_has_an_xdp_program_and_it_is_native() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let switch = lab.switch.netns();
    assert!(switch.ip("-details link show dev balancer").unwrap().contains(" xdp "));
    assert!(!switch.ip("-details link show dev b1").unwrap().contains("xdp"));
}

#[test]
fn a_killed_server_is_refused_and_another_takes_its_place() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let (client, backend) = (&lab.client().netns, &lab.backends[0]);
    let at = SocketAddr::new(backend.v4.into(), HTTP_PORT);
    let mut demo = Demo::on(backend).unwrap();
    demo.process().kill9().unwrap();
    assert!(http(client, at).is_err());
    let _next = Demo::on(backend).unwrap();
    assert_eq!(http(client, at).unwrap(), "b1");
}

#[test]
fn a_panic_leaves_no_namespace_and_no_process_behind() {
    let mut left = None;
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let netns = Netns::new("panic").unwrap();
        // Not ended by anyone on its own account: only the end of the namespace ends it.
        let stray = netns.command("sleep").arg("60").spawn().unwrap();
        // In the namespace at last.
        let comm = format!("/proc/{}/comm", stray.id());
        wait_until(SHORT, "the stray process runs", || {
            (fs::read_to_string(&comm).ok()?.trim_end() == "sleep").then_some(())
        })
        .unwrap();
        left = Some((netns.name().to_owned(), stray));
        panic!("on purpose");
    }));
    assert!(result.is_err());
    let (name, mut stray) = left.unwrap();
    assert!(!Path::new("/run/netns").join(name).exists());
    assert_eq!(stray.wait().unwrap().signal(), Some(9));
}
