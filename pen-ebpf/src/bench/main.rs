//! XDP programs for `cargo xtask bench`, not part of pen: a generator of frames, the end that they
//! run into, and the simplest programs to compare pen with.
//!
//! They are run between two ends of a wire (veth). The generator is run by BPF_PROG_TEST_RUN in
//! live-frames mode, which sends what it returns with XDP_TX through the wire; the program under
//! test gets the frames at the other end, natively; what it sends back meets [`sink`].
#![no_std]
#![no_main]

mod generate;
mod maps;
#[path = "../packet.rs"]
#[expect(dead_code, reason = "pen needs more of it than the bench")]
mod packet;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use pen_common::net::EthHeader;

use crate::packet::Frame;

/// Sends the frame of the next flow; ABORTED if the frame or the template is not as it should be.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match generate::next_frame(&Frame::of(ctx.ctx)) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts frames and drops them.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    maps::count(Frame::of(ctx.ctx).length());
    xdp_action::XDP_DROP
}

/// Does nothing: what the measurement itself costs.
#[xdp]
fn empty(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Leaves every frame to the kernel: the least that a program costs which is not concerned.
#[xdp]
fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sends every frame back to where it came from: the least that a balancer has to do.
#[xdp]
fn macswap(ctx: XdpContext) -> u32 {
    let frame = Frame::of(ctx.ctx);
    let Some(eth) = frame.at::<EthHeader>(0).copied() else { return xdp_action::XDP_ABORTED };
    let swapped = EthHeader { destination: eth.source, source: eth.destination, ..eth };
    match frame.write(0, &swapped) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program reaches this.
    loop {}
}
