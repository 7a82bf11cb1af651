//! Frames as a neighbour would send them, with right lengths and checksums. Tests say only what is
//! special about a frame, and spoil a right one with [`patch`] where they need a wrong one.
//!
//! The checksum here is the definition, word by word; the program's own one is under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::net::{MacAddr, protocol};

use crate::world::{CLIENT_MAC, CLIENT4, CLIENT6, VIP_MAC, VIP4, VIP6};

/// Where the IP header stands.
pub(crate) const IP: usize = 14;
/// Where the payload of an IPv4 header without options stands.
pub(crate) const IPV4_PAYLOAD: usize = IP + 20;
/// Where the payload of an IPv6 header stands.
pub(crate) const IPV6_PAYLOAD: usize = IP + 40;
pub(crate) const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// Shortest frame on a wire; shorter payloads are padded.
const MIN_FRAME: usize = 60;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// A packet from the client to a service.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) station: MacAddr,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    /// What follows the transport header; the whole payload of other protocols.
    pub(crate) data: Vec<u8>,
    /// What stands between the IP header and the transport header, and its protocol.
    between: Vec<u8>,
    next_header: u8,
}

impl Packet {
    /// A TCP SYN.
    pub(crate) fn tcp(destination: impl Into<IpAddr>, port: u16) -> Self {
        Self::new(destination.into(), protocol::TCP, port)
    }

    /// A UDP datagram of four bytes.
    pub(crate) fn udp(destination: impl Into<IpAddr>, port: u16) -> Self {
        Self { data: b"ping".to_vec(), ..Self::new(destination.into(), protocol::UDP, port) }
    }

    /// A payload of another protocol.
    pub(crate) fn other(destination: impl Into<IpAddr>, protocol: u8, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..Self::new(destination.into(), protocol, 0) }
    }

    /// With these options of IPv4, which must fill words.
    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { between: options.to_vec(), ..self }
    }

    /// With these extension headers of IPv6: their protocols, and all but their first two bytes.
    pub(crate) fn extended(self, chain: &[(u8, &[u8])]) -> Self {
        let protocols = chain.iter().map(|(protocol, _)| *protocol);
        let mut next = protocols.skip(1).chain([self.protocol]);
        let mut between = Vec::new();
        for (protocol, rest) in chain {
            let units = (2 + rest.len()) / 8 - 1;
            // The length of a fragment header has another meaning.
            let units = if *protocol == protocol::FRAGMENT { 0 } else { units };
            between.push(next.next().expect("one for each"));
            between.push(u8::try_from(units).expect("up to 2 KiB"));
            between.extend(*rest);
        }
        let next_header = chain.first().map_or(self.protocol, |(protocol, _)| *protocol);
        Self { between, next_header, ..self }
    }

    fn new(destination: IpAddr, protocol: u8, port: u16) -> Self {
        let source = if destination.is_ipv4() { CLIENT4.into() } else { CLIENT6.into() };
        Self {
            station: VIP_MAC,
            source,
            destination,
            protocol,
            source_port: 40000,
            port,
            data: Vec::new(),
            between: Vec::new(),
            next_header: protocol,
        }
    }

    /// From this address and port.
    pub(crate) fn from(self, source: impl Into<IpAddr>, source_port: u16) -> Self {
        Self { source: source.into(), source_port, ..self }
    }

    /// Addressed to this station.
    pub(crate) fn at_station(self, station: MacAddr) -> Self {
        Self { station, ..self }
    }

    /// With this payload behind the transport header.
    pub(crate) fn data(self, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..self }
    }

    /// The frame, not padded.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let (ethertype, packet) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (IPV4, ipv4(source, destination, self.protocol, &self.between, &transport))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let payload = [&self.between[..], &transport].concat();
                (IPV6, ipv6(source, destination, self.next_header, 64, &payload))
            }
            mixed => panic!("no packet has addresses of two families: {mixed:?}"),
        };
        ethernet(self.station, CLIENT_MAC, ethertype, &packet)
    }

    fn transport(&self) -> Vec<u8> {
        let [ports_high, ports_low] = [self.source_port.to_be_bytes(), self.port.to_be_bytes()];
        let ports = [ports_high, ports_low].concat();
        let (header, checksum_at) = match self.protocol {
            protocol::TCP => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0];
                ([&ports[..], &rest].concat(), 16)
            }
            protocol::UDP => {
                let length = be16(8 + self.data.len());
                ([&ports[..], &length, &[0, 0]].concat(), 6)
            }
            _ => return self.data.clone(),
        };
        let mut transport = [header, self.data.clone()].concat();
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, transport.len());
        let sum = checksum(&[pseudo, transport.clone()].concat());
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum);
        transport
    }
}

/// A TCP SYN and a UDP datagram to each usual service, named.
pub(crate) fn usual_packets() -> [(&'static str, Packet); 4] {
    [
        ("TCP over IPv4", Packet::tcp(VIP4, 80)),
        ("UDP over IPv4", Packet::udp(VIP4, 53)),
        ("TCP over IPv6", Packet::tcp(VIP6, 80)),
        ("UDP over IPv6", Packet::udp(VIP6, 53)),
    ]
}

/// ARP, as the client asks for the VIP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arp {
    pub(crate) station: MacAddr,
    pub(crate) hardware: u16,
    pub(crate) protocol: u16,
    pub(crate) lengths: [u8; 2],
    pub(crate) operation: u16,
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender_ip: Ipv4Addr,
    pub(crate) target_mac: MacAddr,
    pub(crate) target_ip: Ipv4Addr,
}

impl Arp {
    /// Who has this address?
    pub(crate) fn who_has(target_ip: Ipv4Addr) -> Self {
        Self {
            station: BROADCAST,
            hardware: 1,
            protocol: IPV4,
            lengths: [6, 4],
            operation: 1,
            sender_mac: CLIENT_MAC,
            sender_ip: CLIENT4,
            target_mac: MacAddr::NONE,
            target_ip,
        }
    }

    /// The frame, padded as on a wire.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let packet = [
            &self.hardware.to_be_bytes()[..],
            &self.protocol.to_be_bytes(),
            &self.lengths,
            &self.operation.to_be_bytes(),
            &self.sender_mac.0,
            &self.sender_ip.octets(),
            &self.target_mac.0,
            &self.target_ip.octets(),
        ]
        .concat();
        let mut frame = ethernet(self.station, CLIENT_MAC, ARP, &packet);
        frame.resize(MIN_FRAME, 0);
        frame
    }
}

/// A neighbour solicitation, as the client asks for the VIP.
#[derive(Clone, Debug)]
pub(crate) struct Solicitation {
    pub(crate) station: MacAddr,
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) hop_limit: u8,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) target: Ipv6Addr,
    pub(crate) options: Vec<u8>,
}

impl Solicitation {
    /// Who has this address? Sent to the group of solicited nodes, with the asker's own address.
    pub(crate) fn who_has(target: Ipv6Addr) -> Self {
        let [.., a, b, c] = target.octets();
        let group = u16::from_be_bytes([0xff, a]);
        let low = u16::from_be_bytes([b, c]);
        Self {
            station: MacAddr([0x33, 0x33, 0xff, a, b, c]),
            source: CLIENT6,
            destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, group, low),
            hop_limit: 255,
            kind: 135,
            code: 0,
            target,
            options: source_link_layer(CLIENT_MAC),
        }
    }

    /// With these options.
    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut message =
            [&[self.kind, self.code, 0, 0, 0, 0, 0, 0][..], &self.target.octets(), &self.options]
                .concat();
        let ends = (IpAddr::from(self.source), IpAddr::from(self.destination));
        let pseudo = pseudo_header(ends.0, ends.1, protocol::ICMPV6, message.len());
        let sum = checksum(&[pseudo, message.clone()].concat());
        message[2..4].copy_from_slice(&sum);
        let packet =
            ipv6(self.source, self.destination, protocol::ICMPV6, self.hop_limit, &message);
        ethernet(self.station, CLIENT_MAC, IPV6, &packet)
    }
}

/// The option "source link-layer address".
pub(crate) fn source_link_layer(mac: MacAddr) -> Vec<u8> {
    [&[1, 1][..], &mac.0].concat()
}

/// The option "nonce" (RFC 7527).
pub(crate) const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

/// An Ethernet frame.
pub(crate) fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with "don't fragment"; options must fill words.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("at most 40 bytes of options");
    let length = be16(20 + options.len() + payload.len());
    let mut header = [
        &[0x40 | words, 0][..],
        &length,
        &[0x12, 0x34, 0x40, 0, 64, protocol, 0, 0],
        &source.octets(),
        &destination.octets(),
        options,
    ]
    .concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

/// An IPv6 packet.
pub(crate) fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    [
        &[0x60, 0, 0, 0][..],
        &be16(payload.len()),
        &[next_header, hop_limit],
        &source.octets(),
        &destination.octets(),
        payload,
    ]
    .concat()
}

/// Puts a tag (802.1Q 0x8100, 802.1ad 0x88a8) with VLAN 7 behind the Ethernet addresses.
pub(crate) fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &tag.to_be_bytes(), &[0, 7], &frame[12..]].concat()
}

/// The frame with these bytes at `offset`.
pub(crate) fn patch(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The pseudo-header that the checksums of TCP, UDP and ICMPv6 cover.
pub(crate) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [source.octets(), destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [source.octets(), destination.octets()].concat()
        }
        mixed => panic!("no packet has addresses of two families: {mixed:?}"),
    };
    // The 32-bit form of IPv6; the two zero words do not change IPv4's sum.
    header.extend([0, 0]);
    header.extend(be16(length));
    header.extend([0, 0, 0, protocol]);
    header
}

/// The internet checksum (RFC 1071); 0 over bytes that hold their right checksum.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

/// A length as it stands in a header.
pub(crate) fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a packet has less than 64 KiB").to_be_bytes()
}
