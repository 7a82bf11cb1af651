//! Modes `ipip` and `gue`: a packet for a service leaves in a tunnel to a backend, itself as the
//! client sent it, whatever its shape is and whichever IP the backend has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::abi::{Backend, Count, Service};
use pen_common::net::MacAddr;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Tables;

use crate::bench::Bench;
use crate::frame::{IP, Packet, patch, usual_packets};
use crate::icmp::{V4, V6, replies::assert_told};
use crate::interfaces::with_wires;
use crate::outer::Outer;
use crate::rng::Rng;
use crate::shapes::{TAGS, shapes, with_tags};
use crate::world::{CLIENT4, VIP4, VIP6, usual};

/// Whether backends have IPv4 or IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    V4,
    V6,
}

pub(crate) const TUNNELS: [(u8, To); 4] = [
    (Service::IPIP, To::V4),
    (Service::IPIP, To::V6),
    (Service::GUE, To::V4),
    (Service::GUE, To::V6),
];

const SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 1);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, 0xff01);

/// All services in this mode, all backends with addresses of this family.
pub(crate) fn through_tunnels(mut tables: Tables, mode: u8, to: To) -> Tables {
    for service in tables.services.values_mut() {
        service.mode = mode;
    }
    for (id, backend) in &mut tables.backends {
        let (addr, source) = ends(*id, to);
        (backend.addr, backend.source) = (addr.into(), source.into());
    }
    tables
}

/// Address of a backend, and ours on the way to it.
pub(crate) fn ends(id: u32, to: To) -> (IpAddr, IpAddr) {
    let low = u16::try_from(id).expect("few");
    let [high_byte, low_byte] = low.to_be_bytes();
    match to {
        To::V4 => (Ipv4Addr::new(10, 0, high_byte, low_byte).into(), SOURCE4.into()),
        To::V6 => (Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, low).into(), SOURCE6.into()),
    }
}

/// Bytes that a tunnel adds.
fn overhead(mode: u8, to: To) -> usize {
    match (mode, to) {
        (Service::IPIP, To::V4) => 20,
        (Service::IPIP, To::V6) => 40,
        (_, To::V4) => 28,
        (_, To::V6) => 48,
    }
}

/// Checks that `out` is `frame` in a tunnel to a backend, and returns the backend's id.
#[track_caller]
pub(crate) fn is_tunnelled(tables: &Tables, frame: &[u8], out: &[u8], mode: u8, to: To) -> u32 {
    let outer = Outer::of(out);
    let find = |(_, backend): &(&u32, &Backend)| backend.mac.0 == outer.stations[0];
    let (id, backend) = tables.backends.iter().find(find).expect("addressed to a backend");
    assert_eq!(outer.stations[1], backend.source_mac.0);
    assert_eq!((outer.destination, outer.source), ends(*id, to));

    let tags = outer.tags.concat();
    assert_eq!(frame[12..12 + tags.len()], tags, "the tags are as they came");
    let packet = &frame[14 + tags.len()..];
    let is_v4 = packet[0] >> 4 == 4;
    let (length, class) = if is_v4 {
        (usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet[1])
    } else {
        let length = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        (length, packet[0] << 4 | packet[1] >> 4)
    };
    assert_eq!(outer.packet, packet[..length], "the inner packet is as it came");
    assert_eq!(outer.padding, packet[length..], "padding stays behind it");
    assert_eq!(outer.class, class, "type of service, traffic class");
    if mode == Service::IPIP {
        assert_eq!(outer.protocol, if is_v4 { 4 } else { 41 });
    } else {
        let (source_port, port) = outer.ports.expect("a tunnel of UDP");
        assert_eq!(port, 6080);
        assert!(source_port >= 0x8000, "{source_port}");
    }
    *id
}

#[test]
fn a_packet_of_any_shape_goes_through_any_tunnel_as_it_came() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for (what, packet) in shapes() {
            for tags in TAGS {
                for padding in [0, 1, 46] {
                    let frame = with_tags(&packet.frame(), tags);
                    let frame = [frame, vec![0xee; padding]].concat();
                    let outcome = bench.run(&frame);
                    assert_eq!(outcome.counter, Counter::Transmit, "{what}, {tags:x?}, {to:?}");
                    is_tunnelled(bench.tables(), &frame, &outcome.frame, mode, to);
                }
            }
        }
    }
}

#[test]
fn a_frame_that_is_cut_short_goes_through_no_tunnel() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for (what, packet) in usual_packets() {
            let frame = packet.data(&[1; 20]).frame();
            let header = if what.contains("IPv4") { 20 } else { 40 };
            for end in 14..frame.len() {
                let early = end < IP + header;
                let expected = if early { Counter::PassNotOurs } else { Counter::PassMalformed };
                bench.ends_in(expected, &frame[..end], &format!("{what}, {end} bytes"));
            }
        }
    }
}

/// The cases that other balancers test their encapsulation with: one service, one backend.
#[test]
fn the_outer_header_says_what_is_expected_of_it() {
    let client4 = |packet: Packet| packet.from(Ipv4Addr::new(192, 168, 1, 3), 31337);
    let client6 = |packet: Packet| packet.from(Ipv6Addr::new(0xfc00, 2, 0, 0, 0, 0, 0, 1), 31337);
    // (what, packet, IP of the backend, protocol and length of the outer header)
    let cases = [
        ("UDP/IPv4 to IPv4", client4(Packet::udp(VIP4, 53)), To::V4, 4, 20),
        ("TCP/IPv4 to IPv4", client4(Packet::tcp(VIP4, 80)), To::V4, 4, 20),
        ("TCP/IPv4 to IPv6", client4(Packet::tcp(VIP4, 80)), To::V6, 4, 40),
        ("TCP/IPv6 to IPv6", client6(Packet::tcp(VIP6, 80)), To::V6, 41, 40),
        ("UDP/IPv6 to IPv6", client6(Packet::udp(VIP6, 53)), To::V6, 41, 40),
        ("TCP/IPv6 to IPv4", client6(Packet::tcp(VIP6, 80)), To::V4, 41, 20),
    ];
    for (what, packet, to, protocol, header) in cases {
        let mut bench = Bench::new(through_tunnels(usual(), Service::IPIP, to));
        let packet = packet.data(b"fifteen of them").frame();
        let out = bench.run(&packet).frame;
        assert_eq!(out.len(), packet.len() + header, "{what}");
        let ip = &out[IP..];
        let inner = u16::try_from(packet.len() - IP).unwrap();
        if to == To::V4 {
            assert_eq!(ip[..2], [0x45, 0], "{what}");
            assert_eq!(ip[2..4], (inner + 20).to_be_bytes(), "{what}");
            assert_eq!(ip[8..10], [64, protocol], "{what}");
        } else {
            assert_eq!(ip[4..6], inner.to_be_bytes(), "{what}");
            assert_eq!(ip[6..8], [protocol, 64], "{what}");
        }
        assert_eq!(ip[header..], packet[IP..], "{what}");
    }
}

#[test]
fn type_of_service_and_traffic_class_are_copied() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for class in 0..=255_u8 {
            let v4 = patch(&Packet::tcp(VIP4, 80).frame(), IP + 1, &[class]);
            let start = [0x60 | class >> 4, class << 4 | 0xa];
            let v6 = patch(&Packet::tcp(VIP6, 80).frame(), IP, &start);
            for frame in [v4, v6] {
                let out = bench.run(&frame).frame;
                is_tunnelled(bench.tables(), &frame, &out, mode, to);
                assert_eq!(Outer::of(&out).class, class);
            }
        }
    }
}

#[test]
fn a_packet_that_is_too_long_for_the_way_is_dropped_and_counted() {
    const MTU: usize = 1500;
    for (mode, to) in TUNNELS {
        let mut tables = through_tunnels(usual(), mode, to);
        for backend in tables.backends.values_mut() {
            backend.mtu = u32::try_from(MTU).unwrap();
        }
        let mut bench = Bench::new(tables);
        for (what, packet) in usual_packets() {
            let headers = packet.clone().data(&[]).frame().len() - IP;
            let fits = MTU - overhead(mode, to) - headers;
            for tags in TAGS {
                let frame =
                    |length| with_tags(&packet.clone().data(&vec![1; length]).frame(), tags);
                let outcome = bench.run(&frame(fits));
                assert_eq!(outcome.counter, Counter::Transmit, "{what}");
                is_tunnelled(bench.tables(), &frame(fits), &outcome.frame, mode, to);
                let padded = [frame(fits), vec![0; 9]].concat();
                assert_eq!(bench.run(&padded).counter, Counter::Transmit, "padding: {what}");
                for more in [1, 48] {
                    let frame = frame(fits + more);
                    let outcome = bench.run(&frame);
                    assert_eq!(outcome.counter, Counter::TooBigReply, "{what}");
                    let family = if packet.destination.is_ipv4() { V4 } else { V6 };
                    let l2 = IP + 4 * tags.len();
                    let room = u16::try_from(MTU - overhead(mode, to)).unwrap();
                    assert_told(&family, l2, &frame, &outcome.frame, room);
                }
            }
        }
    }
}

#[test]
fn what_is_dropped_is_not_counted_as_forwarded() {
    let mut tables = through_tunnels(usual(), Service::IPIP, To::V4);
    tables.cfg.icmp_per_second = 0;
    for backend in tables.backends.values_mut() {
        backend.mtu = 100;
    }
    let mut bench = Bench::new(tables);
    let (short, long) = (Packet::tcp(VIP4, 80), Packet::tcp(VIP4, 80).data(&[1; 80]));
    bench.run(&short.frame());
    bench.ends_in(Counter::DropTooBig, &long.frame(), "of 100 bytes and 20 for the tunnel");
    let counts = bench.counts();
    let bytes = u64::try_from(short.frame().len()).unwrap();
    // Counted as it came: the tunnel is our affair.
    let once = Count { packets: 1, bytes };
    assert_eq!(counts.services.values().max_by_key(|count| count.packets), Some(&once));
    assert_eq!(counts.backends.values().map(|count| count.packets).sum::<u64>(), 1);
}

#[test]
fn without_a_known_mtu_nothing_is_too_long() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for (_, packet) in usual_packets() {
            let frame = packet.data(&[7; 3000]).frame();
            let out = bench.run(&frame).frame;
            is_tunnelled(bench.tables(), &frame, &out, mode, to);
        }
    }
}

/// Routers and network cards spread tunnels by these: one flow must not be spread, many must.
#[test]
fn source_port_and_flow_label_are_those_of_the_flow() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        let mut seen = BTreeSet::new();
        for port in 1000..1200 {
            let mut mark = |data: &[u8]| {
                let frame = Packet::tcp(VIP4, 80).from(CLIENT4, port).data(data).frame();
                let outer = Outer::of(&bench.run(&frame).frame);
                (outer.ports.map(|(source, _)| source), outer.flow_label)
            };
            let first = mark(b"one");
            assert_eq!(mark(b"another"), first, "the same flow");
            seen.insert(first);
        }
        match (mode, to) {
            (Service::IPIP, To::V4) => assert_eq!(seen, [(None, 0)].into(), "nothing to spread by"),
            _ => assert!(seen.len() > 190, "{} of 200 flows look different", seen.len()),
        }
    }
}

#[test]
fn all_nodes_of_a_group_build_the_same_tunnel() {
    for (mode, to) in TUNNELS {
        let tables = through_tunnels(usual(), mode, to);
        let (mut one, mut other) = (Bench::new(tables.clone()), Bench::new(tables));
        let mut rng = Rng::new(5);
        for (_, packet) in usual_packets() {
            for _ in 0..50 {
                let frame = rng.moved(&packet).frame();
                assert_eq!(one.run(&frame).frame, other.run(&frame).frame);
            }
        }
    }
}

#[test]
fn a_tunnel_leads_through_another_interface_as_well() {
    with_wires(|wires| {
        for (mode, to) in TUNNELS {
            let mut tables = through_tunnels(usual(), mode, to);
            for entry in tables.addrs.values_mut() {
                entry.ifindex = wires.front;
            }
            for backend in tables.backends.values_mut() {
                backend.ifindex = wires.back;
            }
            tables.egress.insert(wires.back);
            let mut bench = Bench::new(tables);
            for (what, packet) in usual_packets() {
                for tags in TAGS {
                    let frame = with_tags(&packet.frame(), tags);
                    let outcome = bench.run_on(wires.front, &frame);
                    assert_eq!(outcome.counter, Counter::Redirect, "{what}");
                    is_tunnelled(bench.tables(), &frame, &outcome.frame, mode, to);
                }
            }
        }
    });
}

#[test]
fn a_router_on_the_way_gets_the_frame_and_the_backend_the_packet() {
    let router = MacAddr([2, 0xbe, 0, 0, 0xff, 0xff]);
    let mut tables = through_tunnels(usual(), Service::IPIP, To::V6);
    for backend in tables.backends.values_mut() {
        backend.mac = router;
    }
    let mut bench = Bench::new(tables);
    for (_, packet) in usual_packets() {
        let mut backends = BTreeSet::new();
        for port in 1..100 {
            let frame = packet.clone().from(packet.source, port).frame();
            let outer = Outer::of(&bench.run(&frame).frame);
            assert_eq!(outer.stations[0], router.0);
            backends.insert(outer.destination);
        }
        assert_eq!(backends.len(), 3, "all backends behind one router");
    }
}

#[test]
fn the_mode_of_a_service_does_not_change_the_choice() {
    let mut direct = Bench::new(usual());
    for (mode, to) in TUNNELS {
        // Same addresses in the tables, or another table would be made of them.
        let mut tables = usual();
        let slots = tables.slots.clone();
        tables = through_tunnels(tables, mode, to);
        tables.slots = slots;
        let mut bench = Bench::new(tables);
        let mut rng = Rng::new(8);
        for (_, packet) in usual_packets() {
            for _ in 0..100 {
                let frame = rng.moved(&packet).frame();
                let out = bench.run(&frame).frame;
                let id = is_tunnelled(bench.tables(), &frame, &out, mode, to);
                assert_eq!(id, direct.forwarded(&frame));
            }
        }
    }
}
