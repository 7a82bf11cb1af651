//! Traffic through the same interface that is none of pen's business: not one packet of it may be
//! lost or changed, neither while pend is attached nor while it comes and goes.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
};

use pen_tests::{
    Demo, Host, Lab, Netns, Nginx, Pend, VIP4,
    client::{curl, udp_ask},
    server::UDP_PORT,
};

use crate::stage::{Stage, usual, while_asking};

/// Sends `count` pings 5 ms apart; the one line of ping's that says how many came back.
fn ping(from: &Netns, to: IpAddr, count: u32, bytes: u32) -> String {
    let [count, bytes] = [count, bytes].map(|number| number.to_string());
    let args = ["-q", "-i0.005", "-W2", "-c", &count, "-s", &bytes, &to.to_string()];
    let output = from.output("ping", args).unwrap();
    let line = output.stdout.lines().find(|line| line.contains("packets transmitted"));
    line.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

fn assert_no_loss(from: &Netns, to: &Host, count: u32) {
    for address in [IpAddr::from(to.v4), to.v6.into()] {
        // The second size goes as three fragments.
        for bytes in [56, 4000] {
            let line = ping(from, address, count, bytes);
            let all = format!("{count} packets transmitted, {count} received, 0% packet loss");
            assert!(line.starts_with(&all), "{bytes} bytes to {address}: {line}");
        }
    }
}

#[test]
fn ping_and_fragments_reach_the_balancer_and_backends_while_pend_is_attached() {
    let stage = Stage::new();
    assert_no_loss(stage.client(), stage.lab.balancer(), 100);
    assert_no_loss(stage.balancer(), &stage.lab.backends[0], 100);
    assert_no_loss(stage.client(), &stage.lab.backends[0], 20);
}

#[test]
fn servers_on_the_balancers_own_address_are_reached_while_pend_is_attached() {
    let stage = Stage::new();
    let balancer = stage.lab.balancer();
    let nginx = Nginx::start(&balancer.netns, "itself", 80).unwrap();
    let bulk = "0123456789abcdef".repeat(65_536);
    fs::write(nginx.files().join("bulk"), &bulk).unwrap();
    let _demo = Demo::start(&balancer.netns, "itself", 8080, UDP_PORT).unwrap();
    for address in [IpAddr::from(balancer.v4), balancer.v6.into()] {
        // The same ports as the services have on the VIPs.
        let web = SocketAddr::new(address, 80);
        let body = curl(stage.client(), &format!("http://{web}/files/bulk")).unwrap();
        assert!(body == bulk, "{address}: {} bytes", body.len());
        for _ in 0..50 {
            let echo = SocketAddr::new(address, UDP_PORT);
            assert_eq!(udp_ask(stage.client(), echo).as_deref(), Some("itself"));
        }
    }
    let own = ["arp-reply", "transmit"].map(|name| stage.pend.counter(name).unwrap());
    assert_eq!(own, [0, 0]);
}

#[test]
fn a_port_of_a_vip_without_a_service_is_left_to_the_kernel() {
    let stage = Stage::new();
    let balancer = stage.lab.balancer();
    balancer.netns.ip(&format!("address add {VIP4}/32 dev lo")).unwrap();
    let _demo = Demo::start(&balancer.netns, "itself", 8080, 7007).unwrap();
    assert_eq!(curl(stage.client(), &format!("http://{VIP4}:8080/")), Ok("itself".to_owned()));
    let line = ping(stage.client(), VIP4, 20, 4000);
    assert!(line.contains(" 0% packet loss"), "{line}");
    assert!(stage.pend.counter("pass-no-service").unwrap() > 0);
    assert!(stage.pend.counter("pass-fragment").unwrap() > 0);
}

#[test]
fn nothing_is_lost_while_pend_comes_and_goes() {
    let lab = Lab::builder().build().unwrap();
    let _demos: Vec<_> = lab.backends.iter().map(|b| Demo::on(b).unwrap()).collect();
    let balancer = lab.balancer();
    let _itself = Demo::start(&balancer.netns, "itself", 8080, UDP_PORT).unwrap();
    let web = [IpAddr::from(balancer.v4), balancer.v6.into()].map(|ip| SocketAddr::new(ip, 8080));
    let client = &lab.client().netns;
    let config = usual(&lab);
    let come_and_go = || {
        let mut pend = Pend::start(&balancer.netns, &config).unwrap();
        for _ in 0..3 {
            pend.wait_ready(12).unwrap();
            assert!(pend.terminate().unwrap().success());
            pend.launch().unwrap();
        }
        pend.wait_ready(12).unwrap();
        pend.kill9().unwrap();
        pend.launch().unwrap();
        pend.wait_ready(12).unwrap();
    };
    let ((), heard) = while_asking(client, &web, || {
        thread::scope(|scope| {
            let pings = [IpAddr::from(balancer.v4), balancer.v6.into()].map(|address| {
                // Longer than all coming and going, about two seconds.
                [56, 4000].map(|bytes| scope.spawn(move || ping(client, address, 600, bytes)))
            });
            come_and_go();
            for line in pings.into_iter().flatten().map(|ping| ping.join().unwrap()) {
                assert!(line.contains(" 600 received, 0% packet loss"), "{line}");
            }
        });
    });
    assert!(heard.asked > 100 && heard.failures.is_empty(), "{heard:?}");
}
