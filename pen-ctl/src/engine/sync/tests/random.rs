//! Against a plain model: after a quiet time a backup's maps and its engine's knowledge are the
//! holder's, in its own numbers.

use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ClientKey, FlowKey, ServiceKey, Slot, Translation, Tuple};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};
use proptest::prelude::*;

use super::super::item::Place;
use super::super::view::{Entry, Service};
use super::world::{Machine, TTL_NS, Weather, World, key, place};

fn client(number: u64) -> Addr {
    Addr::v4([198, 51, 100, u8::try_from(number).expect("small")])
}

/// Something happens at the holder of the addresses.
fn step(world: &mut World, master: usize) {
    let number = u8::try_from(world.dice.below(2)).expect("small");
    let (service, at) = (key(number), u8::try_from(world.dice.below(3)).expect("small"));
    let place = place(number * 10 + at);
    let client = client(world.dice.below(20));
    let kind = world.dice.below(12);
    let now = world.time(master);
    let found = world.machines[master].service(service);
    let (id, backend) = (found.id, found.backends[&place]);
    let record =
        abi::Record { backend: backend.id, generation: backend.standing.life, last_seen_ns: now.0 };
    match kind {
        0..=4 => {
            let source_port = Be16::new(4000 + u16::try_from(world.dice.below(20)).expect("small"));
            let key = FlowKey { client, service: id, source_port, port: Be16::new(80) };
            world.enter(master, Entry::Flow(key, record));
        }
        5 | 6 => {
            let key = ClientKey { client, service: id, _pad: 0 };
            world.enter(master, Entry::Client(key, record));
        }
        7 | 8 => {
            let port = Be16::new(10_000 + u16::try_from(world.dice.below(50)).expect("small"));
            let own = Addr::v4([10, 0, 0, 254]);
            let ends = Tuple::new(place.addr, place.port, own, port, 6);
            let flags = Translation::RETURN | Translation::ANSWERED;
            let to = Translation {
                source: service.vip,
                destination: client,
                source_port: service.port,
                port,
                flags,
                service: id,
                backend: backend.id,
                last_seen_ns: now.0,
            };
            world.enter(master, Entry::Translation(ends, to));
        }
        9 => {
            // It dies.
            world.machines[master].kill(service, place);
            world.share(master);
        }
        10 => {
            let slot = usize::try_from(world.dice.below(31)).expect("small");
            let unsettled = world.dice.percent(70);
            let found = world.machines[master].service(service);
            let mut slots = found.slots.as_deref().expect("it has some").to_vec();
            let base = u16::try_from(backend.id).expect("small");
            slots[slot] = Slot::new(base, slots[slot].current(), unsettled);
            found.slots = Some(Arc::from(slots));
            world.share(master);
        }
        _ => {
            let weight = u32::try_from(world.dice.below(4)).expect("small");
            let found = world.machines[master].service(service);
            let backend = found.backends.get_mut(&place).expect("it is there");
            backend.standing.weight = weight;
            backend.standing.set_weight = Some(weight);
            world.share(master);
        }
    }
}

/// The service and place of a backend's number on a machine.
fn name(machine: &Machine, id: u32) -> (ServiceKey, Place, u32) {
    let mut all = machine.services.iter().flat_map(|service| {
        let of = move |(place, backend): (&Place, &super::super::view::Backend)| {
            (service.key, *place, backend.id, backend.standing.life)
        };
        service.backends.iter().map(of)
    });
    let (key, place, _, life) = all.find(|(_, _, found, _)| *found == id).expect("a backend's");
    (key, place, life)
}

fn service_of(machine: &Machine, id: u32) -> &Service {
    machine.services.iter().find(|service| service.id == id).expect("a service's")
}

/// To which backend a record leads on a machine; `None` if it is void.
fn leads(machine: &Machine, record: &abi::Record, now: Moment) -> Option<Place> {
    let (_, place, life) = name(machine, record.backend);
    let live = record.generation == life && now.0 - record.last_seen_ns < TTL_NS;
    live.then_some(place)
}

/// The backup knows all that the holder knows.
fn assert_same(world: &World, master: usize, backup: usize) {
    let (there, here) = (&world.machines[master], &world.machines[backup]);
    let (then, now) = (world.time(master), world.time(backup));
    let numbered = |id: u32| {
        let key = service_of(there, id).key;
        here.services.iter().find(|service| service.key == key).expect("both have it").id
    };
    for (key, record) in &there.flows {
        let Some(place) = leads(there, record, then) else { continue };
        let key = FlowKey { service: numbered(key.service), ..*key };
        let found = here.flows.get(&key).unwrap_or_else(|| panic!("{key:?} is missing"));
        assert_eq!(leads(here, found, now), Some(place), "{key:?}");
    }
    for (key, record) in &there.clients {
        let Some(place) = leads(there, record, then) else { continue };
        let key = ClientKey { service: numbered(key.service), ..*key };
        let found = here.clients.get(&key).unwrap_or_else(|| panic!("{key:?} is missing"));
        assert_eq!(leads(here, found, now), Some(place), "{key:?}");
    }
    for (key, to) in &there.translations {
        // Void ones are nobody's: a node that started again since is not told of them.
        if then.0 - to.last_seen_ns >= to.lifetime(key.protocol, TTL_NS) {
            continue;
        }
        let found = here.translations.get(key).unwrap_or_else(|| panic!("{key:?} is missing"));
        let numbers = (numbered(to.service), name(here, found.backend).1);
        assert_eq!(numbers, (found.service, name(there, to.backend).1));
        let other = Translation {
            service: to.service,
            backend: to.backend,
            last_seen_ns: to.last_seen_ns,
            ..*found
        };
        assert_eq!(other, *to);
    }
    for service in &there.services {
        let adopted = &here.adopted[&service.key];
        for (place, backend) in &service.backends {
            assert_eq!(adopted.backends[place], backend.standing);
        }
        let slots = service.slots.as_deref().expect("it has some");
        for (at, slot) in (0..).zip(slots) {
            let base = adopted.bases.get(&at);
            let expected = slot.is_unsettled().then(|| name(there, u32::from(slot.base())).1);
            assert_eq!(base, expected.as_ref(), "slot {at}");
        }
    }
    assert_eq!(here.complete, Some(true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn after_a_quiet_time_a_backup_knows_all_that_the_holder_knows(
        seed: u64, machines in 2_usize..4, steps in 0_usize..300, loss in 0_u64..40,
        doubling in 0_u64..30, delay_ms in 0_u64..80,
    ) {
        let mut world = World::new(seed, machines);
        world.weather = Weather { loss, doubling, delay_ms };
        let mut master = 0;
        for _ in 0..steps {
            step(&mut world, master);
            let pause = world.dice.below(100);
            world.run(Duration::from_millis(pause));
            let victim = usize::try_from(world.dice.below(machines as u64)).expect("small");
            match world.dice.below(60) {
                0 => world.restart(victim),
                1 => world.machines[victim].alone ^= true,
                2 => {
                    // A planned handover: nobody tells for a while.
                    world.set_roles(None);
                    world.run(Duration::from_millis(pause));
                    master = victim;
                    world.set_roles(Some(master));
                }
                3 => world.run(Duration::from_secs(5)),
                _ => {}
            }
        }
        for machine in &mut world.machines {
            machine.alone = false;
        }
        world.weather = Weather::default();
        world.run(Duration::from_secs(25));
        for backup in (0..machines).filter(|machine| *machine != master) {
            assert_same(&world, master, backup);
        }
    }
}
