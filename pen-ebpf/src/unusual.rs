//! TCP and UDP whose header is not where it usually is, because of IPv4 options or IPv6 extension
//! headers, or because an ICMP error quotes it; and what has none, to be counted as what it is. Called
//! for our own addresses only. Reads with the kernel's help at any offset.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::Flow;
use pen_common::net::{Ipv4Header, Ipv6Header, protocol};
use pen_common::verdict::PassReason;

use crate::ip::Ports;
use crate::packet::{Buffer, Frame};
use crate::{extension, icmp};

/// Reads the flow of the IPv4 packet at `l2`, besides its source address.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, l2: usize, flow: &mut Flow) -> Result<(), PassReason> {
    let malformed = PassReason::PassMalformed;
    let mut buffer = Buffer::<Ipv4Header>::new();
    let ip = buffer.load(ctx, l2).ok_or(malformed)?;
    let header = ip.header_length().ok_or(malformed)?;
    if ip.is_fragment() {
        return Err(PassReason::PassFragment);
    }
    let length = (ip.total_length.value() as usize).checked_sub(header).ok_or(malformed)?;
    if ip.protocol == protocol::ICMP {
        return icmp::quote::ipv4(ctx, l2, l2 + header, length, flow);
    }
    *flow = ports(ctx, l2 + header, length, ip.protocol)?.of(flow.source, ip.protocol);
    Ok(())
}

/// Reads the flow of the IPv6 packet at `l2`, besides its source address.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, l2: usize, flow: &mut Flow) -> Result<(), PassReason> {
    let malformed = PassReason::PassMalformed;
    let mut buffer = Buffer::<Ipv6Header>::new();
    let ip = buffer.load(ctx, l2).ok_or(malformed)?;
    if !ip.is_version_6() {
        return Err(malformed);
    }
    let payload = l2 + size_of::<Ipv6Header>();
    let (offset, protocol) = extension::skip(ctx, payload, ip.next_header)?;
    if protocol == protocol::FRAGMENT {
        return Err(PassReason::PassFragment);
    }
    let end = payload + ip.payload_length.value() as usize;
    let length = end.checked_sub(offset).ok_or(malformed)?;
    if protocol == protocol::ICMPV6 {
        return icmp::quote::ipv6(ctx, l2, offset, length, flow);
    }
    *flow = ports(ctx, offset, length, protocol)?.of(flow.source, protocol);
    Ok(())
}

/// As in the hot path: all `length` bytes at `offset` must be there.
#[inline(always)]
fn ports(
    ctx: *mut xdp_md,
    offset: usize,
    length: usize,
    protocol: u8,
) -> Result<Ports, PassReason> {
    if (offset + length) as u64 > Frame::of(ctx).length() {
        return Err(PassReason::PassMalformed);
    }
    let (mut tcp, mut udp) = (Buffer::new(), Buffer::new());
    Ports::read(protocol, length, || tcp.load(ctx, offset), || udp.load(ctx, offset))
}
