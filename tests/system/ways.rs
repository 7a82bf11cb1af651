//! The way to backends that need not be on a connected network: through a router, from an address of
//! the balancer, and back through its kernel.

use pen_tests::{Lab, Pend, Protocol, ServiceText, process::SHORT, wait_until};
use serde_json::Value;

use crate::stage::{WEB, WEB6, vips};

/// A service of this mode over one backend that nobody checks.
fn service(mode: &str, name: &str, backend: &str) -> ServiceText {
    let at = if backend.contains(':') { WEB6 } else { WEB };
    let mut service = ServiceText::dsr(name, at, Protocol::Tcp, 80);
    mode.clone_into(&mut service.mode);
    service.check = Some(r#"{ type = "none" }"#.to_owned());
    service.backend(Some("far"), backend.parse().unwrap())
}

fn balance(lab: &Lab, mode: &str, backends: [&str; 2]) -> Pend {
    let config = vips().service(service(mode, "v4", backends[0]));
    let config = config.service(service(mode, "v6", backends[1]));
    let mut pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    pend.wait_ready(0).unwrap();
    pend
}

/// Waits until a column of the backend of a service reads so.
fn wait(pend: &Pend, service: &str, column: &str, expected: impl Into<Value>) {
    let expected = expected.into();
    let mut last = Value::Null;
    let waited = wait_until(SHORT, &format!("{column} of {service} is {expected}"), || {
        last = pend.backend(service, "far").unwrap();
        (last[column] == expected).then_some(())
    });
    waited.unwrap_or_else(|error| panic!("{error}: {last}"));
}

fn lab() -> Lab {
    Lab::builder().clients(2).backends(0).vips(&[]).build().unwrap()
}

#[test]
fn frames_for_a_backend_behind_a_router_go_to_the_router_and_follow_the_route() {
    let lab = lab();
    let balancer = &lab.balancer().netns;
    balancer.ip("route add 192.0.2.0/24 via 10.77.0.2").unwrap();
    balancer.ip("route add 2001:db8::/64 via fd77::2").unwrap();
    let pend = balance(&lab, "gue", ["192.0.2.5", "2001:db8::5"]);
    for service in ["v4", "v6"] {
        wait(&pend, service, "usable", true);
        wait(&pend, service, "mac", &*lab.clients[0].mac);
    }

    let outages = pend.events("service-down").unwrap();

    // Another router, which is there; and one that is not. The way that works is kept until the new
    // one does.
    balancer.ip("route replace 192.0.2.0/24 via 10.77.0.3").unwrap();
    balancer.ip("route replace 2001:db8::/64 via fd77::3").unwrap();
    // pend hears of routes when it asks: each ten seconds, or when an interface changes.
    balancer.ip("link set dev eth0 alias again").unwrap();
    for service in ["v4", "v6"] {
        wait(&pend, service, "mac", &*lab.clients[1].mac);
        wait(&pend, service, "usable", true);
    }
    assert_eq!(pend.events("service-down").unwrap(), outages);
    balancer.ip("route replace 192.0.2.0/24 via 10.77.0.250").unwrap();
    balancer.ip("link set dev eth0 alias still").unwrap();
    let text = "router 10.77.0.250 does not answer ARP or neighbour discovery on eth0";
    wait(&pend, "v4", "why", text);
    wait(&pend, "v6", "usable", true);
}

#[test]
fn a_tunnel_needs_an_address_to_send_from() {
    let lab = lab();
    let balancer = &lab.balancer().netns;
    balancer.ip("address del fd77::1/64 dev eth0").unwrap();
    balancer.ip("route add 2001:db8::/64 via fe80::70:65ff:fe6e:2 dev eth0").unwrap();
    balancer.ip("route add 192.0.2.0/24 via 10.77.0.2").unwrap();
    let pend = balance(&lab, "ipip", ["192.0.2.5", "2001:db8::5"]);
    wait(&pend, "v4", "usable", true);
    wait(&pend, "v6", "why", "eth0 has no IPv6 address to send from: add one");
    balancer.ip("address add fd77::1/64 dev eth0 nodad").unwrap();
    wait(&pend, "v6", "usable", true);
}

#[test]
fn answers_that_the_kernel_would_not_forward_are_warned_of() {
    let lab = lab();
    let balancer = &lab.balancer().netns;
    for sysctl in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        balancer.sysctl(sysctl, "0").unwrap();
    }
    let pend = balance(&lab, "nat", ["10.77.0.2", "fd77::2"]);
    let warnings = || {
        let status = pend.penctl_json(["status"]).unwrap();
        let warnings = status["warnings"].as_array().unwrap().iter();
        warnings.map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    wait(&pend, "v4", "usable", true);
    wait(&pend, "v6", "usable", true);
    let told = warnings();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].ends_with("(mode nat) are lost: sysctl -w net.ipv4.ip_forward=1"), "{told:?}");
    assert!(told[1].ends_with(": sysctl -w net.ipv6.conf.all.forwarding=1"), "{told:?}");
    assert!(pend.log().contains("eth0 does not forward IPv4"), "{}", pend.log());
    let text = pend.penctl(["status"]).unwrap().stdout;
    assert!(text.contains("warning: eth0 does not forward IPv6"), "{text}");

    balancer.sysctl("net/ipv4/ip_forward", "1").unwrap();
    balancer.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    balancer.ip("link set dev eth0 alias again").unwrap();
    wait_until(SHORT, "the warnings are gone", || warnings().is_empty().then_some(())).unwrap();
}
