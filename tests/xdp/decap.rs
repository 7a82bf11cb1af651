//! The program for backends: what pen has wrapped comes out as it went in; what is no tunnel of pen,
//! or none to this host, is untouched; and what should not be in a tunnel does not come out of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::abi::Service;
use pen_common::decap::End;
use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;

use crate::bench::{Action, Bench};
use crate::frame::{IP, IPV4, IPV6, Packet, checksum, ethernet, ipv4, ipv6, patch, usual_packets};
use crate::pass::all_frames;
use crate::rng::Rng;
use crate::shapes::{TAGS, shapes, with_tags};
use crate::tunnel::{TUNNELS, To, ends, through_tunnels};
use crate::unwrapper::{HOST4, HOST6, Unwrapper};
use crate::world::{CLIENT4, CLIENT6, VIP4, VIP6, usual};

const STATION: MacAddr = MacAddr([2, 0xbe, 0, 0, 0, 1]);
const PEN: MacAddr = MacAddr([2, 0x50, 0, 0, 0, 1]);
const PEN4: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 1);
const PEN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, 0xff01);

/// A tunnel, field by field; tests spoil it.
#[derive(Clone, Debug)]
struct Tunnel {
    to: IpAddr,
    /// UDP, to this port.
    port: Option<u16>,
    /// Protocol of the outer header; by the packet if `None`.
    protocol: Option<u8>,
    class: u8,
    packet: Vec<u8>,
}

impl Tunnel {
    fn new(mode: u8, to: To, packet: &[u8]) -> Self {
        let to = if to == To::V4 { HOST4.into() } else { HOST6.into() };
        let port = (mode == Service::GUE).then_some(6080);
        Self { to, port, protocol: None, class: 0, packet: packet.to_vec() }
    }

    fn frame(&self) -> Vec<u8> {
        let inner = if self.packet[0] >> 4 == 4 { 4 } else { 41 };
        let (protocol, payload) = match self.port {
            Some(port) => (protocol::UDP, udp(port, &self.packet)),
            None => (self.protocol.unwrap_or(inner), self.packet.clone()),
        };
        let (ethertype, packet) = match self.to {
            IpAddr::V4(to) => {
                let packet = patch(&ipv4(PEN4, to, protocol, &[], &payload), 1, &[self.class]);
                let packet = patch(&packet, 10, &[0, 0]);
                (IPV4, patch(&packet, 10, &checksum(&packet[..20])))
            }
            IpAddr::V6(to) => {
                let start = [0x60 | self.class >> 4, self.class << 4];
                (IPV6, patch(&ipv6(PEN6, to, protocol, 64, &payload), 0, &start))
            }
        };
        ethernet(STATION, PEN, ethertype, &packet)
    }
}

/// A UDP datagram without a checksum.
fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    [&[0x80, 1][..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// The IP packet of a frame without tags.
fn packet_of(packet: &Packet) -> Vec<u8> {
    packet.frame()[IP..].to_vec()
}

/// All kinds of tunnels to this host, with a packet of the client in each.
fn tunnels() -> Vec<(String, Tunnel)> {
    let mut all = Vec::new();
    for (mode, to) in TUNNELS {
        for (what, packet) in usual_packets() {
            let name = format!("{what} in mode {mode} to {to:?}");
            all.push((name, Tunnel::new(mode, to, &packet_of(&packet.data(&[3; 50])))));
        }
    }
    all
}

/// The frame that has to come out: the packet, with the stations and tags of the tunnel.
fn unwrapped(frame: &[u8], tags: usize, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    [&frame[..12 + 4 * tags], &ethertype.to_be_bytes(), packet].concat()
}

#[test]
fn what_pen_wraps_comes_out_as_it_went_in() {
    for (mode, to) in TUNNELS {
        let mut pen = Bench::new(through_tunnels(usual(), mode, to));
        let hosts: Vec<IpAddr> = (1..=12).map(|id| ends(id, to).0).collect();
        let mut backend = Unwrapper::with(&hosts, &[VIP4.into(), VIP6.into()]);
        let expected = if mode == Service::IPIP { End::Ipip } else { End::Gue };
        for (what, packet) in shapes() {
            for tags in TAGS {
                for padding in [0, 7] {
                    let frame = with_tags(&packet.frame(), tags);
                    let frame = [frame, vec![0xee; padding]].concat();
                    let wrapped = pen.run(&frame);
                    assert_eq!(wrapped.counter, Counter::Transmit);
                    let (end, out) = backend.run(&wrapped.frame);
                    assert_eq!(end, expected, "{what}, {tags:x?}");
                    assert_eq!(out[..12], wrapped.frame[..12], "{what}, {tags:x?}: stations");
                    assert_eq!(out[12..], frame[12..], "{what}, {tags:x?}");
                }
            }
        }
    }
}

#[test]
fn whatever_is_in_the_packet_is_the_business_of_the_kernel() {
    let mut backend = Unwrapper::new();
    let v4 = packet_of(&Packet::udp(VIP4, 53));
    let v6 = packet_of(&Packet::udp(VIP6, 53));
    let packets = [
        ("ICMP", packet_of(&Packet::other(VIP4, 1, &[3; 40]))),
        ("ICMPv6", packet_of(&Packet::other(VIP6, 58, &[1; 40]))),
        ("a fragment", patch(&v4, 6, &[0x20, 0xb9])),
        ("options", packet_of(&Packet::tcp(VIP4, 80).options(&[1; 40]))),
        ("extension headers", packet_of(&Packet::tcp(VIP6, 80).extended(&[(60, &[0; 6])]))),
        ("the last hop", patch(&v4, 8, &[1])),
        ("the last hop of IPv6", patch(&v6, 7, &[0])),
        ("a header alone", ipv4(CLIENT4, VIP4, 255, &[], &[])),
        ("an IPv6 header alone", ipv6(CLIENT6, VIP6, 59, 64, &[])),
        ("a bad checksum", patch(&v4, 10, &[0xde, 0xad])),
        ("another tunnel", ipv4(CLIENT4, VIP4, 4, &[], &v4)),
    ];
    for (mode, to) in TUNNELS {
        for (what, packet) in &packets {
            for tags in TAGS {
                let frame = with_tags(&Tunnel::new(mode, to, packet).frame(), tags);
                let (end, out) = backend.run(&frame);
                assert!(matches!(end, End::Ipip | End::Gue), "{what}: {end:?}");
                assert_eq!(out, unwrapped(&frame, tags.len(), packet), "{what}");
            }
        }
    }
}

#[test]
fn bytes_that_are_not_the_packet_s_stay_behind_it() {
    let mut backend = Unwrapper::new();
    for (what, tunnel) in tunnels() {
        // Padding of the frame, and of the outer packet.
        let padded = [tunnel.frame(), vec![0xee; 9]].concat();
        let longer = Tunnel { packet: [&tunnel.packet[..], &[0xdd; 5]].concat(), ..tunnel.clone() };
        for (frame, rest) in [(padded, vec![0xee; 9]), (longer.frame(), vec![0xdd; 5])] {
            let (_, out) = backend.run(&frame);
            let packet = [&tunnel.packet[..], &rest].concat();
            assert_eq!(out, unwrapped(&frame, 0, &packet), "{what}");
        }
    }
}

#[test]
fn what_is_no_tunnel_passes_untouched() {
    for mut backend in [Unwrapper::new(), Unwrapper::with(&[], &[])] {
        for (what, frame, _) in all_frames() {
            for end in 14..=frame.len() {
                let (end, _) = backend.run(&frame[..end]);
                assert!(matches!(end, End::PassOther | End::PassAddress), "{what}: {end:?}");
            }
        }
    }
}

#[test]
fn a_tunnel_to_another_host_passes_untouched() {
    let mut backend = Unwrapper::new();
    for (what, tunnel) in tunnels() {
        let others: [IpAddr; 4] = [
            Ipv4Addr::new(10, 0, 0, 2).into(),
            VIP4.into(),
            Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, 2).into(),
            VIP6.into(),
        ];
        for to in others {
            let (end, _) = backend.run(&Tunnel { to, ..tunnel.clone() }.frame());
            assert_eq!(end, End::PassAddress, "{what} to {to}");
        }
        let mapped = Tunnel { to: HOST4.to_ipv6_mapped().into(), ..tunnel };
        assert_eq!(backend.run(&mapped.frame()).0, End::PassOther, "a mapped address is nobody's");
    }
}

#[test]
fn a_packet_for_no_virtual_address_does_not_come_out() {
    let mut backend = Unwrapper::new();
    let packets = [
        packet_of(&Packet::tcp(HOST4, 22)),
        packet_of(&Packet::tcp(HOST6, 22)),
        packet_of(&Packet::tcp(Ipv4Addr::LOCALHOST, 80)),
        packet_of(&Packet::tcp(Ipv6Addr::LOCALHOST, 80)),
        packet_of(&Packet::tcp(VIP4.to_ipv6_mapped(), 80)),
        packet_of(&Packet::tcp(Ipv4Addr::BROADCAST, 80)),
    ];
    for (mode, to) in TUNNELS {
        for packet in &packets {
            let (end, _) = backend.run(&Tunnel::new(mode, to, packet).frame());
            assert_eq!(end, End::RefusedVip, "{packet:02x?}");
        }
    }
}

#[test]
fn other_tunnels_and_unusual_ones_are_left_to_the_kernel() {
    let mut backend = Unwrapper::new();
    let packet = packet_of(&Packet::tcp(VIP4, 80));
    let v4 = Tunnel::new(Service::IPIP, To::V4, &packet).frame();
    let v6 = Tunnel::new(Service::IPIP, To::V6, &packet).frame();
    let with_port = |port| Tunnel { port: Some(port), ..Tunnel::new(0, To::V4, &packet) }.frame();
    let options = ethernet(STATION, PEN, IPV4, &ipv4(PEN4, HOST4, 4, &[1; 4], &packet));
    let hop = [&[4, 0, 1, 4, 0, 0, 0, 0][..], &packet].concat();
    let extended = ethernet(STATION, PEN, IPV6, &ipv6(PEN6, HOST6, 60, 64, &hop));
    let gre = Tunnel { protocol: Some(47), ..Tunnel::new(0, To::V4, &packet) }.frame();
    let cases = [
        ("first fragment", patch(&v4, IP + 6, &[0x20, 0])),
        ("last fragment", patch(&v4, IP + 6, &[0, 9])),
        ("options", options),
        ("extension headers", extended),
        ("GRE", gre),
        ("VXLAN", with_port(4789)),
        ("the port beside", with_port(6081)),
        ("version 5", patch(&v4, IP, &[0x55])),
        ("version 4 in an IPv6 frame", patch(&v6, IP, &[0x40])),
        ("shorter than its header", patch(&v4, IP + 2, &[0, 19])),
        ("three tags", with_tags(&v4, &[0x8100; 3])),
    ];
    for (what, frame) in cases {
        assert_eq!(backend.run(&frame).0, End::PassOther, "{what}");
    }
    for to in [To::V4, To::V6] {
        // Variant 0 with and without the control flag, and variants that nobody has defined.
        for first in [0x00, 0x20, 0x80, 0xc0, 0xff] {
            let tunnel = Tunnel::new(Service::GUE, to, &patch(&packet, 0, &[first]));
            assert_eq!(backend.run(&tunnel.frame()).0, End::PassVariant, "{first:#x}");
        }
    }
}

#[test]
fn a_packet_that_contradicts_its_headers_does_not_come_out() {
    let mut backend = Unwrapper::new();
    let (v4, v6) = (packet_of(&Packet::tcp(VIP4, 80)), packet_of(&Packet::tcp(VIP6, 80)));
    for (mode, to) in TUNNELS {
        let packets = [
            ("too few words", patch(&v4, 0, &[0x44])),
            ("longer than the tunnel", patch(&v4, 2, &[0, 41])),
            ("much longer", patch(&v4, 2, &[0xff, 0xff])),
            ("shorter than its header", patch(&v4, 2, &[0, 19])),
            ("shorter than its options", patch(&v4, 0, &[0x4f])),
            ("half a header", v4[..19].to_vec()),
            ("nothing but a version", v4[..1].to_vec()),
            ("IPv6 longer than the tunnel", patch(&v6, 4, &[0, 21])),
            ("half an IPv6 header", v6[..39].to_vec()),
        ];
        for (what, packet) in packets {
            // No padding that could be taken for the rest.
            let frame = Tunnel::new(mode, to, &packet).frame();
            assert_eq!(backend.run(&frame).0, End::Malformed, "{what}, mode {mode} to {to:?}");
        }
        let frame = Tunnel::new(mode, to, &v4).frame();
        let cut = &frame[..frame.len() - 1];
        assert_eq!(backend.run(cut).0, End::Malformed, "cut");
    }
    let frame = |to, packet: &[u8], protocol| {
        let tunnel = Tunnel { protocol: Some(protocol), ..Tunnel::new(Service::IPIP, to, packet) };
        tunnel.frame()
    };
    for to in [To::V4, To::V6] {
        assert_eq!(backend.run(&frame(to, &v4, 41)).0, End::Malformed, "IPv4 called IPv6");
        assert_eq!(backend.run(&frame(to, &v6, 4)).0, End::Malformed, "IPv6 called IPv4");
        for version in [0x55, 0x75] {
            let packet = patch(&v4, 0, &[version]);
            let frame = Tunnel::new(Service::GUE, to, &packet).frame();
            assert_eq!(backend.run(&frame).0, End::Malformed, "variant 1, version {version:#x}");
        }
        let gue = Tunnel::new(Service::GUE, to, &v4).frame();
        let udp_length = if to == To::V4 { IP + 24 } else { IP + 44 };
        for length in [0, 8, 47, 49] {
            let frame = patch(&gue, udp_length, &[0, length]);
            assert_eq!(backend.run(&frame).0, End::Malformed, "UDP of {length} bytes");
        }
        let empty = Tunnel { packet: Vec::new(), ..Tunnel::new(Service::GUE, to, &v4) };
        let empty = Tunnel { protocol: Some(17), port: None, packet: udp(6080, &[]), ..empty };
        assert_eq!(backend.run(&empty.frame()).0, End::Malformed, "nothing in it");
    }
}

#[test]
fn a_tunnel_that_is_cut_short_anywhere_does_no_harm() {
    let mut backend = Unwrapper::new();
    for (what, tunnel) in tunnels() {
        for tags in TAGS {
            let frame = with_tags(&tunnel.frame(), tags);
            for end in 14..frame.len() {
                let (end, _) = backend.run(&frame[..end]);
                assert!(matches!(end, End::PassOther | End::Malformed), "{what}: {end:?}");
            }
        }
    }
}

#[test]
fn a_mark_of_congestion_goes_on_with_the_packet() {
    let mut backend = Unwrapper::new();
    for (mode, to) in TUNNELS {
        for (outer, inner) in (0..=255_u8).map(|outer| (outer, outer.wrapping_mul(37))) {
            let v4 = patch(&packet_of(&Packet::tcp(VIP4, 80)), 1, &[inner]);
            let v4 = patch(&v4, 10, &[0, 0]);
            let v4 = patch(&v4, 10, &checksum(&v4[..20]));
            let start = [0x60 | inner >> 4, inner << 4 | 0xa];
            let v6 = patch(&packet_of(&Packet::tcp(VIP6, 80)), 0, &start);
            for packet in [v4, v6] {
                let tunnel = Tunnel { class: outer, ..Tunnel::new(mode, to, &packet) };
                let (end, out) = backend.run(&tunnel.frame());
                if outer & 3 == 3 && inner & 3 == 0 {
                    assert_eq!(end, End::Congestion);
                    continue;
                }
                let out = &out[IP..];
                let marked = if outer & 3 == 3 { inner | 3 } else { inner };
                if packet[0] == 0x45 {
                    assert_eq!(out[1], marked);
                    assert_eq!(checksum(&out[..20]), [0, 0], "{outer:#x} around {inner:#x}");
                    assert_eq!(out[12..], packet[12..]);
                } else {
                    assert_eq!(out[..2], [0x60 | marked >> 4, marked << 4 | 0xa]);
                    assert_eq!(out[2..], packet[2..]);
                }
            }
        }
    }
}

#[test]
fn every_end_has_a_frame() {
    let packet = packet_of(&Packet::tcp(VIP4, 80));
    let tunnel = Tunnel::new(Service::IPIP, To::V4, &packet);
    let gue = Tunnel { port: Some(6080), ..tunnel.clone() };
    for end in End::ALL {
        let frame = match end {
            End::Ipip => tunnel.frame(),
            End::Gue => gue.frame(),
            End::PassOther => Packet::tcp(HOST4, 80).frame(),
            End::PassAddress => Tunnel { to: PEN4.into(), ..tunnel.clone() }.frame(),
            End::PassVariant => Tunnel { packet: vec![0; 40], ..gue.clone() }.frame(),
            End::RefusedVip => {
                Tunnel { packet: packet_of(&Packet::tcp(PEN4, 80)), ..tunnel.clone() }.frame()
            }
            End::Malformed => Tunnel { packet: vec![0x45; 19], ..tunnel.clone() }.frame(),
            End::Congestion => Tunnel { class: 3, ..tunnel.clone() }.frame(),
        };
        assert_eq!(Unwrapper::new().run(&frame).0, *end);
    }
}

#[test]
fn random_faults_in_tunnels_never_abort() {
    const FRAMES: u64 = 60_000;
    let templates: Vec<Vec<u8>> = tunnels()
        .iter()
        .flat_map(|(_, tunnel)| TAGS.map(|tags| with_tags(&tunnel.frame(), tags)))
        .collect();
    let mut backend = Unwrapper::new();
    let mut rng = Rng::new(0xdeca);
    let mut taken_out = 0;
    for number in 0..FRAMES {
        let mut frame = templates[rng.below(templates.len())].clone();
        for _ in 0..rng.below(4) {
            let at = rng.below(frame.len());
            match rng.below(4) {
                0 => frame[at] = rng.byte(),
                1 => frame[at] ^= 1 << rng.below(8),
                2 => frame.truncate(at.max(IP)),
                _ => frame.extend((0..at).map(|_| 0)),
            }
        }
        let (action, out) = backend.send(&frame);
        assert!(matches!(action, Action::Pass | Action::Drop), "{number}: {action:?} {frame:02x?}");
        if action == Action::Pass && out != frame {
            let outer = frame.len() - out.len();
            assert!([20, 28, 40, 48].contains(&outer), "{number}: {outer} bytes less {frame:02x?}");
            assert_eq!(out[..12], frame[..12], "{number}");
            taken_out += 1;
        }
    }
    assert_eq!(backend.total(), FRAMES, "every frame in one counter");
    assert!(taken_out > FRAMES / 4, "only {taken_out} came out");
}
