//! `penctl explain --simulate` says what the kernel does: over random tables, in the middle of
//! changes, and with records of all kinds, each simulated flow is sent through the program as well.

use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use pen_common::ABI_VERSION;
use pen_common::abi::{Backend, ClientKey, FlowKey, Record, Service, ServiceKey, Slot, map};
use pen_common::affinity::{client_key, flow_key};
use pen_common::forward::{Flow, Stage};
use pen_common::net::{Be16, protocol};
use pen_common::verdict::Counter;
use pen_ctl::api::Simulate;
use pen_ctl::engine::simulation::Simulation;
use pen_ctl::engine::tables::Tables;
use pen_ctl::io::clock;

use crate::bench::{Action, Bench};
use crate::frame::{IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch};
use crate::rng::Rng;
use crate::world::{VIP4, VIP6, backend_at, usual};

const SECOND: u64 = 1_000_000_000;
/// Records live longer than the test takes.
const TTL_NS: u64 = 200 * SECOND;
/// Where the flags of a TCP header stand, and that of ACK alone.
const FLAGS: usize = 13;
const ACK: u8 = 16;

/// The usual services, in the middle of whatever may have happened to them.
fn any_tables(rng: &mut Rng) -> Tables {
    let mut tables = usual();
    let states = [Backend::DOWN, Backend::DRAINED, Backend::DRAIN, Backend::UP, Backend::UP];
    for backend in tables.backends.values_mut() {
        backend.state = states[rng.below(states.len())];
        backend.generation = 7;
    }
    for service in tables.services.values_mut() {
        service.affinity = [Service::FLOW, Service::CLIENT][rng.below(2)];
        service.flags = [0, Service::STUBBORN][rng.below(2)];
        service.prefix_v4 = [128, 120][rng.below(2)];
        (service.flow_ttl_ns, service.client_ttl_ns) = (TTL_NS, TTL_NS);
        service.slots = 251;
        let owned = tables.backends.iter().filter(|(_, backend)| backend.service == service.id);
        let mut ids: Vec<u16> =
            owned.map(|(id, _)| u16::try_from(*id).expect("ids fit a slot")).collect();
        // No backend at all.
        ids.push(0);
        let slots = (0..service.slots).map(|_| {
            let (base, current) = (ids[rng.below(ids.len())], ids[rng.below(ids.len())]);
            match rng.below(3) {
                0 => Slot::settled(current),
                1 => Slot::new(current, current, true),
                _ => Slot::new(base, current, true),
            }
        });
        tables.slots.insert(service.id, slots.collect());
    }
    tables
}

/// The kernel's records, by a door of their own.
struct Door {
    flows: HashMap<MapData, FlowKey, Record>,
    clients: HashMap<MapData, ClientKey, Record>,
}

impl Door {
    fn open(bench: &Bench) -> Self {
        let folder = bench.pins().0.join(format!("v{ABI_VERSION}"));
        let map = |name: &str| {
            Map::LruHashMap(MapData::from_pin(folder.join(name)).expect("it is pinned"))
        };
        Self {
            flows: map(map::FLOWS).try_into().expect("a map of flows"),
            clients: map(map::CLIENTS).try_into().expect("a map of clients"),
        }
    }

    /// Leaves records of this flow and of its client: none, good ones, and all kinds of bad ones.
    fn remember(&mut self, rng: &mut Rng, service: &Service, flow: &Flow) {
        let now = clock::now().0;
        let mut record = || {
            let ages = [0, 0, 1, 2 * TTL_NS / SECOND];
            Record {
                // Also those of other services, and one that does not exist.
                backend: u32::try_from(rng.below(14)).expect("small"),
                generation: [7, 7, 7, 6][rng.below(4)],
                last_seen_ns: now.saturating_sub(ages[rng.below(ages.len())] * SECOND),
            }
        };
        let (of_flow, of_client) = (record(), record());
        if rng.below(2) == 0 {
            self.flows.insert(flow_key(service, flow), of_flow, 0).expect("there is room");
        }
        if rng.below(2) == 0 {
            self.clients.insert(client_key(service, flow), of_client, 0).expect("there is room");
        }
    }
}

fn frame(vip: IpAddr, flow: &Flow) -> Vec<u8> {
    let packet = match flow.protocol {
        protocol::TCP => Packet::tcp(vip, flow.port.value()),
        _ => Packet::udp(vip, flow.port.value()),
    };
    let frame = packet.from(IpAddr::from(flow.source), flow.source_port.value()).frame();
    let transport = if vip.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
    match flow.stage {
        Stage::Established => patch(&frame, transport + FLAGS, &[ACK]),
        _ => frame,
    }
}

/// What the kernel did, in the words of a simulation.
fn sent(bench: &mut Bench, frame: &[u8]) -> Result<u32, Counter> {
    let before = bench.verdicts();
    let (action, out) = bench.send(None, frame);
    if action == Action::Tx {
        return Ok(backend_at(&out));
    }
    let after = bench.verdicts();
    let mut risen = Counter::ALL
        .iter()
        .filter(|counter| after[**counter as usize] != before[**counter as usize]);
    Err(*risen.next().expect("each frame is counted"))
}

#[test]
fn ten_thousand_simulated_flows_go_where_the_kernel_sends_them() {
    const SEED: u64 = 11;
    let mut rng = Rng::new(SEED);
    let mut bench = Bench::new(Tables::default());
    let (mut forwarded, mut dropped) = (0, 0);
    for round in 0..32 {
        bench.change(any_tables(&mut rng));
        let mut door = Door::open(&bench);
        let records = bench.dataplane().record_reader().open().unwrap();
        for (vip, port, protocol) in [
            (IpAddr::from(VIP4), 80, protocol::TCP),
            (VIP4.into(), 53, protocol::UDP),
            (VIP6.into(), 80, protocol::TCP),
            (VIP6.into(), 53, protocol::UDP),
        ] {
            let key = ServiceKey::new(vip.into(), Be16::new(port), protocol);
            let service = bench.tables().services[&key];
            let wish = Simulate {
                service: String::new(),
                flows: 80,
                seed: rng.bits(),
                established: rng.below(2) == 0,
            };
            let simulation = Simulation::new(bench.tables(), key, clock::now(), &wish);
            for flow in simulation.flows() {
                door.remember(&mut rng, &service, &flow);
                // Before the frame, which changes records.
                let simulated = simulation.choose(flow, &records);
                let happened = sent(&mut bench, &frame(vip, &flow));
                assert_eq!(simulated, happened, "seed {SEED}, round {round}: {flow:?}");
                match happened {
                    Ok(_) => forwarded += 1,
                    Err(_) => dropped += 1,
                }
            }
        }
    }
    assert_eq!(forwarded + dropped, 32 * 4 * 80);
    assert!(forwarded > 5000 && dropped > 500, "{forwarded} forwarded, {dropped} dropped");
}
