//! Checks of services whose traffic takes a tunnel: datagrams go the same way.

use pen_tests::{
    Decap, Demo, Lab, Pend, Protocol, ServiceText, server::UDP_PORT, wait::wait_until,
};

use super::TIMES;
use crate::{
    proxy::LONG,
    stage::{ECHO, ECHO6, over_all, vips},
    tunnel::VIPS,
};

/// A service over UDP at each virtual address, checked by a datagram through tunnels of this kind to
/// backends of IPv4 or IPv6.
fn goes_through(mode: &str, to_v4: bool) {
    let lab = Lab::builder().backends(1).build().unwrap();
    let host = &lab.backends[0];
    let decap = Decap::on(host, &VIPS).unwrap();
    let demo = Demo::on(host).unwrap();
    let backend: std::net::IpAddr = if to_v4 { host.v4.into() } else { host.v6.into() };
    let mut config = vips();
    for (name, at) in [("echo", ECHO), ("echo6", ECHO6)] {
        config = config.service(ServiceText {
            mode: mode.to_owned(),
            backends: vec![(Some("b1".to_owned()), (backend, UDP_PORT).into())],
            check: Some(format!(r#"{{ type = "udp", send = "who?", expect = "b1", {TIMES} }}"#)),
            ..over_all(&lab, name, at, Protocol::Udp, UDP_PORT)
        });
    }
    let pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    let wait = |health: &str| ["echo", "echo6"].map(|name| wait_health(&pend, name, health));
    wait("up");
    assert!(decap.penctl(&["detach", "--interface", "eth0"]).unwrap().status.success());
    for row in wait("down") {
        assert!(row["why"].as_str().unwrap().contains("penctl decap attach"), "{row}");
    }
    decap.attach(&VIPS).unwrap();
    wait("up");
    drop(demo);
}

fn wait_health(pend: &Pend, service: &str, health: &str) -> serde_json::Value {
    let what = format!("{service} is {health}");
    let is = |row: &serde_json::Value| row["health"] == health;
    wait_until(LONG, &what, || pend.backend(service, "b1").ok().filter(is)).unwrap()
}

#[test]
fn datagrams_go_through_ip_in_ip() {
    goes_through("ipip", true);
}

#[test]
fn datagrams_go_through_gue_to_ipv6() {
    goes_through("gue", false);
}
