//! Reads the packet that an ICMP error quotes: one from a backend to its client, sent in the name of
//! the virtual address. Turned round it is the flow that leads to that backend, whoever sent the
//! error.
//!
//! The error goes on as it is, except where backends know nothing of the virtual address (`nat`,
//! `masquerade`): there [`crate::related`] translates the quote as well.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::{Flow, Stage};
use pen_common::icmp::{IcmpHeader, Message};
use pen_common::net::{Addr, Be16, FragmentHeader, Ipv4Header, Ipv6Header, protocol};
use pen_common::verdict::PassReason;

use crate::extension;
use crate::packet::{self, Buffer};

/// An error quotes at least so many bytes behind the IP header (RFC 792).
const LEAST: usize = 8;

/// Reads the flow that an ICMP message of `length` bytes at `at` is about, which is in the IPv4 packet
/// at `l2`.
#[inline(never)]
pub(crate) fn ipv4(
    ctx: *mut xdp_md,
    l2: usize,
    at: usize,
    length: usize,
    flow: &mut Flow,
) -> Result<(), PassReason> {
    let malformed = PassReason::PassMalformed;
    let end = at + length;
    quoted(ctx, at, end, Message::v4)?;
    let at = at + size_of::<IcmpHeader>();
    let mut buffer = Buffer::<Ipv4Header>::new();
    let ip = buffer.load(ctx, at).ok_or(malformed)?;
    let header = ip.header_length().ok_or(malformed)?;
    let mut vip = Buffer::<[u8; 4]>::new();
    if vip.load(ctx, l2 + offset_of!(Ipv4Header, destination)) != Some(&ip.source) {
        return Err(malformed);
    }
    if ip.is_later_fragment() {
        return Err(PassReason::PassFragment);
    }
    flow.source = Addr::v4(ip.destination);
    ports(ctx, at + header, end, ip.protocol, flow)
}

/// The same of ICMPv6.
#[inline(never)]
pub(crate) fn ipv6(
    ctx: *mut xdp_md,
    l2: usize,
    at: usize,
    length: usize,
    flow: &mut Flow,
) -> Result<(), PassReason> {
    let malformed = PassReason::PassMalformed;
    let end = at + length;
    quoted(ctx, at, end, Message::v6)?;
    let at = at + size_of::<IcmpHeader>();
    let mut buffer = Buffer::<Ipv6Header>::new();
    let ip = buffer.load(ctx, at).ok_or(malformed)?;
    let mut vip = Buffer::<[u8; 16]>::new();
    let vip = vip.load(ctx, l2 + offset_of!(Ipv6Header, destination)).ok_or(malformed)?;
    if !ip.is_version_6() || Addr::v6(ip.source) != Addr::v6(*vip) {
        return Err(malformed);
    }
    flow.source = Addr::v6(ip.destination);
    let (mut at, mut protocol) =
        extension::skip(ctx, at + size_of::<Ipv6Header>(), ip.next_header)?;
    if protocol == protocol::FRAGMENT {
        let mut buffer = Buffer::<FragmentHeader>::new();
        let fragment = buffer.load(ctx, at).ok_or(malformed)?;
        if fragment.is_later() {
            return Err(PassReason::PassFragment);
        }
        at += size_of::<FragmentHeader>();
        protocol = fragment.next_header;
    }
    ports(ctx, at, end, protocol, flow)
}

/// Whether the message between `at` and `end` is all there, and an error.
#[inline(always)]
fn quoted(
    ctx: *mut xdp_md,
    at: usize,
    end: usize,
    message: impl FnOnce(u8, u8) -> Message,
) -> Result<(), PassReason> {
    if end as u64 > packet::length(ctx) {
        return Err(PassReason::PassMalformed);
    }
    let mut buffer = Buffer::<[u8; 4]>::new();
    match buffer.load(ctx, at) {
        Some([kind, code, ..]) if matches!(message(*kind, *code), Message::Error) => {}
        _ => return Err(PassReason::PassProtocol),
    }
    if at + size_of::<IcmpHeader>() > end { Err(PassReason::PassMalformed) } else { Ok(()) }
}

/// Reads the ports of the transport header at `at`.
#[inline(always)]
fn ports(
    ctx: *mut xdp_md,
    at: usize,
    end: usize,
    protocol: u8,
    flow: &mut Flow,
) -> Result<(), PassReason> {
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Err(PassReason::PassProtocol);
    }
    if at + LEAST > end {
        return Err(PassReason::PassMalformed);
    }
    let mut buffer = Buffer::<[u8; 4]>::new();
    let [a, b, c, d] = buffer.load(ctx, at).ok_or(PassReason::PassMalformed)?;
    flow.source_port = Be16([*c, *d]);
    flow.port = Be16([*a, *b]);
    flow.protocol = protocol;
    flow.stage = Stage::Quoted;
    Ok(())
}
