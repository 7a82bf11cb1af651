//! Packets to a service whose headers do not stand where they usually do: behind VLAN tags, behind
//! IPv4 options, behind IPv6 extension headers, and behind several of these. They are forwarded like
//! plain ones, tags, options and headers as they came.

use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{IP, Packet, tagged, usual_packets};
use crate::world::{VIP4, VIP6, usual};

/// No tag, one, a provider's one, one of priority in a provider's, two of each kind.
pub(crate) const TAGS: [&[u16]; 6] =
    [&[], &[0x8100], &[0x88a8], &[0x8100, 0x88a8], &[0x8100, 0x8100], &[0x88a8, 0x88a8]];

/// The frame with these tags, the innermost one first.
pub(crate) fn with_tags(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    tags.iter().fold(frame.to_vec(), |frame, tag| tagged(&frame, *tag))
}

/// Chains of IPv6 extension headers that are stepped over.
fn chains() -> Vec<Vec<(u8, &'static [u8])>> {
    const HOP: (u8, &[u8]) = (protocol::HOP_BY_HOP, &[5, 2, 0, 0, 1, 0]);
    const LONG_HOP: (u8, &[u8]) = (protocol::HOP_BY_HOP, &[0; 62]);
    const ROUTING: (u8, &[u8]) = (protocol::ROUTING, &[2, 0, 0, 0, 0, 0]);
    const LONG_ROUTING: (u8, &[u8]) = (protocol::ROUTING, &[0; 22]);
    const OPTIONS: (u8, &[u8]) = (protocol::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    const LONGEST: (u8, &[u8]) = (protocol::DESTINATION_OPTIONS, &[0; 2046]);
    vec![
        vec![HOP],
        vec![ROUTING],
        vec![OPTIONS],
        vec![LONG_HOP],
        vec![LONG_ROUTING],
        vec![LONGEST],
        vec![HOP, OPTIONS, ROUTING, OPTIONS],
        vec![OPTIONS; 8],
        vec![LONG_HOP, LONG_ROUTING, OPTIONS, OPTIONS],
    ]
}

/// A packet of each protocol with each kind of headers, and where its payload begins if untagged.
pub(crate) fn shapes() -> Vec<(String, Packet)> {
    let mut shapes: Vec<(String, Packet)> = usual_packets()
        .into_iter()
        .map(|(what, packet)| (format!("{what}, plain"), packet))
        .collect();
    for (what, packet) in usual_packets() {
        if packet.destination.is_ipv4() {
            for words in 1..=10 {
                let packet = packet.clone().options(&vec![1; words * 4]);
                shapes.push((format!("{what}, {words} words of options"), packet));
            }
        } else {
            for chain in chains() {
                let packet = packet.clone().extended(&chain);
                shapes.push((format!("{what} behind {chain:?}"), packet));
            }
        }
    }
    shapes
}

#[test]
fn tags_options_and_extension_headers_stay_as_they_are() {
    let mut bench = Bench::new(usual());
    for (what, packet) in shapes() {
        let service = match (packet.destination.is_ipv4(), packet.protocol) {
            (true, protocol::TCP) => 0,
            (true, _) => 1,
            (false, protocol::TCP) => 2,
            (false, _) => 3,
        };
        for tags in TAGS {
            for padding in [0, 1, 46] {
                let frame = with_tags(&packet.frame(), tags);
                let frame = [frame, vec![0xee; padding]].concat();
                let id = bench.forwarded(&frame);
                assert_eq!(bench.tables().backends[&id].service, service, "{what}, {tags:x?}");
            }
        }
    }
}

#[test]
fn the_shape_of_a_packet_does_not_change_its_backend() {
    let mut bench = Bench::new(usual());
    for (plain, packet) in usual_packets() {
        for port in 1000..1020 {
            let from = |packet: &Packet| packet.clone().from(packet.source, port);
            let id = bench.forwarded(&from(&packet).frame());
            for (what, shape) in shapes() {
                if shape.destination == packet.destination && shape.protocol == packet.protocol {
                    let shaped = bench.forwarded(&from(&shape).frame());
                    assert_eq!(shaped, id, "{what} as {plain}, port {port}");
                }
            }
        }
    }
}

#[test]
fn a_frame_of_any_shape_that_is_cut_short_anywhere_passes() {
    let mut bench = Bench::new(usual());
    for (what, packet) in shapes() {
        for tags in TAGS {
            let frame = with_tags(&packet.frame(), tags);
            let (ip, header) =
                if packet.destination.is_ipv4() { (0x0800, 20) } else { (0x86dd, 40) };
            let l2 = IP + 4 * tags.len();
            // All lengths around the headers, and some of what is as long as it likes.
            for end in (14..frame.len()).filter(|end| *end < 200 || end.is_multiple_of(97)) {
                let expected = match end {
                    _ if end < l2 => Counter::PassEthertype,
                    _ if end < l2 + header => Counter::PassNotOurs,
                    _ => Counter::PassMalformed,
                };
                let what = format!("{what}, {tags:x?}, {end} bytes of {ip:x}");
                bench.ends_in(expected, &frame[..end], &what);
            }
        }
    }
}

#[test]
fn packets_of_any_shape_to_others_pass() {
    let mut bench = Bench::new(usual());
    for (what, packet) in shapes() {
        let mut packet = packet;
        packet.destination = match packet.destination.is_ipv4() {
            true => [203, 0, 113, 9].into(),
            false => [0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into(),
        };
        for tags in TAGS {
            bench.ends_in(Counter::PassNotOurs, &with_tags(&packet.frame(), tags), &what);
        }
    }
}

#[test]
fn a_tagged_frame_must_be_addressed_to_us_as_well() {
    let mut bench = Bench::new(usual());
    for (what, packet) in usual_packets() {
        let other = packet.at_station(MacAddr([2, 0, 0, 0, 0, 9]));
        for tags in TAGS {
            let frame = with_tags(&other.frame(), tags);
            bench.ends_in(Counter::PassOtherStation, &frame, what);
        }
    }
}

#[test]
fn a_second_tag_may_be_the_only_thing_that_differs() {
    let mut bench = Bench::new(usual());
    let frame = Packet::tcp(VIP4, 80).frame();
    // 0x9100 is no tag of a standard.
    bench.ends_in(Counter::PassEthertype, &tagged(&frame, 0x9100), "a tag of no standard");
    let frame = tagged(&tagged(&Packet::tcp(VIP6, 80).frame(), 0x9100), 0x8100);
    bench.ends_in(Counter::PassEthertype, &frame, "a tag of no standard in a tag");
}
