//! Carries a decision out: the mode of the service, addresses of the Ethernet header, and the way out.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use pen_common::abi::{Backend, Service};
use pen_common::net::Stations;
use pen_common::tunnel;
use pen_common::verdict::{Counter, Forward, Verdict};

use crate::ip::{self, IP};
use crate::maps::{self, TX};
use crate::packet::{self, Frame};
use crate::{encap, icmp, nat, signal};

/// Carries out what was decided about an IP packet.
#[inline(always)]
pub(crate) fn carry_out<const FRAGS: bool>(
    ctx: *mut xdp_md,
    frame: &Frame<'_, FRAGS>,
    verdict: &Verdict<'_>,
) -> Counter {
    match verdict {
        Verdict::Pass(reason) => reason.counter(),
        Verdict::Drop(reason) => reason.counter(),
        Verdict::Forward(forward) => {
            let length = frame.length();
            let Forward { service, id, mode, hash, backend, opens, .. } = *forward;
            // What is sent back where it came from did fit there. Tunnels have limits of their own.
            let room = tunnel::room(backend.mtu, 0);
            if !matches!(mode, Service::IPIP | Service::GUE)
                && backend.ifindex != packet::ingress(ctx)
                && length > IP as u64 + u64::from(room)
            {
                let l2 = ip::offset(ctx);
                if length > l2 as u64 + u64::from(room) {
                    return icmp::too_big(ctx, l2, room);
                }
            }
            let counter = match mode {
                Service::NAT | Service::MASQUERADE => {
                    nat::pen_nat(ctx, service, id, u32::from(mode))
                }
                _ => {
                    if opens {
                        signal::pen_opens(ctx, id, hash);
                    }
                    to_backend(ctx, mode, hash, backend)
                }
            };
            if matches!(counter, Counter::Transmit | Counter::Redirect) {
                maps::count_forwarded(service, id, length);
            }
            counter
        }
    }
}

/// Sends an IP packet, which is all there, unchanged to a backend in this mode.
#[inline(always)]
pub(crate) fn to_backend(ctx: *mut xdp_md, mode: u8, hash: u64, backend: &Backend) -> Counter {
    match mode {
        Service::DSR => direct_return(ctx, backend),
        Service::IPIP | Service::GUE => encap::send(ctx, mode, hash, backend),
        _ => Counter::DropRewrite,
    }
}

/// Mode `dsr`: the packet itself stays as it is, the frame goes to the backend's station. The
/// answer goes from the backend straight to the client.
#[inline(always)]
pub(crate) fn direct_return(ctx: *mut xdp_md, backend: &Backend) -> Counter {
    if address(&Frame::of(ctx), backend).is_none() {
        return Counter::DropRewrite;
    }
    transmit(ctx, backend)
}

/// Addresses the frame to the backend's station. What follows stays: a tag as well as the EtherType.
#[inline(always)]
pub(crate) fn address(frame: &Frame<'_>, backend: &Backend) -> Option<()> {
    frame.write(0, &Stations { destination: backend.mac, source: backend.source_mac })
}

/// Sends the frame out where the backend is.
#[inline(always)]
pub(crate) fn transmit(ctx: *mut xdp_md, backend: &Backend) -> Counter {
    if backend.ifindex == packet::ingress(ctx) {
        return Counter::Transmit;
    }
    match TX.redirect(backend.ifindex, u64::from(xdp_action::XDP_DROP)) {
        Ok(_) => Counter::Redirect,
        Err(_) => Counter::DropRewrite,
    }
}
