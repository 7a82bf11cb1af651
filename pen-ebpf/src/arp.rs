//! Answers ARP requests for virtual addresses that are ours now (RFC 826; probes of RFC 5227
//! too, so that nobody takes the address). Requests for anything else pass.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward;
use pen_common::net::{Addr, ArpPacket, EthHeader};
use pen_common::verdict::{Counter, PassReason};

use crate::maps::Maps;
use crate::packet::{self, Frame};

#[inline(never)]
pub(crate) fn answer(ctx: *mut xdp_md) -> Counter {
    let frame = Frame::of(ctx);
    let (Some(eth), Some(arp)) =
        (frame.at::<EthHeader>(0), frame.at::<ArpPacket>(size_of::<EthHeader>()))
    else {
        return Counter::PassNeighbour;
    };
    if !arp.is_ipv4_over_ethernet() || arp.operation != ArpPacket::REQUEST {
        return Counter::PassNeighbour;
    }
    let found = forward::told(&Maps, &Addr::v4(arp.target_ip));
    if let Err(reason @ PassReason::PassNotOurs) = found {
        return reason.counter();
    }
    // An announcement asks nothing (RFC 5227 section 2.4). Of another master, or of whom has taken
    // our address: the kernel may learn from it.
    if Addr::v4(arp.sender_ip) == Addr::v4(arp.target_ip) {
        return Counter::PassNeighbour;
    }
    // Of another node: the kernel would answer for an address on any of its interfaces.
    let Ok(entry) = found else { return Counter::DropNotMaster };
    if packet::ingress(ctx) != entry.ifindex {
        return Counter::PassNeighbour;
    }
    let header = EthHeader { destination: eth.source, source: entry.mac, ethertype: eth.ethertype };
    let reply = ArpPacket {
        operation: ArpPacket::REPLY,
        sender_mac: entry.mac,
        sender_ip: arp.target_ip,
        target_mac: arp.sender_mac,
        target_ip: arp.sender_ip,
        ..*arp
    };
    let written =
        frame.write(0, &header).and_then(|()| frame.write(size_of::<EthHeader>(), &reply));
    if written.is_none() { Counter::PassNeighbour } else { Counter::ArpReply }
}
