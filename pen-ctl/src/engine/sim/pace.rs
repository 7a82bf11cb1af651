//! With very many backends changes are computed a little later, but none is lost for that.

use super::*;

/// More than are computed at once.
fn many() -> Config {
    let mut config = config(1);
    let service = &mut config.services[0];
    let first = service.backends[0].clone();
    let another = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(10, 1, high, low));
        Backend { name: format!("m{number}"), address, ..first.clone() }
    };
    service.backends.extend((1..=600).map(another));
    config
}

fn started() -> Sim {
    let mut sim = Sim::start(many());
    sim.run_for(secs(2));
    // Something has just been computed.
    sim.set_weight("m1", 7).expect("it is there");
    sim.run_for(Duration::from_millis(5));
    sim
}

#[test]
fn events_are_gathered_only_with_very_many_backends() {
    assert_eq!(Sim::start(config(200)).engine.gathers(), None);
    assert_eq!(started().engine.gathers(), Some(Duration::from_millis(1)));
}

#[test]
fn what_the_operator_was_promised_is_written_before_the_daemon_leaves() {
    let mut sim = started();
    sim.set_weight("m2", 7).expect("it is there");
    sim.set_admin("b1", Admin::Drain).expect("it is there");
    sim.engine.catch_up(sim.now);
    sim.carry_out();
    let next = Sim::start_over(many(), sim.maps.clone());
    let rows = next.engine.backends(next.now, &Counts::default());
    let row = |name| rows.iter().find(|row| row.name == name).expect("it is listed");
    assert_eq!((row("b1").admin, row("m2").weight), (Admin::Drain, 7));
}

#[test]
fn a_failed_write_is_tried_once_more_before_the_daemon_leaves() {
    let mut sim = started();
    sim.run_for(secs(1));
    sim.broken_maps = true;
    sim.set_admin("b1", Admin::Drain).expect("it is there");
    sim.engine.catch_up(sim.now);
    sim.carry_out();
    let next = Sim::start_over(many(), sim.maps.clone());
    assert_eq!(next.engine.backends(next.now, &Counts::default())[0].admin, Admin::Drain);
}

#[test]
fn a_configuration_holds_when_its_reload_is_answered() {
    let mut sim = started();
    sim.set_weight("m2", 7).expect("it is there");
    let mut less = many();
    less.services.clear();
    sim.engine.reconfigure(sim.now, less, false).expect("good");
    sim.carry_out();
    assert!(sim.maps.services.is_empty());
}

#[test]
fn a_server_that_joins_hundreds_is_asked_at_once() {
    let mut config = many();
    config.services[0].check.interval = secs(60);
    let mut sim = Sim::start(config.clone());
    sim.run_for(secs(7));
    let joins = Backend { address: address(99), ..config.services[0].backends[0].clone() };
    config.services[0].backends.push(Backend { name: "joins".into(), ..joins });
    sim.engine.reconfigure(sim.now, config, false).expect("good");
    sim.carry_out();
    sim.run_for(Duration::from_millis(10));
    assert_eq!(sim.probes[&address(99)].len(), 1);
}
