//! pen's XDP program: the entry points. It touches packets and maps; every decision is taken by
//! `pen_common::forward`, which the controller runs as well.
//!
//! Each frame ends in exactly one [`Counter`], and the counter determines the XDP action, so that
//! what is counted is what happened. What is not needed for each packet is in functions of their own
//! (not inlined), so that the hot path keeps its registers and its 512 bytes of stack. They are
//! functions rather than tail calls because a program array is emptied when its last user space
//! reference goes, and because stages of two versions of the program could mix.
#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "the macro `xdp` makes a public function")]

mod arp;
mod back;
mod encap;
mod extension;
mod frag;
mod head;
mod icmp;
mod ip;
mod maps;
mod nat;
mod nd;
mod packet;
mod plain;
mod related;
mod rewrite;
mod route;
mod signal;
mod unusual;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use pen_common::net::{EthHeader, VlanTag, ethertype};
use pen_common::verdict::Counter;

use crate::ip::Version;
use crate::packet::Frame;

/// Balances what is addressed to a virtual address and passes everything else untouched.
#[xdp]
pub fn pen(ctx: XdpContext) -> u32 {
    run(ctx.ctx, &Frame::<false>::new(ctx.ctx))
}

/// The same for interfaces whose frames are longer than a page: drivers hand those over only to a
/// program that says that it can take fragments.
#[xdp(frags)]
pub fn pen_frags(ctx: XdpContext) -> u32 {
    run(ctx.ctx, &Frame::<true>::new(ctx.ctx))
}

#[inline(always)]
fn run<const FRAGS: bool>(ctx: *mut xdp_md, frame: &Frame<'_, FRAGS>) -> u32 {
    let length = frame.length();
    let counter = handle(ctx, frame);
    maps::count(counter, length);
    action(counter)
}

#[inline(always)]
fn handle<const FRAGS: bool>(ctx: *mut xdp_md, frame: &Frame<'_, FRAGS>) -> Counter {
    let Some(eth) = frame.at::<EthHeader>(0) else { return Counter::PassEthertype };
    let (mut ethertype, mut l2) = (eth.ethertype, ip::IP);
    for _ in 0..ip::MAX_TAGS {
        if !ethertype::is_tag(ethertype) {
            break;
        }
        let Some(tag) = frame.at::<VlanTag>(l2) else { return Counter::PassEthertype };
        ethertype = tag.ethertype;
        l2 += size_of::<VlanTag>();
    }
    let version = match ethertype {
        ethertype::IPV4 => Version::V4,
        ethertype::IPV6 => Version::V6,
        // As for neighbour discovery: not in a VLAN.
        ethertype::ARP if l2 == ip::IP => return arp::answer(ctx),
        _ => return Counter::PassEthertype,
    };
    ip::packet(ctx, frame, l2, version)
}

#[inline(always)]
fn action(counter: Counter) -> u32 {
    match counter {
        Counter::PassEthertype
        | Counter::PassNotOurs
        | Counter::PassNotMaster
        | Counter::PassOtherStation
        | Counter::PassMalformed
        | Counter::PassFragment
        | Counter::PassOptions
        | Counter::PassProtocol
        | Counter::PassNoService
        | Counter::PassNeighbour
        | Counter::PassProxy
        | Counter::ReturnStack => xdp_action::XDP_PASS,
        Counter::DropNotMaster
        | Counter::DropNoBackend
        | Counter::DropNoTable
        | Counter::DropRewrite
        | Counter::DropStubborn
        | Counter::DropAcl
        | Counter::DropTooBig
        | Counter::DropRate
        | Counter::DropNoEntry
        | Counter::DropNoPort
        | Counter::DropNatConflict
        | Counter::DropTtl => xdp_action::XDP_DROP,
        Counter::Transmit
        | Counter::ArpReply
        | Counter::NdReply
        | Counter::EchoReply
        | Counter::TooBigReply
        | Counter::TtlReply
        | Counter::ReturnTransmit => xdp_action::XDP_TX,
        Counter::Redirect | Counter::ReturnRedirect => xdp_action::XDP_REDIRECT,
    }
}

/// The licence that the kernel asks for before it lends its helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the section's name is part of the kernel's interface")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here indexes, divides or unwraps. The verifier refuses a program that
    // could loop, so a panic that slips in is found when the program is loaded.
    loop {}
}
