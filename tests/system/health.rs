//! A backend dies and comes back: clients notice nothing once the checks have, and the operator can
//! read what happened.

use std::{net::SocketAddr, time::Duration};

use nix::sys::signal::Signal;
use pen_tests::{
    Demo, VIP4, VIP6,
    client::{http, udp_ask},
    server::UDP_PORT,
    wait::Stopwatch,
};

use crate::stage::{Stage, WEB, WEB6, count, while_asking};

/// The check of the lab: 3 failures 200 ms apart, the last of which may take 100 ms; and as much
/// again for a busy machine.
const DETECTION: Duration = Duration::from_millis(3 * 200 + 100);
const MARGIN: Duration = Duration::from_millis(700);

fn wait_all(stage: &Stage, health: &str) {
    for service in ["web", "web6", "echo", "echo6"] {
        stage.pend.wait_health(service, "b2", health).unwrap();
    }
}

#[test]
fn a_dead_backend_gets_nothing_after_its_checks_failed_and_serves_again_after_its_return() {
    let mut stage = Stage::new();
    let clock = Stopwatch::start();
    stage.demos[1].process().kill9().unwrap();
    wait_all(&stage, "down");
    let took = clock.elapsed();
    assert!(took < DETECTION + MARGIN, "{took:?}");

    for at in [WEB, WEB6] {
        let by = count((0..100).map(|_| http(stage.client(), at).unwrap()));
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
    }
    for vip in [VIP4, VIP6] {
        let ask = |_| udp_ask(stage.client(), SocketAddr::new(vip, UDP_PORT)).unwrap();
        let by = count((0..100).map(ask));
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
    }
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!(row["usable"], false);
    assert_eq!(row["why"], "check failed: connection refused");
    let events = stage.pend.events("backend-down").unwrap();
    assert!(events.contains(&"web/b2 is down: connection refused".to_owned()), "{events:?}");

    stage.demos[1] = Demo::on(&stage.lab.backends[1]).unwrap();
    let ((), heard) = while_asking(stage.client(), &[WEB, WEB6], || wait_all(&stage, "up"));
    // A connection that is open while its slot goes back to b2 is reset, because flows are not
    // remembered; the asker has one at a time, and two tables change.
    assert!(heard.failures.len() <= 2, "{heard:?}");
    let by = stage.web_tally(100);
    assert!(by.contains_key("b2"), "{by:?}");
    let events = stage.pend.events("backend-up").unwrap();
    assert!(events.iter().filter(|text| *text == "web/b2 is up").count() >= 2, "{events:?}");
}

#[test]
fn a_backend_that_hangs_is_taken_out_as_well() {
    let mut stage = Stage::new();
    // The kernel goes on accepting for a stopped process until its queue is full, so the host goes
    // off the wire instead.
    stage.lab.switch.set_link("b1", false).unwrap();
    let row = stage.pend.wait_health("web", "b1", "down").unwrap();
    assert_eq!(row["why"], "check failed: no answer within 100ms");
    let by = stage.web_tally(100);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b2", "b3"], "{by:?}");
    stage.lab.switch.set_link("b1", true).unwrap();
    stage.pend.wait_health("web", "b1", "up").unwrap();
    assert!(stage.web_tally(100).contains_key("b1"));
    // Cleanly stopped servers need no grace.
    stage.demos[0].process().signal(Signal::SIGKILL).unwrap();
}

#[test]
fn with_all_backends_dead_packets_are_dropped_and_counted_until_one_returns() {
    let mut stage = Stage::new();
    for demo in &mut stage.demos {
        demo.process().kill9().unwrap();
    }
    for backend in ["b1", "b2", "b3"] {
        stage.pend.wait_health("web", backend, "down").unwrap();
    }
    assert!(http(stage.client(), WEB).is_err());
    assert!(stage.pend.counter("drop-no-backend").unwrap() > 0);
    let status = stage.pend.penctl_json(["status"]).unwrap();
    let down = status["services_down"].as_array().unwrap();
    assert!(down.iter().any(|name| name == "web"), "{status}");
    assert!(!stage.pend.events("service-down").unwrap().is_empty());

    stage.demos[2] = Demo::on(&stage.lab.backends[2]).unwrap();
    stage.pend.wait_health("web", "b3", "up").unwrap();
    assert_eq!(stage.web_tally(20).keys().collect::<Vec<_>>(), ["b3"]);
}
