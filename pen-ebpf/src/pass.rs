//! An XDP program that lets every frame pass, for the lab only.
//!
//! veth hands a frame sent by native XDP_TX or a redirect to its peer only if the peer has an XDP
//! program too; without one the frame vanishes uncounted. The lab (tests/lab) attaches this one to
//! the switch's side of the balancer's wire.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Lets the frame pass, whatever it is and however long: veth hands long ones only to programs that
/// take fragments.
#[xdp(frags)]
fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program reaches this.
    loop {}
}
