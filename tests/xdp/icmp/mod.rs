//! ICMP and ICMPv6: echo requests, errors that quote a flow, and the errors that the program sends
//! itself.

mod echo;
mod quoted;
pub(crate) mod replies;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::abi::AddrEntry;
use pen_common::net::protocol;
use pen_ctl::engine::tables::Tables;

use crate::frame::{IP, Packet, checksum, pseudo_header, tagged};
use crate::world::{CLIENT4, CLIENT6, VIP4, VIP6};

/// A router that nobody here knows: errors may come from anywhere.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 1);
/// The client's end of flows.
const CLIENT_PORT: u16 = 40000;

/// One family's addresses and numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) vip: IpAddr,
    pub(crate) client: IpAddr,
    pub(crate) router: IpAddr,
    pub(crate) protocol: u8,
    /// Type of an echo request, and of its reply.
    echo: [u8; 2],
    /// Length of the IP header.
    pub(crate) header: usize,
    /// Type and code of errors that quote a flow.
    pub(crate) errors: &'static [(u8, u8)],
}

pub(crate) const V4: Family = Family {
    vip: IpAddr::V4(VIP4),
    client: IpAddr::V4(CLIENT4),
    router: IpAddr::V4(ROUTER4),
    protocol: 1,
    echo: [8, 0],
    header: 20,
    errors: &[(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0), (12, 2)],
};
pub(crate) const V6: Family = Family {
    vip: IpAddr::V6(VIP6),
    client: IpAddr::V6(CLIENT6),
    router: IpAddr::V6(ROUTER6),
    protocol: protocol::ICMPV6,
    echo: [128, 129],
    header: 40,
    errors: &[(1, 0), (1, 3), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 2)],
};
pub(crate) const FAMILIES: [Family; 2] = [V4, V6];

impl Family {
    /// A message to the virtual address, from `source`.
    fn message(&self, source: IpAddr, kind: (u8, u8), rest: [u8; 4], data: &[u8]) -> Packet {
        let mut message = [&[kind.0, kind.1, 0, 0], &rest[..], data].concat();
        let sum =
            checksum(&[self.pseudo(source, self.vip, message.len()), message.clone()].concat());
        message[2..4].copy_from_slice(&sum);
        Packet::other(self.vip, self.protocol, &message).from(source, 0)
    }

    /// What the checksum of a message covers besides it: nothing in ICMP.
    fn pseudo(&self, source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
        if self.vip.is_ipv4() {
            return Vec::new();
        }
        pseudo_header(source, destination, protocol::ICMPV6, length)
    }

    /// An echo request of the client.
    pub(crate) fn ping(&self, data: &[u8]) -> Packet {
        self.message(self.client, (self.echo[0], 0), [0x12, 0x34, 0, 1], data)
    }

    /// An error of the unrelated router about this packet.
    pub(crate) fn error(&self, kind: (u8, u8), quote: &[u8]) -> Packet {
        self.message(self.router, kind, [0, 0, 5, 0], quote)
    }

    /// What a backend answers to the client from this port of the virtual address, without Ethernet
    /// header.
    pub(crate) fn answer(&self, protocol: u8, vip_port: u16, client_port: u16) -> Vec<u8> {
        let packet = match protocol {
            protocol::TCP => Packet::tcp(self.client, client_port),
            _ => Packet::udp(self.client, client_port),
        };
        packet.from(self.vip, vip_port).data(&[0x5a; 32]).frame()[IP..].to_vec()
    }
}

/// The frame without tag, with one and with two.
fn with_tags(frame: &[u8]) -> [(usize, Vec<u8>); 3] {
    let once = tagged(frame, 0x8100);
    let twice = tagged(&once, 0x88a8);
    [(IP, frame.to_vec()), (IP + 4, once), (IP + 8, twice)]
}

/// With virtual addresses that answer echo requests.
pub(crate) fn with_echo(mut tables: Tables) -> Tables {
    for entry in tables.addrs.values_mut() {
        entry.flags |= AddrEntry::ECHO;
    }
    tables
}

/// Asserts that IP header and ICMP message of a packet are right, as a receiver would.
#[track_caller]
pub(crate) fn assert_right(family: &Family, packet: &[u8]) {
    let (source, destination) = ends(packet);
    if family.vip.is_ipv4() {
        assert_eq!(checksum(&packet[..20]), [0, 0], "IPv4 header: {packet:02x?}");
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        assert_eq!((packet[0], packet[9]), (0x45, 1));
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len());
        assert_eq!((packet[0] >> 4, packet[6]), (6, protocol::ICMPV6));
    }
    let message = &packet[family.header..];
    let sum = checksum(&[&family.pseudo(source, destination, message.len()), message].concat());
    assert_eq!(sum, [0, 0], "ICMP message: {message:02x?}");
}

/// Source and destination of a packet.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at =
            |offset: usize| -> [u8; 4] { packet[offset..offset + 4].try_into().expect("four") };
        (at(12).into(), at(16).into())
    } else {
        let at =
            |offset: usize| -> [u8; 16] { packet[offset..offset + 16].try_into().expect("all") };
        (at(8).into(), at(24).into())
    }
}
