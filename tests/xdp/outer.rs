//! Takes a tunnel apart, field by field, as a backend without any help of ours would see it.

use std::net::IpAddr;

use crate::frame::{IPV4, IPV6, checksum};

/// A frame that carries a packet in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    /// Destination and source of the Ethernet header.
    pub(crate) stations: [[u8; 6]; 2],
    /// The tags, outermost first: EtherType and control of each.
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Protocol of the outer IP header.
    pub(crate) protocol: u8,
    pub(crate) class: u8,
    /// IPv6 only.
    pub(crate) flow_label: u32,
    /// Source and destination port, if the tunnel is one of UDP.
    pub(crate) ports: Option<(u16, u16)>,
    /// The packet in the tunnel, and what stands behind it.
    pub(crate) packet: Vec<u8>,
    pub(crate) padding: Vec<u8>,
}

impl Outer {
    /// Reads a frame. Asserts all that is the same in every tunnel of pen.
    #[track_caller]
    pub(crate) fn of(frame: &[u8]) -> Self {
        let station = |at: usize| frame[at..at + 6].try_into().expect("six bytes");
        let mut tags = Vec::new();
        let mut l2 = 14;
        while [0x8100, 0x88a8].contains(&be16(frame, l2 - 2)) {
            tags.push(frame[l2 - 2..l2 + 2].try_into().expect("four bytes"));
            l2 += 4;
        }
        let ip = &frame[l2..];
        let outer = Self {
            stations: [station(0), station(6)],
            tags,
            source: IpAddr::from([0; 4]),
            destination: IpAddr::from([0; 4]),
            protocol: 0,
            class: 0,
            flow_label: 0,
            ports: None,
            packet: Vec::new(),
            padding: Vec::new(),
        };
        match be16(frame, l2 - 2) {
            IPV4 => outer.ipv4(ip),
            IPV6 => outer.ipv6(ip),
            other => panic!("EtherType {other:04x}"),
        }
    }

    #[track_caller]
    fn ipv4(self, ip: &[u8]) -> Self {
        assert_eq!(ip[0], 0x45, "no options");
        assert_eq!(ip[4..6], [0, 0], "identification");
        assert_eq!(ip[6..8], [0x40, 0], "don't fragment, and is none");
        assert_eq!(ip[8], 64, "time to live");
        assert_eq!(checksum(&ip[..20]), [0, 0], "header checksum");
        let address = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).expect("four").into();
        let (source, destination) = (address(12), address(16));
        Self { source, destination, class: ip[1], ..self }.payload(ip[9], 20, be16(ip, 2), ip)
    }

    #[track_caller]
    fn ipv6(self, ip: &[u8]) -> Self {
        let first = u32::from_be_bytes(ip[..4].try_into().expect("four"));
        assert_eq!(first >> 28, 6, "version");
        assert_eq!(ip[7], 64, "hop limit");
        let address = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).expect("16").into();
        let (source, destination) = (address(8), address(24));
        let class = u8::try_from(first >> 20 & 0xff).expect("eight bits");
        let outer = Self { source, destination, class, flow_label: first & 0xf_ffff, ..self };
        outer.payload(ip[6], 40, 40 + be16(ip, 4), ip)
    }

    #[track_caller]
    fn payload(self, protocol: u8, header: usize, length: u16, ip: &[u8]) -> Self {
        let (packet, padding) = ip.split_at(usize::from(length));
        let payload = &packet[header..];
        let padding = padding.to_vec();
        if protocol != 17 {
            return Self { protocol, packet: payload.to_vec(), padding, ..self };
        }
        assert_eq!(usize::from(be16(payload, 4)), payload.len(), "UDP length");
        assert_eq!(payload[6..8], [0, 0], "no UDP checksum");
        let ports = Some((be16(payload, 0), be16(payload, 2)));
        Self { protocol, ports, packet: payload[8..].to_vec(), padding, ..self }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
