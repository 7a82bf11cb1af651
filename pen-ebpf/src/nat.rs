//! Modes `nat` and `masquerade`: carries a request on to its backend under other ends.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::Lookup as _;
use pen_common::nat;
use pen_common::verdict::Counter;

use crate::maps::{self, Desk, Maps};
use crate::{head, icmp, rewrite};

/// The request, whole or the first of its fragments, goes to this backend.
#[inline(never)]
pub(crate) fn forward(ctx: *mut xdp_md, service: u32, id: u32, mode: u8) -> Counter {
    let Some(Desk { head, job, .. }) = maps::desk() else { return Counter::DropRewrite };
    let Some(backend) = Maps.backend(id) else { return Counter::DropNoTable };
    if !head::read(ctx, head, job) {
        return Counter::DropRewrite;
    }
    if head.ttl <= 1 {
        return icmp::time_exceeded(ctx, head.l2);
    }
    job.set_backend(mode, service, id, backend);
    if let Err(reason) = nat::outbound(&Maps, job) {
        return reason.counter();
    }
    if !head::translate(ctx, head, job, head.ttl - 1) {
        return Counter::DropRewrite;
    }
    rewrite::direct_return(ctx, backend)
}
