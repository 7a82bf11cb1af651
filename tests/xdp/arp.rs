//! ARP for a virtual address: we are asked, we answer, and for nothing else.

use std::net::Ipv4Addr;

use pen_common::net::MacAddr;
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{ARP, Arp, BROADCAST};
use crate::world::{CLIENT_MAC, CLIENT4, VIP_MAC, VIP4, usual};

/// The reply that a request deserves: sent to the asker alone, padded like the request.
fn reply_to(request: &Arp) -> Vec<u8> {
    let reply = Arp {
        station: CLIENT_MAC,
        operation: 2,
        sender_mac: VIP_MAC,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
        ..*request
    };
    let mut frame = reply.frame();
    frame[6..12].copy_from_slice(&VIP_MAC.0);
    frame
}

#[test]
fn who_asks_for_a_virtual_address_is_told_its_mac() {
    let mut bench = Bench::new(usual());
    let ask = Arp::who_has(VIP4);
    let requests = [
        ("broadcast", ask),
        ("unicast, to see that we are still there", Arp { station: VIP_MAC, ..ask }),
        (
            "a probe: an address that nobody has yet",
            Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..ask },
        ),
        ("another target address does not matter", Arp { target_mac: BROADCAST, ..ask }),
        ("asked on behalf of another", Arp { sender_mac: MacAddr([2, 0, 0, 0, 0, 8]), ..ask }),
    ];
    for (what, request) in requests {
        let outcome = bench.run(&request.frame());
        assert_eq!(outcome.counter, Counter::ArpReply, "{what}");
        assert_eq!(outcome.frame, reply_to(&request), "{what}");
    }
    // Byte by byte, once.
    let reply = bench.run(&ask.frame()).frame;
    assert_eq!(reply[..6], CLIENT_MAC.0, "to the asker");
    assert_eq!(reply[6..12], VIP_MAC.0, "from the virtual address");
    assert_eq!(reply[12..14], ARP.to_be_bytes());
    assert_eq!(reply[14..22], [0, 1, 8, 0, 6, 4, 0, 2], "IPv4 over Ethernet, reply");
    assert_eq!(reply[22..28], VIP_MAC.0, "sender's MAC");
    assert_eq!(reply[28..32], VIP4.octets(), "sender's address");
    assert_eq!(reply[32..38], CLIENT_MAC.0, "target's MAC");
    assert_eq!(reply[38..42], CLIENT4.octets(), "target's address");
    assert_eq!(reply[42..], [0; 18], "padding");
}

#[test]
fn a_request_without_padding_is_answered_without() {
    let mut bench = Bench::new(usual());
    let request = Arp::who_has(VIP4);
    let outcome = bench.run(&request.frame()[..42]);
    assert_eq!(outcome.counter, Counter::ArpReply);
    assert_eq!(outcome.frame, reply_to(&request)[..42]);
}

#[test]
fn other_arp_passes() {
    let mut bench = Bench::new(usual());
    let ask = Arp::who_has(VIP4);
    let cases = [
        ("another address", Arp::who_has(CLIENT4), Counter::PassNotOurs),
        (
            "gratuitous, of another",
            Arp { sender_ip: CLIENT4, target_ip: CLIENT4, ..ask },
            Counter::PassNotOurs,
        ),
        ("a reply to us", Arp { operation: 2, ..ask }, Counter::PassNeighbour),
        (
            "gratuitous reply for our address",
            Arp { operation: 2, sender_ip: VIP4, ..ask },
            Counter::PassNeighbour,
        ),
        ("reverse request", Arp { operation: 3, ..ask }, Counter::PassNeighbour),
        ("no operation", Arp { operation: 0, ..ask }, Counter::PassNeighbour),
        ("swapped operation", Arp { operation: 0x0100, ..ask }, Counter::PassNeighbour),
        ("another hardware", Arp { hardware: 6, ..ask }, Counter::PassNeighbour),
        ("another protocol", Arp { protocol: 0x86dd, ..ask }, Counter::PassNeighbour),
        ("long hardware address", Arp { lengths: [8, 4], ..ask }, Counter::PassNeighbour),
        ("long protocol address", Arp { lengths: [6, 16], ..ask }, Counter::PassNeighbour),
        ("no addresses", Arp { lengths: [0, 0], ..ask }, Counter::PassNeighbour),
    ];
    for (what, arp, counter) in cases {
        bench.ends_in(counter, &arp.frame(), what);
    }
}

#[test]
fn a_request_on_the_network_of_another_interface_passes() {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.ifindex = 77;
    }
    let mut bench = Bench::new(tables);
    bench.ends_in(Counter::PassNeighbour, &Arp::who_has(VIP4).frame(), "not this network");
}
