//! What the operator asks for, and what a restart keeps.

use pen_common::abi;

use super::*;

#[test]
fn a_drained_backend_gets_nothing_new_and_comes_back_with_ready() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let change = sim.set_admin("b2", Admin::Drain).expect("known backend");
    assert_eq!((change.was.as_str(), change.now.as_str()), ("ready", "drain"));
    assert!((30.0..37.0).contains(&change.moved), "{} % moved", change.moved);
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
    sim.set_admin("b2", Admin::Ready).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_backend_in_maintenance_is_not_probed_and_proves_itself_before_it_returns() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.set_admin("b2", Admin::Maint).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let probes = sim.probes[&address(2)].len();
    sim.refusing.insert(address(2));
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(2)].len(), probes);
    sim.set_admin("b2", Admin::Ready).expect("known backend");
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1]), "it is still refusing");
    sim.refusing.clear();
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn weights_shift_shares_and_weight_zero_takes_nothing() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.set_weight("b1", 3).expect("known backend");
    let shares: Vec<f64> = sim
        .engine
        .backends(sim.now, &Counts::default())
        .iter()
        .map(|backend| backend.share)
        .collect();
    assert!((74.0..76.0).contains(&shares[0]), "{shares:?}");
    sim.set_weight("b1", 0).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([2]));
    let refusal = sim.set_weight("b1", 257).expect_err("too high");
    assert_eq!(refusal.to_string(), "weight 257 is too high; give 0 to 256");
}

#[test]
fn a_dry_run_says_what_would_move_and_changes_nothing() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let before = sim.maps.clone();
    let admin = Admin::Drain;
    let wish = SetAdmin {
        service: "web".into(),
        backend: "b1".into(),
        admin,
        deadline_ms: None,
        dry_run: true,
    };
    let change = sim.engine.set_admin(sim.now, &wish).expect("known backend");
    assert!(change.dry_run && change.moved > 30.0, "{change:?}");
    sim.run_for(secs(1));
    assert_eq!(sim.maps, before);
}

#[test]
fn an_unknown_service_or_backend_is_refused_with_the_known_names() {
    let mut sim = Sim::start(config(2));
    let refusal = sim.set_admin("b9", Admin::Drain).expect_err("unknown");
    assert_eq!(refusal.to_string(), "service `web` has no backend `b9`; there are: b1, b2");
    let wish = SetWeight { service: "www".into(), backend: "b1".into(), weight: 1, dry_run: false };
    let refusal = sim.engine.set_weight(sim.now, &wish).expect_err("unknown");
    assert_eq!(refusal.to_string(), "there is no service `www`; there are: web");
}

#[test]
fn a_restarted_controller_writes_nothing_that_is_already_right() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(3));
    let maps = first.maps.clone();
    let before = first.flows(1000);
    let mut second = Sim::start_over(config(3), maps.clone());
    assert_eq!(second.flows(1000), before, "at once");
    assert_eq!(second.maps, maps, "nothing was written");
    second.run_for(secs(3));
    assert_eq!(second.maps, maps);
}

#[test]
fn operator_states_and_weights_survive_a_restart() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(1));
    first.set_admin("b1", Admin::Maint).expect("known backend");
    first.set_admin("b2", Admin::Drain).expect("known backend");
    first.set_weight("b3", 0).expect("known backend");
    let mut second = Sim::start_over(config(3), first.maps.clone());
    second.run_for(secs(3));
    let backends = second.engine.backends(second.now, &Counts::default());
    let states: Vec<_> = backends.iter().map(|found| (found.admin, found.weight)).collect();
    assert_eq!(states, [(Admin::Maint, 1), (Admin::Drain, 1), (Admin::Ready, 0)]);
}

#[test]
fn a_backend_removed_from_the_configuration_leaves_when_its_flows_have_ended() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(1));
    let mut config = config(3);
    config.services[0].backends.remove(0);
    let mut second = Sim::start_over(config, first.maps.clone());
    second.run_for(secs(3));
    assert_eq!(second.serving(), BTreeSet::from([2, 3]), "nothing new goes there");
    assert_eq!(second.maps.backends[&1].state, abi::Backend::DRAINED);
    second.run_for(secs(3600 + 30));
    assert!(!second.maps.backends.contains_key(&1));
    assert_eq!(second.maps.backends[&2], first.maps.backends[&2], "the rest keep their ids");
    assert_eq!(second.engine.backends(second.now, &Counts::default()).len(), 2);
}

#[test]
fn without_a_secret_in_the_configuration_the_one_in_the_maps_is_kept() {
    let mut config = config(1);
    config.node.secret = None;
    let first = Sim::start(config.clone());
    assert_eq!(first.maps.cfg.secret, [7, 7], "the random one");
    let mut maps = first.maps.clone();
    maps.cfg.secret = [8, 8];
    assert_eq!(Sim::start_over(config, maps).maps.cfg.secret, [8, 8]);
}

#[test]
fn explain_names_the_backend_that_the_packet_reaches() {
    let mut sim = Sim::start(config(5));
    sim.run_for(secs(1));
    for port in 0..1000_u16 {
        let packet = Explain {
            source: (Ipv4Addr::new(198, 51, 100, 7), port).into(),
            destination: (VIP, 80).into(),
            protocol: Protocol::Tcp,
            established: false,
        };
        let explanation = sim.engine.explain(sim.now, &packet, &NoRecords).expect("one family");
        assert_eq!(explanation.address, sim.reach(port));
        assert_eq!(explanation.verdict, "forward");
    }
}

#[test]
fn explain_tells_why_a_packet_is_not_forwarded() {
    let mut sim = Sim::start(config(1));
    sim.refusing.insert(address(1));
    sim.run_for(secs(4));
    let explain = |source: &str, destination: &str, protocol| {
        let packet = Explain {
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
            protocol,
            established: false,
        };
        match sim.engine.explain(sim.now, &packet, &NoRecords) {
            Ok(explanation) => format!("{}: {}", explanation.counter, explanation.steps[0]),
            Err(refusal) => refusal.error,
        }
    };
    for (destination, protocol, expected) in [
        (
            "192.0.2.99:80",
            Protocol::Tcp,
            "pass-not-ours: 192.0.2.99 is no virtual address of this node",
        ),
        (
            "192.0.2.10:81",
            Protocol::Tcp,
            "pass-no-service: 192.0.2.10 has no service on 81/tcp; it has: web on 80/tcp",
        ),
        (
            "192.0.2.10:80",
            Protocol::Udp,
            "pass-no-service: 192.0.2.10 has no service on 80/udp; it has: web on 80/tcp",
        ),
        ("192.0.2.10:80", Protocol::Tcp, "drop-no-backend: no backend of the service is usable"),
    ] {
        assert_eq!(explain("198.51.100.7:5000", destination, protocol), expected);
    }
    assert_eq!(
        explain("[2001:db8::1]:5000", "192.0.2.10:80", Protocol::Tcp),
        "source and destination are of different families"
    );
}

#[test]
fn a_service_shows_how_much_of_it_is_at_rest_and_when_the_rest_will_be() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let shown = |sim: &Sim| {
        let service = sim.engine.services(sim.now, &Counts::default()).remove(0);
        (service.settled, service.settled_in_ms.map(|left| left / 1000))
    };
    assert_eq!(shown(&sim), (100.0, None));
    sim.set_admin("b2", Admin::Drain).expect("known backend");
    sim.run_for(secs(600));
    let (settled, left) = shown(&sim);
    assert!((63.0..70.0).contains(&settled), "{settled} %");
    // The settle time of TCP is an hour.
    assert!(left.is_some_and(|left| (2990..=3010).contains(&left)), "{left:?}");
    sim.run_for(secs(3600));
    assert_eq!(shown(&sim), (100.0, None));
}
