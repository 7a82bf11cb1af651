//! When backends fail: services that wait for them, and backends that wait for that.

use pen_common::abi;

use super::*;

/// Backend 9 helps in emergencies.
const SORRY: u8 = 9;

fn with_emergency(backends: u8) -> Config {
    let mut config = config(backends);
    let (name, address) = ("sorry".into(), address(SORRY));
    let limits = config::Limits::default();
    let backend = Backend { name, address, port: 80, socket: None, weight: 1, limits };
    config.services[0].emergency = Some(backend);
    config
}

fn stubborn(mut config: Config) -> Config {
    config.services[0].stubborn = true;
    config
}

fn row(sim: &Sim, name: &str) -> crate::api::Backend {
    let backends = sim.engine.backends(sim.now, &Counts::default());
    backends.into_iter().find(|backend| backend.name == name).expect("a backend of that name")
}

fn told(sim: &Sim) -> Vec<String> {
    let events = sim.engine.events(0).into_iter();
    let events = events.filter(|event| event.kind.starts_with("emergency"));
    events.map(|event| event.text).collect()
}

#[test]
fn the_backend_for_emergencies_takes_everything_while_no_other_can_and_nothing_else() {
    let mut sim = Sim::start(with_emergency(2));
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    let idle = row(&sim, "sorry");
    assert_eq!((idle.emergency, idle.usable, idle.share), (true, false, 0.0));
    assert_eq!(idle.why.as_deref(), Some("waits for an emergency: others are usable"));
    assert_eq!(idle.health, crate::api::Health::Up, "it is checked like the others");

    sim.refusing.insert(address(1));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([2]));
    sim.refusing.insert(address(2));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([SORRY]));
    assert_eq!((row(&sim, "sorry").share, row(&sim, "sorry").why), (100.0, None));
    assert_eq!(sim.engine.status(sim.now, 1).services_down, [""; 0]);

    sim.refusing.clear();
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert_eq!(
        told(&sim),
        [
            "web/sorry takes over: no other backend is usable",
            "web/sorry takes no new flows any more"
        ]
    );
}

#[test]
fn an_emergency_begins_with_the_operators_last_drain_as_well() {
    let mut sim = Sim::start(with_emergency(1));
    sim.run_for(secs(1));
    sim.set_admin("b1", Admin::Drain).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([SORRY]));
}

#[test]
fn a_start_is_no_emergency() {
    let mut config = with_emergency(3);
    // Its first check comes last.
    config.services[0].backends.rotate_left(1);
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    assert_eq!(told(&sim), [""; 0]);
}

#[test]
fn an_emergency_outlives_the_controller() {
    let mut first = Sim::start(with_emergency(2));
    first.refusing.extend([address(1), address(2)]);
    first.run_for(secs(4));
    assert_eq!(first.serving(), BTreeSet::from([SORRY]));
    let mut second = Sim::start_among(with_emergency(2), first.maps.clone(), first.refusing);
    assert_eq!(second.serving(), BTreeSet::from([SORRY]), "at once");
    second.run_for(secs(4));
    assert_eq!(second.serving(), BTreeSet::from([SORRY]));
}

#[test]
fn flows_of_a_stubborn_service_wait_for_their_backend() {
    let mut sim = Sim::start(stubborn(config(3)));
    sim.run_for(secs(1));
    assert!(sim.maps.services.values().all(|entry| entry.flags == abi::Service::STUBBORN));
    let before = sim.flows(500);
    sim.refusing.insert(address(2));
    sim.run_for(secs(4));
    let down = sim.flows(500);
    for (was, is) in before.iter().zip(&down) {
        let expected = was.filter(|backend| *backend != address(2));
        assert_eq!(*is, expected, "lost rather than moved");
    }
    assert_eq!((row(&sim, "b2").usable, row(&sim, "b1").usable), (false, true));
    assert!(row(&sim, "b2").share > 30.0);
    sim.refusing.clear();
    sim.run_for(secs(4));
    assert_eq!(sim.flows(500), before);
}

#[test]
fn a_stubborn_service_without_a_usable_backend_is_down_and_helped_in_emergencies() {
    for emergency in [false, true] {
        let config = if emergency { with_emergency(2) } else { config(2) };
        let mut sim = Sim::start(stubborn(config));
        sim.run_for(secs(1));
        sim.refusing.extend([address(1), address(2)]);
        sim.run_for(secs(4));
        let (serving, down) =
            if emergency { (vec![SORRY], vec![]) } else { (vec![], vec!["web".to_owned()]) };
        assert_eq!(sim.serving(), BTreeSet::from_iter(serving));
        assert_eq!(sim.engine.status(sim.now, 1).services_down, down);
    }
}

#[test]
fn what_the_operator_wishes_moves_flows_of_a_stubborn_service() {
    let mut sim = Sim::start(stubborn(config(3)));
    sim.run_for(secs(1));
    sim.set_admin("b2", Admin::Maint).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
}

#[test]
fn maps_of_another_size_than_the_configurations_are_told() {
    let mut sim = Sim::start(config(1));
    let mut sizes = Sizes::default();
    sim.event(Event::MapsOpened(sizes));
    assert_eq!(sim.engine.status(sim.now, 1).warnings, [""; 0]);
    sizes.flows = 4096;
    sim.event(Event::MapsOpened(sizes));
    assert_eq!(
        sim.engine.status(sim.now, 1).warnings,
        ["the kernel's table has room for 4096 flows, the configuration asks for 1048576: stop \
          pend with SIGTERM and start it again to make it anew"]
    );
}
