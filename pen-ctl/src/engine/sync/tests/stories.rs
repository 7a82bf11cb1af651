//! Single stories.

use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ClientKey, FlowKey, Translation, Tuple};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::super::item::{Fact, Of, Standing};
use super::super::peer::QUEUE;
use super::super::seal::{Header, Kind, seal};
use super::super::view::{Entry, Role, Service, Untold, View};
use super::super::{Key, Node, Settings};
use super::world::{SECOND, TTL_NS, World, address, key, place};

fn flow(world: &World, machine: usize, number: u32) -> Entry {
    let service = &world.machines[machine].services[0];
    let backend = service.backends[&place(1)];
    let [_, a, b, c] = number.to_be_bytes();
    let client = Addr::v4([10, a, b, c]);
    let key =
        FlowKey { client, service: service.id, source_port: Be16::new(4000), port: Be16::new(80) };
    let record = abi::Record {
        backend: backend.id,
        generation: backend.standing.life,
        last_seen_ns: world.time(machine).0,
    };
    Entry::Flow(key, record)
}

fn enter(world: &mut World, machine: usize, number: u32) {
    let entry = flow(world, machine, number);
    let now = world.time(machine);
    if let Entry::Flow(key, record) = entry {
        world.machines[machine].flows.insert(key, record);
    }
    world.machines[machine].node.observed(now, &[entry]);
}

#[test]
fn a_record_is_at_the_backup_within_milliseconds() {
    let mut world = World::new(1, 2);
    world.run(Duration::from_secs(1));
    enter(&mut world, 0, 1);
    world.run(Duration::from_millis(2));
    let (key, record) = world.machines[1].flows.first_key_value().expect("it came");
    let service = &world.machines[1].services[0];
    assert_eq!((key.service, record.backend), (service.id, service.backends[&place(1)].id));
    assert!(world.time(1).0 - record.last_seen_ns < 10_000_000, "its age came along");
}

#[test]
fn who_joins_is_complete_once_it_knows_everything() {
    let mut world = World::new(2, 2);
    world.machines[1].alone = true;
    world.run(Duration::from_secs(1));
    for number in 0..3000 {
        enter(&mut world, 0, number);
    }
    world.machines[1].alone = false;
    let mut was_incomplete = false;
    while world.machines[1].complete != Some(true) {
        was_incomplete |= world.machines[1].complete == Some(false);
        world.run(Duration::from_millis(1));
        assert!(world.now < Moment(1010 * SECOND));
    }
    assert!(was_incomplete);
    assert_eq!(world.machines[1].flows.len(), 3000);
}

#[test]
fn who_hears_nobody_is_complete_after_a_while() {
    let mut world = World::new(3, 2);
    world.machines[1].alone = true;
    world.run(Duration::from_millis(2900));
    assert_eq!(world.machines[1].complete, Some(false));
    world.run(Duration::from_millis(200));
    assert_eq!(world.machines[1].complete, Some(true));
}

#[test]
fn the_old_holder_comes_back_and_is_told_before_it_is_complete() {
    let mut world = World::new(4, 2);
    world.run(Duration::from_secs(1));
    world.machines[0].alone = true;
    world.set_roles(Some(1));
    for number in 0..100 {
        enter(&mut world, 1, number);
    }
    world.run(Duration::from_secs(20));
    world.machines[0].flows.clear();
    world.restart(0);
    world.machines[0].alone = false;
    while world.machines[0].complete != Some(true) {
        world.run(Duration::from_millis(1));
    }
    assert_eq!(world.machines[0].flows.len(), 100);
    assert!(world.machines[0].adopted.contains_key(&key(0)));
}

#[test]
fn recordings_and_forgeries_are_counted_and_change_nothing() {
    let mut world = World::new(5, 2);
    world.run(Duration::from_secs(1));
    enter(&mut world, 0, 1);
    world.run(Duration::from_secs(1));
    world.machines[1].flows.clear();
    let recorded = world.recorded.clone();
    let to_backup = recorded.iter().filter(|(_, to, _)| *to == address(1));
    for (from, _, datagram) in to_backup.clone() {
        world.forge(*from, 1, datagram);
    }
    // The daemon has started again: recordings of the session before are for nobody.
    world.restart(1);
    for (from, _, datagram) in to_backup.clone() {
        world.forge(*from, 1, datagram);
    }
    assert_eq!(world.machines[1].flows.len(), 0);
    let refused = |world: &World| world.machines[1].node.report(world.time(1)).refused;
    let before = refused(&world);
    for (from, _, datagram) in to_backup {
        let mut changed = datagram.clone();
        changed[20] ^= 1;
        world.forge(*from, 1, &changed);
        world.forge("[2001:db8::99]:7000".parse().expect("literal"), 1, datagram);
    }
    let sent = recorded.iter().filter(|(_, to, _)| *to == address(1)).count();
    assert_eq!(refused(&world) - before, 2 * sent as u64);
    // And yet it is told everything.
    world.run(Duration::from_secs(1));
    assert_eq!(world.machines[1].flows.len(), 1);
    let report = world.machines[1].node.report(world.time(1));
    assert_eq!((report.complete, report.peers[0].state.as_str()), (true, "up"));
}

#[test]
fn a_doubled_datagram_is_counted_as_such() {
    let mut world = World::new(6, 2);
    world.weather.doubling = 100;
    world.run(Duration::from_secs(2));
    let report = world.machines[1].node.report(world.time(1));
    assert!(report.peers[0].replayed > 0);
    assert_eq!(report.peers[0].malformed, 0);
}

#[test]
fn sealed_nonsense_is_counted_and_does_not_stop_what_follows() {
    let now = Moment(SECOND);
    let settings = |at: usize| Settings {
        name: "edge".to_owned(),
        key: Key::new(b"shared"),
        peers: vec![address(1 - at)],
        seed: [u8::try_from(at).expect("small"); 32],
    };
    let mut node = Node::new(settings(0), now);
    let (_, hello) = node.poll_datagram(now).expect("a greeting");
    let (header, _) = super::super::seal::open(&Key::new(b"shared"), &hello).expect("sealed");
    let mut number = 0;
    let mut send = |node: &mut Node, kind: Kind, body: &[u8]| {
        number += 1;
        let (from, to, heard) = (7, header.from, header.number);
        let header = Header { kind, from, to, number, heard, next: 0, beyond: 0, wants: 0 };
        node.receive(now, address(1), &seal(&Key::new(b"shared"), &header, body));
        node.report(now).peers[0].malformed
    };
    assert_eq!(send(&mut node, Kind::Hello, b""), 1);
    assert_eq!(send(&mut node, Kind::Hello, &[1, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]), 2);
    assert_eq!(send(&mut node, Kind::Hello, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 3);
    assert_eq!(send(&mut node, Kind::Data, b"short"), 4);
    assert_eq!(send(&mut node, Kind::Data, &[0, 0, 0, 0, 0, 0, 0, 0, 99]), 5);
    assert_eq!(send(&mut node, Kind::Data, &[0, 0, 0, 0, 0, 0, 0, 1, 2]), 5);
}

#[test]
fn memory_is_bounded_and_what_was_left_out_is_told_later() {
    let mut world = World::new(7, 2);
    world.run(Duration::from_secs(1));
    let many = u32::try_from(QUEUE).expect("small") + 5000;
    for number in 0..many {
        enter(&mut world, 0, number);
    }
    let report = world.machines[0].node.report(world.time(0));
    assert!(report.peers[0].left_out >= 4000, "{report:?}");
    assert!(report.peers[0].behind <= QUEUE as u64 + 2 * 256 * 50);
    world.run(Duration::from_secs(25));
    assert_eq!(world.machines[1].flows.len(), many as usize);
    let report = world.machines[0].node.report(world.time(0));
    assert_eq!((report.peers[0].behind, report.peers[0].ack_ms), (0, 0));
}

#[test]
fn for_a_silent_peer_nothing_is_kept() {
    let mut world = World::new(8, 3);
    world.run(Duration::from_secs(1));
    world.machines[2].alone = true;
    for number in 0..1000 {
        enter(&mut world, 0, number);
    }
    world.run(Duration::from_millis(500));
    let behind = |world: &World| {
        let report = world.machines[0].node.report(world.time(0));
        report.peers.iter().map(|peer| (peer.state.clone(), peer.behind > 0)).collect::<Vec<_>>()
    };
    assert_eq!(behind(&world), [("up".to_owned(), false), ("up".to_owned(), true)]);
    world.run(Duration::from_secs(5));
    for number in 1000..2000 {
        enter(&mut world, 0, number);
    }
    world.run(Duration::from_secs(1));
    let report = world.machines[0].node.report(world.time(0));
    assert_eq!(report.peers[1].state, "silent");
    assert!(report.peers[1].behind < 1100, "only what was under way");
    world.machines[2].alone = false;
    world.run(Duration::from_secs(3));
    assert_eq!(world.machines[2].flows.len(), 2000);
}

#[test]
fn a_difference_of_configurations_is_named() {
    let mut world = World::new(9, 2);
    for (at, change) in [
        (0, (|s: &mut Service| s.outline.slots = 61) as fn(&mut Service)),
        (0, |s| s.outline.mode = 3),
        (1, |s| s.outline.backends = 9),
        (1, |s| s.outline.rest = 9),
        (1, |s| s.outline.patience = 9),
    ] {
        change(&mut world.machines[1].services[at]);
    }
    let mut extra = world.machines[1].services[0].clone();
    (extra.key.port, extra.id) = (Be16::new(53), 99);
    extra.key.protocol = 17;
    world.machines[1].services.push(extra);
    world.share(1);
    world.run(Duration::from_secs(1));
    let differs = |world: &World, machine: usize| {
        world.machines[machine].node.report(world.time(machine)).peers[0].differs.clone()
    };
    assert_eq!(
        differs(&world, 0),
        [
            "service service0: mode",
            "service service0: slots",
            "service service1: backends or their weights",
            "service service1: affinity, times or another setting",
            "service service1: advbase or deadratio of its [[carp]]",
            "service on 192.0.2.0:53/udp: only there",
        ]
    );
    assert!(differs(&world, 1).contains(&"service service0: not there".to_owned()));
    let services = world.machines[1].services.iter().cloned().map(Arc::new).collect();
    let now = world.time(1);
    world.machines[1].node.share(now, Arc::new(View::new(services)), [7, 7]);
    world.run(Duration::from_secs(1));
    assert_eq!(differs(&world, 0)[0], "the secret ([node] secret_file)");
    assert!(!world.machines[1].adopted.is_empty());
}

#[test]
fn two_holders_keep_their_own() {
    let mut world = World::new(10, 2);
    world.run(Duration::from_secs(1));
    enter(&mut world, 0, 1);
    for service in &mut world.machines[1].services {
        service.role = Role::Master;
    }
    world.share(1);
    world.run(Duration::from_secs(1));
    // What the other one has and we do not is better than nothing.
    assert_eq!(world.machines[1].flows.len(), 1);
    let Entry::Flow(key, record) = flow(&world, 1, 1) else { panic!("a flow") };
    let other = world.machines[1].services[0].backends[&place(2)];
    let own = abi::Record { backend: other.id, generation: other.standing.life, ..record };
    world.machines[1].flows.insert(key, own);
    enter(&mut world, 0, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.machines[1].flows[&key].backend, other.id, "ours stays");
}

#[test]
fn only_what_means_the_same_elsewhere_is_told() {
    let world = World::new(11, 2);
    let now = world.time(0);
    let service = &world.machines[0].services[0];
    let told = |change: &dyn Fn(&mut Service), entry: Entry| {
        let mut service = service.clone();
        change(&mut service);
        View::new(vec![Arc::new(service)]).record(now, &entry).map(|record| record.of)
    };
    let (service_id, backend) = (service.id, service.backends[&place(1)]);
    let client = Addr::v4([1, 2, 3, 4]);
    let record = abi::Record {
        backend: backend.id,
        generation: backend.standing.life,
        last_seen_ns: now.0 - 5 * SECOND,
    };
    let key = ClientKey { client, service: service_id, _pad: 0 };
    let life = backend.standing.life;
    let entry = Entry::Client(key, record);
    assert_eq!(told(&|_| {}, entry), Ok(Of::Client { client, life }));
    assert_eq!(told(&|service| service.role = Role::Backup, entry), Err(Untold::Private));
    assert_eq!(told(&|service| service.client_ttl_ns = 5 * SECOND, entry), Err(Untold::Private));
    let old = Entry::Client(key, abi::Record { generation: life - 1, ..record });
    assert_eq!(told(&|_| {}, old), Err(Untold::Unknown));
    let other = Entry::Client(ClientKey { service: 77, ..key }, record);
    assert_eq!(told(&|_| {}, other), Err(Untold::Unknown));
    let nobody = Entry::Client(key, abi::Record { backend: 77, ..record });
    assert_eq!(told(&|_| {}, nobody), Err(Untold::Unknown));

    let ends = Tuple::new(client, Be16::new(1), client, Be16::new(2), 6);
    let to = Translation {
        service: service_id,
        backend: backend.id,
        last_seen_ns: now.0 - 40 * SECOND,
        flags: Translation::ANSWERED,
        ..Translation::default()
    };
    let flags = Translation::ANSWERED;
    let of = Of::Translation { ends, to: ends.translated(&to), flags };
    assert_eq!(told(&|_| {}, Entry::Translation(ends, to)), Ok(of));
    let unanswered = Entry::Translation(ends, Translation { flags: 0, ..to });
    assert_eq!(told(&|_| {}, unanswered), Err(Untold::Private), "it is void sooner");
    let entry = Entry::Translation(ends, to);
    assert_eq!(told(&|service| service.moves = false, entry), Err(Untold::Private));
    const { assert!(TTL_NS > 40 * SECOND) };
}

#[test]
fn what_the_operator_set_comes_along() {
    let mut world = World::new(12, 2);
    world.run(Duration::from_secs(1));
    let since = Moment(world.time(0).0 - 9 * SECOND);
    let backend = world.machines[0].service(key(0)).backends.get_mut(&place(2)).expect("there");
    let standing = Standing {
        admin: abi::Backend::DRAINING,
        set_weight: Some(5),
        weight: 0,
        draining_since: Some(since),
        ..backend.standing
    };
    backend.standing = standing;
    world.share(0);
    world.run(Duration::from_millis(5));
    let adopted = &world.machines[1].adopted[&key(0)];
    assert_eq!(adopted.from, "edge1");
    let found = adopted.backends[&place(2)];
    let age = world.time(1).since(found.draining_since.expect("it is drained"));
    assert_eq!(Standing { draining_since: Some(since), ..found }, standing);
    assert!((Duration::from_secs(9)..Duration::from_millis(9050)).contains(&age), "{age:?}");
}

#[test]
fn a_backup_is_told_which_backends_the_holder_can_use() {
    let mut world = World::new(13, 2);
    world.run(Duration::from_secs(1));
    let all = [place(0), place(1), place(2)];
    assert_eq!(world.machines[1].adopted[&key(0)].usable, all.into());
    for (usable, expected) in [(false, vec![place(0), place(2)]), (true, all.to_vec())] {
        let backends = &mut world.machines[0].service(key(0)).backends;
        backends.get_mut(&place(1)).expect("there").usable = usable;
        world.share(0);
        world.run(Duration::from_millis(5));
        let adopted = &world.machines[1].adopted[&key(0)];
        assert_eq!(adopted.usable, expected.into_iter().collect());
    }
    // They are told in parts, of which one may go.
    for (count, parts) in [(40_u8, 3), (16, 1), (0, 0)] {
        let backends =
            (0..count).map(|at| (place(at), world.machines[0].services[0].backends[&place(1)]));
        let service =
            Service { backends: backends.collect(), ..world.machines[0].services[0].clone() };
        let facts = service.facts();
        let told = facts.values().filter(|fact| matches!(fact, Fact::Usable(_))).count();
        assert_eq!(told, parts, "{count} backends");
    }
}
