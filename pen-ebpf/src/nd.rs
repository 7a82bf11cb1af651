//! Answers IPv6 neighbour solicitations for virtual addresses that are ours now (RFC 4861 sections
//! 7.1.1, 7.2.3 and 7.2.4), also those of duplicate address detection (RFC 4862), so that nobody
//! takes the address. All other ICMPv6 passes.

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::AddrEntry;
use pen_common::csum::Checksum;
use pen_common::forward;
use pen_common::net::{
    Addr, Be16, EthHeader, Ipv6Header, MacAddr, NdLinkLayerOption, NdMessage, ethertype, protocol,
};
use pen_common::verdict::Counter;

use crate::ip::{IP, IPV6_PAYLOAD};
use crate::maps::Maps;
use crate::packet::{self, Frame};

/// An advertisement with its option.
const REPLY_LENGTH: usize = size_of::<NdMessage>() + size_of::<NdLinkLayerOption>();
/// Longest solicitation whose checksum is verified, in words of four bytes; longer ones pass.
const MAX_WORDS: usize = 32;
/// ff02::1 and the Ethernet address that belongs to it.
const ALL_NODES: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const UNSPECIFIED: Addr = Addr([0; 16]);

#[inline(never)]
pub(crate) fn answer(ctx: *mut xdp_md) -> Counter {
    let frame = Frame::of(ctx);
    let (Some(eth), Some(ip), Some(nd)) =
        (frame.at::<EthHeader>(0), frame.at::<Ipv6Header>(IP), frame.at::<NdMessage>(IPV6_PAYLOAD))
    else {
        return Counter::PassNeighbour;
    };
    if nd.kind != NdMessage::SOLICITATION {
        return match forward::own(&Maps, &ip.destination) {
            Ok(_) => Counter::PassProtocol,
            Err(reason) => reason.counter(),
        };
    }
    let entry = match forward::own(&Maps, &nd.target) {
        Ok(entry) => entry,
        Err(reason) => return reason.counter(),
    };
    if packet::ingress(ctx) != entry.ifindex || !is_valid(&frame, ip, nd) {
        return Counter::PassNeighbour;
    }
    // What is needed is copied: the references end when the frame is resized.
    let (asker, station, target) = (ip.source, eth.source, nd.target);
    let wanted = (IPV6_PAYLOAD + REPLY_LENGTH) as i32;
    if packet::resize(ctx, wanted - frame.length() as i32).is_none() {
        return Counter::PassNeighbour;
    }
    match write_reply(&Frame::of(ctx), &entry, &asker, station, target) {
        Some(()) => Counter::NdReply,
        None => Counter::DropRewrite,
    }
}

/// The checks of RFC 4861 section 7.1.1: hop limit 255 proves that no router forwarded it.
#[inline(always)]
fn is_valid(frame: &Frame<'_>, ip: &Ipv6Header, nd: &NdMessage) -> bool {
    let length = ip.payload_length.value() as usize;
    if ip.hop_limit != 255 || nd.code != 0 || length < size_of::<NdMessage>() || length % 4 != 0 {
        return false;
    }
    if (IPV6_PAYLOAD + length) as u64 > frame.length() || length > MAX_WORDS * 4 {
        return false;
    }
    let mut sum = Checksum::ipv6_pseudo_header(
        &ip.source,
        &ip.destination,
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

#[inline(always)]
fn write_reply(
    frame: &Frame<'_>,
    entry: &AddrEntry,
    asker: &Addr,
    station: MacAddr,
    target: Addr,
) -> Option<()> {
    // A probe of duplicate address detection has no address to answer to: everybody is told.
    let probe = *asker == UNSPECIFIED;
    let destination = if probe { ALL_NODES } else { *asker };
    frame.write(
        0,
        &EthHeader {
            destination: if probe { ALL_NODES_MAC } else { station },
            source: entry.mac,
            ethertype: ethertype::IPV6,
        },
    )?;
    frame.write(
        IP,
        &Ipv6Header {
            version_class_flow: [0x60, 0, 0, 0],
            payload_length: Be16::new(REPLY_LENGTH as u16),
            next_header: protocol::ICMPV6,
            hop_limit: 255,
            source: target,
            destination,
        },
    )?;
    let option = NdLinkLayerOption { kind: 2, length: 1, mac: entry.mac };
    let mut reply = NdMessage {
        kind: NdMessage::ADVERTISEMENT,
        code: 0,
        checksum: Be16::new(0),
        flags: [if probe { 0 } else { NdMessage::SOLICITED } | NdMessage::OVERRIDE, 0, 0, 0],
        target,
    };
    let [a, b, c, d, e, f] = option.mac.0;
    reply.checksum =
        Checksum::ipv6_pseudo_header(&target, &destination, REPLY_LENGTH as u16, protocol::ICMPV6)
            .add_bytes([reply.kind, reply.code, 0, 0])
            .add_bytes(reply.flags)
            .add_addr(&target)
            .add_bytes([option.kind, option.length, a, b])
            .add_bytes([c, d, e, f])
            .finish();
    frame.write(IPV6_PAYLOAD, &reply)?;
    frame.write(IPV6_PAYLOAD + size_of::<NdMessage>(), &option)
}
