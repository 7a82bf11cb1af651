//! What is still at backends that get nothing new, and the deadlines of drains.

use pen_common::abi;

use super::*;
use crate::api::Draining;
use crate::config::Proxy;

const SETTLE: Duration = Duration::from_secs(60);

/// `web` on two backends, its flows in the kernel.
fn kernel(affinity: Affinity) -> Sim {
    let mut config = config(2);
    config.services[0].affinity = affinity;
    config.services[0].memory.settle = SETTLE;
    start(config)
}

/// The same through the proxies, and a second service over the same servers.
fn proxied() -> Sim {
    let mut config = config(2);
    config.services[0].mode = Mode::Proxy;
    config.services[0].proxy = Some(Box::new(Proxy::usual()));
    let mut other = config.services[0].clone();
    other.name = "other".into();
    other.listen.ports = Ports::one(81);
    config.services.push(other);
    start(config)
}

fn start(config: Config) -> Sim {
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    sim
}

fn drain(sim: &mut Sim, deadline: Option<u64>) -> Result<Change, Refusal> {
    order(sim, Admin::Drain, deadline)
}

fn order(sim: &mut Sim, admin: Admin, deadline: Option<u64>) -> Result<Change, Refusal> {
    let (service, backend) = ("web".into(), "b1".into());
    let deadline_ms = deadline.map(|seconds| 1000 * seconds);
    let wish = SetAdmin { service, backend, admin, deadline_ms, dry_run: false };
    let change = sim.engine.set_admin(sim.now, &wish);
    sim.carry_out();
    change
}

fn left(sim: &Sim) -> Option<Draining> {
    sim.engine.backends(sim.now, &Counts::default())[0].draining.clone()
}

fn admin(sim: &Sim) -> Admin {
    sim.engine.backends(sim.now, &Counts::default())[0].admin
}

fn why(sim: &Sim) -> String {
    sim.engine.backends(sim.now, &Counts::default())[0].why.clone().unwrap_or_default()
}

fn told(sim: &Sim, kind: &str) -> Vec<String> {
    let events = sim.engine.events(0).into_iter();
    events.filter(|event| event.kind == kind).map(|event| event.text).collect()
}

/// A flow of b1 sends something.
fn send(sim: &Sim, source_port: u16) {
    let service = sim.maps.services.values().next().expect("one").id;
    let (client, port) = (Addr::v4([198, 51, 100, 7]), Be16::new(80));
    let key = FlowKey { client, service, source_port: Be16::new(source_port), port };
    sim.records.record_flow(&key, &record(sim));
}

/// b1 is remembered for a client.
fn remember(sim: &Sim, last: u8) {
    let service = sim.maps.services.values().next().expect("one").id;
    let key = ClientKey { client: Addr::v4([198, 51, 100, last]), service, _pad: 0 };
    sim.records.record_client(&key, &record(sim));
}

fn record(sim: &Sim) -> Record {
    let generation = sim.maps.backends[&1].generation;
    Record { backend: 1, generation, last_seen_ns: sim.now.0 }
}

#[test]
fn connections_of_a_proxy_go_on_until_the_deadline_and_their_number_is_told() {
    let mut sim = proxied();
    sim.connections.insert(1, 2);
    let change = drain(&mut sim, Some(600)).expect("possible");
    assert_eq!((change.was.as_str(), change.now.as_str()), ("ready", "drain for 10m at most"));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.connections, found.flows), (Some(2), Some(2), None));
    assert_eq!((found.empty, found.deadline_in_ms), (false, Some(600_000)));
    sim.connections.insert(1, 1);
    sim.run_for(Duration::from_millis(599_900));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.deadline_in_ms), (Some(1), Some(100)));
    assert!(found.counted_ms.expect("counted") <= 1000);
    assert!(!sim.proxies.services[0].backends[0].maintenance);
    // What ends is counted at the end, not as it was before.
    sim.connections.insert(1, 3);
    sim.run_for(Duration::from_millis(100));
    assert!(sim.proxies.services[0].backends[0].maintenance, "the proxies close them");
    assert!(!sim.proxies.services[1].backends[0].maintenance, "only of the service that was named");
    let text = "web/b1: the deadline of its drain is over: 3 connections ended; drain -> maint";
    assert_eq!(told(&sim, "drained"), [text]);
    assert_eq!(why(&sim), "in maintenance since the deadline of its drain: 3 connections ended");
    let found = left(&sim).expect("how it ended");
    assert_eq!((found.over, found.ended, found.deadline_in_ms), (true, Some(3), None));
    assert_eq!(sim.engine.backends(sim.now, &Counts::default())[2].admin, Admin::Ready);
    order(&mut sim, Admin::Ready, None).expect("possible");
    assert_eq!(left(&sim), None);
}

#[test]
fn that_nothing_is_left_is_told_once_before_the_deadline() {
    let mut sim = proxied();
    sim.connections.insert(1, 1);
    drain(&mut sim, Some(600)).expect("possible");
    sim.run_for(secs(30));
    assert_eq!(told(&sim, "drained"), [""; 0]);
    sim.connections.clear();
    sim.run_for(secs(2));
    let text = "web/b1 is drained: nothing is left, it can be switched off";
    assert_eq!(told(&sim, "drained"), [text]);
    assert!(left(&sim).expect("it is drained").empty);
    // A client that is remembered.
    sim.connections.insert(1, 1);
    sim.run_for(secs(2));
    assert!(!left(&sim).expect("it is drained").empty);
    sim.connections.clear();
    sim.run_for(secs(600));
    assert_eq!(told(&sim, "drained"), [text], "once");
    let over = "web/b1: the deadline of its drain is over: nothing was left; drain -> maint";
    assert_eq!(told(&sim, "admin").last().map(String::as_str), Some(over));
    assert_eq!(admin(&sim), Admin::Maint);
}

#[test]
fn an_empty_server_says_that_clients_may_come_back_if_they_are_remembered() {
    let mut config = config(2);
    config.services[0].mode = Mode::Proxy;
    config.services[0].proxy = Some(Box::new(Proxy::usual()));
    config.services[0].affinity = Affinity::Client;
    let mut sim = start(config);
    drain(&mut sim, None).expect("possible");
    let text = "web/b1 is drained: nothing is left, it can be switched off; clients that are remembered \
                may still come back to it, unless it is in maintenance";
    assert_eq!(told(&sim, "drained"), [text]);
}

#[test]
fn flows_in_the_kernel_are_counted_and_moved_at_the_deadline() {
    let mut sim = kernel(Affinity::Client);
    drain(&mut sim, Some(30)).expect("possible");
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.empty), (None, false), "not counted yet");
    sim.run_for(secs(1));
    send(&sim, 1000);
    send(&sim, 1001);
    remember(&sim, 7);
    sim.run_for(secs(10));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.flows, found.clients), (Some(3), Some(2), Some(1)));
    assert!(found.counted_ms.expect("counted") <= 2000, "{found:?}");
    assert!((8_000..=10_000).contains(&found.quiet_ms.expect("flows were seen")), "{found:?}");
    assert!(found.silent, "others may have sent nothing yet");
    assert_eq!(sim.maps.backends[&1].state, abi::Backend::DRAIN);
    let probes = sim.probes[&address(1)].len();
    sim.run_for(secs(19));
    assert_eq!(sim.maps.backends[&1].state, abi::Backend::DOWN);
    assert_eq!(sim.serving(), BTreeSet::from([2]));
    let text = "web/b1: the deadline of its drain is over: 2 flows and 1 remembered client ended, and \
                flows that were silent since it began; drain -> maint";
    assert_eq!(told(&sim, "drained"), [text]);
    let at_the_end = sim.probes[&address(1)].len();
    assert!(at_the_end > probes);
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(1)].len(), at_the_end, "checks stop as in maintenance");
}

#[test]
fn a_backend_is_empty_once_no_record_and_no_slot_names_it() {
    let mut sim = kernel(Affinity::Flow);
    drain(&mut sim, None).expect("possible");
    sim.run_for(secs(30));
    send(&sim, 1000);
    sim.run_for(SETTLE - secs(1));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.silent, found.empty), (Some(1), false, false));
    sim.run_for(secs(40));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.empty), (Some(0), true));
    sim.run_for(secs(600));
    let text = "web/b1 is drained: nothing is left, it can be switched off";
    assert_eq!(told(&sim, "drained"), [text]);
    assert_eq!(admin(&sim), Admin::Drain, "without a deadline it stays so");
}

#[test]
fn clients_that_go_elsewhere_in_the_end_are_not_left() {
    let mut sim = kernel(Affinity::Client);
    remember(&sim, 7);
    drain(&mut sim, None).expect("possible");
    sim.run_for(secs(10));
    assert_eq!(left(&sim).expect("it is drained").left, Some(1));
    sim.run_for(SETTLE + secs(20));
    let found = left(&sim).expect("it is drained");
    assert_eq!((found.left, found.clients, found.empty), (Some(0), Some(1), true));
}

#[test]
fn another_order_replaces_the_deadline() {
    for (then, deadline, in_the_end, text) in [
        (
            Admin::Ready,
            None,
            Admin::Ready,
            "web/b1: drain for 10m at most -> ready by the operator",
        ),
        (
            Admin::Maint,
            None,
            Admin::Maint,
            "web/b1: drain for 10m at most -> maint by the operator",
        ),
        (
            Admin::Drain,
            None,
            Admin::Drain,
            "web/b1: drain for 10m at most -> drain by the operator",
        ),
        (
            Admin::Drain,
            Some(3600),
            Admin::Drain,
            "web/b1: drain for 10m at most -> drain for 1h at most by the operator",
        ),
    ] {
        let mut sim = proxied();
        drain(&mut sim, Some(600)).expect("possible");
        assert_eq!(sim.deadlines.len(), 1);
        order(&mut sim, then, deadline).expect("possible");
        assert_eq!(told(&sim, "admin").last().map(String::as_str), Some(text));
        assert_eq!(sim.deadlines.len(), usize::from(deadline.is_some()));
        sim.run_for(secs(1200));
        assert_eq!(admin(&sim), in_the_end, "{text}");
    }
    let mut sim = proxied();
    drain(&mut sim, Some(600)).expect("possible");
    drain(&mut sim, Some(60)).expect("possible");
    sim.run_for(secs(61));
    assert_eq!(admin(&sim), Admin::Maint);
    assert!(sim.deadlines.is_empty());
}

#[test]
fn a_deadline_that_makes_no_sense_is_refused_with_a_cure() {
    let mut sim = proxied();
    for (admin, deadline, text) in [
        (Admin::Maint, 5, "maint has no deadline; only a drain has one"),
        (Admin::Ready, 5, "ready has no deadline; only a drain has one"),
        (
            Admin::Drain,
            0,
            "a drain that ends at once is none; for no packet at all from now on, say `maint`",
        ),
        (
            Admin::Drain,
            366 * 86_400,
            "1year 18h is too long; give 365 days at most, or no deadline",
        ),
    ] {
        let refusal = order(&mut sim, admin, Some(deadline)).expect_err(text);
        assert_eq!(refusal.to_string(), text);
    }
    assert_eq!(admin(&sim), Admin::Ready);
}

#[test]
fn a_deadline_outlives_the_controller_and_one_of_an_earlier_drain_means_nothing() {
    let mut first = kernel(Affinity::Flow);
    drain(&mut first, Some(600)).expect("possible");
    first.run_for(secs(100));
    let mut second = Sim::prepare(config(2), first.maps.clone());
    second.now = first.now;
    second.event(Event::DeadlinesKept(first.deadlines.clone()));
    second.begin();
    second.run_for(secs(10));
    let found = left(&second).expect("it is drained");
    assert_eq!(found.deadline_in_ms, Some(490_000));
    second.run_for(secs(490));
    assert_eq!(admin(&second), Admin::Maint);
    // The maps are new: nobody is drained.
    let mut third = Sim::prepare(config(2), Tables::default());
    third.event(Event::DeadlinesKept(first.deadlines.clone()));
    third.begin();
    assert!(third.deadlines.is_empty(), "and it is not kept any more");
    third.run_for(secs(1000));
    assert_eq!(admin(&third), Admin::Ready);
}

#[test]
fn a_server_that_left_the_configuration_is_shown_until_its_connections_have_ended() {
    let mut sim = proxied();
    sim.connections.insert(1, 2);
    let mut less = config(2);
    less.services = sim.engine.config.services.clone();
    less.services[0].backends.remove(0);
    sim.engine.reconfigure(sim.now, less, false).expect("good");
    sim.carry_out();
    sim.run_for(secs(2 * 3600));
    let leaving = |sim: &Sim| {
        let backends = sim.engine.backends(sim.now, &Counts::default());
        backends.iter().find(|found| found.service == "web" && found.name == "b1").cloned()
    };
    let found = leaving(&sim).expect("it has connections").draining.expect("it gets nothing new");
    assert_eq!((found.left, found.empty), (Some(2), false));
    sim.connections.clear();
    sim.run_for(secs(15));
    assert_eq!(leaving(&sim), None);
}

#[test]
fn a_census_that_takes_long_is_not_taken_often() {
    let mut sim = kernel(Affinity::Flow);
    drain(&mut sim, None).expect("possible");
    sim.run_for(secs(20));
    let quick = sim.censuses.len();
    assert!((7..=11).contains(&quick), "{quick} in 20 s");
    sim.census_takes = Duration::from_millis(500);
    sim.run_for(secs(30));
    let slow = sim.censuses.len() - quick;
    assert!((3..=4).contains(&slow), "{slow} of half a second in 30 s");
}

#[test]
fn what_is_not_known_of_the_end_is_not_claimed() {
    for (deadline, text) in [
        (1, "what was left was ended, and not counted"),
        (30, "nothing was left but flows that may have been silent since it began"),
    ] {
        let mut sim = kernel(Affinity::Flow);
        drain(&mut sim, Some(deadline)).expect("possible");
        sim.run_for(secs(deadline));
        assert_eq!(why(&sim), format!("in maintenance since the deadline of its drain: {text}"));
    }
}
