//! What is measured: a table of cases, and the contents of pen's maps for all of them together.
//! Each case of pen has a service of its own, on a port of its own, so that nothing is written
//! while cases are compared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::abi::{AddrEntry, Backend, Cfg, Group, Service, ServiceKey, Slot};
use pen_common::bench::{Frame, MAX_FLOWS};
use pen_common::hash::Secret;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::config::Sizes;
use pen_ctl::engine::scheduler::{Member, maglev};
use pen_ctl::engine::tables::Tables;

use crate::rig::{Lane, Nic};

const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
/// Addresses that pen does not know.
const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x11);
/// Port of the first case's service.
const FIRST_PORT: u16 = 1000;
/// Backends of each service.
const BACKENDS: u16 = 10;
/// Slots of each service's table: what a service has that says nothing of it.
pub(crate) const SLOTS: u32 = 16381;
/// How long records live: longer than a bench takes.
const HOUR_NS: u64 = 3_600_000_000_000;
/// Key of the flow hash.
pub(crate) const SECRET: Secret = [0x0123_4567_89ab_cdef, 42];

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Where frames come in and where they have to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) lane: Lane,
    pub(crate) end: End,
    /// The counter of pen that all frames have to end in.
    pub(crate) counter: Option<Counter>,
    /// Bytes that a frame gains on the way.
    pub(crate) growth: u16,
}

/// The end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Dropped by the program under test.
    Drop,
    /// Left to the kernel, which drops it at once: it is addressed to another station.
    Pass,
    /// Sent back.
    Transmit,
}

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    pub(crate) frame: Frame,
    /// The program of the bench that does the least that has to be done for such a frame.
    pub(crate) against: Option<Lane>,
    /// More flows than this are not possible.
    pub(crate) most_flows: u32,
    /// The service that pen has for it.
    service: Option<Spec>,
}

/// A frame for pen.
#[derive(Clone, Copy, Debug)]
struct Packet {
    destination: IpAddr,
    protocol: u8,
    flags: u8,
}

/// A service of pen.
#[derive(Clone, Copy, Debug)]
struct Spec {
    mode: u8,
    affinity: u8,
    /// Bytes that a frame gains.
    growth: u16,
    /// Entries of the map `NAT` for each flow.
    translations: u32,
    most_flows: u32,
    /// One of the backends has just been added: its slots, one in ten, are unsettled.
    moved: bool,
}

const TCP_ACK: Packet = Packet::new(IpAddr::V4(VIP4), protocol::TCP, ACK);
const TCP_SYN: Packet = Packet::new(IpAddr::V4(VIP4), protocol::TCP, SYN);
const UDP: Packet = Packet::new(IpAddr::V4(VIP4), protocol::UDP, 0);
const TCP_ACK_V6: Packet = Packet::new(IpAddr::V6(VIP6), protocol::TCP, ACK);
const NOT_OURS: Packet = Packet::new(IpAddr::V4(OTHER4), protocol::TCP, ACK);
const NOT_OURS_V6: Packet = Packet::new(IpAddr::V6(OTHER6), protocol::TCP, ACK);

const DSR: Spec = Spec {
    mode: Service::DSR,
    affinity: Service::FLOW,
    growth: 0,
    translations: 0,
    most_flows: MAX_FLOWS,
    moved: false,
};
const DSR_BY_CLIENT: Spec = Spec { affinity: Service::CLIENT, ..DSR };
const DSR_MOVED: Spec = Spec { moved: true, ..DSR };
const IPIP: Spec = Spec { mode: Service::IPIP, growth: 20, ..DSR };
const GUE: Spec = Spec { mode: Service::GUE, growth: 28, ..DSR };
const NAT: Spec = Spec { mode: Service::NAT, translations: 1, ..DSR };
/// To each backend there is one flow for each port of this node.
const MASQUERADE: Spec =
    Spec { mode: Service::MASQUERADE, translations: 2, most_flows: 100_000, ..DSR };

/// All cases, those to compare with first.
pub(crate) fn all() -> Vec<Case> {
    vec![
        reference(Lane::Empty, End::Drop),
        reference(Lane::Pass, End::Pass),
        reference(Lane::Macswap, End::Transmit),
        passed("pass v4", Lane::Pen, NOT_OURS),
        passed("pass v6", Lane::Pen, NOT_OURS_V6),
        passed("pass v4 with nat", Lane::PenNat, NOT_OURS),
        balanced("dsr tcp ack", TCP_ACK, DSR),
        balanced("dsr tcp syn", TCP_SYN, DSR),
        balanced("dsr udp", UDP, DSR),
        balanced("dsr tcp ack v6", TCP_ACK_V6, DSR),
        balanced("dsr tcp ack client", TCP_ACK, DSR_BY_CLIENT),
        balanced("dsr tcp syn client", TCP_SYN, DSR_BY_CLIENT),
        balanced("dsr tcp ack 10% moved", TCP_ACK, DSR_MOVED),
        balanced("dsr tcp syn 10% moved", TCP_SYN, DSR_MOVED),
        balanced("dsr udp 10% moved", UDP, DSR_MOVED),
        balanced("ipip tcp ack", TCP_ACK, IPIP),
        balanced("ipip tcp ack v6", TCP_ACK_V6, IPIP),
        balanced("gue tcp ack", TCP_ACK, GUE),
        balanced("nat tcp ack", TCP_ACK, NAT),
        balanced("masquerade tcp ack", TCP_ACK, MASQUERADE),
    ]
    .into_iter()
    .zip(FIRST_PORT..)
    .map(|(case, port)| Case { frame: Frame { port, ..case.frame }, ..case })
    .collect()
}

/// The cases whose name contains the text, and those that they are compared with.
pub(crate) fn filtered(all: Vec<Case>, text: &str) -> Vec<Case> {
    let wanted = |case: &Case| case.against.is_some() && case.name.contains(text);
    let compared = |lane: Lane| all.iter().any(|case| wanted(case) && case.against == Some(lane));
    let keep: Vec<bool> = all
        .iter()
        .map(|case| match case.way.lane {
            Lane::Empty => all.iter().any(wanted),
            _ => wanted(case) || case.against.is_none() && compared(case.way.lane),
        })
        .collect();
    all.into_iter().zip(keep).filter_map(|(case, keep)| keep.then_some(case)).collect()
}

/// What the maps of the pen of this lane hold for its cases.
pub(crate) fn tables(cases: &[Case], lane: Lane, nic: Nic) -> Tables {
    let mut tables = empty();
    if lane == Lane::PenNat {
        tables.cfg.flags = Cfg::NAT;
    }
    for vip in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        let entry = AddrEntry { ifindex: nic.ifindex, mac: nic.mac, ..AddrEntry::default() };
        tables.addrs.insert(vip.into(), entry);
    }
    for case in cases.iter().filter(|case| case.way.lane == lane) {
        if let Some(spec) = case.service {
            let key = ServiceKey::new(
                case.frame.destination,
                Be16::new(case.frame.port),
                case.frame.protocol,
            );
            add_service(&mut tables, key, spec, BACKENDS, nic);
        }
    }
    tables
}

/// Room that the pen of this lane needs so that nothing that its cases remember is forgotten, except
/// for clients: of these there are more than a pen remembers that is told nothing.
pub(crate) fn sizes(cases: &[Case], lane: Lane, most_flows: u32) -> Sizes {
    let entries: u32 = cases
        .iter()
        .filter(|case| case.way.lane == lane)
        .filter_map(|case| Some(case.service?.translations * case.most_flows.min(most_flows)))
        .sum();
    let default = Sizes::default();
    // Some of an LRU map's room is always kept free.
    let translations = (entries + entries / 4).next_power_of_two().max(default.translations);
    Sizes { translations, ..default }
}

/// A service of so many backends on an address of its own, and nothing else.
pub(crate) fn one_service(backends: u16) -> Tables {
    let nic = Nic { ifindex: 1, mac: MacAddr([2, 0, 0, 0, 0, 1]) };
    let mut tables = empty();
    let entry = AddrEntry { ifindex: nic.ifindex, mac: nic.mac, ..AddrEntry::default() };
    tables.addrs.insert(IpAddr::from(VIP4).into(), entry);
    let key = ServiceKey::new(IpAddr::from(VIP4).into(), Be16::new(80), protocol::TCP);
    add_service(&mut tables, key, DSR, backends, nic);
    tables
}

fn empty() -> Tables {
    let groups = [(0, Group::ALWAYS)].into();
    let cfg = Cfg {
        secret: SECRET,
        records_per_second: u32::MAX,
        first_port: Be16::new(1024),
        last_port: Be16::new(u16::MAX),
        ..Cfg::default()
    };
    Tables { cfg, groups, ..Tables::default() }
}

fn add_service(tables: &mut Tables, key: ServiceKey, spec: Spec, backends: u16, nic: Nic) {
    let id = tables.services.values().map(|service| service.id + 1).max().unwrap_or(0);
    let service = Service {
        id,
        slots: SLOTS,
        mode: spec.mode,
        affinity: spec.affinity,
        prefix_v4: 128,
        prefix_v6: 64,
        flow_ttl_ns: HOUR_NS,
        client_ttl_ns: HOUR_NS,
        ..Service::default()
    };
    tables.services.insert(key, service);
    let first = tables.backends.keys().last().map_or(1, |last| last + 1);
    let ids = first..first + u32::from(backends);
    for backend in ids.clone() {
        tables.backends.insert(backend, new_backend(backend, id, nic));
    }
    let members: Vec<Member> = ids.map(|id| member(id, &tables.backends[&id])).collect();
    let current = maglev(&members, SECRET, SLOTS);
    let base = if spec.moved {
        maglev(&members[..members.len() - 1], SECRET, SLOTS)
    } else {
        current.clone()
    };
    let slots = base.into_iter().zip(current);
    let slots = slots.map(|(base, current)| Slot::new(base, current, base != current)).collect();
    tables.slots.insert(id, slots);
}

fn new_backend(id: u32, service: u32, nic: Nic) -> Backend {
    let [.., high, low] = id.to_be_bytes();
    Backend {
        addr: Addr::v4([10, 0, high, low]),
        source: Addr::v4([10, 0, 255, 1]),
        mtu: 1500,
        mac: MacAddr([2, 0xbe, 0, 0, high, low]),
        port: Be16::new(80),
        source_mac: nic.mac,
        ifindex: nic.ifindex,
        state: Backend::UP,
        generation: 1,
        service,
        ..Backend::default()
    }
}

/// A backend as the scheduler sees it.
pub(crate) fn member(id: u32, backend: &Backend) -> Member {
    let id = u16::try_from(id).expect("ids fit a slot");
    Member { addr: backend.addr, port: backend.port, weight: 1, id }
}

fn reference(lane: Lane, end: End) -> Case {
    let way = Way { lane, end, counter: None, growth: 0 };
    let station = if end == End::Pass { ANOTHER_STATION } else { lane.station() };
    let (frame, most_flows) = (TCP_ACK.to(station), MAX_FLOWS);
    Case { name: lane.name(), way, frame, against: None, most_flows, service: None }
}

/// A case of frames that are none of pen's business.
fn passed(name: &'static str, lane: Lane, packet: Packet) -> Case {
    let way = Way { lane, end: End::Pass, counter: Some(Counter::PassNotOurs), growth: 0 };
    let frame = packet.to(ANOTHER_STATION);
    let (against, most_flows) = (Some(Lane::Pass), MAX_FLOWS);
    Case { name, way, frame, against, most_flows, service: None }
}

/// A case of frames that are sent to backends.
fn balanced(name: &'static str, packet: Packet, service: Spec) -> Case {
    let Spec { growth, most_flows, .. } = service;
    let lane = if service.translations > 0 { Lane::PenNat } else { Lane::Pen };
    let way = Way { lane, end: End::Transmit, counter: Some(Counter::Transmit), growth };
    let (frame, against) = (packet.to(lane.station()), Some(Lane::Macswap));
    Case { name, way, frame, against, most_flows, service: Some(service) }
}

/// Not that of any interface of the rig.
const ANOTHER_STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

impl Packet {
    const fn new(destination: IpAddr, protocol: u8, flags: u8) -> Self {
        Self { destination, protocol, flags }
    }

    /// The frame; its port is given out later.
    fn to(self, station: MacAddr) -> Frame {
        let Self { destination, protocol, flags } = self;
        Frame { station, destination: destination.into(), port: 0, protocol, tcp_flags: flags }
    }
}
