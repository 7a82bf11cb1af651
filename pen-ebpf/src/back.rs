//! The way back of modes `nat` and `masquerade`: an answer of a backend comes to us because we are
//! its router, or under our own address. It is translated back and sent to the client, where the
//! kernel's routing says; if that knows no neighbour yet, or needs more than a frame's addresses,
//! the kernel gets the translated packet.
//!
//! Asked only about packets that are for none of our services, and only if there is one that
//! translates.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, xdp_action, xdp_md,
};
use pen_common::forward::Lookup as _;
use pen_common::nat;
use pen_common::net::{MacAddr, Stations};
use pen_common::verdict::Counter;

use crate::head::{self, Head};
use crate::maps::{self, Desk, Maps, TX};
use crate::packet::{self, Frame};
use crate::{frag, icmp, ip, related, signal};

/// First bytes of the Ethernet addresses of CARP groups.
const CARP: [u8; 5] = [0, 0, 0x5e, 0, 1];

/// A packet that is for none of our addresses, or for none of their services.
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
    let Some(desk) = maps::desk() else { return Counter::PassNotOurs };
    let Desk { head, quote, .. } = desk;
    let is_ours = if head::read(ctx, head) {
        is_answer(head)
    } else {
        related::read(ctx, head, quote) && is_error(head, quote)
    };
    if !is_ours {
        return Counter::PassNotOurs;
    }
    match send(ctx, desk) {
        Counter::TooBigReply => icmp::too_big(ctx, desk.head.l2, desk.route.length),
        Counter::TtlReply => icmp::time_exceeded(ctx, desk.head.l2),
        counter @ (Counter::ReturnTransmit | Counter::ReturnRedirect | Counter::ReturnStack)
            if desk.head.job.may_tell() =>
        {
            signal::returned(ctx, &desk.head);
            counter
        }
        counter => counter,
    }
}

/// Whether this is an answer of a backend, and with which ends it goes on.
#[inline(always)]
fn is_answer(head: &mut Head) -> bool {
    if head.part == Head::LATER {
        let Some((source_port, port)) = frag::ports(&head.fragments()) else { return false };
        (head.job.came.source_port, head.job.came.port) = (source_port, port);
    }
    if !nat::inbound(&Maps, &mut head.job) {
        return false;
    }
    if head.part == Head::FIRST {
        frag::record(&head.fragments(), head.job.came.source_port, head.job.came.port);
    }
    true
}

/// Whether this is an error about a request that went to a backend, and with which ends it goes on.
#[inline(always)]
fn is_error(head: &mut Head, quote: &mut Head) -> bool {
    let is_ours = head.job.came.destination == quote.job.came.source
        && nat::quoted_request(&Maps, &mut quote.job);
    if is_ours {
        nat::report(&mut head.job, &quote.job);
    }
    is_ours
}

/// Sends the packet on the desk on with its new ends; what it may be answered with is left to do.
#[inline(never)]
fn send(ctx: *mut xdp_md, desk: &mut Desk) -> Counter {
    let Some(backend) = Maps.backend(desk.head.job.found.backend) else {
        return Counter::PassNotOurs;
    };
    let Some(stations) = Frame::of(ctx).at::<Stations>(0) else { return Counter::PassNotOurs };
    // As for requests: a frame that a switch flooded is somebody else's. What station is ours is
    // known on the network of the backend.
    let at_home = packet::ingress(ctx) == backend.ifindex;
    let Stations { destination: station, source } = *stations;
    let group = station.0[0] & 1 == 1;
    if group || at_home && station != backend.source_mac && !is_carp(station) {
        return Counter::PassNotOurs;
    }
    let to_us = desk.head.job.came.destination == backend.source;
    let counter = way_out(ctx, desk, to_us);
    let is_done = match counter {
        // The kernel takes only what is addressed to the interface itself, and counts the hop.
        Counter::ReturnStack => {
            let own = if at_home { backend.source_mac } else { station };
            translate(ctx, desk, desk.head.ttl) && address(ctx, own, source)
        }
        Counter::ReturnTransmit | Counter::ReturnRedirect => {
            translate(ctx, desk, desk.head.ttl - 1)
                && address(ctx, desk.route.destination_mac, desk.route.source_mac)
        }
        other => return other,
    };
    if is_done { counter } else { Counter::DropRewrite }
}

#[inline(always)]
fn translate(ctx: *mut xdp_md, desk: &Desk, ttl: u8) -> bool {
    let Desk { head, quote, .. } = desk;
    if related::is_error(head) {
        related::translate(ctx, head, quote, ttl)
    } else {
        head::translate(ctx, head, ttl)
    }
}

/// Where the packet leaves, as the kernel routes it under its new ends. Of what cannot go on, the
/// backend is told; by the kernel, except where the packet is addressed to us (`masquerade`), which it
/// would take for its own.
#[inline(never)]
fn way_out(ctx: *mut xdp_md, desk: &mut Desk, to_us: bool) -> Counter {
    let Desk { head, route, .. } = desk;
    let ingress = packet::ingress(ctx);
    route.ask(&head.job.ends, head.length, ingress);
    let found = maps::find_route(ctx, route);
    if found == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) && head.dont_fragment {
        return if to_us { Counter::TooBigReply } else { Counter::PassNotOurs };
    }
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Counter::ReturnStack;
    }
    if head.ttl <= 1 {
        return if to_us { Counter::TtlReply } else { Counter::PassNotOurs };
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
