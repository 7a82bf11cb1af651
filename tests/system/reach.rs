//! The way to a backend: one that cannot be reached over Ethernet is told with its reason and does
//! not harm the others, and one that gets another Ethernet address is followed.

use std::time::Duration;

use pen_tests::{Lab, client::http, process::SHORT, wait::Stopwatch, wait_until};
use serde_json::Value;

use crate::stage::{Stage, WEB, WEB6, tally, usual};

/// Long enough for the kernel to notice that a neighbour is silent and to look for it anew.
const SECONDS: Duration = Duration::from_secs(9);

fn why(stage: &Stage, service: &str, name: &str, expected: &str) -> Value {
    let mut last = Value::Null;
    let waited = wait_until(SHORT, &format!("{service}/{name}: {expected}"), || {
        last = stage.pend.backend(service, name).unwrap();
        last["why"].as_str()?.contains(expected).then_some(())
    });
    waited.unwrap_or_else(|error| panic!("{error}: {last}"));
    last
}

/// All services with one more backend in `web` and in `web6`; only the real ones become usable.
fn with_strange_backends(strange: [&str; 2], prepare: impl FnOnce(&Lab)) -> Stage {
    let lab = Lab::builder().backends(2).build().unwrap();
    prepare(&lab);
    let demos = lab.backends.iter().map(|b| pen_tests::Demo::on(b).unwrap()).collect();
    let mut config = usual(&lab);
    for (service, address) in config.services.iter_mut().zip(strange) {
        let added = service.clone().backend(Some("strange"), address.parse().unwrap());
        *service = added;
    }
    let mut pend = pen_tests::Pend::start(&lab.balancer().netns, &config).unwrap();
    pend.wait_ready(8).unwrap();
    Stage { pend, demos, lab }
}

#[test]
fn a_backend_that_nobody_answers_for_is_unusable_with_that_reason() {
    let stage = with_strange_backends(["10.77.0.250", "fd77::250"], |_| {});
    for (service, at) in [("web", WEB), ("web6", WEB6)] {
        let row =
            why(&stage, service, "strange", "no answer to ARP or neighbour discovery on eth0");
        assert_eq!((&row["usable"], &row["mac"]), (&false.into(), &Value::Null));
        assert_eq!(row["share"], 0.0);
        let by = tally(60, || http(stage.client(), at).unwrap());
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "{by:?}");
    }
}

#[test]
fn a_backend_behind_a_router_is_unusable_with_that_reason() {
    let stage = with_strange_backends(["192.0.2.5", "2001:db8::5"], |lab| {
        let balancer = &lab.balancer().netns;
        balancer.ip("route add 192.0.2.0/24 via 10.77.0.2").unwrap();
        balancer.ip("route add 2001:db8::/64 via fd77::2").unwrap();
    });
    why(
        &stage,
        "web",
        "strange",
        "behind router 10.77.0.2: mode dsr needs a backend on a connected",
    );
    why(
        &stage,
        "web6",
        "strange",
        "behind router fd77::2: mode dsr needs a backend on a connected",
    );
    stage.web_tally(30);
}

#[test]
fn a_backend_without_a_route_is_unusable_with_that_reason_until_there_is_one() {
    let stage = with_strange_backends(["10.99.0.11", "fd99::11"], |_| {});
    why(&stage, "web", "strange", "no route to it");
    why(&stage, "web6", "strange", "no route to it");
    // b1 turns out to have that address as well.
    let b1 = &stage.lab.backends[0].netns;
    b1.ip("address add 10.99.0.11/24 dev eth0").unwrap();
    stage.balancer().ip("address add 10.99.0.1/24 dev eth0").unwrap();
    stage.pend.wait_health("web", "strange", "up").unwrap();
    wait_until(SHORT, "the backend is usable", || {
        let row = stage.pend.backend("web", "strange").unwrap();
        (row["usable"] == true && row["mac"] == *stage.lab.backends[0].mac).then_some(())
    })
    .unwrap();
}

#[test]
fn a_backend_that_appears_later_is_found() {
    let stage = with_strange_backends(["10.77.0.13", "fd77::13"], |_| {});
    why(&stage, "web", "strange", "no answer to ARP");
    let host = stage.lab.add_host("b3", 13).unwrap();
    for vip in [pen_tests::VIP4, pen_tests::VIP6] {
        host.hold_vip(vip).unwrap();
    }
    let _demo = pen_tests::Demo::on(&host).unwrap();
    for (service, at) in [("web", WEB), ("web6", WEB6)] {
        wait_until(SHORT, "b3 is usable", || {
            (stage.pend.backend(service, "strange").unwrap()["usable"] == true).then_some(())
        })
        .unwrap();
        assert!(tally(60, || http(stage.client(), at).unwrap()).contains_key("b3"));
    }
}

/// Gives b2 another Ethernet address, and waits until pend sends to it.
fn follow(stage: &Stage, limit: Duration) {
    let b2 = &stage.lab.backends[1];
    let mac = "02:70:65:6e:99:12";
    b2.netns.ip(&format!("link set dev eth0 address {mac}")).unwrap();
    let clock = Stopwatch::start();
    for (service, at) in [("web", WEB), ("web6", WEB6)] {
        let what = format!("{service}/b2 is usable at {mac}");
        wait_until(limit.saturating_sub(clock.elapsed()), &what, || {
            let row = stage.pend.backend(service, "b2").unwrap();
            (row["mac"] == mac && row["usable"] == true).then_some(())
        })
        .map_err(|error| stage.pend.with_log(&error))
        .unwrap();
        // The switch of the way took at most as long as checks; now nothing fails.
        assert!(tally(60, || http(stage.client(), at).unwrap()).contains_key("b2"));
    }
}

#[test]
fn a_backend_that_announces_another_ethernet_address_is_followed_at_once() {
    let stage = Stage::new();
    let b2 = &stage.lab.backends[1].netns;
    b2.sysctl("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
    b2.sysctl("net/ipv6/conf/eth0/ndisc_notify", "1").unwrap();
    follow(&stage, Duration::from_secs(3));
}

#[test]
fn a_backend_that_silently_gets_another_ethernet_address_is_followed_within_seconds() {
    follow(&Stage::new(), SECONDS);
}
