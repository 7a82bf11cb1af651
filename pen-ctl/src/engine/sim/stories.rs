//! What the engine makes of the world's events: starts, deaths, links, probes, failing maps.

use super::*;
use crate::api::OneBackend;

#[test]
fn three_healthy_backends_share_the_flows_soon_after_the_start() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    assert_eq!(sim.attached, ["eth0"]);
}

#[test]
fn a_backend_that_never_answered_gets_nothing() {
    let mut sim = Sim::start(config(3));
    sim.refusing.insert(address(2));
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
}

#[test]
fn a_killed_backend_is_out_after_fall_checks_and_back_after_rise_checks() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(5));
    sim.refusing.insert(address(2));
    sim.run_for(Duration::from_millis(1900));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]), "two failures are not enough");
    sim.run_for(Duration::from_millis(1100));
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
    sim.refusing.clear();
    sim.run_for(secs(2));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    let kinds: Vec<_> = sim.engine.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"backend-down".to_owned()), "{kinds:?}");
}

#[test]
fn flows_of_the_other_backends_hardly_move_when_one_goes_and_return_when_it_comes_back() {
    let mut sim = Sim::start(config(10));
    sim.run_for(secs(1));
    let before = sim.flows(5000);
    sim.refusing.insert(address(4));
    sim.run_for(secs(4));
    let without = sim.flows(5000);
    let moved = before
        .iter()
        .zip(&without)
        .filter(|(was, now)| **was != Some(address(4)) && was != now)
        .count();
    assert!(moved < 75, "{moved} of 5000 flows moved without need");
    sim.refusing.clear();
    sim.run_for(secs(3));
    assert_eq!(sim.flows(5000), before);
}

#[test]
fn first_probes_are_spread_and_later_ones_keep_the_interval() {
    let mut sim = Sim::start(config(5));
    sim.run_for(secs(3));
    let starts: BTreeSet<Moment> = sim.probes.values().map(|probes| probes[0]).collect();
    assert_eq!(starts.len(), 5, "no two backends are probed at the same moment");
    for probes in sim.probes.values() {
        assert!(probes.windows(2).all(|pair| pair[1].since(pair[0]) == secs(1)), "{probes:?}");
    }
}

#[test]
fn of_200_servers_no_tenth_of_a_second_has_more_than_a_twentieth_of_the_checks() {
    let mut config = config(200);
    let check = &mut config.services[0].check;
    (check.interval, check.fast_interval, check.down_interval) = (secs(10), secs(10), secs(10));
    let mut sim = Sim::start(config);
    sim.run_for(secs(35));
    let mut starts: Vec<Moment> = sim.probes.values().flatten().copied().collect();
    starts.sort();
    assert!(starts.len() >= 600, "{}", starts.len());
    let window = Duration::from_millis(100);
    for (at, start) in starts.iter().enumerate() {
        let within = starts[at..].iter().take_while(|other| other.since(*start) < window).count();
        assert!(within <= 200 / 20, "{within} from {start:?} on");
    }
}

#[test]
fn of_very_many_backends_each_is_asked_within_its_interval_and_what_follows_is_computed_together() {
    let mut wide = config(1);
    let template = wide.services[0].clone();
    let backend = |service: u8, host: u8| Backend {
        name: format!("b{service}-{host}"),
        address: [10, 0, 1 + service, host].into(),
        ..template.backends[0].clone()
    };
    wide.services = (0..4_u8)
        .map(|number| {
            let mut service = template.clone();
            service.name = format!("web{number}");
            service.listen.ports = Ports::one(80 + u16::from(number));
            service.backends = (1..=200).map(|host| backend(number, host)).collect();
            service
        })
        .collect();
    let mut sim = Sim::start(wide);
    let start = sim.now;
    sim.run_for(secs(1));
    assert_eq!(sim.probes.len(), 800);
    let first = sim.probes.values().map(|probes| probes[0].since(start)).max();
    assert!(first < Some(secs(1)), "{first:?}");
    let writes = sim.written;
    assert!(writes < 450, "800 results, written in {writes} times");
}

#[test]
fn a_service_that_starts_well_is_no_news_and_one_without_backends_is() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    let told = |sim: &Sim| -> Vec<String> {
        let events = sim.engine.events(0).into_iter();
        events.map(|event| event.kind).filter(|kind| kind.starts_with("service")).collect()
    };
    assert_eq!(told(&sim), Vec::<String>::new());
    sim.refusing.extend([address(1), address(2)]);
    sim.run_for(secs(4));
    sim.refusing.clear();
    sim.run_for(secs(4));
    assert_eq!(told(&sim), ["service-down", "service-up"]);
}

#[test]
fn without_a_usable_backend_packets_are_dropped_and_the_operator_is_told() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.refusing.extend([address(1), address(2)]);
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::new());
    assert_eq!(sim.engine.status(sim.now, 1).services_down, ["web"]);
    let kinds: Vec<_> = sim.engine.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"service-down".to_owned()), "{kinds:?}");
}

#[test]
fn a_backend_whose_ethernet_address_is_unknown_is_not_used_and_shown_as_such() {
    let mut config = config(2);
    config.services[0].check.kind = CheckKind::None;
    let mut sim = Sim::start(config);
    sim.dead.insert(address(2));
    sim.run_for(secs(12));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let backends = sim.engine.backends(sim.now, &Counts::default());
    let why = backends[1].why.as_deref();
    assert_eq!(why, Some("no answer to ARP or neighbour discovery on eth0"));
}

#[test]
fn the_ethernet_address_of_a_backend_that_went_silent_is_confirmed_once() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    sim.dead.insert(address(2));
    sim.refusing.insert(address(3));
    sim.run_for(secs(9));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    assert_eq!(sim.doubted, [address(2)]);
}

#[test]
fn a_lost_interface_is_attached_again_when_it_returns_under_a_new_index() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    assert_eq!(sim.kept, BTreeSet::from([3]));
    sim.event(Event::LinkRemoved { ifindex: 3 });
    assert_eq!(sim.kept, BTreeSet::new());
    assert_eq!(sim.serving(), BTreeSet::new());
    assert!(sim.maps.addrs.is_empty(), "no address without its interface");
    sim.event(Event::LinkChanged(Link { ifindex: 9, ..link(true) }));
    assert_eq!(sim.attached, ["eth0", "eth0"]);
    assert_eq!(sim.maps.addrs[&Addr::from(VIP)].ifindex, 9);
}

#[test]
fn an_interface_hears_solicitations_for_its_ipv6_addresses_until_the_end() {
    let mut config = config(1);
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
    config.vips.push(vip(address.into()));
    let mut sim = Sim::start(config);
    assert_eq!(sim.solicited, BTreeSet::from([(3, address)]));
    // A new interface has no memberships.
    sim.event(Event::LinkRemoved { ifindex: 3 });
    sim.solicited.clear();
    sim.event(Event::LinkChanged(Link { ifindex: 9, ..link(true) }));
    assert_eq!(sim.solicited, BTreeSet::from([(9, address)]));
    sim.engine.stop();
    sim.carry_out();
    assert_eq!(sim.solicited, BTreeSet::new());
}

#[test]
fn a_link_that_goes_down_takes_its_backends_out_at_once() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    sim.event(Event::LinkChanged(link(false)));
    assert_eq!(sim.serving(), BTreeSet::new());
    sim.event(Event::LinkChanged(link(true)));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
}

#[test]
fn an_attach_that_fails_is_tried_again_and_told_once() {
    let mut sim = Sim::start(config(1));
    for _ in 0..3 {
        let result = Err("eth0 is busy".to_owned());
        sim.event(Event::AttachDone { interface: "eth0".into(), result });
        let interfaces = sim.engine.status(sim.now, 1).interfaces;
        assert_eq!(interfaces[0].note.as_deref(), Some("eth0 is busy"));
        assert_eq!(interfaces[0].xdp, "off");
    }
    let failures =
        sim.engine.events(0).into_iter().filter(|event| event.kind == "attach-failed").count();
    assert_eq!(failures, 1);
    sim.run_for(secs(6));
    assert_eq!(sim.attached, ["eth0", "eth0"]);
}

#[test]
fn an_interface_whose_end_was_missed_is_noticed_by_the_next_reading() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    sim.event(Event::LinksKnown(BTreeSet::from([3])));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    sim.event(Event::LinksKnown(BTreeSet::new()));
    assert_eq!(sim.serving(), BTreeSet::new());
}

#[test]
fn a_probe_that_could_not_be_made_is_told_once_and_changes_nothing() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(2));
    sim.starved = true;
    sim.run_for(secs(10));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let told = sim.engine.events(0).into_iter().filter(|event| event.kind == "not-probed").count();
    assert_eq!(told, 1);
}

#[test]
fn while_maps_cannot_be_written_they_are_left_alone_between_attempts() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.broken_maps = true;
    sim.set_weight("b1", 2).expect("known backend");
    let before = sim.maps.clone();
    sim.set_weight("b1", 3).expect("known backend");
    assert_eq!(sim.maps, before, "the next attempt is not due");
    sim.run_for(secs(2));
    assert_eq!(&sim.maps, sim.engine.tables());
    assert_ne!(sim.maps, before);
}

#[test]
fn writes_that_fail_are_repeated_until_the_maps_are_right() {
    let mut sim = Sim::start(config(2));
    sim.broken_maps = true;
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert_eq!(&sim.maps, sim.engine.tables());
}

#[test]
fn events_that_come_at_once_mean_the_same_as_one_after_the_other() {
    let mut config = config(5);
    config.services[0].check.kind = CheckKind::None;
    let mut events = vec![Event::LinkChanged(link(true)), Event::Started];
    for number in 1..=5 {
        let (address, mac) = (address(number), MacAddr([2, 0, 0, 0, 1, number]));
        let route = Some(Route { ifindex: 3, gateway: None, source: Some(OWN) });
        events.push(Event::RouteFound { address, route, mac: None });
        let neighbour = Neighbour::Resolved(mac);
        events.push(Event::NeighbourChanged { ifindex: 3, address, neighbour });
    }
    let engine = || Engine::new(config.clone(), Tables::default(), [7, 7], Moment(1));
    let (mut one, mut all) = (engine(), engine());
    for event in events.clone() {
        one.handle(Moment(2), event);
    }
    all.handle_all(Moment(2), events);
    assert_eq!(one.tables(), all.tables());
    assert_eq!(all.tables().backends.len(), 5);
    let writes = std::iter::from_fn(|| all.poll_action())
        .filter(|action| matches!(action, Action::WriteTables(_)));
    assert_eq!(writes.count(), 1);
}

#[test]
fn the_last_probes_of_a_backend_are_told_newest_first() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(10));
    sim.refusing.insert(address(1));
    sim.run_for(secs(2));
    let wanted = OneBackend { service: "web".to_owned(), backend: "b1".to_owned() };
    let probes = sim.engine.probes(sim.now, &wanted, &Counts::default()).expect("it exists");
    assert_eq!((probes.subject.as_str(), probes.check.as_str()), ("web/b1", "tcp"));
    assert_eq!(probes.health, crate::api::Health::Up);
    let errors: Vec<_> = probes.results.iter().map(|probe| probe.error.as_deref()).collect();
    let refused = Some("connection refused");
    assert_eq!(errors[..4], [refused, refused, None, None]);
    assert_eq!(errors.len(), 13, "one at the start as well");
    assert!(probes.results[0].ago_ms < 1000, "{:?}", probes.results[0]);
    let nobody = OneBackend { backend: "b9".to_owned(), ..wanted };
    assert!(sim.engine.probes(sim.now, &nobody, &Counts::default()).is_err());
}
