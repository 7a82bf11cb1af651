//! ICMP for an address of ours, besides neighbour discovery. It passes for now.

use aya_ebpf::bindings::xdp_md;
use pen_common::verdict::Counter;

/// ICMP in an IPv4 packet at `_l2`, with or without options.
#[inline(always)]
pub(crate) fn ipv4(_ctx: *mut xdp_md, _l2: usize) -> Counter {
    Counter::PassProtocol
}

/// Neither TCP nor UDP in an IPv6 packet at `_l2`, behind any extension headers.
#[inline(always)]
pub(crate) fn ipv6(_ctx: *mut xdp_md, _l2: usize) -> Counter {
    Counter::PassProtocol
}

/// The IP packet at `_l2` is longer than `_room`, which is what a tunnel leaves of the way to its
/// backend.
#[inline(always)]
pub(crate) fn too_big(_ctx: *mut xdp_md, _l2: usize, _room: u16) -> Counter {
    Counter::DropTooBig
}
