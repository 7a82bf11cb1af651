//! ICMP errors about packets that were translated: what they quote is a packet as one side knows it,
//! and has to become the packet that the other side sent, or it would not know what is meant.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::csum::Change;
use pen_common::icmp::{IcmpHeader, Message};
use pen_common::nat::Job;
use pen_common::net::{Be16, protocol};

use crate::head::{self, Head, MESSAGE, QUOTE};
use crate::ip;
use crate::packet::{self, Buffer};

/// Whether the packet is an error, of those that were read.
#[inline(always)]
pub(crate) const fn is_error(head: &Head) -> bool {
    matches!(head.job.came.protocol, protocol::ICMP | protocol::ICMPV6)
}

/// Reads the frame's ICMP error and the packet that it quotes; false if it is none.
#[inline(never)]
pub(crate) fn read(ctx: *mut xdp_md, head: &mut Head, quote: &mut Head) -> bool {
    if !head::read_at(ctx, ip::offset(ctx), head, MESSAGE) {
        return false;
    }
    let mut buffer = Buffer::<[u8; 4]>::new();
    let Some([kind, code, ..]) = buffer.load(ctx, head.transport) else { return false };
    let message = if head.job.came.source.is_v4() {
        Message::v4(*kind, *code)
    } else {
        Message::v6(*kind, *code)
    };
    quote.end = head.end;
    matches!(message, Message::Error)
        && head::read_at(ctx, head.transport + size_of::<IcmpHeader>(), quote, QUOTE)
        && quote.job.came.source.is_v4() == head.job.came.source.is_v4()
}

/// Gives the error and the packet that it quotes their jobs' ends, and the error this many hops to
/// live. False if they are not there any more.
#[inline(always)]
pub(crate) fn translate(ctx: *mut xdp_md, head: &Head, quote: &Head, ttl: u8) -> bool {
    head::write_addrs(ctx, head, ttl)
        && head::write_addrs(ctx, quote, quote.ttl)
        && write_quote(ctx, head, quote)
}

/// Ports and checksum of the quote, and the checksum of the message that it is part of.
#[inline(never)]
fn write_quote(ctx: *mut xdp_md, head: &Head, quote: &Head) -> bool {
    write_checksum(ctx, quote)
        .and_then(|change| {
            head::write_ports(ctx, quote)?;
            let at = head.transport + offset_of!(IcmpHeader, checksum);
            let mut buffer = Buffer::<Be16>::new();
            let checksum = with_ends(change, head, quote).apply(*buffer.load(ctx, at)?);
            packet::store(ctx, at, &checksum)
        })
        .is_some()
}

/// The checksum of the quoted transport header, if it is quoted as far as that; what becomes
/// different by it.
#[inline(always)]
fn write_checksum(ctx: *mut xdp_md, quote: &Head) -> Option<Change> {
    let at = head::checksum_at(quote);
    if at + size_of::<Be16>() > quote.end {
        return Some(Change::default());
    }
    let mut buffer = Buffer::<Be16>::new();
    let old = *buffer.load(ctx, at)?;
    let new = quote.changed(old, head::change(quote));
    packet::store(ctx, at, &new)?;
    Some(Change::default().word(old, new))
}

/// What becomes different for the checksum of the message by the ends.
#[inline(always)]
fn with_ends(change: Change, head: &Head, quote: &Head) -> Change {
    let Job { came, ends, .. } = &quote.job;
    let change = change.word(came.source_port, ends.source_port).word(came.port, ends.port);
    if came.source.is_v4() {
        // The quoted header has a checksum, by which it sums up to what it did before.
        return change;
    }
    let Job { came: from, ends: to, .. } = &head.job;
    change
        .addr(&from.source, &to.source)
        .addr(&from.destination, &to.destination)
        .addr(&came.source, &ends.source)
        .addr(&came.destination, &ends.destination)
}
