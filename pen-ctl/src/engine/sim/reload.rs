//! Another configuration while everything runs: what both have goes on as if nothing had happened.

use pen_common::abi;
use proptest::prelude::*;

use super::*;
use crate::api::{Changes, Health};
use crate::config::{Access, Acl, Cidr};
use crate::show;

impl Sim {
    /// The changes, one a line.
    pub(super) fn reload(&mut self, config: Config) -> Vec<String> {
        let changes = self.engine.reconfigure(self.now, config, false).expect("a fair change");
        self.carry_out();
        show::change_lines(&changes)
    }

    fn row(&self, service: &str, name: &str) -> crate::api::Backend {
        let mut rows = self.engine.backends(self.now, &Counts::default()).into_iter();
        rows.find(|row| (&*row.service, &*row.name) == (service, name)).expect("it is listed")
    }

    /// Id of the backend of this number.
    fn id_of(&self, number: u8) -> Option<u32> {
        let addr = Addr::from(address(number));
        let mut backends = self.maps.backends.iter();
        backends.find(|(_, backend)| backend.addr == addr).map(|(id, _)| *id)
    }
}

/// A service on another port, over one backend.
fn second(number: u8) -> Service {
    let (address, limits) = (address(number), config::Limits::default());
    let (name, socket) = ("x".into(), None);
    let backend = Backend { name, address, port: 81, socket, weight: 1, limits };
    Service {
        name: "second".into(),
        listen: Listen { address: VIP, ports: Ports::one(81) },
        backends: vec![backend],
        ..config(1).services.remove(0)
    }
}

fn with(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    config
}

#[test]
fn the_same_configuration_changes_nothing_and_writes_nothing() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(5));
    let before = sim.maps.clone();
    assert_eq!(sim.reload(config(3)), [""; 0]);
    sim.run_for(secs(5));
    assert_eq!(sim.maps, before);
    assert_eq!(sim.attached, ["eth0"], "nothing is attached anew");
}

#[test]
fn a_service_comes_and_goes_without_a_trace_in_the_others() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(5));
    let before = sim.maps.clone();
    let lines = sim.reload(with(config(3), |config| config.services.insert(0, second(9))));
    assert_eq!(lines, ["+ service second: 192.0.2.10:81/tcp, mode dsr, 1 backends"]);
    sim.run_for(secs(2));
    assert!(sim.row("second", "x").usable);
    assert_eq!(sim.maps.services.len(), 2);
    for (id, backend) in &before.backends {
        assert_eq!(sim.maps.backends[id], *backend);
    }
    for (id, slots) in &before.slots {
        assert_eq!(sim.maps.slots[id], *slots);
    }
    let lines = sim.reload(config(3));
    let line = "- service second: 192.0.2.10:81/tcp, mode dsr, 1 backends (its connections end)";
    assert_eq!(lines, [line]);
    assert_eq!(sim.maps, before, "at once");
}

#[test]
fn a_backend_that_was_removed_serves_its_flows_until_they_end_and_one_that_returns_is_the_old_one()
{
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(5));
    let id = sim.id_of(2).expect("it is there");
    let generation = sim.maps.backends[&id].generation;
    let without = || with(config(3), |config| drop(config.services[0].backends.remove(1)));
    assert_eq!(sim.reload(without()), ["- backend web/b2: 10.0.0.2:80, weight 1"]);
    let left = sim.maps.backends[&id];
    assert_eq!((left.state, left.generation), (abi::Backend::DRAINED, generation));
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]), "new flows go elsewhere");
    assert!(
        sim.maps
            .slots
            .values()
            .flat_map(|slots| slots.iter())
            .any(|slot| { u32::from(slot.base()) == id && u32::from(slot.current()) != id })
    );

    assert_eq!(sim.reload(config(3)), ["+ backend web/b2: 10.0.0.2:80, weight 1"]);
    assert_eq!(sim.maps.backends[&id].state, abi::Backend::UP, "without a check in between");
    assert_eq!(sim.maps.backends[&id].generation, generation);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));

    sim.reload(without());
    sim.run_for(secs(2 * 3600));
    assert_eq!(sim.id_of(2), None);
    assert_eq!(sim.engine.backends(sim.now, &Counts::default()).len(), 2);
}

#[test]
fn health_and_the_operators_wishes_outlive_the_change() {
    let mut sim = Sim::start(config(4));
    sim.refusing.insert(address(4));
    sim.run_for(secs(5));
    sim.set_admin("b1", Admin::Maint).expect("known backend");
    sim.set_weight("b2", 7).expect("known backend");
    sim.set_weight("b3", 7).expect("known backend");
    let changed = with(config(4), |config| {
        let service = &mut config.services[0];
        service.name = "www".into();
        service.affinity = Affinity::Client;
        service.backends[2].weight = 3;
        service.backends[3].name = "fourth".into();
    });
    assert_eq!(
        sim.reload(changed),
        [
            "~ service web: name web -> www",
            "~ service www: affinity flow -> client (its connections may move or end)",
            "~ backend www/b3: weight 1 -> 3",
            "~ backend web/b4: name b4 -> fourth",
        ]
    );
    assert_eq!(sim.row("www", "b1").admin, Admin::Maint);
    assert_eq!(sim.row("www", "b2").weight, 7, "the file says nothing new");
    assert_eq!(sim.row("www", "b3").weight, 3, "the file says something new");
    assert_eq!(sim.row("www", "fourth").health, Health::Down);
    assert!(sim.maps.services.values().all(|entry| entry.affinity == abi::Service::CLIENT));
    let kinds: Vec<_> = sim.engine.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"reloaded".to_owned()));
}

#[test]
fn another_check_takes_nobody_out_before_it_has_failed() {
    let unchecked = || with(config(2), |config| config.services[0].check.kind = CheckKind::None);
    let mut sim = Sim::start(unchecked());
    sim.run_for(secs(5));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    sim.refusing.insert(address(2));
    assert_eq!(
        sim.reload(config(2)),
        ["~ service web: check none -> tcp, interval 1s, timeout 500ms, rise 2, fall 3"]
    );
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    // What was down is checked no longer.
    sim.reload(unchecked());
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn a_shorter_interval_holds_at_once() {
    let slow =
        |interval| with(config(2), |config| config.services[0].check.interval = secs(interval));
    let mut sim = Sim::start(slow(3600));
    sim.run_for(secs(10));
    let before = sim.probes[&address(2)].len();
    sim.reload(slow(1));
    sim.run_for(secs(3));
    assert!(sim.probes[&address(2)].len() >= before + 3);
}

#[test]
fn a_backend_becomes_the_one_for_emergencies_and_back() {
    let regular = config(3);
    let emergency = with(config(3), |config| {
        let service = &mut config.services[0];
        service.emergency = service.backends.pop();
    });
    let mut sim = Sim::start(regular.clone());
    sim.run_for(secs(2));
    let id = sim.id_of(3);
    assert_eq!(sim.reload(emergency), ["~ backend web/b3: emergency false -> true"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert_eq!(sim.id_of(3), id);
    assert_eq!(sim.reload(regular), ["~ backend web/b3: emergency true -> false"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
}

#[test]
fn interfaces_are_attached_and_detached_as_they_come_and_go() {
    let eth1 = Interface { name: "eth1".into(), xdp: XdpMode::Auto };
    let mut sim = Sim::start(config(1));
    sim.event(Event::LinkChanged(Link { ifindex: 4, name: "eth1".into(), ..link(true) }));
    assert_eq!(sim.attached, ["eth0"]);
    let both = with(config(1), |config| config.interfaces.push(eth1));
    assert_eq!(sim.reload(both.clone()), ["+ interface eth1: xdp auto"]);
    assert_eq!((&sim.attached[1..], &sim.kept), (&["eth1".to_owned()][..], &[3, 4].into()));
    let native = with(both, |config| config.interfaces[1].xdp = XdpMode::Native);
    assert_eq!(sim.reload(native), ["~ interface eth1: xdp auto -> native"]);
    assert_eq!(sim.attached, ["eth0", "eth1", "eth1"]);
    assert_eq!(sim.reload(config(1)), ["- interface eth1: xdp native"]);
    assert_eq!(sim.kept, BTreeSet::from([3]));
    assert_eq!(sim.engine.status(sim.now, 1).interfaces.len(), 1);
    sim.run_for(secs(10));
    assert_eq!(sim.attached.len(), 3);
}

#[test]
fn everything_that_differs_is_told() {
    let (other, network) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)), |last| {
        (Cidr { address: [10, 0, last, 0].into(), bits: 24 }, Access::Deny)
    });
    let list = |networks| Acl { name: "list".into(), networks, default: Access::Allow };
    let mut sim = Sim::start(with(config(1), |config| {
        config.acls.push(list((0..3).map(network).collect()));
        config.vips.push(vip(other));
    }));
    sim.run_for(secs(1));
    let changed = with(config(1), |config| {
        config.node.name = "edge2".into();
        config.node.sizes.flows = 4096;
        config.node.drain_at_exit = Some(secs(5));
        config.acls.push(list((2..20).map(network).collect()));
        config.vips[0] =
            Vip { echo: true, acl: Some("list".into()), syn_rate: Some(9), ..vip(VIP) };
        let service = &mut config.services[0];
        service.mode = Mode::Nat;
        service.listen.ports.last = 90;
        service.stubborn = true;
        service.memory.settle = secs(90);
    });
    assert_eq!(
        sim.reload(changed),
        [
            "~ node: name edge1 -> edge2",
            "~ node: flows 1048576 -> 4096",
            "~ node: drain_at_exit none -> 5s",
            "~ acl list: deny 10.0.0.0/24, 10.0.1.0/24 -> 10.0.3.0/24, 10.0.4.0/24, 10.0.5.0/24, \
             10.0.6.0/24, 10.0.7.0/24, 10.0.8.0/24, 10.0.9.0/24, 10.0.10.0/24, ...",
            "~ vip 192.0.2.10: echo false -> true",
            "~ vip 192.0.2.10: acl none -> list",
            "~ vip 192.0.2.10: syn_rate none -> 9",
            "~ service web: listen 192.0.2.10:80/tcp -> 192.0.2.10:80-90/tcp",
            "~ service web: mode dsr -> nat (its connections may move or end)",
            "~ service web: settle 1h -> 1m 30s",
            "~ service web: stubborn false -> true",
            "- vip 192.0.2.11: interface eth0 (its connections end)",
        ]
    );
    assert_eq!(sim.maps.services.len(), 11);
    assert_eq!(sim.maps.addrs.len(), 1);
    assert!(sim.maps.services.values().all(|entry| entry.mode == abi::Service::NAT));
}

#[test]
fn what_only_a_start_can_change_is_refused_and_nothing_happens() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    let before = sim.maps.clone();
    let both = with(config(1), |config| {
        config.control.socket = "/run/other.sock".into();
        config.node.secret = Some([9, 9]);
    });
    let refusal = sim.engine.reconfigure(sim.now, both, false).expect_err("both are fixed");
    assert_eq!(
        refusal.to_string(),
        "[control] socket and the secret of [node] secret_file changed, which a running pend \
         keeps; restart pend, or undo that change; nothing was changed"
    );
    sim.engine.reload_refused(sim.now, "one\ntwo");
    sim.run_for(secs(1));
    assert_eq!(sim.maps, before);
    let told = sim.engine.events(0).into_iter().filter(|event| event.kind == "reload-refused");
    assert_eq!(told.map(|event| event.text).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_dry_run_tells_all_and_does_nothing() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let before = sim.maps.clone();
    let Changes { changes, dry_run } =
        sim.engine.reconfigure(sim.now, config(1), true).expect("a fair change");
    assert_eq!((changes.len(), dry_run), (2, true));
    sim.run_for(secs(5));
    assert_eq!(sim.maps, before);
}

/// 16 services with 1000 backends each, whose addresses begin here.
fn many(first: u32) -> Config {
    with(config(1), |config| {
        let service = config.services.remove(0);
        for port in 1..=16_u16 {
            let backend = |number| {
                let address = IpAddr::from(Ipv4Addr::from_bits(first + number));
                Backend {
                    name: address.to_string(),
                    address,
                    port,
                    socket: None,
                    weight: 1,
                    limits: config::Limits::default(),
                }
            };
            let begin = u32::from(port) * 1000;
            config.services.push(Service {
                name: format!("s{port}"),
                listen: Listen { address: VIP, ports: Ports::one(port) },
                backends: (begin..begin + 1000).map(backend).collect(),
                ..service.clone()
            });
        }
    })
}

#[test]
fn where_numbers_run_out_those_that_leave_give_theirs_up() {
    let (before, after) = (many(0x0a00_0000), many(0x0b00_0000));
    let mut maps = Tables::default();
    for (service, id) in before.services.iter().zip(0..) {
        let port = Be16::new(service.listen.ports.first);
        let key = abi::ServiceKey::new(Addr::from(VIP), port, protocol::TCP);
        maps.services.insert(key, abi::Service { id, ..abi::Service::default() });
        for backend in &service.backends {
            let number = u32::try_from(maps.backends.len()).expect("few") + 1;
            let (addr, state) = (Addr::from(backend.address), abi::Backend::UP);
            let entry = abi::Backend { addr, port, state, service: id, ..Default::default() };
            maps.backends.insert(number, entry);
        }
    }
    // Without the start nothing is written, so that this is fast.
    let mut engine = Engine::new(before, maps, [7, 7], Moment(1));
    engine.reconfigure(Moment(2), after, false).expect("a fair change");
    let backends = engine.backends(Moment(2), &Counts::default());
    assert_eq!(backends.len(), 16_000);
    assert!(backends.iter().all(|backend| backend.address.starts_with("11.")));
}

/// Services 80, 81, ... over these backends each.
fn draft(services: &[BTreeSet<u8>]) -> Config {
    with(config(1), |config| {
        let service = config.services.remove(0);
        for (backends, port) in services.iter().zip(80..).filter(|(all, _)| !all.is_empty()) {
            let backend = |number: &u8| Backend {
                name: format!("b{number}"),
                address: address(*number),
                port,
                socket: None,
                weight: 1 + u32::from(*number) % 3,
                limits: config::Limits::default(),
            };
            let listen = Listen { address: VIP, ports: Ports::one(port) };
            let name = format!("s{port}");
            let backends = backends.iter().map(backend).collect();
            let memory = config::Memory { settle: secs(60), ..service.memory };
            config.services.push(Service { name, listen, memory, backends, ..service.clone() });
        }
    })
}

/// Everything that the maps refer to is there, once, and belongs together.
fn assert_consistent(maps: &Tables) {
    let ids: BTreeSet<u32> = maps.services.values().map(|service| service.id).collect();
    assert_eq!(ids.len(), maps.services.len());
    for service in maps.services.values() {
        for slot in maps.slots[&service.id].iter() {
            for id in [slot.base(), slot.current()].map(u32::from) {
                assert!(id == 0 || maps.backends[&id].service == service.id, "{slot:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn after_any_reloads_the_maps_are_those_of_a_fresh_start(
        drafts in prop::collection::vec(
            prop::collection::vec(prop::collection::btree_set(1_u8..9, 0..5), 1..4), 1..6),
        pause in 0_u64..90,
    ) {
        let mut sim = Sim::start(draft(&[BTreeSet::from([1, 2])]));
        for services in &drafts {
            sim.reload(draft(services));
            assert_consistent(&sim.maps);
            sim.run_for(secs(pause));
            assert_consistent(&sim.maps);
        }
        sim.run_for(secs(300));
        let config = draft(drafts.last().expect("one at least"));
        let mut fresh = Sim::start(config);
        fresh.run_for(secs(5));
        prop_assert_eq!(named(&sim.maps), named(&fresh.maps));
    }
}

/// The tables with addresses in place of numbers.
fn named(maps: &Tables) -> BTreeMap<u16, Vec<(IpAddr, IpAddr, bool)>> {
    let name = |id: u16| IpAddr::from(maps.backends[&u32::from(id)].addr);
    let services = maps.services.iter().map(|(key, service)| {
        let slots = maps.slots[&service.id]
            .iter()
            .map(|slot| (name(slot.base()), name(slot.current()), slot.is_unsettled()));
        (key.port.value(), slots.collect())
    });
    services.collect()
}
