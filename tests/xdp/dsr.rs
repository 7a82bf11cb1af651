//! Mode `dsr`: a packet for a service leaves with new stations in its Ethernet header and not one
//! other byte changed, because the backend answers the client as if it had been addressed itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{BROADCAST, IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch, usual_packets};
use crate::world::{VIP4, VIP6, add_service, usual};

#[test]
fn a_packet_for_a_service_goes_to_a_backend_of_this_service_unchanged() {
    let mut bench = Bench::new(usual());
    for ((what, packet), service) in usual_packets().into_iter().zip(0..) {
        for length in [0, 1, 4, 6, 100, 1400] {
            let packet = packet.clone().data(&vec![0xa5; length]);
            let id = bench.forwarded(&packet.frame());
            assert_eq!(bench.tables().backends[&id].service, service, "{what}, {length} bytes");
        }
    }
}

#[test]
fn bytes_behind_the_end_of_the_packet_stay() {
    let mut bench = Bench::new(usual());
    for (_, packet) in usual_packets() {
        for padding in [1, 2, 14, 64] {
            let frame = [packet.frame(), vec![0xee; padding]].concat();
            bench.forwarded(&frame);
        }
    }
}

#[test]
fn what_is_the_business_of_client_and_backend_alone_does_not_matter() {
    let mut bench = Bench::new(usual());
    let [tcp4, udp4, tcp6, udp6] = usual_packets().map(|(_, packet)| packet.frame());
    let cases: [(&str, &[u8], usize, &[u8]); 14] = [
        ("type of service", &tcp4, IP + 1, &[0xff]),
        ("may be fragmented, but is not", &tcp4, IP + 6, &[0]),
        ("reserved bit beside the fragment's", &tcp4, IP + 6, &[0x80]),
        ("last hop", &tcp4, IP + 8, &[1]),
        ("bad header checksum", &tcp4, IP + 10, &[0xde, 0xad]),
        ("RST", &tcp4, IPV4_PAYLOAD + 13, &[4]),
        ("no flags", &tcp4, IPV4_PAYLOAD + 13, &[0]),
        ("bad TCP checksum", &tcp4, IPV4_PAYLOAD + 16, &[0xde, 0xad]),
        ("data offset below the minimum", &tcp4, IPV4_PAYLOAD + 12, &[0]),
        ("no UDP checksum", &udp4, IPV4_PAYLOAD + 6, &[0, 0]),
        ("a UDP length of its own", &udp4, IPV4_PAYLOAD + 4, &[0, 9]),
        ("traffic class and flow label", &tcp6, IP, &[0x6f, 0xff, 0xff, 0xff]),
        ("hop limit", &tcp6, IP + 7, &[0]),
        ("bad UDP checksum", &udp6, IPV6_PAYLOAD + 6, &[0, 0]),
    ];
    for (what, frame, offset, bytes) in cases {
        let frame = patch(frame, offset, bytes);
        assert_eq!(bench.run(&frame).counter, Counter::Transmit, "{what}");
        bench.forwarded(&frame);
    }
}

#[test]
fn a_service_on_port_zero_takes_every_port_without_one_of_its_own() {
    let mut tables = usual();
    let any4 = add_service(&mut tables, VIP4.into(), 0, protocol::TCP, &[1; 2]);
    let any6 = add_service(&mut tables, VIP6.into(), 0, protocol::UDP, &[1; 2]);
    let mut bench = Bench::new(tables);
    let mut service = |packet: Packet| {
        let id = bench.forwarded(&packet.frame());
        bench.tables().backends[&id].service
    };
    for port in [1, 22, 79, 81, 65535, 0] {
        assert_eq!(service(Packet::tcp(VIP4, port)), any4, "port {port}");
        assert_eq!(service(Packet::udp(VIP6, port)), any6, "port {port}");
    }
    assert_eq!(service(Packet::tcp(VIP4, 80)), 0);
    assert_eq!(service(Packet::udp(VIP6, 53)), 3);
    // The other protocol has none.
    for packet in [Packet::udp(VIP4, 81), Packet::tcp(VIP6, 81)] {
        bench.ends_in(Counter::PassNoService, &packet.frame(), "no service of this protocol");
    }
}

#[test]
fn a_frame_that_is_addressed_to_another_station_passes() {
    let mut bench = Bench::new(usual());
    let stations = [
        ("another host, flooded by the switch", MacAddr([2, 0, 0, 0, 0, 9])),
        ("one bit off", MacAddr([0, 0, 0x5e, 0, 1, 6])),
        ("broadcast", BROADCAST),
        ("multicast", MacAddr([1, 0, 0x5e, 0, 0, 1])),
        ("a backend: what was sent there is not caught", MacAddr([2, 0xbe, 0, 0, 0, 1])),
    ];
    for (_, packet) in usual_packets() {
        for (what, station) in stations {
            let frame = packet.clone().at_station(station).frame();
            bench.ends_in(Counter::PassOtherStation, &frame, what);
        }
    }
}

#[test]
fn an_address_whose_network_is_another_interface_takes_what_is_routed_to_it() {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.ifindex = 77;
    }
    let mut bench = Bench::new(tables);
    // A router's frames bear the address of the interface that they came in on.
    for (_, packet) in usual_packets() {
        bench.forwarded(&packet.at_station(MacAddr([2, 0, 0, 0, 0, 9])).frame());
    }
}

#[test]
fn any_source_is_a_client() {
    let mut bench = Bench::new(usual());
    let sources: [(IpAddr, u16); 6] = [
        (Ipv4Addr::UNSPECIFIED.into(), 0),
        (Ipv4Addr::BROADCAST.into(), 65535),
        (VIP4.into(), 80),
        (Ipv6Addr::UNSPECIFIED.into(), 0),
        (VIP6.into(), 80),
        (Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().into(), 1),
    ];
    for (source, port) in sources {
        let vip = if source.is_ipv4() { IpAddr::from(VIP4) } else { IpAddr::from(VIP6) };
        bench.forwarded(&Packet::tcp(vip, 80).from(source, port).frame());
    }
}
