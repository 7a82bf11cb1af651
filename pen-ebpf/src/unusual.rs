//! TCP and UDP whose header is not where it usually is, because of IPv4 options or IPv6 extension
//! headers, or because an ICMP error quotes it, or which is in another fragment; and what has none, to
//! be counted as what it is. Called for our own addresses only. Reads with the kernel's help at any
//! offset.

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::FragKey;
use pen_common::forward::{Flow, Stage};
use pen_common::net::{Addr, FragmentHeader, Ipv4Header, Ipv6Header, protocol};
use pen_common::verdict::PassReason;

use crate::ip::Ports;
use crate::packet::{Buffer, Frame};
use crate::{extension, frag, icmp};

/// Reads the flow of the IPv4 packet at `l2`, besides its source address.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, l2: usize, flow: &mut Flow) -> Result<(), PassReason> {
    let malformed = PassReason::PassMalformed;
    let mut buffer = Buffer::<Ipv4Header>::new();
    let ip = buffer.load(ctx, l2).ok_or(malformed)?;
    let header = ip.header_length().ok_or(malformed)?;
    let length = (ip.total_length.value() as usize).checked_sub(header).ok_or(malformed)?;
    let at = l2 + header;
    if ip.is_fragment() {
        let id = u32::from(ip.identification.value());
        let key = frag::key(flow.source, Addr::v4(ip.destination), ip.protocol, id);
        return fragment(ctx, at, length, ip.is_later_fragment(), &key, flow);
    }
    if ip.protocol == protocol::ICMP {
        return icmp::quote::ipv4(ctx, l2, at, length, flow);
    }
    *flow = ports(ctx, at, length, ip.protocol)?.of(flow.source, ip.protocol);
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
    let (mut at, protocol) = extension::skip(ctx, payload, ip.next_header)?;
    let end = payload + ip.payload_length.value() as usize;
    if protocol == protocol::FRAGMENT {
        let mut buffer = Buffer::<FragmentHeader>::new();
        let header = buffer.load(ctx, at).ok_or(malformed)?;
        at += size_of::<FragmentHeader>();
        let length = end.checked_sub(at).ok_or(malformed)?;
        let id = u32::from_be_bytes(header.identification);
        let key = frag::key(flow.source, Addr::v6(ip.destination), header.next_header, id);
        return fragment(ctx, at, length, header.is_later(), &key, flow);
    }
    let length = end.checked_sub(at).ok_or(malformed)?;
    if protocol == protocol::ICMPV6 {
        return icmp::quote::ipv6(ctx, l2, at, length, flow);
    }
    *flow = ports(ctx, at, length, protocol)?.of(flow.source, protocol);
    Ok(())
}

/// The first fragment of a datagram says which ports it has; the others have those that were
/// recorded. All `length` bytes at `at` must be there.
#[inline(always)]
fn fragment(
    ctx: *mut xdp_md,
    at: usize,
    length: usize,
    is_later: bool,
    key: &FragKey,
    flow: &mut Flow,
) -> Result<(), PassReason> {
    let unknown = PassReason::PassFragment;
    if !is_later {
        // Without a whole transport header it says too little.
        *flow = ports(ctx, at, length, key.protocol)
            .map_err(|_| unknown)?
            .of(flow.source, key.protocol);
        frag::record(key, flow.source_port, flow.port);
        return Ok(());
    }
    if (at + length) as u64 > Frame::of(ctx).length() {
        return Err(PassReason::PassMalformed);
    }
    let (source_port, port) = frag::ports(key).ok_or(unknown)?;
    let tcp = key.protocol == protocol::TCP;
    flow.source_port = source_port;
    flow.port = port;
    flow.protocol = key.protocol;
    flow.stage = if tcp { Stage::Established } else { Stage::Datagram };
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
