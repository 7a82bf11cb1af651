//! Answers IPv6 neighbour solicitations for virtual addresses that are ours now (RFC 4861 sections
//! 7.1.1, 7.2.3 and 7.2.4), also those of duplicate address detection (RFC 4862), so that nobody
//! takes the address.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::AddrEntry;
use pen_common::csum::Checksum;
use pen_common::forward;
use pen_common::net::{
    Addr, Be16, EthHeader, Ipv6Header, MacAddr, NdLinkLayerOption, NdMessage, ethertype, protocol,
};
use pen_common::verdict::{Counter, PassReason};

use crate::ip::{IP, IPV6_PAYLOAD};
use crate::maps::Maps;
use crate::packet::{self, Frame};

/// Length of an advertisement with its option.
const REPLY_LENGTH: u16 = 32;
const _: () =
    assert!(size_of::<NdMessage>() + size_of::<NdLinkLayerOption>() == REPLY_LENGTH as usize);
/// Longest solicitation that is answered, in words of four bytes: options "source link-layer
/// address" and "nonce" (RFC 7527). Longer ones are left to the kernel.
const MAX_WORDS: usize = 10;
/// Options count their length in units of eight bytes.
const UNIT: usize = 8;
/// Kind of the option "source link-layer address".
const SOURCE_LINK_LAYER: u8 = 1;
/// First byte of every group's address.
const MULTICAST: u8 = 0xff;
/// The network of the groups of solicited nodes, ff02::1:ff00:0/104: the first 64 bits, and the 40
/// after them.
const SOLICITED_NODES: (u64, u64) = (0xff02 << 48, 0x1ff);
/// ff02::1 and the Ethernet address that belongs to it.
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Answers a solicitation, or leaves it to the kernel.
#[inline(never)]
pub(crate) fn answer(ctx: *mut xdp_md) -> Counter {
    let frame = Frame::of(ctx);
    let Some(nd) = frame.at::<NdMessage>(IPV6_PAYLOAD) else { return Counter::PassNeighbour };
    let target = Addr::v6(nd.target);
    if target.is_v4() {
        // As for destinations: a mapped address is nobody's on a wire.
        return Counter::PassNotOurs;
    }
    let entry = match forward::told(&Maps, &target) {
        Ok(entry) => entry,
        Err(PassReason::PassNotMaster) => return Counter::DropNotMaster,
        Err(reason) => return reason.counter(),
    };
    if packet::ingress(ctx) != entry.ifindex || !is_valid(ctx) {
        return Counter::PassNeighbour;
    }
    if packet::resize(ctx, IPV6_PAYLOAD + REPLY_LENGTH as usize).is_none() {
        return Counter::PassNeighbour;
    }
    let router = if entry.flags & AddrEntry::ROUTER == 0 { 0 } else { NdMessage::ROUTER };
    if write_reply(ctx, &entry.mac, router) { Counter::NdReply } else { Counter::DropRewrite }
}

/// The checks of RFC 4861 section 7.1.1: hop limit 255 proves that no router forwarded it. Not
/// inlined, like [`write_reply`]: the stack of a chain of functions together is 512 bytes.
#[inline(never)]
fn is_valid(ctx: *mut xdp_md) -> bool {
    let frame = Frame::of(ctx);
    let (Some(ip), Some(nd)) = (frame.at::<Ipv6Header>(IP), frame.at::<NdMessage>(IPV6_PAYLOAD))
    else {
        return false;
    };
    let length = ip.payload_length.value() as usize;
    if ip.version_class_flow[0] >> 4 != 6 || ip.hop_limit != 255 || nd.code != 0 {
        return false;
    }
    if (IPV6_PAYLOAD + length) as u64 > frame.length() || length > MAX_WORDS * 4 {
        return false;
    }
    let Some(kinds) = options(&frame, length) else { return false };
    let (high, low) = Addr::v6(ip.destination).halves();
    let to_group = high == SOLICITED_NODES.0 && low >> 24 == SOLICITED_NODES.1;
    let probe = Addr::v6(ip.source) == Addr::default();
    let invalid_probe = probe && (!to_group || kinds.contains(&SOURCE_LINK_LAYER));
    if invalid_probe || ip.source[0] == MULTICAST {
        return false;
    }
    let mut sum = Checksum::ipv6_pseudo_header(
        &Addr::v6(ip.source),
        &Addr::v6(ip.destination),
        ip.payload_length.value(),
        protocol::ICMPV6,
    );
    for word in 0..MAX_WORDS {
        if word * 4 >= length {
            break;
        }
        let Some(bytes) = frame.at::<[u8; 4]>(IPV6_PAYLOAD + word * 4) else { return false };
        sum = sum.add_bytes(*bytes);
    }
    sum.finish() == Be16::new(0)
}

/// Kinds of the options of a solicitation of `length` bytes, 0 where there is none; `None` if they
/// do not fill it exactly.
#[inline(always)]
fn options(frame: &Frame<'_>, length: usize) -> Option<[u8; 2]> {
    const FIRST: usize = size_of::<NdMessage>();
    const SECOND: usize = FIRST + UNIT;
    const END: usize = SECOND + UNIT;
    if length == FIRST {
        return Some([0, 0]);
    }
    let [first, units, ..] = *frame.at::<[u8; 4]>(IPV6_PAYLOAD + FIRST)?;
    match (length, units) {
        (SECOND, 1) | (END, 2) => Some([first, 0]),
        (END, 1) => {
            let [second, units, ..] = *frame.at::<[u8; 4]>(IPV6_PAYLOAD + SECOND)?;
            if units == 1 { Some([first, second]) } else { None }
        }
        _ => None,
    }
}

/// Turns the solicitation, which resizing left in its place, into the advertisement.
#[inline(never)]
fn write_reply(ctx: *mut xdp_md, mac: &MacAddr, router: u8) -> bool {
    advertise(&Frame::of(ctx), *mac, router).is_some()
}

#[inline(always)]
fn advertise(frame: &Frame<'_>, mac: MacAddr, router: u8) -> Option<()> {
    let asker = frame.at::<Ipv6Header>(IP)?.source;
    let target = frame.at::<NdMessage>(IPV6_PAYLOAD)?.target;
    let station = frame.at::<EthHeader>(0)?.source;
    // A probe of duplicate address detection has no address to answer to: everybody is told.
    let probe = Addr::v6(asker) == Addr::default();
    let (station, destination) = if probe { (ALL_NODES_MAC, ALL_NODES) } else { (station, asker) };
    let option = NdLinkLayerOption { kind: 2, length: 1, mac };
    let solicited = if probe { 0 } else { NdMessage::SOLICITED };
    let flags = [router | solicited | NdMessage::OVERRIDE, 0, 0, 0];
    let [a, b, c, d, e, f] = mac.0;
    let [high, low] = Checksum::ipv6_pseudo_header(
        &Addr::v6(target),
        &Addr::v6(destination),
        REPLY_LENGTH,
        protocol::ICMPV6,
    )
    .add_bytes([NdMessage::ADVERTISEMENT, 0, 0, 0])
    .add_bytes(flags)
    .add_addr(&Addr::v6(target))
    .add_bytes([option.kind, option.length, a, b])
    .add_bytes([c, d, e, f])
    .finish()
    .0;
    frame.write(0, &EthHeader { destination: station, source: mac, ethertype: ethertype::IPV6 })?;
    frame.write(IP + offset_of!(Ipv6Header, payload_length), &Be16::new(REPLY_LENGTH))?;
    frame.write(IP + offset_of!(Ipv6Header, source), &target)?;
    frame.write(IP + offset_of!(Ipv6Header, destination), &destination)?;
    // The target stays where it is; so do version and hop limit 255 of the IPv6 header.
    frame.write(IPV6_PAYLOAD, &[NdMessage::ADVERTISEMENT, 0, high, low])?;
    frame.write(IPV6_PAYLOAD + offset_of!(NdMessage, flags), &flags)?;
    frame.write(IPV6_PAYLOAD + size_of::<NdMessage>(), &option)
}
