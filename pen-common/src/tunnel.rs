//! What a packet wears on its way through a tunnel: IP in IP (RFC 2003, RFC 2473, RFC 4213), or
//! generic UDP encapsulation in its variant 1 (draft-ietf-intarea-gue section 4), in which the inner
//! packet follows the UDP header directly and its first four bits say which IP it is.
//!
//! Type of service or traffic class are those of the inner packet, congestion marks included (RFC
//! 6040, normal mode). The inner time to live is not touched: the client's packet makes one hop.

use crate::abi::Service;
use crate::csum::Checksum;
use crate::net::{Addr, Be16, Ipv4Header, Ipv6Header, UdpHeader};

/// Lengths of the headers in bytes, as they count in length fields.
pub const IPV4_HEADER: u16 = 20;
/// See [`IPV4_HEADER`].
pub const IPV6_HEADER: u16 = 40;
/// See [`IPV4_HEADER`].
pub const UDP_HEADER: u16 = 8;
const _: () = assert!(size_of::<Ipv4Header>() == IPV4_HEADER as usize);
const _: () = assert!(size_of::<Ipv6Header>() == IPV6_HEADER as usize);
const _: () = assert!(size_of::<UdpHeader>() == UDP_HEADER as usize);
/// UDP port of GUE (IANA).
pub const GUE_PORT: Be16 = Be16::new(6080);
/// Time to live and hop limit of the outer header (the default of RFC 1700).
const TTL: u8 = 64;
/// IPv4: "don't fragment", which the backend would have to put together again.
const DONT_FRAGMENT: Be16 = Be16::new(0x4000);

/// By how many bytes a mode of tunnel makes packets longer, to backends of this family.
#[must_use]
#[inline(always)]
pub const fn overhead(mode: u8, to_v4: bool) -> u16 {
    let ip = if to_v4 { IPV4_HEADER } else { IPV6_HEADER };
    ip + if mode == Service::GUE { UDP_HEADER } else { 0 }
}

/// Longest inner packet, for an interface that takes IP packets of `mtu` bytes (0 if that is not
/// known) and an outer header of `overhead` bytes.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "compared just before")]
pub const fn room(mtu: u32, overhead: u16) -> u16 {
    let mtu = if mtu == 0 || mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 };
    mtu.saturating_sub(overhead)
}

/// The outer header to an IPv4 backend; `payload` bytes of `protocol` follow.
#[must_use]
#[inline(always)]
pub fn ipv4(source: Addr, destination: Addr, protocol: u8, class: u8, payload: u16) -> Ipv4Header {
    let header = Ipv4Header {
        version_ihl: Ipv4Header::NO_OPTIONS,
        tos: class,
        total_length: Be16::new(payload + IPV4_HEADER),
        // Not needed by what is never fragmented (RFC 6864).
        identification: Be16::new(0),
        fragment: DONT_FRAGMENT,
        ttl: TTL,
        protocol,
        checksum: Be16::new(0),
        source: source.v4_bytes(),
        destination: destination.v4_bytes(),
    };
    let [high, low] = header.total_length.0;
    let sum = Checksum::default()
        .add_bytes([header.version_ihl, header.tos, high, low])
        .add_bytes([0, 0, header.fragment.0[0], header.fragment.0[1]])
        .add_bytes([header.ttl, header.protocol, 0, 0])
        .add_bytes(header.source)
        .add_bytes(header.destination);
    Ipv4Header { checksum: sum.finish(), ..header }
}

/// The outer header to an IPv6 backend. The flow label lets routers spread tunnels (RFC 6438).
#[must_use]
#[inline(always)]
pub const fn ipv6(
    source: Addr,
    destination: Addr,
    next_header: u8,
    class: u8,
    hash: u64,
    payload: u16,
) -> Ipv6Header {
    let [.., a, b, c, d] = hash.to_be_bytes();
    let label = u32::from_be_bytes([a, b, c, d]) & 0xf_ffff;
    let first = (6 << 28) | ((class as u32) << 20) | label;
    Ipv6Header {
        version_class_flow: first.to_be_bytes(),
        payload_length: Be16::new(payload),
        next_header,
        hop_limit: TTL,
        source: source.bytes(),
        destination: destination.bytes(),
    }
}

/// The UDP header of GUE. The source port is the flow's, so that routers and the backend's network
/// card spread flows. No checksum: the inner packet has its own (RFC 6935 for IPv6).
#[must_use]
#[inline(always)]
pub const fn udp(hash: u64, payload: u16) -> UdpHeader {
    let [.., high, low] = hash.to_be_bytes();
    UdpHeader {
        source: Be16([high | 0x80, low]),
        destination: GUE_PORT,
        length: Be16::new(payload + UDP_HEADER),
        checksum: Be16::new(0),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::net::protocol;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("literal").into()
    }

    #[test]
    fn the_overhead_is_that_of_the_headers() {
        assert_eq!(overhead(Service::IPIP, true), 20);
        assert_eq!(overhead(Service::IPIP, false), 40);
        assert_eq!(overhead(Service::GUE, true), 28);
        assert_eq!(overhead(Service::GUE, false), 48);
    }

    #[test]
    fn the_room_is_what_the_header_leaves_of_the_mtu() {
        assert_eq!(room(1500, 20), 1480);
        assert_eq!(room(0, 20), 65515, "not known: what the length field of IPv4 can say");
        assert_eq!(room(70_000, 40), 65495);
        assert_eq!(room(10, 20), 0);
    }

    #[test]
    fn an_ipv6_header_bears_class_and_label() {
        let header = ipv6(addr("fd00::1"), addr("fd00::2"), 41, 0xab, 0xdead_beef, 100);
        assert_eq!(header.version_class_flow, [0x6a, 0xbd, 0xbe, 0xef]);
        assert_eq!((header.payload_length.value(), header.hop_limit), (100, 64));
        assert_eq!(Addr::v6(header.destination), addr("fd00::2"));
    }

    #[test]
    fn a_source_port_of_gue_is_ephemeral() {
        for hash in [0, 1, 0x7fff, 0x8000, u64::MAX] {
            let header = udp(hash, 20);
            assert_eq!(u64::from(header.source.value()), (hash & 0x7fff) | 0x8000);
            assert_eq!((header.destination.value(), header.length.value()), (6080, 28));
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_header_sums_to_zero(
            source: [u8; 4], destination: [u8; 4], class: u8, payload in 0_u16..=65515,
        ) {
            let header =
                ipv4(Addr::v4(source), Addr::v4(destination), protocol::IPIP, class, payload);
            let [length_high, length_low] = header.total_length.0;
            let [sum_high, sum_low] = header.checksum.0;
            let sum = Checksum::default()
                .add_bytes([header.version_ihl, header.tos, length_high, length_low])
                .add_bytes([0, 0, 0x40, 0])
                .add_bytes([header.ttl, header.protocol, sum_high, sum_low])
                .add_bytes(source)
                .add_bytes(destination);
            prop_assert_eq!(sum.finish().value(), 0);
            prop_assert_eq!(header.total_length.value(), payload + 20);
        }
    }
}
