//! Neighbour discovery for a virtual address: solicitations are answered as RFC 4861 section 7.2
//! says, those of duplicate address detection too, and what section 7.1.1 calls invalid passes.

use std::net::{IpAddr, Ipv6Addr};

use pen_common::abi::AddrEntry;
use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{
    IP, IPV6, IPV6_PAYLOAD, NONCE, Solicitation, checksum, patch, pseudo_header, source_link_layer,
};
use crate::world::{CLIENT_MAC, CLIENT6, VIP_MAC, VIP6, usual};

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;
/// An option whose length is 0, which would be read for ever.
const NO_LENGTH: [u8; 8] = [1, 0, 2, 3, 4, 5, 6, 7];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

#[track_caller]
fn assert_advertisement(frame: &[u8], station: MacAddr, to: Ipv6Addr, flags: u8) {
    assert_eq!(frame.len(), 86, "Ethernet, IPv6, advertisement and one option");
    assert_eq!(frame[..6], station.0, "to the asker's station");
    assert_eq!(frame[6..12], VIP_MAC.0, "from the virtual address");
    assert_eq!(frame[12..14], IPV6.to_be_bytes());
    assert_eq!(frame[IP] >> 4, 6, "version");
    assert_eq!(frame[18..20], [0, 32], "payload length");
    assert_eq!(frame[20..22], [protocol::ICMPV6, 255], "next header and hop limit");
    assert_eq!(frame[22..38], VIP6.octets(), "source");
    assert_eq!(frame[38..54], to.octets(), "destination");
    let message = &frame[IPV6_PAYLOAD..];
    assert_eq!(message[..2], [136, 0], "type and code");
    assert_eq!(message[4..8], [flags, 0, 0, 0], "flags");
    assert_eq!(message[8..24], VIP6.octets(), "target");
    assert_eq!(message[24..26], [2, 1], "option target link-layer address");
    assert_eq!(message[26..], VIP_MAC.0);
    let pseudo = pseudo_header(VIP6.into(), IpAddr::from(to), protocol::ICMPV6, message.len());
    assert_eq!(checksum(&[&pseudo, message].concat()), [0, 0], "checksum");
}

#[test]
fn who_asks_for_a_virtual_address_is_told_its_mac() {
    let mut bench = Bench::new(usual());
    let ask = Solicitation::who_has(VIP6);
    let link_layer = source_link_layer(CLIENT_MAC);
    let to_us = Solicitation { station: VIP_MAC, destination: VIP6, ..ask.clone() };
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let cases = [
        ("multicast, with the asker's link-layer address", ask.clone()),
        ("unicast, with it", to_us.clone()),
        ("unicast, without option: the frame grows", to_us.options(&[])),
        ("multicast, without option", ask.clone().options(&[])),
        ("nonce and link-layer address: the frame shrinks", {
            ask.clone().options(&[NONCE.to_vec(), link_layer.clone()].concat())
        }),
        ("link-layer address and nonce", {
            ask.clone().options(&[link_layer, NONCE.to_vec()].concat())
        }),
        (
            "one option of twice the length",
            ask.clone().options(&[[14, 2, 0, 0, 0, 0, 0, 0]; 2].concat()),
        ),
        ("from a link-local address", Solicitation { source: link_local, ..ask }),
    ];
    for (what, solicitation) in cases {
        let outcome = bench.run(&solicitation.frame());
        assert_eq!(outcome.counter, Counter::NdReply, "{what}");
        let to = solicitation.source;
        assert_advertisement(&outcome.frame, CLIENT_MAC, to, SOLICITED | OVERRIDE);
    }
}

#[test]
fn a_probe_of_duplicate_address_detection_is_answered_to_everybody() {
    let mut bench = Bench::new(usual());
    let source = Ipv6Addr::UNSPECIFIED;
    let probe = Solicitation { source, ..Solicitation::who_has(VIP6) };
    for (what, options) in [("plain", &[][..]), ("with nonce", &NONCE)] {
        let outcome = bench.run(&probe.clone().options(options).frame());
        assert_eq!(outcome.counter, Counter::NdReply, "{what}");
        assert_advertisement(&outcome.frame, ALL_NODES_MAC, ALL_NODES, OVERRIDE);
    }
}

#[test]
fn a_router_says_that_it_is_one() {
    let mut bench = Bench::new(usual());
    let mut tables = bench.tables().clone();
    for entry in tables.addrs.values_mut() {
        entry.flags |= AddrEntry::ROUTER;
    }
    bench.change(tables);
    let ask = Solicitation::who_has(VIP6);
    let outcome = bench.run(&ask.frame());
    assert_advertisement(&outcome.frame, CLIENT_MAC, CLIENT6, ROUTER | SOLICITED | OVERRIDE);
    let probe = Solicitation { source: Ipv6Addr::UNSPECIFIED, ..ask }.options(&[]);
    let outcome = bench.run(&probe.frame());
    assert_advertisement(&outcome.frame, ALL_NODES_MAC, ALL_NODES, ROUTER | OVERRIDE);
}

#[test]
fn bytes_behind_the_solicitation_are_cut_off() {
    let mut bench = Bench::new(usual());
    for padding in [1, 2, 8, 500] {
        let frame = [Solicitation::who_has(VIP6).frame(), vec![0xee; padding]].concat();
        let outcome = bench.run(&frame);
        assert_eq!(outcome.counter, Counter::NdReply);
        assert_advertisement(&outcome.frame, CLIENT_MAC, CLIENT6, SOLICITED | OVERRIDE);
    }
}

#[test]
fn an_invalid_solicitation_passes() {
    let mut bench = Bench::new(usual());
    let ask = Solicitation::who_has(VIP6);
    let frame = ask.frame();
    let spoiled = |offset: usize, bytes: &[u8]| patch(&frame, offset, bytes);
    let cases = [
        ("a router forwarded it", Solicitation { hop_limit: 254, ..ask.clone() }.frame()),
        ("hop limit 64", Solicitation { hop_limit: 64, ..ask.clone() }.frame()),
        ("code", Solicitation { code: 1, ..ask.clone() }.frame()),
        ("bad checksum", spoiled(IPV6_PAYLOAD + 2, &[0xde, 0xad])),
        ("no checksum", spoiled(IPV6_PAYLOAD + 2, &[0, 0])),
        ("target changed on the way", spoiled(frame.len() - 1, &[0xff])),
        ("length that is no whole option", ask.clone().options(&[1]).frame()),
        ("two bytes of an option", ask.clone().options(&[1, 1]).frame()),
        ("half an option", ask.clone().options(&[1, 1, 2, 0xc1]).frame()),
        ("too long", ask.clone().options(&[NONCE; 3].concat()).frame()),
        ("much too long", ask.clone().options(&[NONCE; 100].concat()).frame()),
        ("longer than the frame", spoiled(IP + 4, &[0, 40])),
        ("shorter than a solicitation", spoiled(IP + 4, &[0, 20])),
        ("version 4", spoiled(IP, &[0x40])),
        ("an option without length", ask.clone().options(&NO_LENGTH).frame()),
        (
            "a second option without length",
            ask.clone().options(&[NONCE, NO_LENGTH].concat()).frame(),
        ),
        (
            "an option that is longer than the message",
            ask.clone().options(&[14, 2, 0, 0, 0, 0, 0, 0]).frame(),
        ),
        (
            "a second option that is longer than the message",
            ask.clone().options(&[NONCE, [14, 2, 0, 0, 0, 0, 0, 0]].concat()).frame(),
        ),
        (
            "a probe to one station only",
            Solicitation {
                source: Ipv6Addr::UNSPECIFIED,
                destination: VIP6,
                options: Vec::new(),
                ..ask.clone()
            }
            .frame(),
        ),
        (
            "a probe that says who asks",
            Solicitation { source: Ipv6Addr::UNSPECIFIED, ..ask.clone() }.frame(),
        ),
        (
            "a probe that says who asks behind a nonce",
            Solicitation { source: Ipv6Addr::UNSPECIFIED, ..ask.clone() }
                .options(&[NONCE.to_vec(), source_link_layer(CLIENT_MAC)].concat())
                .frame(),
        ),
        ("asked by a group", Solicitation { source: ALL_NODES, ..ask }.frame()),
    ];
    for (what, frame) in cases {
        bench.ends_in(Counter::PassNeighbour, &frame, what);
    }
}

#[test]
fn other_neighbour_discovery_passes() {
    let mut bench = Bench::new(usual());
    let ask = Solicitation::who_has(VIP6);
    let other = Solicitation::who_has(CLIENT6);
    bench.ends_in(Counter::PassNotOurs, &other.frame(), "another address");
    // Same group of solicited nodes, another address.
    let near = Ipv6Addr::from_bits(VIP6.to_bits() ^ 1 << 100);
    let near = Solicitation { target: near, ..ask.clone() };
    bench.ends_in(Counter::PassNotOurs, &near.frame(), "an address of the same group");
    for (what, kind) in [("router solicitation", 133), ("advertisement", 136), ("redirect", 137)] {
        let frame = Solicitation { kind, ..ask.clone() }.frame();
        bench.ends_in(Counter::PassNotOurs, &frame, what);
        let station = VIP_MAC;
        let frame = Solicitation { kind, station, destination: VIP6, ..ask.clone() }.frame();
        bench.ends_in(Counter::PassProtocol, &frame, what);
    }
}

#[test]
fn a_solicitation_on_the_network_of_another_interface_passes() {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.ifindex = 77;
    }
    let mut bench = Bench::new(tables);
    let frame = Solicitation::who_has(VIP6).frame();
    bench.ends_in(Counter::PassNeighbour, &frame, "not this network");
}
