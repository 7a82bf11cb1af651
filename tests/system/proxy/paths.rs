//! How connections get to the proxy and from it to the backends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use pen_tests::{Lab, ServiceText, VIP4, client::http, process::SHORT, wait_until};

use super::{lab, proxied, stage, start};
use crate::stage::{Stage, WEB, WEB6, tally, usual, vips};

#[test]
fn clients_of_both_families_reach_backends_of_both() {
    let lab = lab(2);
    let mut config = vips();
    for (name, at, backends) in [("web", WEB, WEB6), ("web6", WEB6, WEB)] {
        let mut service = proxied(&lab, name, at, "");
        // Backends of the other family, and of both.
        for (number, backend) in lab.backends.iter().enumerate() {
            let address = backend.address_like(if number == 0 { at.ip() } else { backends.ip() });
            service.backends[number].1.set_ip(address);
        }
        config = config.service(service);
    }
    let stage = Stage::in_lab(lab, |_| config);
    for at in [WEB, WEB6] {
        let by = tally(40, || http(stage.client(), at).unwrap());
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "{at}: {by:?}");
    }
    assert!(stage.pend.counter("pass-proxy").unwrap() > 100);
}

#[test]
fn a_client_gets_the_same_backend_from_the_proxy_as_from_the_kernel() {
    let lab = Lab::builder().backends(3).vips(&[]).build().unwrap();
    let client = lab.client().netns.clone();
    let sources: Vec<IpAddr> =
        (0..24).map(|number| format!("10.77.0.{}", 120 + number).parse().unwrap()).collect();
    for source in &sources {
        client.ip(&format!("address add {source}/32 dev eth0")).unwrap();
    }
    lab.balancer().netns.sysctl("net/ipv4/ip_forward", "1").unwrap();
    let service = |lab: &Lab, mode: &str| {
        let service = proxied(lab, "web", WEB, "");
        let service =
            ServiceText { mode: mode.to_owned(), affinity: "client".to_owned(), ..service };
        vips().service(service)
    };
    let stage = Stage::in_lab(lab, |lab| service(lab, "masquerade"));
    let ask = || -> Vec<String> {
        sources.iter().map(|source| from(&client, *source, WEB).unwrap()).collect()
    };
    let by_kernel = ask();
    assert_eq!(by_kernel.iter().collect::<BTreeSet<_>>().len(), 3, "{by_kernel:?}");
    let text = service(&stage.lab, "proxy").render(Some(stage.pend.socket()));
    std::fs::write(stage.pend.config(), text).unwrap();
    stage.order(["reload"]);
    assert_eq!(ask(), by_kernel);
    assert!(stage.pend.counter("pass-proxy").unwrap() > 0);
}

/// Who answers a client that sends from this one of its addresses.
fn from(netns: &pen_tests::Netns, source: IpAddr, to: SocketAddr) -> Result<String, String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "5", "--interface"]);
    command.arg(source.to_string()).arg(format!("http://{to}/"));
    let output = pen_tests::process::run(&mut command, SHORT).map_err(|e| format!("{e:#}"))?;
    if output.status.success() {
        Ok(output.stdout.trim_end().to_owned())
    } else {
        Err(output.stderr)
    }
}

#[test]
fn other_services_of_the_address_stay_in_the_kernel() {
    let lab = Lab::builder().build().unwrap();
    let stage = Stage::in_lab(lab, |lab| {
        let at = SocketAddr::new(VIP4, 8080);
        let mut service = proxied(lab, "proxied", at, "");
        for (_, backend) in &mut service.backends {
            backend.set_port(80);
        }
        service.check = Some(r#"{ type = "tcp", interval = "200ms", timeout = "100ms" }"#.into());
        usual(lab).service(service)
    });
    let transmitted = stage.pend.counter("transmit").unwrap();
    assert!(http(stage.client(), SocketAddr::new(VIP4, 8080)).is_ok());
    assert_eq!(stage.pend.counter("transmit").unwrap(), transmitted);
    assert!(http(stage.client(), WEB).is_ok());
    assert!(stage.pend.counter("transmit").unwrap() > transmitted);
}

#[test]
fn the_route_to_the_proxy_comes_and_goes_with_it() {
    let mut stage = stage(1, "");
    let route = |stage: &Stage| {
        let table = stage.balancer().ip("route show table local proto 112").unwrap();
        table.contains(&VIP4.to_string())
    };
    assert!(route(&stage) && http(stage.client(), WEB).is_ok());
    // A crash leaves it, and the next daemon does not mind.
    stage.pend.kill9().unwrap();
    assert!(route(&stage));
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(1).unwrap();
    assert!(http(stage.client(), WEB).is_ok());
    stage.pend.terminate().unwrap();
    assert!(!route(&stage));
}

#[test]
fn a_service_that_becomes_another_mode_by_reload_leaves_nothing_behind() {
    let stage = stage(2, "");
    let listening = |stage: &Stage| {
        let output = stage.balancer().output("ss", ["-Htln", "sport = 80"]).unwrap();
        output.stdout.lines().count()
    };
    assert!(listening(&stage) > 0);
    let mut service = proxied(&stage.lab, "web", WEB, "");
    service.mode = "masquerade".to_owned();
    let text = vips().service(service).render(Some(stage.pend.socket()));
    std::fs::write(stage.pend.config(), text).unwrap();
    stage.order(["reload"]);
    wait_until(SHORT, "nobody listens", || (listening(&stage) == 0).then_some(())).unwrap();
    let table = stage.balancer().ip("route show table local proto 112").unwrap();
    assert_eq!(table.trim(), "");
}

#[test]
fn an_own_address_needs_no_virtual_one_and_no_xdp() {
    let lab = lab(1);
    let at = SocketAddr::new(lab.balancer().v4.into(), 80);
    let any = SocketAddr::new("::".parse().unwrap(), 81);
    let mut second = proxied(&lab, "dual", any, "");
    second.backends[0].1.set_port(80);
    let mut config = pen_tests::ConfigText::default().service(proxied(&lab, "web", at, ""));
    config = config.service(second);
    let stage = Stage::in_lab(lab, |_| config);
    let balancer = stage.lab.balancer();
    for at in [at, SocketAddr::new(balancer.v4.into(), 81), SocketAddr::new(balancer.v6.into(), 81)]
    {
        assert_eq!(http(stage.client(), at).unwrap(), "b1", "{at}");
    }
}

#[test]
fn an_address_that_somebody_else_listens_on_is_an_error_at_the_start() {
    let lab = lab(1);
    let taken = lab.balancer().netns.run(|| std::net::TcpListener::bind("0.0.0.0:80")).unwrap();
    let config = vips().service(proxied(&lab, "web", WEB, ""));
    let mut pend = pen_tests::Pend::start(&lab.balancer().netns, &config).unwrap();
    let error = format!("{:#}", pend.wait_ready(0).unwrap_err());
    assert!(error.contains("service web: 10.77.0.100:80: Address already in use"), "{error}");
    drop(taken);
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
}

#[test]
fn an_address_that_gets_taken_by_reload_is_told_and_tried_again() {
    let lab = lab(1);
    let taken = lab.balancer().netns.run(|| std::net::TcpListener::bind("0.0.0.0:81")).unwrap();
    let _demo = pen_tests::Demo::on(&lab.backends[0]).unwrap();
    let pend = start(&lab, &vips().service(proxied(&lab, "web", WEB, "")));
    let at = SocketAddr::new(VIP4, 81);
    let mut second = proxied(&lab, "second", at, "");
    second.backends[0].1.set_port(80);
    let config = vips().service(proxied(&lab, "web", WEB, "")).service(second);
    std::fs::write(pend.config(), config.render(Some(pend.socket()))).unwrap();
    assert!(pend.penctl(["reload"]).unwrap().status.success());
    let told = pend.events("not-listening").unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("Address already in use"), "{told:?}");
    let client = &lab.client().netns;
    wait_until(SHORT, "the first one serves", || http(client, WEB).ok()).unwrap();
    drop(taken);
    wait_until(super::LONG, "the second one serves", || http(client, at).ok()).unwrap();
}

#[test]
fn the_protocol_of_explain_says_that_it_is_the_proxys() {
    let stage = stage(1, "");
    let said = stage.pend.penctl_json(["explain", "10.77.0.2:5000", "10.77.0.100:80"]).unwrap();
    assert_eq!((&said["verdict"], &said["counter"]), (&"pass".into(), &"pass-proxy".into()));
}
