//! Contents of the maps for a test: virtual addresses on the loopback interface, where
//! BPF_PROG_TEST_RUN lets frames arrive, services with Maglev tables, and backends whose Ethernet
//! addresses say their id, so that a frame tells where it went.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use pen_common::abi::{AddrEntry, Backend, Cfg, Group, Service, ServiceKey, Slot};
use pen_common::hash::Secret;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_ctl::engine::scheduler::{Member, maglev};
use pen_ctl::engine::tables::Tables;

/// Interface on which frames arrive unless a test says otherwise: `lo`.
pub(crate) const NIC: u32 = 1;
pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
pub(crate) const VIP_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 7]);
pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
pub(crate) const CLIENT_MAC: MacAddr = MacAddr([2, 0xc1, 0, 0, 0, 7]);
/// Key of the flow hash.
pub(crate) const SECRET: Secret = [0x0123_4567_89ab_cdef, 42];

/// Slots of a table unless a test says otherwise.
pub(crate) const SLOTS: u32 = 16381;
pub(crate) const HOUR_NS: u64 = 3_600_000_000_000;

/// Settings that do not get in the way.
fn cfg() -> Cfg {
    Cfg {
        secret: SECRET,
        records_per_second: u32::MAX,
        icmp_per_second: u32::MAX,
        ..Cfg::default()
    }
}

/// No address, no service: a fresh start.
pub(crate) fn empty() -> Tables {
    Tables { cfg: cfg(), groups: [(0, Group::ALWAYS)].into(), ..Tables::default() }
}

/// 80/tcp (service 0 and 2) and 53/udp (1 and 3) on both addresses, three backends each.
pub(crate) fn usual() -> Tables {
    let mut tables = empty();
    for vip in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        add_service(&mut tables, vip, 80, protocol::TCP, &[1; 3]);
        add_service(&mut tables, vip, 53, protocol::UDP, &[1; 3]);
    }
    tables
}

/// Puts all addresses into a CARP group in which this node is backup.
pub(crate) fn be_backup(tables: &mut Tables) {
    tables.groups.insert(1, Group { role: Group::BACKUP, ..Group::ALWAYS });
    tables.addrs.values_mut().for_each(|entry| entry.group = 1);
}

/// 80/tcp on the IPv4 address (service 0) over backends 1, 2, ... of these weights.
pub(crate) fn one_service(weights: &[u32]) -> Tables {
    let mut tables = empty();
    add_service(&mut tables, VIP4.into(), 80, protocol::TCP, weights);
    tables
}

/// Adds a service, its address if it is new, and its backends; returns the service's id.
pub(crate) fn add_service(
    tables: &mut Tables,
    vip: IpAddr,
    port: u16,
    protocol: u8,
    weights: &[u32],
) -> u32 {
    let entry = AddrEntry { ifindex: NIC, mac: VIP_MAC, ..AddrEntry::default() };
    tables.addrs.entry(vip.into()).or_insert(entry);
    let id = tables.services.values().map(|service| service.id + 1).max().unwrap_or(0);
    let service = Service {
        id,
        slots: SLOTS,
        affinity: Service::FLOW,
        prefix_v4: 128,
        prefix_v6: 64,
        flow_ttl_ns: HOUR_NS,
        client_ttl_ns: HOUR_NS,
        ..Service::default()
    };
    tables.services.insert(ServiceKey::new(vip.into(), Be16::new(port), protocol), service);
    let first = tables.backends.keys().last().map_or(1, |last| last + 1);
    for (backend, weight) in (first..).zip(weights) {
        tables.backends.insert(backend, new_backend(backend, id, *weight));
    }
    fill_table(tables, id);
    id
}

/// A backend that is up, with addresses made of its id.
pub(crate) fn new_backend(id: u32, service: u32, weight: u32) -> Backend {
    let [.., high, low] = id.to_be_bytes();
    Backend {
        addr: Addr::v4([10, 0, high, low]),
        mac: MacAddr([2, 0xbe, 0, 0, high, low]),
        port: Be16::new(80),
        source_mac: MacAddr([2, 0x50, 0, 0, high, low]),
        ifindex: NIC,
        state: Backend::UP,
        generation: 1,
        service,
        weight: weight + 1,
        ..Backend::default()
    }
}

/// Fills the slot table of a service from its backends that are up, as the engine does.
pub(crate) fn fill_table(tables: &mut Tables, service: u32) {
    let members: Vec<Member> = tables
        .backends
        .iter()
        .filter(|(_, backend)| backend.service == service && backend.state == Backend::UP)
        .map(|(id, backend)| Member {
            addr: backend.addr,
            port: backend.port,
            weight: backend.weight - 1,
            id: u16::try_from(*id).expect("ids fit a slot"),
        })
        .collect();
    let table = maglev(&members, tables.cfg.secret, SLOTS);
    tables.slots.insert(service, table.into_iter().map(Slot::settled).collect());
}

/// A table whose slots all name one backend.
pub(crate) fn uniform(backend: u16) -> Arc<[Slot]> {
    vec![Slot::settled(backend); SLOTS as usize].into()
}

/// Makes all services remember clients instead of flows.
pub(crate) fn by_client(mut tables: Tables) -> Tables {
    for service in tables.services.values_mut() {
        service.affinity = Service::CLIENT;
    }
    tables
}

/// Id of the backend at the station that a frame is addressed to.
pub(crate) fn backend_at(frame: &[u8]) -> u32 {
    match frame {
        [2, 0xbe, 0, 0, high, low, ..] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => panic!("not addressed to a backend: {:02x?}", &frame[..14]),
    }
}
