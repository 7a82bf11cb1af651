//! Long random sequences of packets and changes through the program, beside the same decisions in
//! userspace with the same records: the two never differ. What the decisions should be is held
//! against a plain model by the engine's own sequences.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pen_common::abi::{Backend, ClientKey, FlowKey, Record, Service};
use pen_common::affinity;
use pen_common::forward::{Arrival, Flow, Stage, decide};
use pen_common::moment::Moment;
use pen_common::net::{Be16, protocol};
use pen_common::verdict::Verdict;
use pen_ctl::engine::tables::Records;

use crate::bench::{Action, Bench};
use crate::frame::{IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch};
use crate::rng::Rng;
use crate::world::{NIC, SLOTS, VIP4, VIP6, backend_at, usual};

const STEPS: usize = 25_000;
/// Where the flags of a TCP header stand, and their values.
const FLAGS: usize = 13;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The kernel's records as they should be.
#[derive(Default)]
struct Memory {
    flows: RefCell<BTreeMap<FlowKey, Record>>,
    clients: RefCell<BTreeMap<ClientKey, Record>>,
}

impl Records for Memory {
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.flows.borrow().get(key).copied()
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.clients.borrow().get(key).copied()
    }

    fn record_flow(&self, key: &FlowKey, record: &Record) {
        self.flows.borrow_mut().insert(*key, *record);
    }

    fn record_client(&self, key: &ClientKey, record: &Record) {
        self.clients.borrow_mut().insert(*key, *record);
    }
}

/// A few clients with a few ports, so that flows meet their records again.
fn any_packet(rng: &mut Rng) -> (Packet, Stage) {
    let (client, port) = (u8::try_from(rng.below(40)).expect("small"), 1000 + rng.below(4));
    let port = u16::try_from(port).expect("small");
    let v4 = rng.below(2) == 0;
    let packet = match (v4, rng.below(2) == 0) {
        (true, true) => Packet::tcp(VIP4, 80),
        (true, false) => Packet::udp(VIP4, 53),
        (false, true) => Packet::tcp(VIP6, 80),
        (false, false) => Packet::udp(VIP6, 53),
    };
    let packet = match v4 {
        true => packet.from([198, 51, 100, client], port),
        false => packet.from([0x2001, 0xdb8, 7, u16::from(client), 0, 0, 0, 1], port),
    };
    let stage = match (packet.protocol, rng.below(8)) {
        (protocol::UDP, _) => Stage::Datagram,
        (_, 0) => Stage::Reset,
        (_, 1..=3) => Stage::Open,
        _ => Stage::Established,
    };
    (packet, stage)
}

fn frame(packet: &Packet, stage: Stage) -> Vec<u8> {
    let flags = match stage {
        Stage::Open => SYN,
        Stage::Established => ACK,
        Stage::Reset => RST | ACK,
        Stage::Datagram | Stage::Quoted => return packet.frame(),
    };
    let transport = if packet.destination.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
    patch(&packet.frame(), transport + FLAGS, &[flags])
}

fn decided(bench: &Bench, memory: &Memory, packet: &Packet, stage: Stage) -> Option<u32> {
    let flow = Flow {
        source: packet.source.into(),
        source_port: Be16::new(packet.source_port),
        port: Be16::new(packet.port),
        protocol: packet.protocol,
        stage,
    };
    let arrival = Arrival { ifindex: NIC, station: packet.station };
    // Records of an hour do not age in a test.
    let lookup = bench.tables().at(Moment(1), memory);
    match decide(&lookup, &arrival, &packet.destination.into(), || Ok(flow)) {
        Verdict::Forward(forward) => Some(forward.id),
        Verdict::Pass(_) | Verdict::Drop(_) => None,
    }
}

/// One change of the kind that the engine makes.
fn change(bench: &mut Bench, rng: &mut Rng) {
    let mut tables = bench.tables().clone();
    let ids: Vec<u32> = tables.backends.keys().copied().collect();
    let id = ids[rng.below(ids.len())];
    let backend = tables.backends.get_mut(&id).expect("known");
    let states = [Backend::DOWN, Backend::DRAINED, Backend::DRAIN, Backend::UP, Backend::UP];
    let state = states[rng.below(states.len())];
    if state == Backend::DOWN && backend.state != state {
        backend.generation += 100;
    }
    backend.state = state;
    let service = backend.service;
    // Sometimes the table follows a little later.
    if rng.below(3) > 0 {
        retarget(&mut tables, service, rng);
    }
    bench.change(tables);
}

/// New targets for some slots of a service; sometimes its bases follow.
fn retarget(tables: &mut pen_ctl::engine::tables::Tables, service: u32, rng: &mut Rng) {
    let of_service = tables.backends.iter().filter(|(_, backend)| backend.service == service);
    let up: Vec<u16> = of_service
        .clone()
        .filter(|(_, backend)| backend.state == Backend::UP)
        .map(|(id, _)| u16::try_from(*id).expect("small"))
        .collect();
    let dead: BTreeSet<u16> = of_service
        .filter(|(_, backend)| backend.state == Backend::DOWN)
        .map(|(id, _)| u16::try_from(*id).expect("small"))
        .collect();
    let follow = rng.below(4) == 0;
    let shift = rng.below(7);
    let slots = tables.slots[&service].iter().enumerate().map(|(index, slot)| {
        let target = match up.len() {
            0 => 0,
            count if (index + shift).is_multiple_of(3) => up[(index + shift) % count],
            _ if up.contains(&slot.current()) => slot.current(),
            count => up[index % count],
        };
        let moved = affinity::moved(*slot, target, |id| dead.contains(&id));
        if follow && slot.is_unsettled() {
            return pen_common::abi::Slot::new(moved.current(), moved.current(), true);
        }
        moved
    });
    let slots = slots.collect();
    tables.slots.insert(service, slots);
}

fn sequence(affinity: u8, seed: u64) {
    let mut tables = usual();
    for service in tables.services.values_mut() {
        service.affinity = affinity;
        assert_eq!(service.slots, SLOTS);
    }
    let mut bench = Bench::new(tables);
    let (mut rng, memory) = (Rng::new(seed), Memory::default());
    for step in 0..STEPS {
        if rng.below(50) == 0 {
            change(&mut bench, &mut rng);
        }
        let (packet, stage) = any_packet(&mut rng);
        let (action, out) = bench.send(None, &frame(&packet, stage));
        let reached = (action == Action::Tx).then(|| backend_at(&out));
        let expected = decided(&bench, &memory, &packet, stage);
        assert_eq!(reached, expected, "seed {seed}, step {step}: {stage:?} {packet:?}");
    }
    let records = |count: usize| assert!(count > 50, "the sequence made {count} records");
    records(memory.flows.borrow().len() + memory.clients.borrow().len());
}

#[test]
fn flows_go_where_userspace_says_through_all_changes() {
    sequence(Service::FLOW, 11);
}

#[test]
fn flows_of_remembered_clients_go_where_userspace_says_through_all_changes() {
    sequence(Service::CLIENT, 12);
}
