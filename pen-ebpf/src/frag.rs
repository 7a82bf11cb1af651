//! Fragments for an address of ours. They pass for now: only the first one of a datagram has the
//! ports that say where it belongs.

use aya_ebpf::bindings::xdp_md;
use pen_common::verdict::Counter;

/// A fragment in an IPv4 packet at `_l2`.
#[inline(always)]
pub(crate) fn ipv4(_ctx: *mut xdp_md, _l2: usize) -> Counter {
    Counter::PassFragment
}

/// A fragment in an IPv6 packet at `_l2`, behind any other extension headers.
#[inline(always)]
pub(crate) fn ipv6(_ctx: *mut xdp_md, _l2: usize) -> Counter {
    Counter::PassFragment
}
