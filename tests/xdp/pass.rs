//! What is none of our business stays untouched: everything on a machine without virtual addresses,
//! and what is not a plain packet to one of our services. A balancer on a router must not lose
//! anybody's fragments or runts.

use std::net::Ipv4Addr;

use pen_common::net::protocol;
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{
    Arp, IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, Solicitation, patch, tagged, usual_packets,
};
use crate::world::{CLIENT4, NIC, VIP4, VIP6, add_service, empty, usual};

pub(crate) type Case = (&'static str, Vec<u8>, Counter);

/// IPv6 with these extension headers, after which TCP to a service follows.
fn extended(chain: &[(u8, &[u8])]) -> Vec<u8> {
    Packet::tcp(VIP6, 80).extended(chain).frame()
}

/// Frames to a virtual address that are not forwarded.
fn odd_ipv4() -> Vec<Case> {
    let tcp = Packet::tcp(VIP4, 80).frame();
    let udp = Packet::udp(VIP4, 53).frame();
    let options = Packet::tcp(VIP4, 80).options(&[1; 8]).frame();
    let icmp = Packet::other(VIP4, 1, &[8; 64]).frame();
    let length = |frame: &[u8], total: u8| patch(frame, IP + 2, &[0, total]);
    let fragment = |frame: &[u8], field: [u8; 2]| patch(frame, IP + 6, &field);
    let first_byte = |byte: u8| patch(&tcp, IP, &[byte]);
    vec![
        ("another port", Packet::tcp(VIP4, 81).frame(), Counter::PassNoService),
        ("port 0", Packet::tcp(VIP4, 0).frame(), Counter::PassNoService),
        ("UDP to a TCP service", Packet::udp(VIP4, 80).frame(), Counter::PassNoService),
        ("TCP to a UDP service", Packet::tcp(VIP4, 53).frame(), Counter::PassNoService),
        ("echo request", Packet::other(VIP4, 1, &[8; 64]).frame(), Counter::PassProtocol),
        ("ICMP without a byte", Packet::other(VIP4, 1, &[]).frame(), Counter::PassProtocol),
        ("CARP", Packet::other(VIP4, 112, &[0x21; 36]).frame(), Counter::PassProtocol),
        ("SCTP", Packet::other(VIP4, 132, &[0; 36]).frame(), Counter::PassProtocol),
        ("IP in IP", Packet::other(VIP4, 4, &tcp[IP..]).frame(), Counter::PassProtocol),
        (
            "first fragment without a port",
            fragment(&length(&udp, 27), [0x20, 0]),
            Counter::PassFragment,
        ),
        ("first fragment of ICMP", fragment(&icmp, [0x20, 0]), Counter::PassFragment),
        ("middle fragment", fragment(&udp, [0x20, 0xb9]), Counter::PassFragment),
        ("last fragment", fragment(&udp, [0x00, 0x01]), Counter::PassFragment),
        ("last fragment, far", fragment(&udp, [0x1f, 0xff]), Counter::PassFragment),
        ("options cut by the IP length", length(&options, 27), Counter::PassMalformed),
        ("TCP behind options cut", length(&options, 47), Counter::PassMalformed),
        ("options longer than the packet", patch(&options, IP, &[0x4f]), Counter::PassMalformed),
        ("fragment with options", fragment(&options, [0xa0, 2]), Counter::PassFragment),
        (
            "CARP with options",
            Packet::other(VIP4, 112, &[0; 36]).options(&[1; 4]).frame(),
            Counter::PassProtocol,
        ),
        ("header of no words", first_byte(0x40), Counter::PassMalformed),
        ("header of four words", first_byte(0x44), Counter::PassMalformed),
        ("version 6 in an IPv4 frame", first_byte(0x65), Counter::PassMalformed),
        ("version 0", first_byte(0x05), Counter::PassMalformed),
        ("version 5", first_byte(0x55), Counter::PassMalformed),
        ("longer than the frame", length(&tcp, 41), Counter::PassMalformed),
        ("much longer than the frame", patch(&tcp, IP + 2, &[0xff, 0xff]), Counter::PassMalformed),
        ("no length", length(&tcp, 0), Counter::PassMalformed),
        ("shorter than its header", length(&tcp, 19), Counter::PassMalformed),
        ("header only", length(&tcp, 20), Counter::PassMalformed),
        ("TCP cut by the IP length", length(&tcp, 39), Counter::PassMalformed),
        ("UDP cut by the IP length", length(&udp, 27), Counter::PassMalformed),
    ]
}

/// Extension headers: options for every router, a routing header that is at its end and one that is
/// not, options for the destination, the second fragment.
const HOP: (u8, &[u8]) = (protocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]);
const END: (u8, &[u8]) = (protocol::ROUTING, &[4, 0, 0, 0, 0, 0]);
const ON: (u8, &[u8]) = (protocol::ROUTING, &[4, 1, 0, 0, 0, 0]);
const TO: (u8, &[u8]) = (protocol::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
const PART: (u8, &[u8]) = (protocol::FRAGMENT, &[0, 9, 0, 0, 0, 7]);

fn odd_ipv6() -> Vec<Case> {
    let tcp = Packet::tcp(VIP6, 80).frame();
    let udp = Packet::udp(VIP6, 53).frame();
    let length = |frame: &[u8], payload: u8| patch(frame, IP + 4, &[0, payload]);
    let hop = extended(&[HOP]);
    let long = patch(&hop, IPV6_PAYLOAD + 1, &[200]);
    // The chain goes on in what the IPv6 header says is padding.
    let beyond = [length(&extended(&[HOP, TO]), 8), vec![0; 32]].concat();
    let first_byte = |byte: u8| patch(&tcp, IP, &[byte]);
    let echo = [&[128, 0, 0, 0][..], &[0; 60]].concat();
    let icmp = protocol::ICMPV6;
    vec![
        ("another port", Packet::tcp(VIP6, 81).frame(), Counter::PassNoService),
        ("UDP to a TCP service", Packet::udp(VIP6, 80).frame(), Counter::PassNoService),
        ("TCP to a UDP service", Packet::tcp(VIP6, 53).frame(), Counter::PassNoService),
        ("echo request", Packet::other(VIP6, icmp, &echo).frame(), Counter::PassProtocol),
        ("short echo", Packet::other(VIP6, icmp, &echo[..8]).frame(), Counter::PassProtocol),
        ("no ICMP type", Packet::other(VIP6, icmp, &[]).frame(), Counter::PassProtocol),
        ("CARP", Packet::other(VIP6, 112, &[0x21; 36]).frame(), Counter::PassProtocol),
        ("nothing follows", Packet::other(VIP6, 59, &[]).frame(), Counter::PassProtocol),
        ("authenticated", extended(&[(51, &[0; 6])]), Counter::PassProtocol),
        ("encrypted", extended(&[(50, &[0; 6])]), Counter::PassProtocol),
        ("mobility header", extended(&[HOP, (135, &[0; 6])]), Counter::PassProtocol),
        ("nine extension headers", extended(&[TO; 9]), Counter::PassOptions),
        ("a routing header that is not at its end", extended(&[ON]), Counter::PassOptions),
        ("the same behind others", extended(&[HOP, TO, ON]), Counter::PassOptions),
        ("fragment header", extended(&[PART]), Counter::PassFragment),
        ("fragment header behind others", extended(&[HOP, END, PART]), Counter::PassFragment),
        ("extension header that runs out of the packet", long, Counter::PassMalformed),
        ("TCP behind the end of the packet", beyond, Counter::PassMalformed),
        ("TCP cut behind extension headers", length(&hop, 27), Counter::PassMalformed),
        ("version 4 in an IPv6 frame", first_byte(0x40), Counter::PassMalformed),
        ("version 0", first_byte(0x00), Counter::PassMalformed),
        ("version 7", first_byte(0x70), Counter::PassMalformed),
        ("longer than the frame", length(&tcp, 21), Counter::PassMalformed),
        ("much longer than the frame", patch(&tcp, IP + 4, &[0xff, 0xff]), Counter::PassMalformed),
        ("no length (jumbogram)", length(&tcp, 0), Counter::PassMalformed),
        ("TCP cut by the IP length", length(&tcp, 19), Counter::PassMalformed),
        ("UDP cut by the IP length", length(&udp, 7), Counter::PassMalformed),
    ]
}

fn odd_frames() -> Vec<Case> {
    let tcp = Packet::tcp(VIP4, 80).frame();
    let ethertype = |frame: &[u8], high: u8, low: u8| patch(frame, 12, &[high, low]);
    let twice = tagged(&tagged(&tcp, 0x8100), 0x88a8);
    let arp = Arp::who_has(VIP4).frame();
    let ask = Solicitation::who_has(VIP6);
    vec![
        ("three tags", tagged(&twice, 0x88a8), Counter::PassEthertype),
        ("ARP in a VLAN", tagged(&arp, 0x8100), Counter::PassEthertype),
        ("ARP in a provider's VLAN", tagged(&tagged(&arp, 0x8100), 0x88a8), Counter::PassEthertype),
        ("LLDP in a VLAN", tagged(&ethertype(&tcp, 0x88, 0xcc), 0x8100), Counter::PassEthertype),
        ("solicitation in a VLAN", tagged(&ask.frame(), 0x8100), Counter::PassNotOurs),
        ("LLDP", ethertype(&tcp, 0x88, 0xcc), Counter::PassEthertype),
        ("MPLS", ethertype(&tcp, 0x88, 0x47), Counter::PassEthertype),
        ("a length of IEEE 802.3", ethertype(&tcp, 0x00, 0x26), Counter::PassEthertype),
        ("swapped bytes", ethertype(&tcp, 0x00, 0x08), Counter::PassEthertype),
        ("IPv4 called IPv6", ethertype(&tcp, 0x86, 0xdd), Counter::PassNotOurs),
    ]
}

fn neighbours() -> Vec<Case> {
    vec![
        ("ARP request", Arp::who_has(VIP4).frame(), Counter::ArpReply),
        ("solicitation", Solicitation::who_has(VIP6).frame(), Counter::NdReply),
    ]
}

/// Frames of all kinds, with the counter that they end in if the usual services are there.
pub(crate) fn all_frames() -> Vec<Case> {
    let usual = usual_packets().map(|(what, packet)| (what, packet.frame(), Counter::Transmit));
    let parts = [odd_ipv4(), odd_ipv6(), odd_frames(), neighbours()];
    parts.into_iter().flatten().chain(usual).collect()
}

/// Reasons that need no address of ours. To pass is to stay untouched: the bench compares.
const NOT_OURS: [Counter; 3] =
    [Counter::PassEthertype, Counter::PassNotOurs, Counter::PassNeighbour];

#[test]
fn without_virtual_addresses_every_frame_passes() {
    let mut bench = Bench::new(empty());
    for (what, frame, _) in all_frames() {
        for end in 14..=frame.len() {
            let counter = bench.run(&frame[..end]).counter;
            assert!(NOT_OURS.contains(&counter), "{what}, {end} bytes: {counter:?}");
        }
    }
}

#[test]
fn frames_for_other_addresses_pass_beside_ours() {
    let mut tables = empty();
    add_service(&mut tables, [203, 0, 113, 1].into(), 80, protocol::TCP, &[1]);
    add_service(&mut tables, [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), 53, protocol::UDP, &[1]);
    let mut bench = Bench::new(tables);
    for (what, frame, _) in all_frames() {
        let counter = bench.run(&frame).counter;
        assert!(NOT_OURS.contains(&counter), "{what}: {counter:?}");
    }
}

#[test]
fn what_is_no_plain_packet_to_a_service_passes_with_its_reason() {
    let mut bench = Bench::new(usual());
    for (what, frame, counter) in all_frames() {
        bench.ends_in(counter, &frame, what);
    }
}

#[test]
fn a_frame_that_is_cut_short_anywhere_passes() {
    let mut bench = Bench::new(usual());
    for (what, packet) in usual_packets() {
        let frame = packet.frame();
        let header = if packet.destination.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
        for end in 14..frame.len() {
            // Before the destination is there, nobody can say that it is ours.
            let expected = if end < header { Counter::PassNotOurs } else { Counter::PassMalformed };
            bench.ends_in(expected, &frame[..end], &format!("{what}, {end} bytes"));
        }
        bench.forwarded(&frame);
    }
    let arp = Arp::who_has(VIP4).frame();
    for end in 14..14 + 28 {
        bench.ends_in(Counter::PassNeighbour, &arp[..end], &format!("ARP, {end} bytes"));
    }
    bench.ends_in(Counter::ArpReply, &arp[..14 + 28], "ARP without padding");
    let solicitation = Solicitation::who_has(VIP6).frame();
    let shortest = IPV6_PAYLOAD + 24;
    for end in 14..solicitation.len() {
        // Too short to say whom it asks for, it is ICMP to a group.
        let expected = if end < shortest { Counter::PassNotOurs } else { Counter::PassNeighbour };
        bench.ends_in(expected, &solicitation[..end], &format!("solicitation, {end} bytes"));
    }
}

/// IPv4 addresses are mapped into IPv6 ones in our maps, but on a wire `::ffff:192.0.2.10` is not
/// the IPv4 address: no router may forward to it (RFC 4291 section 2.5.5.2).
#[test]
fn ipv6_to_a_mapped_address_is_not_for_the_ipv4_service() {
    let mut bench = Bench::new(usual());
    let mapped = VIP4.to_ipv6_mapped();
    for packet in [Packet::tcp(mapped, 80), Packet::udp(mapped, 53), Packet::tcp(mapped, 81)] {
        bench.ends_in(Counter::PassNotOurs, &packet.frame(), "to a mapped address");
    }
    let solicitation = Solicitation::who_has(mapped);
    bench.ends_in(Counter::PassNotOurs, &solicitation.frame(), "who has a mapped address");
}

#[test]
fn a_packet_to_the_neighbour_of_a_virtual_address_passes() {
    let mut bench = Bench::new(usual());
    let [a, b, c, d] = VIP4.octets();
    let near4 = [[a, b, c, d + 1], [a, b, c + 1, d], [a + 1, b, c, d], [0, 0, 0, 0], [255; 4]];
    for near in near4.map(Ipv4Addr::from) {
        bench.ends_in(Counter::PassNotOurs, &Packet::tcp(near, 80).frame(), &near.to_string());
    }
    for bit in 0..128 {
        let near = std::net::Ipv6Addr::from_bits(VIP6.to_bits() ^ 1 << bit);
        bench.ends_in(Counter::PassNotOurs, &Packet::tcp(near, 80).frame(), &near.to_string());
    }
    // ... whatever its station and interface are.
    let frame = Packet::tcp(CLIENT4, 80).frame();
    assert_eq!(bench.run_on(NIC, &frame).counter, Counter::PassNotOurs);
}
