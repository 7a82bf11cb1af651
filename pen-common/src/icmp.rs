//! ICMP and ICMPv6 (RFC 792, RFC 4443): which messages are of interest for a virtual address, which
//! packets may be answered with an error, and what such an error says. Pure: the XDP program reads
//! and writes the bytes.

use crate::abi::AddrEntry;
use crate::csum::Checksum;
use crate::forward::{self, Lookup};
use crate::net::{Addr, Be16, Ipv4Header, Ipv6Header, protocol};
use crate::verdict::{Counter, PassReason};

/// What all messages begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; that of ICMPv6 covers a pseudo-header as well.
    pub checksum: Be16,
    /// Identifier and sequence number of an echo; MTU and the like of an error.
    pub rest: [u8; 4],
}
const _: () = assert!(size_of::<IcmpHeader>() == 8);

/// What a message is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Are you there?
    EchoRequest,
    /// A packet of a flow did not get through; it is quoted.
    Error,
    /// Anything else.
    Other,
}

impl Message {
    /// By the first two bytes of an ICMP message.
    #[must_use]
    #[inline(always)]
    pub const fn v4(kind: u8, code: u8) -> Self {
        match (kind, code) {
            (8, 0) => Self::EchoRequest,
            // Destination unreachable (also "fragmentation needed"), time exceeded, parameter
            // problem. Not source quench (RFC 6633) nor redirect, which is for the station that
            // sent.
            (3 | 11 | 12, _) => Self::Error,
            _ => Self::Other,
        }
    }

    /// By the first two bytes of an ICMPv6 message.
    #[must_use]
    #[inline(always)]
    pub const fn v6(kind: u8, code: u8) -> Self {
        match (kind, code) {
            (128, 0) => Self::EchoRequest,
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            (1..=4, _) => Self::Error,
            _ => Self::Other,
        }
    }

    /// Whether an ICMP error says that nobody gets packets there: of host, protocol or port, or by an
    /// administrator. Not "fragmentation needed" and what is about a single packet.
    #[must_use]
    #[inline(always)]
    pub const fn is_unreachable_v4(kind: u8, code: u8) -> bool {
        kind == 3 && matches!(code, 0..=3 | 9..=13)
    }

    /// The same of ICMPv6: no route, prohibited, address, port.
    #[must_use]
    #[inline(always)]
    pub const fn is_unreachable_v6(kind: u8, code: u8) -> bool {
        kind == 1 && matches!(code, 0 | 1 | 3 | 4)
    }
}

/// Type and code of the answer to an echo request.
pub const ECHO_REPLY_V4: [u8; 2] = [0, 0];
/// The same of ICMPv6.
pub const ECHO_REPLY_V6: [u8; 2] = [129, 0];
/// Time to live of the packets that we send ourselves (the number in use, RFC 1700).
pub const TTL: u8 = 64;
/// Type of service of an error: precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;
/// Most bytes of the packet that an ICMP error quotes: with its own headers it has 576 bytes then
/// (RFC 1812 section 4.3.2.3).
pub const QUOTE_V4: u16 = 576 - ERROR_V4;
/// The same of ICMPv6: the error fits into the least MTU of 1280 bytes (RFC 4443 section 2.4 (c)).
pub const QUOTE_V6: u16 = 1280 - ERROR_V6;
/// Length of the headers of an error before its quote.
pub const ERROR_V4: u16 = 28;
/// The same of ICMPv6.
pub const ERROR_V6: u16 = IPV6 + ICMP;
const IPV6: u16 = 40;
const ICMP: u16 = 8;
const _: () = assert!(ERROR_V4 as usize == size_of::<Ipv4Header>() + size_of::<IcmpHeader>());
const _: () = assert!(ERROR_V6 as usize == size_of::<Ipv6Header>() + size_of::<IcmpHeader>());

/// An error that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The packet does not fit; one of this many bytes would.
    TooBig {
        /// Longest IP packet that fits.
        mtu: u32,
    },
    /// Its time to live was used up on the way.
    TimeExceeded,
}

impl Complaint {
    /// The ICMP header, its checksum zero (RFC 792, RFC 1191 section 4).
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    pub const fn v4(self) -> IcmpHeader {
        let (kind, code, low) = match self {
            Self::TooBig { mtu } if mtu > 0xffff => (3, 4, 0xffff),
            Self::TooBig { mtu } => (3, 4, mtu as u16),
            Self::TimeExceeded => (11, 0, 0),
        };
        let [high, low] = low.to_be_bytes();
        IcmpHeader { kind, code, checksum: Be16::new(0), rest: [0, 0, high, low] }
    }

    /// The ICMPv6 header, its checksum zero (RFC 4443 sections 3.2 and 3.3).
    #[must_use]
    #[inline(always)]
    pub const fn v6(self) -> IcmpHeader {
        let (kind, rest) = match self {
            Self::TooBig { mtu } => (2, mtu.to_be_bytes()),
            Self::TimeExceeded => (3, [0; 4]),
        };
        IcmpHeader { kind, code: 0, checksum: Be16::new(0), rest }
    }
}

/// Whether an echo request, which is addressed to our station, is answered. The access list of the address holds.
///
/// # Errors
///
/// The counter of the frame's end.
#[inline(always)]
pub fn may_echo(lookup: &impl Lookup, vip: &Addr, source: &Addr) -> Result<(), Counter> {
    let entry = forward::own(lookup, vip).map_err(PassReason::counter)?;
    if entry.flags & AddrEntry::ECHO == 0 || !is_single_host(source) {
        return Err(Counter::PassProtocol);
    }
    if forward::is_denied(lookup, &entry, source) {
        return Err(Counter::DropAcl);
    }
    Ok(())
}

/// Whether a packet may be answered with an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4
/// (e)): its source must be a single host, and of a fragmented datagram only the first fragment
/// counts. Not in answer to ICMP, because what is forwarded of it are errors. That the destination
/// is no group and the frame was for us alone has been seen before.
#[must_use]
#[inline(always)]
pub const fn may_complain(source: &Addr, protocol: u8, later_fragment: bool) -> bool {
    let icmp = protocol == protocol::ICMP || protocol == protocol::ICMPV6;
    !icmp && !later_fragment && is_single_host(source)
}

/// Whether an address can be that of one host elsewhere: not unspecified, loopback, multicast or
/// broadcast (RFC 1122 section 3.2.1.3, RFC 4291 section 2.4).
#[must_use]
#[inline(always)]
pub const fn is_single_host(addr: &Addr) -> bool {
    let (high, low) = addr.halves();
    if addr.is_v4() {
        let net = (low >> 24) & 0xff;
        return net != 0 && net != 127 && net < 224;
    }
    // `::` and `::1`, and ff00::/8.
    !(high == 0 && low <= 1) && high >> 56 != 0xff
}

/// The IPv4 header of an error with a quote of `quoted` bytes. "Don't fragment" goes with the
/// identification 0 (RFC 6864 section 4.1).
#[must_use]
#[inline(always)]
pub fn ipv4_header(source: [u8; 4], destination: [u8; 4], quoted: u16) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        tos: TOS,
        total_length: Be16::new(ERROR_V4 + quoted),
        identification: Be16::new(0),
        fragment: Be16::new(0x4000),
        ttl: TTL,
        protocol: protocol::ICMP,
        checksum: Be16::new(0),
        source,
        destination,
    };
    header.checksum = header.sum().finish();
    header
}

/// How much of an IPv4 packet is quoted.
#[must_use]
#[inline(always)]
pub const fn quoted_v4(ip: &Ipv4Header) -> u16 {
    let length = ip.total_length.value();
    if length > QUOTE_V4 { QUOTE_V4 } else { length }
}

/// How much of an IPv6 packet is quoted.
#[must_use]
#[inline(always)]
pub const fn quoted_v6(ip: &Ipv6Header) -> u16 {
    let length = ip.payload_length.value();
    if length > QUOTE_V6 - IPV6 { QUOTE_V6 } else { IPV6 + length }
}

/// The IPv6 header of an error with a quote of `quoted` bytes.
#[must_use]
#[inline(always)]
pub const fn ipv6_header(source: [u8; 16], destination: [u8; 16], quoted: u16) -> Ipv6Header {
    Ipv6Header {
        version_class_flow: [0x60 | TOS >> 4, TOS << 4, 0, 0],
        payload_length: Be16::new(ICMP + quoted),
        next_header: protocol::ICMPV6,
        hop_limit: TTL,
        source,
        destination,
    }
}

/// The sum of an error's header, to which the quote is added; for ICMPv6 on top of the
/// pseudo-header.
#[must_use]
#[inline(always)]
pub const fn sum(sum: Checksum, header: &IcmpHeader) -> Checksum {
    let [high, low] = header.checksum.0;
    sum.add_bytes([header.kind, header.code, high, low]).add_bytes(header.rest)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::Group;
    use crate::forward::tests::maps;
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().expect("literal"))
    }

    #[test]
    fn errors_that_quote_a_flow_are_told_from_other_messages() {
        for kind in 0..=255 {
            let v4 = match kind {
                8 => Message::EchoRequest,
                3 | 11 | 12 => Message::Error,
                _ => Message::Other,
            };
            let v6 = match kind {
                128 => Message::EchoRequest,
                1..=4 => Message::Error,
                _ => Message::Other,
            };
            assert_eq!((Message::v4(kind, 0), Message::v6(kind, 0)), (v4, v6), "{kind}");
        }
        assert_eq!(Message::v4(3, 4), Message::Error);
        assert_eq!(Message::v4(8, 1), Message::Other, "an echo request has code 0");
        assert_eq!(Message::v6(128, 1), Message::Other);
    }

    #[test]
    fn what_says_that_nobody_is_there_is_told_from_other_errors() {
        let codes = |found: &dyn Fn(u8) -> bool| (0..=20).filter(|code| found(*code)).count();
        assert_eq!(codes(&|code| Message::is_unreachable_v4(3, code)), 9);
        assert_eq!(codes(&|code| Message::is_unreachable_v6(1, code)), 4);
        assert!(!Message::is_unreachable_v4(3, 4), "fragmentation needed");
        for kind in (0..=255).filter(|kind| *kind != 3) {
            assert!(!Message::is_unreachable_v4(kind, 1), "{kind}");
        }
        for kind in (0..=255).filter(|kind| *kind != 1) {
            assert!(!Message::is_unreachable_v6(kind, 0), "{kind}");
        }
    }

    #[test]
    fn complaints_are_as_the_standards_draw_them() {
        let bytes = |header: IcmpHeader| {
            assert_eq!(header.checksum, Be16::new(0));
            (header.kind, header.code, header.rest)
        };
        let too_big = |mtu| Complaint::TooBig { mtu };
        assert_eq!(bytes(too_big(1480).v4()), (3, 4, [0, 0, 5, 200]));
        assert_eq!(bytes(too_big(65_535).v4()), (3, 4, [0, 0, 255, 255]));
        assert_eq!(bytes(too_big(65_536).v4()), (3, 4, [0, 0, 255, 255]));
        assert_eq!(bytes(too_big(0x1_0203).v6()), (2, 0, [0, 1, 2, 3]));
        assert_eq!(bytes(Complaint::TimeExceeded.v4()), (11, 0, [0; 4]));
        assert_eq!(bytes(Complaint::TimeExceeded.v6()), (3, 0, [0; 4]));
    }

    #[test]
    fn nobody_but_a_single_host_is_complained_to() {
        for host in ["198.51.100.7", "1.0.0.0", "223.255.255.255", "2001:db8::7", "fe80::1", "::2"]
        {
            assert!(may_complain(&addr(host), protocol::UDP, false), "{host}");
        }
        for none in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "ffff::",
        ] {
            assert!(!may_complain(&addr(none), protocol::UDP, false), "{none}");
        }
    }

    #[test]
    fn no_complaint_about_icmp_or_the_rest_of_a_datagram() {
        let client = addr("198.51.100.7");
        assert!(may_complain(&client, protocol::TCP, false));
        assert!(!may_complain(&client, protocol::TCP, true));
        assert!(!may_complain(&client, protocol::ICMP, false));
        assert!(!may_complain(&addr("2001:db8::7"), protocol::ICMPV6, false));
    }

    #[test]
    fn an_echo_is_answered_by_an_address_that_is_ours_and_set_to_it() {
        let (vip, client) = (addr("192.0.2.10"), addr("198.51.100.7"));
        let mut maps = maps();
        assert_eq!(may_echo(&maps, &vip, &client), Err(Counter::PassProtocol));
        for entry in maps.addrs.values_mut() {
            (entry.flags, entry.acl) = (AddrEntry::ECHO, 1);
        }
        assert_eq!(may_echo(&maps, &vip, &client), Ok(()));
        let nobody = addr("255.255.255.255");
        assert_eq!(may_echo(&maps, &vip, &nobody), Err(Counter::PassProtocol));
        assert_eq!(may_echo(&maps, &client, &vip), Err(Counter::PassNotOurs));
        maps.denied.push((1, client));
        assert_eq!(may_echo(&maps, &vip, &client), Err(Counter::DropAcl));
        maps.groups.push(Group { role: Group::BACKUP, ..Group::ALWAYS });
        maps.addrs.values_mut().for_each(|entry| entry.group = 1);
        assert_eq!(may_echo(&maps, &vip, &client), Err(Counter::PassNotMaster));
    }

    #[test]
    fn an_error_has_the_length_of_its_parts_and_a_checksum_that_holds() {
        let header = ipv4_header([192, 0, 2, 10], [198, 51, 100, 7], QUOTE_V4);
        assert_eq!((header.total_length.value(), header.protocol), (576, 1));
        assert_eq!(header.sum().finish(), Be16::new(0));
        let header = ipv6_header([1; 16], [2; 16], QUOTE_V6);
        assert_eq!((header.payload_length.value() + 40, header.next_header), (1280, 58));
        assert_eq!(header.version_class_flow, [0x6c, 0, 0, 0]);
    }

    #[test]
    fn as_much_is_quoted_as_there_is_and_may_be() {
        let mut v4 = ipv4_header([0; 4], [0; 4], 0);
        for (length, quoted) in [(28, 28), (547, 547), (548, 548), (549, 548), (65_535, 548)] {
            v4.total_length = Be16::new(length);
            assert_eq!(quoted_v4(&v4), quoted);
        }
        let mut v6 = ipv6_header([0; 16], [0; 16], 0);
        for (payload, quoted) in [(8, 48), (1191, 1231), (1192, 1232), (1193, 1232), (65_535, 1232)]
        {
            v6.payload_length = Be16::new(payload);
            assert_eq!(quoted_v6(&v6), quoted);
        }
    }

    #[test]
    fn the_sum_of_a_header_covers_all_its_bytes() {
        let header =
            IcmpHeader { kind: 3, code: 4, checksum: Be16::new(0x0506), rest: [7, 8, 9, 1] };
        let plain = Checksum::new().add_bytes([3, 4, 5, 6]).add_bytes([7, 8, 9, 1]);
        assert_eq!(sum(Checksum::new(), &header).finish(), plain.finish());
    }
}
