//! What a translation needs to know of a packet's headers, wherever they stand: behind tags, IPv4
//! options, IPv6 extension headers, in a whole packet or a fragment; and putting other ends in.
//!
//! Everything goes through the kernel's functions for bytes at any offset, so that one copy serves
//! all packets; [`crate::plain`] is faster for most of them.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::FragKey;
use pen_common::csum::Change;
use pen_common::nat::Job;
use pen_common::net::{
    Addr, AlignedIpv6Header, Be16, EthHeader, FragmentHeader, Ipv4Header, Ipv4Tail, Ipv6Header,
    TcpHeader, UdpHeader, VlanTag, ethertype, protocol,
};

use crate::packet::{self, Frame};
use crate::{extension, frag, ip, plain};

/// "Don't fragment" and "more fragments" of IPv4, the latter of IPv6.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const MORE_FRAGMENTS_V6: u16 = 1;

/// A packet's headers, besides its ends, which are the job's.
pub(crate) struct Head {
    /// Where the IP header stands.
    pub(crate) l2: usize,
    /// Where the transport header stands; 0 in all fragments but the first, and if it is plain.
    transport: usize,
    /// Identification, if it is a fragment.
    id: u32,
    /// [`Head::WHOLE`], ...
    pub(crate) part: u32,
    /// Length of the IP packet.
    pub(crate) length: u16,
    ip_checksum: Be16,
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
    pub(crate) fn fragments(&self, job: &Job) -> FragKey {
        frag::key(job.came.source, job.came.destination, job.came.protocol, self.id)
    }

    #[inline(always)]
    pub(crate) fn set_ipv4(&mut self, job: &mut Job, ip: &Ipv4Header) {
        job.came.source = Addr::v4(ip.source);
        job.came.destination = Addr::v4(ip.destination);
        job.came.protocol = ip.protocol;
        self.ttl = ip.ttl;
        self.length = ip.total_length.value();
        self.ip_checksum = ip.checksum;
        self.dont_fragment = ip.fragment.value() & DONT_FRAGMENT != 0;
    }

    /// `None` if it is no IPv6 header, or has mapped addresses, which would be taken for IPv4.
    #[inline(always)]
    pub(crate) fn set_ipv6(&mut self, job: &mut Job, ip: &Ipv6Header) -> Option<()> {
        job.came.source = Addr::v6(ip.source);
        job.came.destination = Addr::v6(ip.destination);
        job.came.protocol = ip.next_header;
        self.ttl = ip.hop_limit;
        self.length = pen_common::tunnel::IPV6_HEADER.checked_add(ip.payload_length.value())?;
        self.dont_fragment = true;
        let ([a, b, c, d], [e, f]) = (ip.version_class_flow, ip.payload_length.0);
        self.ipv6_start = [a, b, c, d, e, f, ip.next_header];
        let mapped = job.came.source.is_v4() || job.came.destination.is_v4();
        if ip.is_version_6() && !mapped { Some(()) } else { None }
    }

    #[inline(always)]
    pub(crate) fn set_tcp(&mut self, job: &mut Job, tcp: &TcpHeader) {
        job.came.source_port = tcp.source;
        job.came.port = tcp.destination;
        job.tcp_flags = tcp.flags;
        self.checksum = tcp.checksum;
    }

    #[inline(always)]
    pub(crate) fn set_udp(&mut self, job: &mut Job, udp: &UdpHeader) {
        job.came.source_port = udp.source;
        job.came.port = udp.destination;
        job.tcp_flags = 0;
        self.checksum = udp.checksum;
    }

    /// The checksum of the IPv4 header after the change of addresses, and with this time to live.
    #[inline(always)]
    pub(crate) fn ip_checksum(&self, job: &Job, change: Change, ttl: u8) -> Be16 {
        let word = |ttl| Be16([ttl, job.came.protocol]);
        change.word(word(self.ttl), word(ttl)).apply(self.ip_checksum)
    }

    /// The checksum of TCP or UDP after the change of addresses and ports.
    #[inline(always)]
    pub(crate) fn transport_checksum(&self, job: &Job, change: Change) -> Be16 {
        let Job { came, ends, .. } = job;
        let change = change.word(came.source_port, ends.source_port).word(came.port, ends.port);
        if came.protocol == protocol::TCP {
            change.apply(self.checksum)
        } else {
            change.apply_to_udp(self.checksum)
        }
    }
}

/// The change of addresses.
#[inline(always)]
pub(crate) fn change(job: &Job) -> Change {
    let Job { came, ends, .. } = job;
    Change::default().addr(&came.source, &ends.source).addr(&came.destination, &ends.destination)
}

/// Reads the headers of the frame's IP packet; false if it is not all there, or is neither TCP nor
/// UDP.
#[inline(always)]
pub(crate) fn read(ctx: *mut xdp_md, head: &mut Head, job: &mut Job) -> bool {
    plain::read(ctx, head, job) || read_any(ctx, head, job)
}

/// Where the IP header stands. Read again, because the verifier would follow each of the numbers
/// that it can be through all that happens in between.
#[inline(always)]
fn ip_header(frame: &Frame<'_>) -> Option<usize> {
    let mut ethertype = frame.at::<EthHeader>(0)?.ethertype;
    let mut l2 = ip::IP;
    for _ in 0..ip::MAX_TAGS {
        if !ethertype::is_tag(ethertype) {
            break;
        }
        ethertype = frame.at::<VlanTag>(l2)?.ethertype;
        l2 += size_of::<VlanTag>();
    }
    Some(l2)
}

/// Not a `Result`: functions that are not inlined can return a number only.
#[inline(never)]
pub(crate) fn read_any(ctx: *mut xdp_md, head: &mut Head, job: &mut Job) -> bool {
    let Some(l2) = ip_header(&Frame::of(ctx)) else { return false };
    head.l2 = l2;
    head.is_plain = false;
    head.part = Head::WHOLE;
    head.transport = 0;
    // Those of a later fragment.
    (job.came.source_port, job.came.port, job.tcp_flags) = (Be16([0; 2]), Be16([0; 2]), 0);
    if packet::load_into(ctx, l2, &mut head.ipv4).is_none() {
        return false;
    }
    let payload = if head.ipv4.header_length().is_some() {
        read_ipv4(head, job)
    } else {
        read_ipv6(ctx, head, job)
    };
    let Some((offset, length)) = payload else { return false };
    let whole = (l2 + head.length as usize) as u64 <= Frame::of(ctx).length();
    whole && (head.part == Head::LATER || read_transport(ctx, offset, length, head, job).is_some())
}

/// Where the payload stands, and its length.
#[inline(always)]
fn read_ipv4(head: &mut Head, job: &mut Job) -> Option<(usize, usize)> {
    let ip = head.ipv4;
    let header = ip.header_length()?;
    let fragment = ip.fragment.value();
    head.set_ipv4(job, &ip);
    head.id = u32::from(ip.identification.value());
    head.part = part(fragment & 0x1fff != 0, fragment & MORE_FRAGMENTS != 0);
    Some((head.l2 + header, (head.length as usize).checked_sub(header)?))
}

#[inline(always)]
fn read_ipv6(ctx: *mut xdp_md, head: &mut Head, job: &mut Job) -> Option<(usize, usize)> {
    packet::load_into(ctx, head.l2, &mut head.ipv6)?;
    let ip = head.ipv6;
    head.set_ipv6(job, &ip)?;
    let end = head.l2 + head.length as usize;
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
    job.came.protocol = next;
    Some((offset, end.checked_sub(offset)?))
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
fn read_transport(
    ctx: *mut xdp_md,
    offset: usize,
    length: usize,
    head: &mut Head,
    job: &mut Job,
) -> Option<()> {
    match job.came.protocol {
        protocol::TCP if length >= size_of::<TcpHeader>() => {
            packet::load_into(ctx, offset, &mut head.tcp)?;
            let tcp = head.tcp;
            head.set_tcp(job, &tcp);
        }
        protocol::UDP if length >= size_of::<UdpHeader>() => {
            packet::load_into(ctx, offset, &mut head.udp)?;
            let udp = head.udp;
            head.set_udp(job, &udp);
        }
        _ => return None,
    }
    head.transport = offset;
    Some(())
}

/// Gives the packet the job's ends, and this many hops to live; brings its checksums up to date.
/// False if it is not there any more.
#[inline(always)]
pub(crate) fn translate(ctx: *mut xdp_md, head: &Head, job: &Job, ttl: u8) -> bool {
    if head.is_plain { plain::translate(ctx, head, job, ttl) } else { write(ctx, head, job, ttl) }
}

#[inline(never)]
fn write(ctx: *mut xdp_md, head: &Head, job: &Job, ttl: u8) -> bool {
    let change = change(job);
    write_addrs(ctx, head, job, change, ttl)
        .and_then(|()| write_transport(ctx, head, job, change))
        .is_some()
}

#[inline(always)]
fn write_addrs(ctx: *mut xdp_md, head: &Head, job: &Job, change: Change, ttl: u8) -> Option<()> {
    let (source, destination) = (job.ends.source, job.ends.destination);
    if source.is_v4() {
        let tail = Ipv4Tail {
            ttl,
            protocol: job.came.protocol,
            checksum: head.ip_checksum(job, change, ttl),
            source: source.v4_bytes(),
            destination: destination.v4_bytes(),
        };
        packet::store(ctx, head.l2 + offset_of!(Ipv4Header, ttl), &tail)
    } else {
        let start = head.ipv6_start;
        let header = AlignedIpv6Header { start, hop_limit: ttl, source, destination };
        packet::store(ctx, head.l2, &header)
    }
}

#[inline(always)]
fn write_transport(ctx: *mut xdp_md, head: &Head, job: &Job, change: Change) -> Option<()> {
    if head.transport == 0 {
        return Some(());
    }
    let ([a, b], [c, d]) = (job.ends.source_port.0, job.ends.port.0);
    packet::store(ctx, head.transport, &[a, b, c, d])?;
    let offset = if job.came.protocol == protocol::TCP {
        offset_of!(TcpHeader, checksum)
    } else {
        offset_of!(UdpHeader, checksum)
    };
    packet::store(ctx, head.transport + offset, &head.transport_checksum(job, change))
}
