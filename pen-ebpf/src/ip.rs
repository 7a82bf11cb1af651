//! IPv4 and IPv6: reads the facts that a decision needs, and has it carried out. Nothing is asked of a
//! packet before its destination is known to be ours: the ports of a plain one are read at once, if
//! they are there, because that finds its service sooner; a transport header anywhere else is read
//! by a closure that `decide` calls only for our own addresses.
//!
//! TCP and UDP right behind a header without options are read here, inlined into the entry point: a
//! call costs several nanoseconds where CPUs have to be kept from mispredicting returns. `l2` is the
//! offset of the IP header, one of three numbers that the verifier tells apart, so that frames with
//! and without VLAN tags share this code. Packets of other shapes are read by [`unusual`]; what is
//! neither TCP nor UDP gets a second look by its own stage after the decision to let it pass. All
//! these are functions of their own, with what the entry point leaves of the 512 bytes of stack.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::{self, Arrival, Flow, Stage};
use pen_common::net::{
    Addr, Be16, EthHeader, Ipv4Header, Ipv6Header, MacAddr, NdMessage, TcpHeader, UdpHeader,
    VlanTag, ethertype, protocol,
};
use pen_common::verdict::{Counter, PassReason};

use crate::maps::Maps;
use crate::packet::{self, Frame};
use crate::{back, icmp, nd, rewrite, unusual};

/// Where an IP header stands in a frame without VLAN tag.
pub(crate) const IP: usize = size_of::<EthHeader>();
/// Most VLAN tags that are stepped over: a provider's one and a customer's one.
pub(crate) const MAX_TAGS: usize = 2;
/// Where the payload of an untagged IPv6 packet without extension headers stands.
pub(crate) const IPV6_PAYLOAD: usize = IP + size_of::<Ipv6Header>();

/// Which IP a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

/// An IP packet at `l2`, of this version by the frame's EtherType.
#[inline(always)]
pub(crate) fn packet<const FRAGS: bool>(
    ctx: *mut xdp_md,
    frame: &Frame<'_, FRAGS>,
    l2: usize,
    version: Version,
) -> Counter {
    let Some((source, destination)) = ends(frame, l2, version) else {
        return Counter::PassNotOurs;
    };
    if version == Version::V6 {
        if destination.is_v4() {
            // Our maps hold IPv4 addresses mapped; on a wire a mapped address is nobody's.
            return Counter::PassNotOurs;
        }
        if l2 == IP && is_solicitation(frame) {
            return nd::answer(ctx);
        }
    }
    let arrival = arrival(ctx, frame);
    let plain = match version {
        Version::V4 => plain_ipv4(frame, l2, source),
        Version::V6 => plain_ipv6(frame, l2, source),
    };
    let plain = plain.unwrap_or(Flow::NONE);
    let verdict = forward::decide_plain(&Maps, &arrival, &destination, plain, || match version {
        Version::V4 => unusual(source, |flow| unusual::ipv4(ctx, l2, flow)),
        Version::V6 => unusual(source, |flow| unusual::ipv6(ctx, l2, flow)),
    });
    match (rewrite::carry_out(ctx, frame, &verdict), version) {
        (Counter::PassNotOurs, _) => back::answer_if_any(ctx),
        // A virtual address may be the source of masqueraded packets.
        (Counter::PassNoService, _) => match back::answer_if_any(ctx) {
            Counter::PassNotOurs => Counter::PassNoService,
            counter => counter,
        },
        (Counter::PassProtocol, Version::V4) => icmp::echo::ipv4(ctx, l2),
        (Counter::PassProtocol, Version::V6) => icmp::echo::ipv6(ctx, l2),
        (counter, _) => counter,
    }
}

/// Where the IP header of a frame stands, behind its tags.
#[inline(never)]
pub(crate) fn offset(ctx: *mut xdp_md) -> usize {
    let frame = Frame::of(ctx);
    let mut l2 = IP;
    for _ in 0..MAX_TAGS {
        match frame.at::<Be16>(l2 - size_of::<Be16>()) {
            Some(ethertype) if ethertype::is_tag(*ethertype) => l2 += size_of::<VlanTag>(),
            _ => break,
        }
    }
    l2
}

/// Source and destination.
#[inline(always)]
fn ends<const FRAGS: bool>(
    frame: &Frame<'_, FRAGS>,
    l2: usize,
    version: Version,
) -> Option<(Addr, Addr)> {
    match version {
        Version::V4 => {
            let ip = frame.at::<Ipv4Header>(l2)?;
            Some((Addr::v4(ip.source), Addr::v4(ip.destination)))
        }
        Version::V6 => {
            let ip = frame.at::<Ipv6Header>(l2)?;
            Some((Addr::v6(ip.source), Addr::v6(ip.destination)))
        }
    }
}

/// The flow of TCP or UDP right behind a header without options; `None` for all else, also if it is
/// cut short.
#[inline(always)]
fn plain_ipv4<const FRAGS: bool>(
    frame: &Frame<'_, FRAGS>,
    l2: usize,
    source: Addr,
) -> Option<Flow> {
    let ip = frame.at::<Ipv4Header>(l2)?;
    let has_ports = ip.protocol == protocol::TCP || ip.protocol == protocol::UDP;
    if !has_ports || ip.version_ihl != Ipv4Header::NO_OPTIONS || ip.is_fragment() {
        return None;
    }
    let header = size_of::<Ipv4Header>();
    let length = ip.total_length.value() as usize;
    if length < header {
        return None;
    }
    let ports = ports(frame, l2 + header, length - header, ip.protocol).ok()?;
    Some(ports.of(source, ip.protocol))
}

#[inline(always)]
fn plain_ipv6<const FRAGS: bool>(
    frame: &Frame<'_, FRAGS>,
    l2: usize,
    source: Addr,
) -> Option<Flow> {
    let ip = frame.at::<Ipv6Header>(l2)?;
    let has_ports = ip.next_header == protocol::TCP || ip.next_header == protocol::UDP;
    if !has_ports || !ip.is_version_6() {
        return None;
    }
    let length = ip.payload_length.value() as usize;
    let ports = ports(frame, l2 + size_of::<Ipv6Header>(), length, ip.next_header).ok()?;
    Some(ports.of(source, ip.next_header))
}

/// Neighbour discovery is answered only in untagged frames: nobody has said that a virtual address
/// lives in a VLAN.
#[inline(always)]
fn is_solicitation<const FRAGS: bool>(frame: &Frame<'_, FRAGS>) -> bool {
    let (Some(ip), Some(nd)) = (frame.at::<Ipv6Header>(IP), frame.at::<NdMessage>(IPV6_PAYLOAD))
    else {
        return false;
    };
    ip.next_header == protocol::ICMPV6 && nd.kind == NdMessage::SOLICITATION
}

/// Has a flow read by a function that is not inlined, and cannot return it. The flow is one only if
/// the result says so.
#[inline(always)]
fn unusual(
    source: Addr,
    read: impl FnOnce(&mut Flow) -> Result<(), PassReason>,
) -> (Flow, Result<(), PassReason>) {
    let mut flow = Flow { source, ..Flow::NONE };
    let result = read(&mut flow);
    let flow = Flow {
        source: packet::as_it_is(&flow.source),
        source_port: packet::as_it_is(&flow.source_port),
        port: packet::as_it_is(&flow.port),
        protocol: packet::as_it_is(&flow.protocol),
        stage: packet::as_it_is(&flow.stage),
    };
    (flow, result)
}

/// How the frame came in.
#[inline(always)]
fn arrival<const FRAGS: bool>(ctx: *mut xdp_md, frame: &Frame<'_, FRAGS>) -> Arrival {
    // There is one: the caller has read a header behind it.
    let station = frame.at::<EthHeader>(0).map_or(MacAddr::NONE, |eth| eth.destination);
    Arrival { ifindex: packet::ingress(ctx), station }
}

/// What a decision needs of a transport header.
pub(crate) struct Ports {
    source: Be16,
    destination: Be16,
    stage: Stage,
}

impl Ports {
    /// Of a TCP or UDP header, read by one of the two closures, where `length` bytes belong to
    /// header and payload.
    #[inline(always)]
    pub(crate) fn read<'a>(
        protocol: u8,
        length: usize,
        tcp: impl FnOnce() -> Option<&'a TcpHeader>,
        udp: impl FnOnce() -> Option<&'a UdpHeader>,
    ) -> Result<Self, PassReason> {
        match protocol {
            protocol::TCP => match tcp() {
                Some(tcp) if length >= size_of::<TcpHeader>() => Ok(Self {
                    source: tcp.source,
                    destination: tcp.destination,
                    stage: Stage::of_tcp(tcp.flags),
                }),
                _ => Err(PassReason::PassMalformed),
            },
            protocol::UDP => match udp() {
                Some(udp) if length >= size_of::<UdpHeader>() => Ok(Self {
                    source: udp.source,
                    destination: udp.destination,
                    stage: Stage::Datagram,
                }),
                _ => Err(PassReason::PassMalformed),
            },
            _ => Err(PassReason::PassProtocol),
        }
    }

    /// The flow that they belong to.
    #[inline(always)]
    pub(crate) const fn of(self, source: Addr, protocol: u8) -> Flow {
        let Self { source: source_port, destination: port, stage } = self;
        Flow { source, source_port, port, protocol, stage }
    }
}

/// Source and destination port of the TCP or UDP header at `offset`, where the IP header says that
/// `length` bytes follow. All of them must be there: half a datagram is not forwarded.
#[inline(always)]
fn ports<const FRAGS: bool>(
    frame: &Frame<'_, FRAGS>,
    offset: usize,
    length: usize,
    protocol: u8,
) -> Result<Ports, PassReason> {
    if (offset + length) as u64 > frame.length() {
        return Err(PassReason::PassMalformed);
    }
    Ports::read(protocol, length, || frame.at(offset), || frame.at(offset))
}
