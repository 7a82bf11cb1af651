//! Addresses, ports and header layouts as they stand in a frame. All headers have alignment 1, so
//! that a reference to them may point anywhere into a packet.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::csum::Checksum;

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be16(pub [u8; 2]);

impl Be16 {
    /// From a number in host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// To host order.
    #[must_use]
    #[inline(always)]
    pub const fn value(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

/// An Ethernet address.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// No address: a neighbour that is not resolved.
    pub const NONE: Self = Self([0; 6]);
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP address in 16 bytes, in network order; IPv4 as IPv4-mapped IPv6 (RFC 4291 section
/// 2.5.5.2). Held as two words, so that the kernel copies and compares words, not bytes; in a
/// packet an address is a byte array and is read with [`Addr::v4`] or [`Addr::v6`].
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr([u64; 2]);

impl Addr {
    /// From the four bytes of an IPv4 header.
    #[must_use]
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        let mapped = 0xffff << 32 | u32::from_be_bytes(bytes) as u64;
        Self([0, mapped.to_be()])
    }

    /// From the sixteen bytes of an IPv6 header.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes the two halves of a number")]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        // As one number, because LLVM does not put words together that were taken apart to bytes.
        let whole = u128::from_le_bytes(bytes);
        Self([(whole as u64).to_le(), ((whole >> 64) as u64).to_le()])
    }

    /// The sixteen bytes.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let (high, low) = self.halves();
        let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The four bytes of an IPv4 header; the last four of an IPv6 address.
    #[must_use]
    #[inline(always)]
    pub const fn v4_bytes(self) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = self.halves().1.to_be_bytes();
        [a, b, c, d]
    }

    /// True for an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let (high, low) = self.halves();
        high == 0 && low >> 32 == 0xffff
    }

    /// From its two halves as numbers.
    #[must_use]
    #[inline(always)]
    pub const fn from_halves(high: u64, low: u64) -> Self {
        Self([high.to_be(), low.to_be()])
    }

    /// The two halves as numbers, for hashing.
    #[must_use]
    #[inline(always)]
    pub const fn halves(self) -> (u64, u64) {
        let [high, low] = self.0;
        (u64::from_be(high), u64::from_be(low))
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let bytes = addr.bytes();
        if addr.is_v4() {
            let [.., a, b, c, d] = bytes;
            Self::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Self::V6(Ipv6Addr::from(bytes))
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// EtherTypes (IEEE 802 numbers).
pub mod ethertype {
    use super::Be16;

    /// IPv4.
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// ARP.
    pub const ARP: Be16 = Be16::new(0x0806);
    /// IPv6.
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// A provider's VLAN tag, outside of the customer's (IEEE 802.1ad).
    pub const PROVIDER_VLAN: Be16 = Be16::new(0x88a8);

    /// True if a [`super::VlanTag`] follows.
    #[must_use]
    #[inline(always)]
    pub fn is_tag(ethertype: Be16) -> bool {
        ethertype == VLAN || ethertype == PROVIDER_VLAN
    }
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 extension header: options for every router (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 extension header: nodes to be visited (RFC 8200 section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 extension header: a fragment (RFC 8200 section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// IPv6 extension header: options for the destination (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EthHeader {
    /// Destination.
    pub destination: MacAddr,
    /// Source.
    pub source: MacAddr,
    /// EtherType of the payload.
    pub ethertype: Be16,
}
const _: () = assert!(size_of::<EthHeader>() == 14);

/// The addresses of an Ethernet header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stations {
    /// Destination.
    pub destination: MacAddr,
    /// Source.
    pub source: MacAddr,
}
const _: () = assert!(size_of::<Stations>() == 12);

/// What stands between the addresses and the EtherType of a tagged frame, from the EtherType that
/// says so on ([`ethertype::VLAN`]): the two bytes after it, and the EtherType of what follows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligibility (1 bit) and VLAN (12 bits).
    pub control: Be16,
    /// EtherType of the payload.
    pub ethertype: Be16,
}
const _: () = assert!(size_of::<VlanTag>() == 4);

/// IPv4 header without options (RFC 791 section 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload in bytes.
    pub total_length: Be16,
    /// Identification of fragments.
    pub identification: Be16,
    /// Flags (3 bits) and fragment offset (13 bits, in units of 8 bytes).
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: Be16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}
const _: () = assert!(size_of::<Ipv4Header>() == 20);

impl Ipv4Header {
    /// Version 4, header of five words: no options.
    pub const NO_OPTIONS: u8 = 0x45;

    /// Length of the header with its options, in bytes; `None` if this is no IPv4 header: another
    /// version, or fewer than five words.
    #[must_use]
    #[inline(always)]
    pub const fn header_length(&self) -> Option<usize> {
        if self.version_ihl >= Self::NO_OPTIONS && self.version_ihl <= 0x4f {
            Some((self.version_ihl & 0xf) as usize * 4)
        } else {
            None
        }
    }

    /// True for any part of a fragmented datagram: "more fragments" is set or the offset is not 0.
    #[must_use]
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.value() & 0x3fff != 0
    }

    /// True for a fragment that is not the first of its datagram.
    #[must_use]
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment.value() & 0x1fff != 0
    }

    /// The sum of the header with its checksum as it is.
    #[must_use]
    #[inline(always)]
    pub const fn sum(&self) -> Checksum {
        let [length_high, length_low] = self.total_length.0;
        let ([id_high, id_low], [fragment_high, fragment_low]) =
            (self.identification.0, self.fragment.0);
        let [sum_high, sum_low] = self.checksum.0;
        Checksum::new()
            .add_bytes([self.version_ihl, self.tos, length_high, length_low])
            .add_bytes([id_high, id_low, fragment_high, fragment_low])
            .add_bytes([self.ttl, self.protocol, sum_high, sum_low])
            .add_bytes(self.source)
            .add_bytes(self.destination)
    }
}

/// End of an IPv4 header, from the time to live on: what a translation changes. Aligned, because it
/// is put together on the stack.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
pub struct Ipv4Tail {
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: Be16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}
const _: () = assert!(size_of::<Ipv4Tail>() == 12);

/// IPv6 header (RFC 8200 section 3).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6Header {
    /// Version (6), traffic class and flow label.
    pub version_class_flow: [u8; 4],
    /// Length of what follows this header, in bytes.
    pub payload_length: Be16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}
const _: () = assert!(size_of::<Ipv6Header>() == 40);

/// An IPv6 header, aligned, because it is put together on the stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AlignedIpv6Header {
    /// Version, traffic class, flow label, payload length, next header.
    pub start: [u8; 7],
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
}
const _: () = assert!(size_of::<AlignedIpv6Header>() == 40);

/// Start of an IPv6 extension header; of a fragment header the length is always 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ExtensionHeader {
    /// Protocol of what follows this header.
    pub next_header: u8,
    /// Length of this header in units of 8 bytes, the first one not counted.
    pub length: u8,
    /// Kind of a routing header.
    pub kind: u8,
    /// Of a routing header: how many nodes the packet has to visit after its destination.
    pub segments_left: u8,
}
const _: () = assert!(size_of::<ExtensionHeader>() == 4);

/// The IPv6 fragment header (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FragmentHeader {
    /// Protocol of what is fragmented.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset (13 bits, in units of 8 bytes), two bits of zero, and "more fragments".
    pub fragment: Be16,
    /// Identification of the datagram.
    pub identification: [u8; 4],
}
const _: () = assert!(size_of::<FragmentHeader>() == 8);

impl FragmentHeader {
    /// True for a fragment that is not the first of its datagram.
    #[must_use]
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.fragment.value() >> 3 != 0
    }
}

impl Ipv6Header {
    /// True if the header says that it is one.
    #[must_use]
    #[inline(always)]
    pub const fn is_version_6(&self) -> bool {
        self.version_class_flow[0] >> 4 == 6
    }

    /// The traffic class.
    #[must_use]
    #[inline(always)]
    pub const fn class(&self) -> u8 {
        let [first, second, ..] = self.version_class_flow;
        first << 4 | second >> 4
    }
}

impl ExtensionHeader {
    /// Length of the whole header in bytes.
    #[must_use]
    #[inline(always)]
    pub const fn size(&self) -> usize {
        (self.length as usize + 1) * 8
    }
}

/// TCP header without options (RFC 9293 section 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TcpHeader {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Data offset in 32-bit words (high 4 bits).
    pub offset: u8,
    /// Flags CWR..FIN.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}
const _: () = assert!(size_of::<TcpHeader>() == 20);

impl TcpHeader {
    /// Flag: the sender has nothing more to send.
    pub const FIN: u8 = 1;
    /// Flag: opens a connection.
    pub const SYN: u8 = 2;
    /// Flag: the connection is no more.
    pub const RST: u8 = 4;
    /// Flag: acknowledges.
    pub const ACK: u8 = 16;
}

/// UDP header (RFC 768).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UdpHeader {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Length of header and payload in bytes.
    pub length: Be16,
    /// Checksum; 0 means none (IPv4).
    pub checksum: Be16,
}
const _: () = assert!(size_of::<UdpHeader>() == 8);

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ArpPacket {
    /// Hardware type, 1 for Ethernet.
    pub hardware: Be16,
    /// Protocol type, an EtherType.
    pub protocol: Be16,
    /// Length of a hardware address, 6.
    pub hardware_length: u8,
    /// Length of a protocol address, 4.
    pub protocol_length: u8,
    /// [`ArpPacket::REQUEST`] or [`ArpPacket::REPLY`].
    pub operation: Be16,
    /// Hardware address of the sender.
    pub sender_mac: MacAddr,
    /// Protocol address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: [u8; 4],
    /// Hardware address of the target.
    pub target_mac: MacAddr,
    /// Protocol address that is asked for.
    pub target_ip: [u8; 4],
}
const _: () = assert!(size_of::<ArpPacket>() == 28);

impl ArpPacket {
    /// Who has this address?
    pub const REQUEST: Be16 = Be16::new(1);
    /// I have it.
    pub const REPLY: Be16 = Be16::new(2);

    /// True if the fixed fields say "IPv4 over Ethernet".
    #[must_use]
    #[inline(always)]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware.value() == 1
            && self.protocol == ethertype::IPV4
            && self.hardware_length == 6
            && self.protocol_length == 4
    }
}

/// Neighbour solicitation or advertisement without options (RFC 4861 sections 4.3 and 4.4).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NdMessage {
    /// ICMPv6 type: [`NdMessage::SOLICITATION`] or [`NdMessage::ADVERTISEMENT`].
    pub kind: u8,
    /// ICMPv6 code, 0.
    pub code: u8,
    /// ICMPv6 checksum over pseudo-header and message.
    pub checksum: Be16,
    /// Flags of an advertisement, reserved in a solicitation.
    pub flags: [u8; 4],
    /// Address that is asked for.
    pub target: [u8; 16],
}
const _: () = assert!(size_of::<NdMessage>() == 24);

impl NdMessage {
    /// ICMPv6 type of a neighbour solicitation.
    pub const SOLICITATION: u8 = 135;
    /// ICMPv6 type of a neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// Flag of an advertisement: the sender is a router. Who takes it for one, and hears it without,
    /// forgets its routes through it (RFC 4861 section 7.2.5).
    pub const ROUTER: u8 = 0x80;
    /// Flag of an advertisement: answers a solicitation.
    pub const SOLICITED: u8 = 0x40;
    /// Flag of an advertisement: replaces a cached link-layer address.
    pub const OVERRIDE: u8 = 0x20;
}

/// The option "target link-layer address" of an advertisement (RFC 4861 section 4.6.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NdLinkLayerOption {
    /// Type, 2 for the target's address.
    pub kind: u8,
    /// Length in units of 8 bytes, 1.
    pub length: u8,
    /// The address.
    pub mac: MacAddr,
}
const _: () = assert!(size_of::<NdLinkLayerOption>() == 8);

#[cfg(test)]
mod tests;
