//! ICMP and ICMPv6 for a virtual address. An error that quotes a packet of one of our flows goes to
//! the flow's backend, because only that one can act on it ([`quote`]); an echo request is answered
//! if the address says so ([`echo`]); neighbour discovery is [`crate::nd`]'s. All other messages
//! pass. And the errors that we send ourselves ([`too_big`], [`time_exceeded`]).
//!
//! All of this is rare: functions of their own, which copy what they read.

pub(crate) mod echo;
mod error;
pub(crate) mod quote;

use aya_ebpf::bindings::xdp_md;
use pen_common::net::EthHeader;

pub(crate) use self::error::{time_exceeded, too_big};
use crate::packet::Frame;

/// Addresses the frame to the station that its Ethernet header at `at` came from, from the one that
/// this was sent to. If there is a tag, the "EtherType" says so and stays.
#[inline(always)]
fn turn_round(ctx: *mut xdp_md, at: usize) -> Option<()> {
    let frame = Frame::of(ctx);
    let eth = *frame.at::<EthHeader>(at)?;
    frame.write(0, &EthHeader { destination: eth.source, source: eth.destination, ..eth })
}
