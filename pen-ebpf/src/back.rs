//! The way back of modes `nat` and `masquerade`: an answer of a backend comes to us because we are
//! its router, or under our own address. It is translated back and sent to the client, where the
//! kernel's routing says; if that knows no neighbour yet, or needs more than a frame's addresses,
//! the kernel gets the translated packet.
//!
//! Asked only about packets that are for none of our virtual addresses, and only if there is a
//! service that translates.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, xdp_action, xdp_md,
};
use pen_common::forward::Lookup as _;
use pen_common::nat::{self, Job};
use pen_common::net::{MacAddr, Stations};
use pen_common::verdict::Counter;

use crate::head::{self, Head};
use crate::maps::{self, Desk, Maps, TX};
use crate::packet::{self, Frame};
use crate::route::Route;
use crate::{frag, ip};

/// First bytes of the Ethernet addresses of CARP groups.
const CARP: [u8; 5] = [0, 0, 0x5e, 0, 1];

/// A packet that is for none of our addresses.
#[inline(always)]
pub(crate) fn answer_if_any(ctx: *mut xdp_md) -> Counter {
    if maps::translates() { pen_back(ctx) } else { Counter::PassNotOurs }
}

/// If it is no answer it passes as what it is, not ours. Exported for the verifier's sake, see
/// [`crate::nat`].
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "nothing else in the object has this name")]
pub extern "C" fn pen_back(ctx: *mut xdp_md) -> Counter {
    let Some(Desk { head, job, route }) = maps::desk() else { return Counter::PassNotOurs };
    if !head::read(ctx, head, job) {
        return Counter::PassNotOurs;
    }
    if head.part == Head::LATER {
        match frag::ports(&head.fragments(job)) {
            Some((source_port, port)) => {
                (job.came.source_port, job.came.port) = (source_port, port)
            }
            None => return Counter::PassNotOurs,
        }
    }
    if !nat::inbound(&Maps, job) {
        return Counter::PassNotOurs;
    }
    if head.part == Head::FIRST {
        frag::record(&head.fragments(job), job.came.source_port, job.came.port);
    }
    send(ctx, head, job, route)
}

/// Sends an answer on with its new ends.
#[inline(never)]
fn send(ctx: *mut xdp_md, head: &Head, job: &Job, route: &mut Route) -> Counter {
    let Some(backend) = Maps.backend(job.found.backend) else { return Counter::PassNotOurs };
    let Some(stations) = Frame::of(ctx).at::<Stations>(0) else { return Counter::PassNotOurs };
    // As for requests: a frame that a switch flooded is somebody else's. What station is ours is
    // known on the network of the backend.
    let at_home = packet::ingress(ctx) == backend.ifindex;
    let Stations { destination: station, source } = *stations;
    let group = station.0[0] & 1 == 1;
    if group || at_home && station != backend.source_mac && !is_carp(station) {
        return Counter::PassNotOurs;
    }
    let counter = way_out(ctx, head, job, route);
    let is_done = match counter {
        // The kernel takes only what is addressed to the interface itself, and counts the hop.
        Counter::ReturnStack => {
            let own = if at_home { backend.source_mac } else { station };
            head::translate(ctx, head, job, head.ttl) && address(ctx, own, source)
        }
        Counter::ReturnTransmit | Counter::ReturnRedirect => {
            head::translate(ctx, head, job, head.ttl - 1)
                && address(ctx, route.destination_mac, route.source_mac)
        }
        other => return other,
    };
    if is_done { counter } else { Counter::DropRewrite }
}

/// Where an answer leaves, as the kernel routes it under its new ends.
#[inline(never)]
fn way_out(ctx: *mut xdp_md, head: &Head, job: &Job, route: &mut Route) -> Counter {
    let ingress = packet::ingress(ctx);
    route.ask(&job.ends, head.length, ingress);
    let found = maps::find_route(ctx, route);
    if found == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) && head.dont_fragment {
        // The kernel tells the backend.
        return Counter::PassNotOurs;
    }
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Counter::ReturnStack;
    }
    if head.ttl <= 1 {
        return Counter::DropTtl;
    }
    if route.ifindex == ingress {
        return Counter::ReturnTransmit;
    }
    // A tag means something only on the interface that it came from.
    if head.l2 == ip::IP && TX.redirect(route.ifindex, u64::from(xdp_action::XDP_PASS)).is_ok() {
        Counter::ReturnRedirect
    } else {
        Counter::ReturnStack
    }
}

#[inline(always)]
fn address(ctx: *mut xdp_md, destination: MacAddr, source: MacAddr) -> bool {
    Frame::of(ctx).write(0, &Stations { destination, source }).is_some()
}

#[inline(always)]
fn is_carp(station: MacAddr) -> bool {
    let [a, b, c, d, e, _] = station.0;
    [a, b, c, d, e] == CARP
}
