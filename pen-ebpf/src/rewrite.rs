//! Carries a decision out: addresses of the Ethernet header, and the way out.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use pen_common::abi::Backend;
use pen_common::net::EthHeader;
use pen_common::verdict::{Counter, Verdict};

use crate::maps::{self, TX};
use crate::packet::{self, Frame};

/// Carries out what was decided about the IP packet at `_l2`.
#[inline(always)]
pub(crate) fn carry_out(ctx: *mut xdp_md, _l2: usize, verdict: &Verdict<'_>) -> Counter {
    match verdict {
        Verdict::Pass(reason) => reason.counter(),
        Verdict::Drop(reason) => reason.counter(),
        Verdict::Forward(forward) => {
            let frame = Frame::of(ctx);
            let length = frame.length();
            let counter = direct_return(ctx, &frame, forward.backend);
            if !matches!(counter, Counter::DropRewrite) {
                maps::count_forwarded(forward.service, forward.id, length);
            }
            counter
        }
    }
}

/// Mode `dsr`: the packet itself stays as it is, the frame goes to the backend's station. The
/// answer goes from the backend straight to the client.
#[inline(always)]
fn direct_return(ctx: *mut xdp_md, frame: &Frame<'_>, backend: &Backend) -> Counter {
    let Some(eth) = frame.at::<EthHeader>(0) else { return Counter::DropRewrite };
    // Of a tagged frame, the "EtherType" says that a tag follows: tags stay.
    let header = EthHeader {
        destination: backend.mac,
        source: backend.source_mac,
        ethertype: eth.ethertype,
    };
    if frame.write(0, &header).is_none() {
        return Counter::DropRewrite;
    }
    send(ctx, backend)
}

/// Sends the frame out where the backend is.
#[inline(always)]
fn send(ctx: *mut xdp_md, backend: &Backend) -> Counter {
    if backend.ifindex == packet::ingress(ctx) {
        return Counter::Transmit;
    }
    match TX.redirect(backend.ifindex, u64::from(xdp_action::XDP_DROP)) {
        Ok(_) => Counter::Redirect,
        Err(_) => Counter::DropRewrite,
    }
}
