//! Who is let in: access lists, the rate of connections of one source, the valve that bounds new
//! records, and stubborn services that never send a flow elsewhere.

use std::net::IpAddr;
use std::sync::Arc;

use pen_common::abi::{ACL_ALLOW, ACL_DENY, Backend, Cfg, Service, Slot};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Prefix, Tables};

use crate::bench::Bench;
use crate::frame::{IPV4_PAYLOAD, Packet, patch};
use crate::rng::Rng;
use crate::world::{VIP4, VIP6, by_client, one_service, usual};

const ACK: [u8; 1] = [0x10];
/// Where the flags of a TCP header stand.
const FLAGS: usize = 13;

/// The usual services, with list 1 for the IPv4 address and list 2 for the IPv6 one.
fn with_lists(prefixes: &[(u32, &str, u8, u32)]) -> Tables {
    let mut tables = usual();
    for (addr, entry) in &mut tables.addrs {
        entry.acl = if addr.is_v4() { 1 } else { 2 };
    }
    for (list, addr, bits, verdict) in prefixes {
        let addr: IpAddr = addr.parse().expect("literal");
        let bits = if addr.is_ipv4() { 96 + bits } else { *bits };
        Arc::make_mut(&mut tables.prefixes)
            .insert(Prefix { list: *list, addr: addr.into(), bits }, *verdict);
    }
    tables
}

#[test]
fn a_denied_prefix_is_dropped_and_a_longer_allowed_one_let_in() {
    let mut bench = Bench::new(with_lists(&[
        (1, "198.51.100.0", 24, ACL_DENY),
        (1, "198.51.100.8", 29, ACL_ALLOW),
        (2, "2001:db8:9::", 48, ACL_DENY),
    ]));
    let mut end = |vip: IpAddr, source: &str| {
        let source: IpAddr = source.parse().unwrap();
        bench.run(&Packet::tcp(vip, 80).from(source, 1000).frame()).counter
    };
    assert_eq!(end(VIP4.into(), "198.51.100.7"), Counter::DropAcl);
    assert_eq!(end(VIP4.into(), "198.51.100.9"), Counter::Transmit);
    assert_eq!(end(VIP4.into(), "198.51.101.7"), Counter::Transmit);
    assert_eq!(end(VIP6.into(), "2001:db8:9::1"), Counter::DropAcl);
    assert_eq!(end(VIP6.into(), "2001:db8:8::1"), Counter::Transmit);
}

#[test]
fn a_list_of_one_address_does_not_touch_another() {
    let mut bench = Bench::new(with_lists(&[(1, "0.0.0.0", 0, ACL_DENY)]));
    bench.ends_in(Counter::DropAcl, &Packet::tcp(VIP4, 80).frame(), "list 1 denies everybody");
    bench.forwarded(&Packet::tcp(VIP6, 80).frame());
}

#[test]
fn a_prefix_that_is_removed_lets_in_again() {
    let mut bench = Bench::new(with_lists(&[(1, "198.51.100.0", 24, ACL_DENY)]));
    assert_eq!(bench.dataplane().read().unwrap(), *bench.tables(), "lists are read back");
    bench.ends_in(Counter::DropAcl, &Packet::tcp(VIP4, 80).frame(), "denied");
    bench.change(with_lists(&[]));
    bench.forwarded(&Packet::tcp(VIP4, 80).frame());
}

/// The usual services, with 100 connections a second for each source on the IPv4 address.
fn with_rate() -> Tables {
    let mut tables = usual();
    for (addr, entry) in &mut tables.addrs {
        entry.syn_interval_ns = if addr.is_v4() { 10_000_000 } else { 0 };
    }
    tables
}

#[test]
fn of_a_thousand_connections_at_once_a_hundred_are_let_in() {
    let mut bench = Bench::new(with_rate());
    let mut passed = 0;
    for port in 0..1000 {
        let frame = Packet::tcp(VIP4, 80).from([198, 51, 100, 7], port).frame();
        match bench.run(&frame).counter {
            Counter::Transmit => passed += 1,
            Counter::DropRate => {}
            other => panic!("{other:?}"),
        }
    }
    // The burst, and what a slow machine's seconds add.
    assert!((100..=400).contains(&passed), "{passed}");
    let another = Packet::tcp(VIP4, 80).from([198, 51, 100, 8], 1000);
    bench.forwarded(&another.frame());
    let open = patch(&Packet::tcp(VIP4, 80).frame(), IPV4_PAYLOAD + FLAGS, &ACK);
    bench.forwarded(&open);
    bench.forwarded(&Packet::udp(VIP4, 53).frame());
    for port in 0..300 {
        bench.forwarded(
            &Packet::tcp(VIP6, 80).from([0x2001, 0xdb8, 1, 0, 0, 0, 0, 7], port).frame(),
        );
    }
}

#[test]
fn a_flood_of_new_clients_does_not_push_active_ones_out() {
    const CLIENTS: u8 = 50;
    let mut tables = by_client(one_service(&[1; 3]));
    tables.cfg = Cfg { records_per_second: 1000, ..tables.cfg };
    let mut bench = Bench::new(tables.clone());
    let active = |client: u8| Packet::tcp(VIP4, 80).from([203, 0, 113, client], 1000).frame();
    let before: Vec<u32> = (0..CLIENTS).map(|client| bench.forwarded(&active(client))).collect();
    // Every slot moves: only records tell where the active clients belong.
    let slots = tables.slots[&0].iter();
    let moved = slots.map(|slot| Slot::new(slot.base(), slot.current() % 3 + 1, true)).collect();
    tables.slots.insert(0, moved);
    bench.change(tables);
    let mut rng = Rng::new(9);
    for _ in 0..100_000 {
        bench.send(None, &rng.moved(&Packet::tcp(VIP4, 80)).frame());
    }
    bench.total();
    let after: Vec<u32> = (0..CLIENTS).map(|client| bench.forwarded(&active(client))).collect();
    assert_eq!(after, before);
}

#[test]
fn a_stubborn_service_drops_the_flows_of_a_backend_that_is_down() {
    let mut tables = one_service(&[1; 3]);
    for service in tables.services.values_mut() {
        service.flags = Service::STUBBORN;
    }
    let mut bench = Bench::new(tables);
    let frame = Packet::tcp(VIP4, 80).frame();
    let id = bench.forwarded(&frame);
    bench.set_state(id, Backend::DOWN);
    bench.ends_in(Counter::DropStubborn, &frame, "not sent elsewhere");
    bench.set_state(id, Backend::UP);
    assert_eq!(bench.forwarded(&frame), id);
}

#[test]
fn the_list_decides_before_the_rate() {
    let mut tables = with_lists(&[(1, "198.51.100.0", 24, ACL_DENY)]);
    for entry in tables.addrs.values_mut() {
        entry.syn_interval_ns = 1_000_000_000;
    }
    let mut bench = Bench::new(tables);
    for _ in 0..3 {
        bench.ends_in(Counter::DropAcl, &Packet::tcp(VIP4, 80).frame(), "denied each time");
    }
}
