//! Modes `nat` and `masquerade`: carries a request on to its backend under other ends.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::Lookup as _;
use pen_common::nat;
use pen_common::verdict::Counter;

use crate::head::{self, Head};
use crate::maps::{self, Desk, Maps};
use crate::{icmp, related, rewrite};

/// The request, whole or a fragment, or an error about an answer, goes to this backend.
///
/// The name is exported, which makes it a function that the verifier looks at once, for any numbers
/// that it could get. Others it follows anew from each state in which they are called.
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "nothing else in the object has this name")]
pub extern "C" fn pen_nat(ctx: *mut xdp_md, service: u32, id: u32, mode: u32) -> Counter {
    let Some(desk) = maps::desk() else { return Counter::DropRewrite };
    let head = &mut desk.head;
    let Some(backend) = Maps.backend(id) else { return Counter::DropNoTable };
    let has_ports = head::read(ctx, head);
    head.job.set_backend((mode & 0xff) as u8, service, id, backend);
    if !has_ports {
        return error(ctx, desk);
    }
    if head.ttl <= 1 {
        return icmp::time_exceeded(ctx, head.l2);
    }
    if head.part == Head::LATER {
        nat::follow(&mut head.job);
    } else if let Err(reason) = nat::outbound(&Maps, &mut head.job) {
        return reason.counter();
    }
    if !head::translate(ctx, head, head.ttl - 1) {
        return Counter::DropRewrite;
    }
    rewrite::direct_return(ctx, backend)
}

/// An error about an answer goes to the backend that sent the answer; the job says which.
#[inline(never)]
fn error(ctx: *mut xdp_md, desk: &mut Desk) -> Counter {
    let Desk { head, quote, .. } = desk;
    let Some(backend) = Maps.backend(head.job.id) else { return Counter::DropNoTable };
    if !related::read(ctx, head, quote) {
        return Counter::DropRewrite;
    }
    if head.ttl <= 1 {
        return Counter::DropTtl;
    }
    quote.job.set_backend(head.job.mode, head.job.service, head.job.id, backend);
    if !nat::quoted_answer(&Maps, &mut quote.job) {
        return Counter::DropNoEntry;
    }
    nat::follow(&mut head.job);
    if !related::translate(ctx, head, quote, head.ttl - 1) {
        return Counter::DropRewrite;
    }
    rewrite::direct_return(ctx, backend)
}
