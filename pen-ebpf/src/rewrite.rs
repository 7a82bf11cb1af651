//! Carries out the decision to forward: addresses of the Ethernet header, and the way out.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use pen_common::abi::Backend;
use pen_common::net::EthHeader;
use pen_common::verdict::Counter;

use crate::maps::TX;
use crate::packet::{self, Frame};

/// Mode `dsr`: the packet itself stays as it is, the frame goes to the backend's station. The
/// answer goes from the backend straight to the client.
#[inline(always)]
pub(crate) fn direct_return(ctx: &XdpContext, frame: &Frame<'_>, backend: &Backend) -> Counter {
    let Some(eth) = frame.at::<EthHeader>(0) else { return Counter::DropRewrite };
    let header = EthHeader {
        destination: backend.mac,
        source: backend.source_mac,
        ethertype: eth.ethertype,
    };
    if frame.write(0, &header).is_none() {
        return Counter::DropRewrite;
    }
    if backend.ifindex == packet::ingress(ctx.ctx) {
        return Counter::Transmit;
    }
    match TX.redirect(backend.ifindex, u64::from(xdp_action::XDP_DROP)) {
        Ok(_) => Counter::Redirect,
        Err(_) => Counter::DropRewrite,
    }
}
