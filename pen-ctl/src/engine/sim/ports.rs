//! Services on many ports.

use super::*;

fn on(ports: Ports) -> Config {
    let mut config = config(3);
    config.services[0].listen.ports = ports;
    for backend in &mut config.services[0].backends {
        backend.port = 0;
    }
    config
}

const RANGE: Ports = Ports { first: 79, last: 90 };

/// What becomes of a packet to this port: the service, or the counter.
fn fate(sim: &Sim, port: u16) -> String {
    let packet = Explain {
        source: (Ipv4Addr::new(198, 51, 100, 7), 5000).into(),
        destination: (VIP, port).into(),
        protocol: Protocol::Tcp,
        established: false,
    };
    let explanation = sim.engine.explain(sim.now, &packet, &NoRecords).expect("one family");
    explanation.service.unwrap_or(explanation.counter)
}

#[test]
fn all_ports_of_a_range_lead_to_one_service() {
    let mut sim = Sim::start(on(RANGE));
    sim.run_for(secs(1));
    let fates: Vec<_> = (78..=91).map(|port| fate(&sim, port)).collect();
    let inside = fates[1..13].iter().all(|fate| fate == "web");
    assert!(inside && fates[0] == "pass-no-service" && fates[13] == fates[0], "{fates:?}");
    assert_eq!((sim.maps.services.len(), sim.maps.slots.len()), (12, 1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    let service = &sim.engine.services(sim.now, &Counts::default())[0];
    assert_eq!((service.listen.key().port(), service.last_port), (79, 90));
}

#[test]
fn a_range_that_grows_or_shrinks_keeps_its_number_and_its_table() {
    let mut first = Sim::start(on(RANGE));
    first.run_for(secs(1));
    for last in [80, 100, 90] {
        let mut second = Sim::start_over(on(Ports { last, ..RANGE }), first.maps.clone());
        assert_eq!(second.maps.services.len(), usize::from(last) - 78);
        assert_eq!(second.maps.slots, first.maps.slots);
        second.run_for(secs(2));
        assert_eq!(second.maps.slots, first.maps.slots);
        assert_eq!(second.maps == first.maps, last == 90);
    }
}

#[test]
fn a_service_on_any_port_leaves_those_of_others_to_them() {
    let mut config = on(RANGE);
    let any = Listen { address: VIP, ports: Ports::ANY };
    let rest = Service { name: "rest".into(), listen: any, ..config.services[0].clone() };
    config.services.push(rest);
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    for (port, service) in [(1, "rest"), (78, "rest"), (79, "web"), (90, "web"), (91, "rest")] {
        assert_eq!(fate(&sim, port), service, "{port}");
    }
}
