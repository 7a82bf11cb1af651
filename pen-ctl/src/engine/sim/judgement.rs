//! When too few backends are left, how a lost quorum is told, how servers return, and who is asked
//! for several services at once.

use pen_common::abi;

use super::*;
use crate::config::PanicPolicy;

/// Backend 9 helps in emergencies.
const SORRY: u8 = 9;

fn with(backends: u8, change: impl FnOnce(&mut Service)) -> Sim {
    let mut config = config(backends);
    change(&mut config.services[0]);
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    sim
}

fn panicking(policy: PanicPolicy) -> Sim {
    let mut sim = with(4, |service| {
        service.judgement.panic = policy;
        service.judgement.panic_threshold = 51;
        let limits = config::Limits::default();
        let (name, address) = ("sorry".into(), address(SORRY));
        if policy == PanicPolicy::Emergency {
            let sorry = Backend { name, address, port: 80, socket: None, weight: 1, limits };
            service.emergency = Some(sorry);
        }
    });
    sim.refusing.insert(address(1));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([2, 3, 4]), "three of four are enough");
    sim.refusing.insert(address(2));
    sim.run_for(secs(4));
    sim
}

pub(super) fn told(sim: &Sim, kind: &str) -> Vec<String> {
    let events = sim.engine.events(0).into_iter();
    events.filter(|event| event.kind.starts_with(kind)).map(|event| event.text).collect()
}

fn backend(sim: &Sim, service: &str, name: &str) -> crate::api::Backend {
    let mut backends = sim.engine.backends(sim.now, &Counts::default()).into_iter();
    let found =
        backends.find(|found| (found.service.as_str(), found.name.as_str()) == (service, name));
    found.expect("a backend of that name")
}

#[test]
fn with_too_few_backends_an_open_service_uses_all_until_there_are_enough() {
    let mut sim = panicking(PanicPolicy::FailOpen);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3, 4]));
    sim.refusing.remove(&address(2));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([2, 3, 4]));
    assert_eq!(
        told(&sim, "panic"),
        [
            "service web has only 2 of 4 backends usable: all are used, whatever checks say",
            "service web has enough usable backends: 3 of 4"
        ]
    );
}

#[test]
fn flows_of_an_open_service_stay_when_the_last_checks_fail_at_once() {
    let mut sim = with(2, |service| service.judgement.panic_threshold = 100);
    let before = sim.flows(100);
    sim.refusing.extend([address(1), address(2)]);
    sim.run_for(secs(10));
    assert_eq!(sim.flows(100), before);
    assert_eq!(told(&sim, "service-down"), [""; 0]);
    // Who the operator takes away is away.
    sim.set_admin("b1", Admin::Maint).expect("known");
    assert_eq!(sim.serving(), BTreeSet::from([2]));
}

#[test]
fn with_too_few_backends_a_closed_service_takes_nobody() {
    let mut sim = panicking(PanicPolicy::FailClosed);
    assert_eq!(sim.serving(), BTreeSet::new());
    assert_eq!(sim.engine.status(sim.now, 1).services_down, ["web"]);
    let up = |sim: &Sim| {
        let backends = sim.maps.backends.values();
        backends.filter(|backend| backend.state == abi::Backend::UP).count()
    };
    assert_eq!(up(&sim), 2, "what flows there goes on");
    sim.refusing.clear();
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn with_too_few_backends_the_one_for_emergencies_may_take_all() {
    let mut sim = panicking(PanicPolicy::Emergency);
    assert_eq!(sim.serving(), BTreeSet::from([SORRY]));
    sim.refusing.insert(address(SORRY));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([3, 4]), "without it, those that are left");
    sim.refusing.clear();
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn backends_that_join_neither_cause_a_panic_nor_are_used_before_they_are_known() {
    let mut sim = with(2, |service| service.judgement.panic_threshold = 60);
    for number in 3..=9 {
        sim.dead.insert(address(number));
    }
    let judgement = sim.engine.config.services[0].judgement.clone();
    sim.engine.config = config(9);
    sim.engine.config.services[0].judgement = judgement;
    sim.engine.merge_config(sim.now);
    sim.event(Event::TimePassed);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn a_quorum_is_lost_below_it_and_regained_above_it() {
    let mut sim = with(4, |service| {
        service.judgement.quorum = Some(2);
        service.judgement.quorum_hysteresis = 1;
    });
    assert_eq!(told(&sim, "quorum"), [""; 0], "it begins with one");
    for number in [1, 2, 3] {
        sim.refusing.insert(address(number));
        sim.run_for(secs(4));
    }
    let lost = "service web has lost its quorum: 1 usable, 2 needed";
    assert_eq!(told(&sim, "quorum"), [lost]);
    sim.refusing.remove(&address(1));
    sim.run_for(secs(4));
    assert_eq!(told(&sim, "quorum"), [lost], "two were enough before");
    sim.refusing.clear();
    sim.run_for(secs(4));
    let regained = "service web has its quorum again: 3 usable, 3 needed";
    assert_eq!(told(&sim, "quorum"), [lost, regained]);
}

#[test]
fn the_weight_of_a_backend_that_returns_grows_and_others_keep_theirs_at_the_start() {
    let mut sim = with(2, |service| {
        service.judgement.slow_start = secs(10);
        service.memory.settle = secs(1);
    });
    let share = |sim: &Sim| backend(sim, "web", "b1").share;
    assert!((share(&sim) - 50.0).abs() < 2.0, "at the start all have all");
    sim.refusing.insert(address(1));
    sim.run_for(secs(5));
    assert!(share(&sim) < 0.1);
    sim.refusing.clear();
    while !backend(&sim, "web", "b1").usable {
        sim.run_for(Duration::from_millis(100));
    }
    assert!(share(&sim) < 10.0, "less than a fifth of its fair share: {}", share(&sim));
    let mut before = 0.0;
    for _ in 0..9 {
        assert!(share(&sim) > before);
        before = share(&sim);
        sim.run_for(secs(1));
    }
    sim.run_for(secs(1));
    assert!((share(&sim) - 50.0).abs() < 2.0);
}

#[test]
fn a_backend_that_returns_from_maintenance_starts_slowly_as_well() {
    let mut sim = with(2, |service| service.judgement.slow_start = secs(10));
    sim.set_admin("b1", Admin::Maint).expect("known");
    sim.run_for(secs(5));
    sim.set_admin("b1", Admin::Ready).expect("known");
    sim.run_for(Duration::from_millis(10));
    let found = backend(&sim, "web", "b1");
    assert!(found.usable && found.share < 10.0, "{}", found.share);
}

/// The usual service, and one at port 443 with the same servers.
fn two_services(change: impl FnOnce(&mut Service)) -> Sim {
    let mut config = config(2);
    let mut other = config.services[0].clone();
    other.name = "other".into();
    other.listen.ports = Ports::one(443);
    change(&mut other);
    config.services.push(other);
    let mut sim = Sim::start(config);
    sim.run_for(secs(2));
    sim
}

/// Lets time pass event by event; whatever the maps held in between, the two services agreed.
fn run_in_step(sim: &mut Sim, time: Duration) {
    let end = sim.now + time;
    while sim.now < end {
        sim.run_for(Duration::from_millis(10));
        let mut states = BTreeMap::<_, BTreeSet<u32>>::new();
        for backend in sim.maps.backends.values() {
            states.entry(backend.addr).or_default().insert(backend.state);
        }
        assert!(states.values().all(|found| found.len() == 1), "{states:?}");
    }
}

#[test]
fn one_server_of_two_services_is_asked_once_and_leaves_and_returns_for_both_at_once() {
    let mut sim = two_services(|_| {});
    let asked = sim.probes[&address(1)].len();
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(1)].len() - asked, 10, "once a second for both");
    sim.refusing.insert(address(1));
    run_in_step(&mut sim, secs(5));
    let down = ["web/b1 is down: connection refused", "other/b1 is down: connection refused"];
    assert_eq!(told(&sim, "backend-down"), down);
    sim.refusing.clear();
    run_in_step(&mut sim, secs(5));
    assert_eq!(told(&sim, "backend-up").len(), 6, "at the start, and again");
    let wanted = crate::api::OneBackend { service: "other".into(), backend: "b1".into() };
    let probes = sim.engine.probes(sim.now, &wanted, &Counts::default()).expect("known");
    assert!(!probes.results.is_empty(), "each shows what was found out");
}

#[test]
fn another_check_of_the_same_server_is_another_question() {
    let mut sim = two_services(|other| other.check.fall = 1);
    let asked = sim.probes[&address(1)].len();
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(1)].len() - asked, 20);
}

#[test]
fn maintenance_of_who_was_asked_leaves_the_question_to_the_others() {
    let mut sim = two_services(|_| {});
    sim.set_admin("b1", Admin::Maint).expect("known");
    let asked = sim.probes[&address(1)].len();
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(1)].len() - asked, 10);
    assert!(backend(&sim, "other", "b1").usable);
    // It has been asked all the time.
    sim.set_admin("b1", Admin::Ready).expect("known");
    assert!(backend(&sim, "web", "b1").usable);
}

#[test]
fn a_service_that_tracks_another_one_follows_its_check() {
    let mut sim = two_services(|other| {
        other.judgement.track = Some("web".into());
        for backend in &mut other.backends {
            backend.port = 443;
        }
    });
    let asked = sim.probes[&address(1)].len();
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(1)].len() - asked, 10);
    sim.refusing.insert(address(1));
    run_in_step(&mut sim, secs(5));
    let found = backend(&sim, "other", "b1");
    assert!(!found.usable && found.health == crate::api::Health::Down);
}
