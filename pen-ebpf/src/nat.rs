//! Modes `nat` and `masquerade`: carries a request on to its backend under other ends.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::Lookup as _;
use pen_common::nat;
use pen_common::verdict::Counter;

use crate::head::{self, Head};
use crate::maps::{self, Desk, Maps};
use crate::{icmp, rewrite};

/// The request, whole or a fragment, goes to this backend.
///
/// The name is exported, which makes it a function that the verifier looks at once, for any numbers
/// that it could get. Others it follows anew from each state in which they are called.
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "nothing else in the object has this name")]
pub extern "C" fn pen_nat(ctx: *mut xdp_md, service: u32, id: u32, mode: u32) -> Counter {
    let Some(Desk { head, job, .. }) = maps::desk() else { return Counter::DropRewrite };
    let Some(backend) = Maps.backend(id) else { return Counter::DropNoTable };
    if !head::read(ctx, head, job) {
        return Counter::DropRewrite;
    }
    if head.ttl <= 1 {
        return icmp::time_exceeded(ctx, head.l2);
    }
    job.set_backend((mode & 0xff) as u8, service, id, backend);
    if head.part == Head::LATER {
        nat::follow(job);
    } else if let Err(reason) = nat::outbound(&Maps, job) {
        return reason.counter();
    }
    if !head::translate(ctx, head, job, head.ttl - 1) {
        return Counter::DropRewrite;
    }
    rewrite::direct_return(ctx, backend)
}
