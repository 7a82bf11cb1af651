//! Modes `nat` and `masquerade`: requests go to the backend under other addresses and ports, answers
//! come back under the service's. In a namespace that routes between two interfaces, the clients'
//! and the backends', because the way back is the kernel's routing.

mod answer;
mod error;
mod flow;
mod fuzz;
mod masquerade;
mod request;
mod shared;
mod signals;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use nix::net::if_::if_nametoindex;
use pen_common::ABI_VERSION;
use pen_common::abi::{Cfg, Service, Translation, Tuple, map};
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Tables;
use pen_tests::Netns;

use crate::bench::{Bench, Outcome};
use crate::frame::{IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, checksum, patch, pseudo_header};
use crate::parse::Parsed;
use crate::world::{CLIENT_MAC, CLIENT4, CLIENT6, backend_at, usual};

pub(crate) const MODES: [u8; 2] = [Service::NAT, Service::MASQUERADE];
/// Port of every backend.
pub(crate) const PORT: u16 = 8080;
/// Our own addresses on the backends' network.
pub(crate) const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub(crate) const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);
/// Station of the clients' interface.
pub(crate) const FRONT_MAC: MacAddr = MacAddr([2, 0xf0, 0, 0, 0, 1]);
/// What masquerading gives out.
pub(crate) const PORTS: std::ops::RangeInclusive<u16> = 10_000..=19_999;

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1 | ACK;
pub(crate) const RST: u8 = 4;

/// The program between two networks.
pub(crate) struct Site {
    pub(crate) bench: Bench,
    /// Interface of the clients' network.
    pub(crate) front: u32,
    /// Interface of the backends' network.
    pub(crate) back: u32,
    pub(crate) netns: Netns,
}

/// Runs a test with the usual services in this mode.
pub(crate) fn with_site(mode: u8, test: impl FnOnce(&mut Site) + Send) {
    with_tables(|tables| set_mode(tables, mode), test);
}

/// Runs a test with the usual services, changed.
pub(crate) fn with_tables(
    change: impl FnOnce(&mut Tables) + Send,
    test: impl FnOnce(&mut Site) + Send,
) {
    let netns = Netns::new("nat").expect("a namespace can be made");
    let ip = |line: &str| netns.ip(line).expect("ip does it");
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        netns.sysctl(key, "1").expect("namespaces may route");
    }
    ip("link add name front type veth peer name back");
    ip(&format!("link set dev front address {FRONT_MAC} up"));
    ip("link set dev back up");
    ip("address add 198.51.100.1/24 dev front");
    ip("address add 2001:db8:1::1/64 dev front nodad");
    ip(&format!("address add {OWN4}/16 dev back"));
    ip(&format!("address add {OWN6}/64 dev back nodad"));
    for client in [IpAddr::from(CLIENT4), CLIENT6.into()] {
        ip(&format!("neigh add {client} lladdr {CLIENT_MAC} dev front nud permanent"));
    }
    let inside = netns.clone();
    netns.run(move || {
        let index = |name| if_nametoindex(name).expect("it was just made");
        let (front, back) = (index("front"), index("back"));
        let mut tables = usual();
        for entry in tables.addrs.values_mut() {
            entry.ifindex = front;
        }
        let families: Vec<_> =
            tables.services.iter().map(|(key, service)| (service.id, key.vip.is_v4())).collect();
        for (id, backend) in &mut tables.backends {
            let v4 = families.contains(&(backend.service, true));
            (backend.addr, backend.source) = (address(*id, v4), own(v4).into());
        }
        tables.egress = [front, back].into();
        tables.cfg.flags = Cfg::NAT;
        tables.cfg.first_port = Be16::new(*PORTS.start());
        tables.cfg.last_port = Be16::new(*PORTS.end());
        change(&mut tables);
        for backend in tables.backends.values_mut() {
            backend.ifindex = back;
            backend.port = Be16::new(if backend.port == Be16::new(0) { 0 } else { PORT });
        }
        test(&mut Site { bench: Bench::new(tables), front, back, netns: inside });
    });
}

pub(crate) fn set_mode(tables: &mut Tables, mode: u8) {
    for service in tables.services.values_mut() {
        service.mode = mode;
    }
}

/// The backends' addresses say their id.
fn address(id: u32, v4: bool) -> Addr {
    let id = u16::try_from(id).expect("few backends");
    let [high, low] = id.to_be_bytes();
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, id);
    if v4 { Addr::v4([10, 0, high, low]) } else { Addr::v6(v6.octets()) }
}

/// Our address of the family.
pub(crate) fn own(v4: bool) -> IpAddr {
    if v4 { OWN4.into() } else { OWN6.into() }
}

impl Site {
    /// Runs a request, which has to go on, and reads it.
    #[track_caller]
    pub(crate) fn request(&mut self, frame: &[u8]) -> Parsed {
        let outcome = self.bench.run_on(self.front, frame);
        assert_eq!(outcome.counter, Counter::Redirect, "{frame:02x?}");
        Parsed::of(&outcome.frame)
    }

    /// Runs a frame from the backends' network.
    #[track_caller]
    pub(crate) fn answer(&mut self, frame: &[u8]) -> Outcome {
        self.bench.run_on(self.back, frame)
    }

    /// Runs an answer, which has to reach the client, and reads it.
    #[track_caller]
    pub(crate) fn returned(&mut self, frame: &[u8]) -> Parsed {
        let outcome = self.answer(frame);
        assert_eq!(outcome.counter, Counter::ReturnRedirect, "{frame:02x?}");
        Parsed::of(&outcome.frame)
    }

    /// What the backend that got `sent` answers, with four bytes.
    pub(crate) fn answer_to(&self, sent: &Parsed) -> Packet {
        let id = backend_at(&sent.to.0);
        let packet = match sent.protocol {
            protocol::TCP => Packet::tcp(sent.source, sent.source_port),
            _ => Packet::udp(sent.source, sent.source_port),
        };
        packet
            .from(sent.destination, sent.port)
            .at_station(self.bench.tables().backends[&id].source_mac)
            .data(b"pong")
    }

    /// The map of translations.
    pub(crate) fn entries(&self) -> HashMap<MapData, Tuple, Translation> {
        let pin = self.bench.pins().0.join(format!("v{ABI_VERSION}")).join(map::NAT);
        let map = MapData::from_pin(pin).expect("it is pinned");
        HashMap::try_from(aya::maps::Map::LruHashMap(map)).expect("it is a hash")
    }

    /// Lets time pass, as far as translations can tell.
    pub(crate) fn age(&self, time_ns: u64) {
        let mut entries = self.entries();
        let old: Vec<_> = entries.iter().collect::<Result<_, _>>().expect("it can be read");
        for (key, mut entry) in old {
            entry.last_seen_ns = entry.last_seen_ns.saturating_sub(time_ns);
            entries.insert(key, entry, 0).expect("it can be written");
        }
    }
}

/// The TCP frame with these flags, its checksum right.
pub(crate) fn flagged(frame: &[u8], flags: u8) -> Vec<u8> {
    let parsed = Parsed::of(frame);
    let at = if parsed.source.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
    let frame = patch(&patch(frame, at + 13, &[flags]), at + 16, &[0, 0]);
    let transport = &frame[at..];
    let pseudo = pseudo_header(parsed.source, parsed.destination, protocol::TCP, transport.len());
    let sum = checksum(&[pseudo, transport.to_vec()].concat());
    patch(&frame, at + 16, &sum)
}
