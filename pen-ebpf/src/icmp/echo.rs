//! Answers echo requests ("ping") for a virtual address, if it is set to: the request itself goes
//! back with its ends swapped, so that data of any length and VLAN tags stay as they are.
//!
//! Called for packets that are addressed to us and have neither ports nor a quote of a flow.

use aya_ebpf::bindings::xdp_md;
use pen_common::csum::Change;
use pen_common::icmp::{self, ECHO_REPLY_V4, ECHO_REPLY_V6, IcmpHeader, Message};
use pen_common::net::{Addr, Be16, Ipv4Header, Ipv6Header, protocol};
use pen_common::verdict::Counter;

use super::turn_round;
use crate::maps::Maps;
use crate::packet::{Buffer, store};

/// The IPv4 packet at `l2`. Options would have to be turned round as well: they pass.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, l2: usize) -> Counter {
    let mut buffer = Buffer::<Ipv4Header>::new();
    let Some(ip) = buffer.load(ctx, l2) else { return Counter::PassProtocol };
    let length = (ip.total_length.value() as usize).saturating_sub(size_of::<Ipv4Header>());
    let at = l2 + size_of::<Ipv4Header>();
    if ip.protocol != protocol::ICMP
        || ip.version_ihl != Ipv4Header::NO_OPTIONS
        || !is_request(ctx, at, Message::v4)
    {
        return Counter::PassProtocol;
    }
    if let Err(counter) = icmp::may_echo(&Maps, &Addr::v4(ip.destination), &Addr::v4(ip.source)) {
        return counter;
    }
    if length < size_of::<IcmpHeader>() {
        return Counter::PassMalformed;
    }
    let [from, to] = [ip.ttl, icmp::TTL].map(|ttl| Be16([ttl, ip.protocol]));
    let reply = Ipv4Header {
        ttl: icmp::TTL,
        checksum: Change::default().word(from, to).apply(ip.checksum),
        source: ip.destination,
        destination: ip.source,
        ..*ip
    };
    let written = reply_to(ctx, at, ECHO_REPLY_V4).and_then(|()| store(ctx, l2, &reply));
    if written.is_some() { Counter::EchoReply } else { Counter::DropRewrite }
}

/// The IPv6 packet at `l2`. So would extension headers.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, l2: usize) -> Counter {
    let mut buffer = Buffer::<Ipv6Header>::new();
    let Some(ip) = buffer.load(ctx, l2) else { return Counter::PassProtocol };
    let at = l2 + size_of::<Ipv6Header>();
    if ip.next_header != protocol::ICMPV6 || !is_request(ctx, at, Message::v6) {
        return Counter::PassProtocol;
    }
    if let Err(counter) = icmp::may_echo(&Maps, &Addr::v6(ip.destination), &Addr::v6(ip.source)) {
        return counter;
    }
    if (ip.payload_length.value() as usize) < size_of::<IcmpHeader>() {
        return Counter::PassMalformed;
    }
    // The sum of the pseudo-header is the same with its addresses swapped.
    let reply =
        Ipv6Header { hop_limit: icmp::TTL, source: ip.destination, destination: ip.source, ..*ip };
    let written = reply_to(ctx, at, ECHO_REPLY_V6).and_then(|()| store(ctx, l2, &reply));
    if written.is_some() { Counter::EchoReply } else { Counter::DropRewrite }
}

/// Whether the message at `at` is an echo request.
#[inline(always)]
fn is_request(ctx: *mut xdp_md, at: usize, message: impl FnOnce(u8, u8) -> Message) -> bool {
    let mut buffer = Buffer::<[u8; 4]>::new();
    match buffer.load(ctx, at) {
        Some([kind, code, ..]) => matches!(message(*kind, *code), Message::EchoRequest),
        None => false,
    }
}

/// Makes the message at `at` one of another type and code, and sends the frame back.
#[inline(always)]
fn reply_to(ctx: *mut xdp_md, at: usize, to: [u8; 2]) -> Option<()> {
    let mut buffer = Buffer::<[u8; 4]>::new();
    let [kind, code, high, low] = *buffer.load(ctx, at)?;
    let change = Change::default().word(Be16([kind, code]), Be16(to));
    let ([kind, code], [high, low]) = (to, change.apply(Be16([high, low])).0);
    store(ctx, at, &[kind, code, high, low])?;
    turn_round(ctx, 0)
}
