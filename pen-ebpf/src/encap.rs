//! Modes `ipip` and `gue`: the packet goes to the backend in a tunnel, as it came; the answer goes
//! from the backend straight to the client.
//!
//! Where the IP header stands, and which IP it is, is read from the frame again: were these numbers
//! kept since they were read the first time, the verifier would follow each of their combinations
//! through all that is decided in between.

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::{Backend, Service};
use pen_common::net::{Be16, EthHeader, Ipv4Header, Ipv6Header, VlanTag, ethertype, protocol};
use pen_common::tunnel;
use pen_common::verdict::Counter;

use crate::icmp;
use crate::ip::IP;
use crate::packet::{self, Buffer, Frame};
use crate::rewrite;

/// What the tunnel has to know of the inner packet.
struct Inner {
    /// IP protocol that the outer header says.
    protocol: u8,
    /// Type of service or traffic class.
    class: u8,
    /// Length in bytes, header included. Behind it may be padding, which stays behind it.
    length: u16,
}

/// Sends the frame's IP packet, which is all there, to the backend in a tunnel of this mode.
#[inline(always)]
pub(crate) fn send(ctx: *mut xdp_md, mode: u8, hash: u64, backend: &Backend) -> Counter {
    let frame = Frame::of(ctx);
    match frame.at::<EthHeader>(0) {
        Some(eth) if !ethertype::is_tag(eth.ethertype) => {
            wrap(ctx, IP, eth.ethertype, mode, hash, backend)
        }
        _ => send_tagged(ctx, mode, hash, backend),
    }
}

/// The same for frames with tags.
#[inline(never)]
fn send_tagged(ctx: *mut xdp_md, mode: u8, hash: u64, backend: &Backend) -> Counter {
    const ONE: usize = IP + size_of::<VlanTag>();
    const TWO: usize = ONE + size_of::<VlanTag>();
    let frame = Frame::of(ctx);
    match (frame.at::<VlanTag>(IP), frame.at::<VlanTag>(ONE)) {
        (Some(tag), _) if !ethertype::is_tag(tag.ethertype) => {
            wrap(ctx, ONE, tag.ethertype, mode, hash, backend)
        }
        (_, Some(tag)) => wrap(ctx, TWO, tag.ethertype, mode, hash, backend),
        _ => Counter::DropRewrite,
    }
}

/// Wraps the packet at `l2`, of this EtherType, and sends it.
#[inline(always)]
fn wrap(
    ctx: *mut xdp_md,
    l2: usize,
    ethertype: Be16,
    mode: u8,
    hash: u64,
    backend: &Backend,
) -> Counter {
    let Some(inner) = inner(&Frame::of(ctx), l2, ethertype) else { return Counter::DropRewrite };
    let to_v4 = backend.addr.is_v4();
    let overhead = tunnel::overhead(mode, to_v4);
    let room = tunnel::room(backend.mtu, overhead);
    if inner.length > room {
        return icmp::too_big(ctx, l2, room);
    }
    if packet::move_start(ctx, -i32::from(overhead)).is_none() {
        return Counter::DropRewrite;
    }
    // Before the outer header is written to where they stand.
    if l2 != IP && !move_tags(ctx, l2, overhead) {
        return Counter::DropRewrite;
    }
    let frame = Frame::of(ctx);
    let ethertype = if to_v4 { ethertype::IPV4 } else { ethertype::IPV6 };
    if rewrite::address(&frame, backend).is_none()
        || frame.write(l2 - size_of::<Be16>(), &ethertype).is_none()
        || write_tunnel(&frame, l2, &inner, mode, hash, backend).is_none()
    {
        return Counter::DropRewrite;
    }
    rewrite::transmit(ctx, backend)
}

#[inline(always)]
fn inner(frame: &Frame<'_>, l2: usize, ethertype: Be16) -> Option<Inner> {
    if ethertype == ethertype::IPV4 {
        let ip = frame.at::<Ipv4Header>(l2)?;
        let length = ip.total_length.value();
        Some(Inner { protocol: protocol::IPIP, class: ip.tos, length })
    } else {
        let ip = frame.at::<Ipv6Header>(l2)?;
        let length = ip.payload_length.value().checked_add(tunnel::IPV6_HEADER)?;
        Some(Inner { protocol: protocol::IPV6, class: ip.class(), length })
    }
}

/// Brings the tags before the IP packet at `l2` forward by `distance`, to the stations.
#[inline(always)]
fn move_tags(ctx: *mut xdp_md, l2: usize, distance: u16) -> bool {
    // Each tag begins with the EtherType that says so.
    let first = IP - size_of::<Be16>();
    let second = first + size_of::<VlanTag>();
    move_tag(ctx, first, distance) && (second + 2 == l2 || move_tag(ctx, second, distance))
}

#[inline(always)]
fn move_tag(ctx: *mut xdp_md, offset: usize, distance: u16) -> bool {
    let mut tag = Buffer::<[u8; 4]>::new();
    match tag.load(ctx, usize::from(distance) + offset) {
        Some(tag) => packet::store(ctx, offset, tag).is_some(),
        None => false,
    }
}

#[inline(always)]
fn write_tunnel(
    frame: &Frame<'_>,
    l2: usize,
    inner: &Inner,
    mode: u8,
    hash: u64,
    backend: &Backend,
) -> Option<()> {
    let udp = mode == Service::GUE;
    let protocol = if udp { protocol::UDP } else { inner.protocol };
    let payload = inner.length + if udp { tunnel::UDP_HEADER } else { 0 };
    let (source, destination) = (backend.source, backend.addr);
    let end = if destination.is_v4() {
        let header = tunnel::ipv4(source, destination, protocol, inner.class, payload);
        frame.write(l2, &header)?;
        l2 + size_of::<Ipv4Header>()
    } else {
        let header = tunnel::ipv6(source, destination, protocol, inner.class, hash, payload);
        frame.write(l2, &header)?;
        l2 + size_of::<Ipv6Header>()
    };
    if udp {
        frame.write(end, &tunnel::udp(hash, inner.length))?;
    }
    Some(())
}
