//! Modes `ipip` and `gue`: the packet goes to the backend in a tunnel, as it came; the answer goes
//! from the backend straight to the client.

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::{Backend, Service};
use pen_common::net::{Be16, Ipv4Header, Ipv6Header, UdpHeader, VlanTag, ethertype, protocol};
use pen_common::tunnel;
use pen_common::verdict::Counter;

use crate::icmp;
use crate::ip::{IP, MAX_TAGS, Version};
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

/// Sends the IP packet at `l2`, of this version and all there, to the backend in a tunnel of this
/// mode.
#[inline(always)]
pub(crate) fn send(
    ctx: *mut xdp_md,
    l2: usize,
    version: Version,
    mode: u8,
    hash: u64,
    backend: &Backend,
) -> Counter {
    let frame = Frame::of(ctx);
    let Some(inner) = inner(&frame, l2, version) else { return Counter::DropRewrite };
    let to_v4 = backend.addr.is_v4();
    let overhead = tunnel::overhead(mode, to_v4);
    let room = tunnel::room(backend.mtu, overhead);
    if inner.length > room {
        return icmp::too_big(ctx, l2, room);
    }
    if packet::prepend(ctx, overhead).is_none() {
        return Counter::DropRewrite;
    }
    let ethertype = if to_v4 { ethertype::IPV4 } else { ethertype::IPV6 };
    // Before the outer header is written where they stood.
    if l2 != IP && !move_tags(ctx, l2, overhead, ethertype) {
        return Counter::DropRewrite;
    }
    let frame = Frame::of(ctx);
    if rewrite::address(&frame, backend).is_none()
        || l2 == IP && frame.write(IP - size_of::<Be16>(), &ethertype).is_none()
        || write_tunnel(&frame, l2, &inner, mode, hash, backend).is_none()
    {
        return Counter::DropRewrite;
    }
    rewrite::transmit(ctx, backend)
}

#[inline(always)]
fn inner(frame: &Frame<'_>, l2: usize, version: Version) -> Option<Inner> {
    Some(match version {
        Version::V4 => {
            let ip = frame.at::<Ipv4Header>(l2)?;
            let length = ip.total_length.value();
            Inner { protocol: protocol::IPIP, class: ip.tos, length }
        }
        Version::V6 => {
            let ip = frame.at::<Ipv6Header>(l2)?;
            let length = ip.payload_length.value().checked_add(size_of::<Ipv6Header>() as u16)?;
            Inner { protocol: protocol::IPV6, class: ip.class(), length }
        }
    })
}

/// Brings the tags before the IP packet at `l2` forward by `distance`, to the stations, and puts the
/// EtherType behind them. Not inlined, because in registers the hot path would have to carry them.
#[inline(never)]
fn move_tags(ctx: *mut xdp_md, l2: usize, distance: u16, ethertype: Be16) -> bool {
    // Each tag begins with the EtherType that says so.
    const TAG: usize = size_of::<VlanTag>();
    let last = l2 - size_of::<Be16>();
    let mut offset = IP - size_of::<Be16>();
    for _ in 0..MAX_TAGS {
        let mut tag = Buffer::<[u8; TAG]>::new();
        let Some(tag) = tag.load(ctx, usize::from(distance) + offset) else { return false };
        if packet::store(ctx, offset, tag).is_none() {
            return false;
        }
        offset += TAG;
        if offset >= last {
            break;
        }
    }
    packet::store(ctx, last, &ethertype).is_some()
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
    let payload = inner.length + if udp { size_of::<UdpHeader>() as u16 } else { 0 };
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
