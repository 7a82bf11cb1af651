//! What a translation needs to know of a packet's headers, wherever they stand: behind tags, IPv4
//! options, IPv6 extension headers, in a whole packet or a fragment; and putting other ends in.
//!
//! Everything goes through the kernel's functions for bytes at any offset, so that one copy serves
//! all packets; [`crate::plain`] is faster for most of them.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::{FragKey, Tuple};
use pen_common::csum::Change;
use pen_common::nat::Job;
use pen_common::net::{
    Addr, AlignedIpv6Header, Be16, FragmentHeader, Ipv4Header, Ipv4Tail, Ipv6Header, TcpHeader,
    UdpHeader, protocol,
};

use crate::packet::{self, Frame};
use crate::{extension, frag, ip, plain};

/// "Don't fragment" and "more fragments" of IPv4, the latter of IPv6.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const MORE_FRAGMENTS_V6: u16 = 1;

/// A packet's headers, and the job of translating it, which has its ends.
pub(crate) struct Head {
    pub(crate) job: Job,
    /// Where the IP header stands.
    pub(crate) l2: usize,
    /// Where the transport header stands; 0 in all fragments but the first, and if it is plain.
    pub(crate) transport: usize,
    /// Where the packet ends, or what an error quotes of it.
    pub(crate) end: usize,
    /// Identification, if it is a fragment.
    id: u32,
    /// [`Head::WHOLE`], ...
    pub(crate) part: u32,
    /// Length of the IP packet.
    pub(crate) length: u16,
    ip_checksum: Be16,
    /// The transport header's.
    checksum: Be16,
    /// The IPv6 header up to its hop limit.
    ipv6_start: [u8; 7],
    /// Hops that it may still take, this one included.
    pub(crate) ttl: u8,
    /// Routers must not fragment it.
    pub(crate) dont_fragment: bool,
    /// It is one for [`crate::plain`].
    pub(crate) is_plain: bool,
    ipv4: Ipv4Header,
    ipv6: Ipv6Header,
    fragment: FragmentHeader,
    tcp: TcpHeader,
    udp: UdpHeader,
}

impl Head {
    /// Part of a datagram: all of it.
    pub(crate) const WHOLE: u32 = 0;
    /// The fragment with the transport header.
    pub(crate) const FIRST: u32 = 1;
    /// Another fragment.
    pub(crate) const LATER: u32 = 2;

    /// What its fragments have in common.
    #[inline(always)]
    pub(crate) fn fragments(&self) -> FragKey {
        let Tuple { source, destination, protocol, .. } = self.job.came;
        frag::key(source, destination, protocol, self.id)
    }

    #[inline(always)]
    pub(crate) fn set_ipv4(&mut self, ip: &Ipv4Header) {
        self.job.came.source = Addr::v4(ip.source);
        self.job.came.destination = Addr::v4(ip.destination);
        self.job.came.protocol = ip.protocol;
        self.ttl = ip.ttl;
        self.length = ip.total_length.value();
        self.ip_checksum = ip.checksum;
        self.dont_fragment = ip.fragment.value() & DONT_FRAGMENT != 0;
    }

    /// `None` if it is no IPv6 header, or has mapped addresses, which would be taken for IPv4.
    #[inline(always)]
    pub(crate) fn set_ipv6(&mut self, ip: &Ipv6Header) -> Option<()> {
        self.job.came.source = Addr::v6(ip.source);
        self.job.came.destination = Addr::v6(ip.destination);
        self.job.came.protocol = ip.next_header;
        self.ttl = ip.hop_limit;
        self.length = pen_common::tunnel::IPV6_HEADER.checked_add(ip.payload_length.value())?;
        self.dont_fragment = true;
        let ([a, b, c, d], [e, f]) = (ip.version_class_flow, ip.payload_length.0);
        self.ipv6_start = [a, b, c, d, e, f, ip.next_header];
        let mapped = self.job.came.source.is_v4() || self.job.came.destination.is_v4();
        if ip.is_version_6() && !mapped { Some(()) } else { None }
    }

    #[inline(always)]
    pub(crate) fn set_tcp(&mut self, tcp: &TcpHeader) {
        self.job.came.source_port = tcp.source;
        self.job.came.port = tcp.destination;
        self.job.tcp_flags = tcp.flags;
        self.checksum = tcp.checksum;
    }

    #[inline(always)]
    pub(crate) fn set_udp(&mut self, udp: &UdpHeader) {
        self.job.came.source_port = udp.source;
        self.job.came.port = udp.destination;
        self.job.tcp_flags = 0;
        self.checksum = udp.checksum;
    }

    /// The checksum of the IPv4 header after the change of addresses, and with this time to live.
    #[inline(always)]
    pub(crate) fn ip_checksum(&self, change: Change, ttl: u8) -> Be16 {
        let word = |ttl| Be16([ttl, self.job.came.protocol]);
        change.word(word(self.ttl), word(ttl)).apply(self.ip_checksum)
    }

    /// The checksum of TCP or UDP after the change of addresses and ports.
    #[inline(always)]
    pub(crate) fn transport_checksum(&self, change: Change) -> Be16 {
        self.changed(self.checksum, change)
    }

    /// The same of a checksum that was read apart.
    #[inline(always)]
    pub(crate) fn changed(&self, checksum: Be16, change: Change) -> Be16 {
        let Job { came, ends, .. } = &self.job;
        let change = change.word(came.source_port, ends.source_port).word(came.port, ends.port);
        if came.protocol == protocol::TCP {
            change.apply(checksum)
        } else {
            change.apply_to_udp(checksum)
        }
    }
}

/// The change of addresses.
#[inline(always)]
pub(crate) fn change(head: &Head) -> Change {
    let Job { came, ends, .. } = &head.job;
    Change::default().addr(&came.source, &ends.source).addr(&came.destination, &ends.destination)
}

/// Reads the headers of the frame's IP packet; false if it is not all there, or is neither TCP nor
/// UDP.
#[inline(always)]
pub(crate) fn read(ctx: *mut xdp_md, head: &mut Head) -> bool {
    plain::read(ctx, head) || read_at(ctx, ip::offset(ctx), head, PORTS)
}

/// What is asked of a packet besides its IP header: a TCP or UDP header, all of it there.
const PORTS: u32 = 0;
/// An ICMP message, all of it there.
pub(crate) const MESSAGE: u32 = 1;
/// The start of a TCP or UDP header; the packet may be cut off at [`Head::end`].
pub(crate) const QUOTE: u32 = 2;

/// Reads the headers of the IP packet at `l2`; false if they are not what is asked. Not a `Result`:
/// functions that are not inlined can return a number only.
#[inline(never)]
pub(crate) fn read_at(ctx: *mut xdp_md, l2: usize, head: &mut Head, asked: u32) -> bool {
    head.l2 = l2;
    head.is_plain = false;
    head.part = Head::WHOLE;
    head.transport = 0;
    // Those of a later fragment, and of a message.
    (head.job.came.source_port, head.job.came.port) = (Be16([0; 2]), Be16([0; 2]));
    head.job.tcp_flags = 0;
    if packet::load_into(ctx, l2, &mut head.ipv4).is_none() {
        return false;
    }
    let payload =
        if head.ipv4.header_length().is_some() { read_ipv4(head) } else { read_ipv6(ctx, head) };
    let Some(offset) = payload else { return false };
    let end = l2 + head.length as usize;
    if asked != QUOTE {
        head.end = end;
        if end < offset || end as u64 > Frame::of(ctx).length() {
            return false;
        }
    } else if end < head.end {
        head.end = end;
    }
    (asked == PORTS && head.part == Head::LATER) || read_payload(ctx, offset, head, asked).is_some()
}

/// Where the payload stands.
#[inline(always)]
fn read_ipv4(head: &mut Head) -> Option<usize> {
    let ip = head.ipv4;
    let header = ip.header_length()?;
    let fragment = ip.fragment.value();
    head.set_ipv4(&ip);
    head.id = u32::from(ip.identification.value());
    head.part = part(fragment & 0x1fff != 0, fragment & MORE_FRAGMENTS != 0);
    Some(head.l2 + header)
}

#[inline(always)]
fn read_ipv6(ctx: *mut xdp_md, head: &mut Head) -> Option<usize> {
    packet::load_into(ctx, head.l2, &mut head.ipv6)?;
    let ip = head.ipv6;
    head.set_ipv6(&ip)?;
    let payload = head.l2 + size_of::<Ipv6Header>();
    let (mut offset, mut next) = extension::skip(ctx, payload, ip.next_header).ok()?;
    if next == protocol::FRAGMENT {
        packet::load_into(ctx, offset, &mut head.fragment)?;
        let field = head.fragment.fragment.value();
        head.id = u32::from_be_bytes(head.fragment.identification);
        head.part = part(field & 0xfff8 != 0, field & MORE_FRAGMENTS_V6 != 0);
        offset += size_of::<FragmentHeader>();
        next = head.fragment.next_header;
    }
    head.job.came.protocol = next;
    Some(offset)
}

#[inline(always)]
const fn part(has_offset: bool, has_more: bool) -> u32 {
    if has_offset {
        Head::LATER
    } else if has_more {
        Head::FIRST
    } else {
        Head::WHOLE
    }
}

#[inline(always)]
fn read_payload(ctx: *mut xdp_md, offset: usize, head: &mut Head, asked: u32) -> Option<()> {
    let length = head.end.checked_sub(offset)?;
    let is_v4 = head.job.came.source.is_v4();
    match (head.job.came.protocol, asked) {
        (protocol::TCP, PORTS) if length >= size_of::<TcpHeader>() => {
            packet::load_into(ctx, offset, &mut head.tcp)?;
            let tcp = head.tcp;
            head.set_tcp(&tcp);
        }
        (protocol::UDP, PORTS) if length >= size_of::<UdpHeader>() => {
            packet::load_into(ctx, offset, &mut head.udp)?;
            let udp = head.udp;
            head.set_udp(&udp);
        }
        // Where a checksum of TCP would stand, behind what is quoted at least, is seen later.
        (protocol::TCP | protocol::UDP, QUOTE)
            if length >= size_of::<UdpHeader>() && head.part != Head::LATER =>
        {
            packet::load_into(ctx, offset, &mut head.udp)?;
            let udp = head.udp;
            head.set_udp(&udp);
        }
        (protocol::ICMP, MESSAGE) if is_v4 && head.part == Head::WHOLE => {}
        (protocol::ICMPV6, MESSAGE) if !is_v4 && head.part == Head::WHOLE => {}
        _ => return None,
    }
    head.transport = offset;
    Some(())
}

/// Gives the packet its job's ends, and this many hops to live; brings its checksums up to date.
/// False if it is not there any more.
#[inline(always)]
pub(crate) fn translate(ctx: *mut xdp_md, head: &Head, ttl: u8) -> bool {
    if head.is_plain {
        return plain::translate(ctx, head, ttl);
    }
    write_addrs(ctx, head, ttl) && (head.transport == 0 || write_transport(ctx, head))
}

/// The IP header alone.
#[inline(never)]
pub(crate) fn write_addrs(ctx: *mut xdp_md, head: &Head, ttl: u8) -> bool {
    let (source, destination) = (head.job.ends.source, head.job.ends.destination);
    let written = if source.is_v4() {
        let tail = Ipv4Tail {
            ttl,
            protocol: head.job.came.protocol,
            checksum: head.ip_checksum(change(head), ttl),
            source: source.v4_bytes(),
            destination: destination.v4_bytes(),
        };
        packet::store(ctx, head.l2 + offset_of!(Ipv4Header, ttl), &tail)
    } else {
        let start = head.ipv6_start;
        let header = AlignedIpv6Header { start, hop_limit: ttl, source, destination };
        packet::store(ctx, head.l2, &header)
    };
    written.is_some()
}

/// Where the checksum of the transport header stands.
#[inline(always)]
pub(crate) const fn checksum_at(head: &Head) -> usize {
    let offset = if head.job.came.protocol == protocol::TCP {
        offset_of!(TcpHeader, checksum)
    } else {
        offset_of!(UdpHeader, checksum)
    };
    head.transport + offset
}

#[inline(always)]
pub(crate) fn write_ports(ctx: *mut xdp_md, head: &Head) -> Option<()> {
    let ([a, b], [c, d]) = (head.job.ends.source_port.0, head.job.ends.port.0);
    packet::store(ctx, head.transport, &[a, b, c, d])
}

#[inline(never)]
fn write_transport(ctx: *mut xdp_md, head: &Head) -> bool {
    let checksum = head.transport_checksum(change(head));
    write_ports(ctx, head).and_then(|()| packet::store(ctx, checksum_at(head), &checksum)).is_some()
}
