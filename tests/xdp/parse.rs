//! Reads a frame back, independently of the program: what its headers say, after proof that they are
//! consistent. Every checksum is computed anew.

use std::net::{IpAddr, Ipv6Addr};

use pen_common::net::{MacAddr, protocol};

use crate::frame::{IPV4, IPV6, checksum, pseudo_header};

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) to: MacAddr,
    pub(crate) from: MacAddr,
    /// VLAN tags, four bytes each, as they stand in the frame.
    pub(crate) tags: Vec<u8>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// Fields of the IP header that nobody changes, and options or extension headers.
    pub(crate) rest_of_ip: Vec<u8>,
    /// More fragments follow, and where this one stands in the datagram.
    pub(crate) fragment: Option<(bool, usize)>,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    /// The transport header without ports and checksum, and what follows; everything of a later
    /// fragment.
    pub(crate) payload: Vec<u8>,
    /// UDP only: the field is zero.
    pub(crate) without_checksum: bool,
    /// The transport checksum is right; of a whole packet it must be.
    pub(crate) is_right: bool,
    /// What stands behind the IP packet.
    pub(crate) padding: Vec<u8>,
}

impl Parsed {
    /// Reads a frame of a right packet.
    #[track_caller]
    pub(crate) fn of(frame: &[u8]) -> Self {
        let parsed = Self::of_any(frame);
        assert!(parsed.is_right || parsed.fragment.is_some(), "transport checksum: {parsed:02x?}");
        parsed
    }

    /// Reads a frame whose transport checksum may be wrong.
    #[track_caller]
    pub(crate) fn of_any(frame: &[u8]) -> Self {
        let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().expect("six bytes"));
        let mut at = 12;
        while matches!(be16(frame, at), 0x8100 | 0x88a8) {
            at += 4;
        }
        let tags = frame[12..at].to_vec();
        let ip = &frame[at + 2..];
        let packet = match be16(frame, at) {
            IPV4 => Ip::v4(ip),
            IPV6 => Ip::v6(ip),
            other => panic!("EtherType {other:#x}"),
        };
        let padding = ip[packet.length..].to_vec();
        let transport = &ip[packet.header..packet.length];
        let mut parsed = Self {
            to: mac(0),
            from: mac(6),
            tags,
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            ttl: packet.ttl,
            rest_of_ip: packet.rest,
            fragment: packet.fragment,
            source_port: 0,
            port: 0,
            payload: transport.to_vec(),
            without_checksum: false,
            is_right: true,
            padding,
        };
        if parsed.fragment.is_none_or(|(_, offset)| offset == 0) {
            parsed.read_transport(transport);
        }
        parsed
    }

    fn read_transport(&mut self, transport: &[u8]) {
        let at = match self.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => return,
        };
        self.source_port = be16(transport, 0);
        self.port = be16(transport, 2);
        self.payload = [&transport[4..at], &transport[at + 2..]].concat();
        self.without_checksum = self.protocol == protocol::UDP && be16(transport, at) == 0;
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, transport.len());
        let sum = checksum(&[pseudo, transport.to_vec()].concat());
        self.is_right = self.without_checksum || sum == [0, 0];
    }
}

struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    rest: Vec<u8>,
    fragment: Option<(bool, usize)>,
    header: usize,
    length: usize,
}

impl Ip {
    fn v4(ip: &[u8]) -> Self {
        let header = usize::from(ip[0] & 0xf) * 4;
        assert_eq!(checksum(&ip[..header]), [0, 0], "header checksum: {:02x?}", &ip[..header]);
        let addr = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes").into();
        let field = be16(ip, 6);
        let fragment = (field & 0x2000 != 0, usize::from(field & 0x1fff) * 8);
        Self {
            source: addr(12),
            destination: addr(16),
            protocol: ip[9],
            ttl: ip[8],
            rest: [&ip[..8], &ip[20..header]].concat(),
            fragment: (fragment != (false, 0)).then_some(fragment),
            header,
            length: usize::from(be16(ip, 2)),
        }
    }

    fn v6(ip: &[u8]) -> Self {
        let addr = |at: usize| {
            Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen bytes")).into()
        };
        let (mut header, mut next, mut fragment) = (40, ip[6], None);
        loop {
            let length = match next {
                0 | 43 | 60 => usize::from(ip[header + 1]) * 8 + 8,
                44 => {
                    let field = be16(ip, header + 2);
                    fragment = Some((field & 1 != 0, usize::from(field & 0xfff8)));
                    8
                }
                _ => break,
            };
            next = ip[header];
            header += length;
        }
        Self {
            source: addr(8),
            destination: addr(24),
            protocol: next,
            ttl: ip[7],
            rest: [&ip[..7], &ip[40..header]].concat(),
            fragment,
            header,
            length: 40 + usize::from(be16(ip, 4)),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
