//! What clients of a proxy find out about servers, and what becomes of those in all services.

use pen_common::abi;

use super::judgement::told;
use super::*;
use crate::config::Proxy;
use crate::engine::event::Failure;

/// The usual service, and a proxied one with the same servers.
fn start(backends: u8, change: impl FnOnce(&mut Config)) -> Sim {
    let mut config = config(backends);
    let mut proxied = config.services[0].clone();
    proxied.name = "proxied".into();
    proxied.listen.ports = Ports::one(8080);
    proxied.mode = Mode::Proxy;
    proxied.proxy = Some(Box::new(Proxy::usual()));
    config.services.push(proxied);
    change(&mut config);
    let mut sim = Sim::start(config);
    sim.run_for(secs(2));
    sim
}

fn fail(sim: &mut Sim, place: usize) {
    let proxy::Backend { id, generation, .. } = sim.proxies.services[0].backends[place];
    let failure = Failure::Refused;
    sim.event(Event::BackendFailed { backend: id, generation, failure });
}

fn ejected(sim: &Sim) -> Vec<bool> {
    sim.proxies.services[0].backends.iter().map(|backend| backend.ejected).collect()
}

#[test]
fn who_refuses_a_client_of_the_proxy_gets_no_new_ones_from_the_kernel_either_for_a_time() {
    let mut sim = start(2, |_| {});
    let before = sim.flows(200);
    fail(&mut sim, 0);
    assert_eq!(ejected(&sim), [true, false]);
    assert_eq!(sim.serving(), BTreeSet::from([2]), "both leave at the same table version");
    let web = &sim.engine.backends(sim.now, &Counts::default())[0];
    assert!(!web.usable);
    assert_eq!(web.why.as_deref(), Some("ejected for 10s: a connection was refused"));
    let states = sim.maps.backends.values().map(|backend| backend.state);
    assert!(states.into_iter().all(|state| state != abi::Backend::DOWN), "flows go on");
    sim.run_for(secs(9));
    assert_eq!(ejected(&sim), [true, false]);
    sim.run_for(secs(1));
    assert_eq!(ejected(&sim), [false, false]);
    assert_eq!(sim.flows(200), before, "all is as it was");
    assert_eq!(
        told(&sim, "ejected"),
        [
            "web/b1 gets no new clients for 10s: a connection was refused",
            "proxied/b1 gets no new clients for 10s: a connection was refused"
        ]
    );
    assert_eq!(told(&sim, "ejection-over").len(), 2);
}

#[test]
fn who_fails_again_and_again_is_left_alone_for_longer_and_longer() {
    let mut sim = start(2, |config| {
        let proxy = config.services[1].proxy.as_deref_mut().expect("a proxy");
        proxy.eject_max = secs(35);
    });
    for expected in [10, 20, 35, 35] {
        fail(&mut sim, 0);
        // More failures of connections that were begun before say nothing new.
        fail(&mut sim, 0);
        sim.run_for(secs(expected - 1));
        assert_eq!(ejected(&sim), [true, false]);
        sim.run_for(secs(1));
        assert_eq!(ejected(&sim), [false, false]);
    }
    sim.run_for(secs(36));
    fail(&mut sim, 0);
    sim.run_for(secs(10));
    assert_eq!(ejected(&sim), [false, false], "it has been well for long enough");
}

#[test]
fn no_more_are_left_alone_than_the_service_allows() {
    let mut sim = start(4, |config| config.services[0].judgement.max_ejected = 50);
    for place in 0..4 {
        fail(&mut sim, place);
    }
    assert_eq!(ejected(&sim), [true; 4], "the proxy allows all");
    assert_eq!(sim.serving(), BTreeSet::from([3, 4]), "the other service allows half");
}

#[test]
fn without_a_time_of_ejection_nobody_is_left_alone() {
    let mut sim = start(2, |config| {
        config.services[1].proxy.as_deref_mut().expect("a proxy").eject = Duration::ZERO;
    });
    fail(&mut sim, 0);
    assert_eq!(ejected(&sim), [false, false]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn a_failure_of_a_backend_that_is_no_more_is_nobodys() {
    let mut sim = start(2, |_| {});
    sim.event(Event::BackendFailed { backend: 4000, generation: 1, failure: Failure::Silent });
    assert_eq!(ejected(&sim), [false, false]);
}

#[test]
fn in_a_panic_those_that_clients_could_not_reach_are_used_all_the_same() {
    let mut sim = start(2, |config| {
        for service in &mut config.services {
            service.judgement.panic_threshold = 60;
        }
    });
    fail(&mut sim, 0);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert!(sim.proxies.services[0].uses_all);
}

#[test]
fn a_backend_that_flaps_fails_clients_no_more_often_than_ejection_allows() {
    let mut sim = start(2, |_| {});
    let mut failed = Vec::new();
    // Up for a second, down for a second, and a client each 100 ms.
    for tenth in 0..6000_u32 {
        let is_down = (tenth / 10) % 2 == 1;
        if is_down && !ejected(&sim)[0] {
            failed.push(tenth / 10);
            fail(&mut sim, 0);
        }
        sim.run_for(Duration::from_millis(100));
    }
    assert!(failed.len() <= 7, "one for each ejection, each twice as long: {failed:?}");
}
