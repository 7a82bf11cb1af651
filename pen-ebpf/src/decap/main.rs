//! pen's XDP program for backends: takes packets out of the tunnels in which pen sends them (modes
//! `ipip` and `gue`) and hands them to the kernel as if the client had sent them to this host. What
//! is no such tunnel passes untouched. It needs no tunnel device and no daemon; `penctl decap`
//! attaches it.
#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "the macro `xdp` makes a public function")]

mod inner;
mod maps;
mod outer;
#[path = "../packet.rs"]
#[expect(dead_code, reason = "pen needs more of it than this program")]
mod packet;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use pen_common::decap::End;

use crate::outer::Kind;

/// Unwraps what pen has wrapped. Built for frames in fragments, so that one build suits interfaces of
/// any MTU.
#[xdp(frags)]
pub fn decap(ctx: XdpContext) -> u32 {
    let length = packet::length(ctx.ctx);
    let end = unwrap(ctx.ctx).unwrap_or_else(|end| end);
    maps::count(end, length);
    match end {
        End::Ipip | End::Gue | End::PassOther | End::PassAddress | End::PassVariant => {
            xdp_action::XDP_PASS
        }
        End::RefusedVip | End::Malformed | End::Congestion => xdp_action::XDP_DROP,
    }
}

/// All that is asked of a frame comes before it is changed.
#[inline(always)]
fn unwrap(ctx: *mut xdp_md) -> Result<End, End> {
    let outer = outer::find(ctx)?;
    inner::check(ctx, &outer)?;
    inner::mark(ctx, &outer)?;
    inner::strip(ctx, &outer)?;
    Ok(match outer.kind {
        Kind::Ipip => End::Ipip,
        Kind::Gue => End::Gue,
    })
}

/// The licence that the kernel asks for before it lends its helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the section's name is part of the kernel's interface")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program reaches this.
    loop {}
}
