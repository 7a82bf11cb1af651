//! Mode `masquerade` behind an address that moves: a virtual address is the source of what goes to
//! the backends, and their answers to it are told from requests.

use std::net::IpAddr;

use pen_common::abi::{AddrEntry, Group, Service};
use pen_common::net::{Addr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Tables, Write};

use super::{PORTS, Site, set_mode, with_tables};
use crate::frame::Packet;
use crate::world::{VIP_MAC, VIP4, VIP6};

/// Virtual addresses on the backends' network.
const SOURCE4: [u8; 4] = [10, 0, 0, 200];
const SOURCE6: &str = "fd00::c8";

fn sources() -> [IpAddr; 2] {
    [IpAddr::from(SOURCE4), SOURCE6.parse().expect("literal")]
}

/// All packets come from an address that moves with group 1.
fn shared(tables: &mut Tables) {
    set_mode(tables, Service::MASQUERADE);
    tables.groups.insert(1, Group { role: Group::MASTER, ..Group::ALWAYS });
    let [v4, v6] = sources();
    let ifindex = tables.backends.values().next().expect("some").ifindex;
    for source in [v4, v6] {
        let entry = AddrEntry { ifindex, group: 1, mac: VIP_MAC, ..AddrEntry::default() };
        tables.addrs.insert(Addr::from(source), entry);
    }
    for backend in tables.backends.values_mut() {
        backend.source = Addr::from(if backend.addr.is_v4() { v4 } else { v6 });
    }
}

/// As the kernel would find it: the address is on the interface of the backends.
fn with_shared(test: impl FnOnce(&mut Site) + Send) {
    with_tables(shared, |site| {
        for source in sources() {
            let addr = Addr::from(source);
            let entry = AddrEntry { ifindex: site.back, ..site.bench.tables().addrs[&addr] };
            site.bench.write(Write::SetAddr(addr, entry));
        }
        test(site);
    });
}

#[test]
fn answers_to_the_address_that_moves_go_back_to_the_client() {
    with_shared(|site| {
        for packet in [
            Packet::tcp(VIP4, 80),
            Packet::udp(VIP4, 53),
            Packet::tcp(VIP6, 80),
            Packet::udp(VIP6, 53),
        ] {
            let sent = site.request(&packet.frame());
            assert!(sources().contains(&sent.source) && PORTS.contains(&sent.source_port));
            let answer = site.answer_to(&sent).at_station(VIP_MAC).frame();
            let returned = site.returned(&answer);
            assert_eq!((returned.source, returned.port), (packet.destination, packet.source_port));
        }
    });
}

#[test]
fn what_is_no_answer_passes_as_having_no_service() {
    with_shared(|site| {
        let sent = site.request(&Packet::tcp(VIP4, 80).frame());
        let stray = Packet::tcp(sent.source, sent.source_port)
            .from(sent.destination, sent.port + 1)
            .at_station(VIP_MAC);
        assert_eq!(site.answer(&stray.frame()).counter, Counter::PassNoService);
        let other = Packet::tcp(VIP4, 81).from([10, 0, 0, 1], 80).at_station(VIP_MAC);
        assert_eq!(site.answer(&other.frame()).counter, Counter::PassNoService);
    });
}

#[test]
fn a_node_that_does_not_hold_the_address_leaves_answers_alone() {
    with_shared(|site| {
        let sent = site.request(&Packet::udp(VIP4, 53).frame());
        let group = Group { role: Group::BACKUP, ..Group::ALWAYS };
        site.bench.write(Write::SetGroup(1, group));
        let answer = site.answer_to(&sent).at_station(VIP_MAC).frame();
        assert_eq!(site.answer(&answer).counter, Counter::PassNotMaster);
    });
}

#[test]
fn entries_of_another_node_are_entries() {
    with_shared(|site| {
        let packet = Packet::tcp(VIP4, 80);
        let sent = site.request(&packet.frame());
        // As a peer would write them: the same ends, the own numbers.
        let made: Vec<_> = site.entries().iter().collect::<Result<_, _>>().expect("readable");
        let mut other = site.entries();
        for (key, _) in &made {
            other.remove(key).expect("it is there");
        }
        for (key, to) in &made {
            other.insert(key, to, 0).expect("it can be written");
        }
        let again = site.request(&super::flagged(&packet.frame(), super::ACK));
        assert_eq!(again.source_port, sent.source_port);
        let answer = site.answer_to(&sent).at_station(VIP_MAC).frame();
        assert_eq!(site.returned(&answer).port, packet.source_port);
        // A port that is taken is taken, whoever took it.
        let mut ports = std::collections::BTreeSet::from([sent.source_port]);
        for number in 0..300 {
            let sent = site.request(&packet.clone().from(packet.source, 30_000 + number).frame());
            ports.insert(sent.source_port);
        }
        assert!(ports.len() > 250 && sent.protocol == protocol::TCP);
    });
}
