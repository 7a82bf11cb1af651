//! IPv4 and IPv6: reads the facts that a decision needs, and carries the decision out. The
//! destination is looked up before anything else is asked of a packet; the transport header is
//! read by a closure that `decide` calls only for our own addresses.

use aya_ebpf::programs::XdpContext;
use pen_common::forward::{self, Arrival, Flow, Stage};
use pen_common::net::{
    Addr, Be16, EthHeader, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader, protocol,
};
use pen_common::verdict::{Counter, PassReason, Verdict};

use crate::maps::{self, Maps};
use crate::packet::{self, Frame};
use crate::{nd, rewrite};

/// Where an IP header stands in a frame without VLAN tag.
pub(crate) const IP: usize = size_of::<EthHeader>();
const IPV4_PAYLOAD: usize = IP + size_of::<Ipv4Header>();
/// Where the payload of an IPv6 packet without extension headers stands.
pub(crate) const IPV6_PAYLOAD: usize = IP + size_of::<Ipv6Header>();

/// Version 4, header of five words: no options.
const IPV4_NO_OPTIONS: u8 = 0x45;
/// IPv6 extension headers (RFC 8200 section 4): hop-by-hop, routing, fragment, destination.
const EXT_HOP_BY_HOP: u8 = 0;
const EXT_ROUTING: u8 = 43;
const EXT_FRAGMENT: u8 = 44;
const EXT_DESTINATION: u8 = 60;

#[inline(always)]
pub(crate) fn ipv4(ctx: &XdpContext, frame: &Frame<'_>, eth: &EthHeader) -> Counter {
    let Some(ip) = frame.at::<Ipv4Header>(IP) else { return Counter::PassNotOurs };
    let arrival = arrival(ctx, eth);
    let destination = Addr::v4(ip.destination);
    let verdict = forward::decide(&Maps, &arrival, &destination, || parse_ipv4(frame, ip));
    carry_out(ctx, frame, &verdict)
}

#[inline(always)]
pub(crate) fn ipv6(ctx: &XdpContext, frame: &Frame<'_>, eth: &EthHeader) -> Counter {
    let Some(ip) = frame.at::<Ipv6Header>(IP) else { return Counter::PassNotOurs };
    let destination = Addr::v6(ip.destination);
    if destination.is_v4() {
        // Our maps hold IPv4 addresses mapped; on a wire a mapped address is nobody's.
        return Counter::PassNotOurs;
    }
    if ip.next_header == protocol::ICMPV6 {
        return nd::answer(ctx.ctx);
    }
    let arrival = arrival(ctx, eth);
    let verdict = forward::decide(&Maps, &arrival, &destination, || parse_ipv6(frame, ip));
    carry_out(ctx, frame, &verdict)
}

#[inline(always)]
fn arrival(ctx: &XdpContext, eth: &EthHeader) -> Arrival {
    Arrival { ifindex: packet::ingress(ctx.ctx), station: eth.destination }
}

#[inline(always)]
fn parse_ipv4(frame: &Frame<'_>, ip: &Ipv4Header) -> Result<Flow, PassReason> {
    if ip.version_ihl != IPV4_NO_OPTIONS {
        // Fewer than five words, or another version, is no IPv4 header at all.
        let options = ip.version_ihl > IPV4_NO_OPTIONS && ip.version_ihl <= 0x4f;
        return Err(if options { PassReason::PassOptions } else { PassReason::PassMalformed });
    }
    if ip.is_fragment() {
        return Err(PassReason::PassFragment);
    }
    let length = ip.total_length.value() as usize;
    if length < size_of::<Ipv4Header>() {
        return Err(PassReason::PassMalformed);
    }
    let ports = ports(frame, IPV4_PAYLOAD, length - size_of::<Ipv4Header>(), ip.protocol)?;
    Ok(ports.of(Addr::v4(ip.source), ip.protocol))
}

#[inline(always)]
fn parse_ipv6(frame: &Frame<'_>, ip: &Ipv6Header) -> Result<Flow, PassReason> {
    match ip.next_header {
        EXT_FRAGMENT => return Err(PassReason::PassFragment),
        EXT_HOP_BY_HOP | EXT_ROUTING | EXT_DESTINATION => return Err(PassReason::PassOptions),
        _ => {}
    }
    if ip.version_class_flow[0] >> 4 != 6 {
        return Err(PassReason::PassMalformed);
    }
    let length = ip.payload_length.value() as usize;
    let ports = ports(frame, IPV6_PAYLOAD, length, ip.next_header)?;
    Ok(ports.of(Addr::v6(ip.source), ip.next_header))
}

/// What a decision needs of a transport header.
struct Ports {
    source: Be16,
    destination: Be16,
    stage: Stage,
}

impl Ports {
    #[inline(always)]
    const fn of(self, source: Addr, protocol: u8) -> Flow {
        let Self { source: source_port, destination: port, stage } = self;
        Flow { source, source_port, port, protocol, stage }
    }
}

/// Source and destination port of the TCP or UDP header at `offset`, where the IP header says that
/// `length` bytes follow. All of them must be there: half a datagram is not forwarded.
#[inline(always)]
fn ports(
    frame: &Frame<'_>,
    offset: usize,
    length: usize,
    protocol: u8,
) -> Result<Ports, PassReason> {
    if (offset + length) as u64 > frame.length() {
        return Err(PassReason::PassMalformed);
    }
    match protocol {
        protocol::TCP => match frame.at::<TcpHeader>(offset) {
            Some(tcp) if length >= size_of::<TcpHeader>() => Ok(Ports {
                source: tcp.source,
                destination: tcp.destination,
                stage: Stage::of_tcp(tcp.flags),
            }),
            _ => Err(PassReason::PassMalformed),
        },
        protocol::UDP => match frame.at::<UdpHeader>(offset) {
            Some(udp) if length >= size_of::<UdpHeader>() => Ok(Ports {
                source: udp.source,
                destination: udp.destination,
                stage: Stage::Datagram,
            }),
            _ => Err(PassReason::PassMalformed),
        },
        _ => Err(PassReason::PassProtocol),
    }
}

#[inline(always)]
fn carry_out(ctx: &XdpContext, frame: &Frame<'_>, verdict: &Verdict<'_>) -> Counter {
    match verdict {
        Verdict::Pass(reason) => reason.counter(),
        Verdict::Drop(reason) => reason.counter(),
        Verdict::Forward(forward) => {
            let counter = rewrite::direct_return(ctx, frame, forward.backend);
            if !matches!(counter, Counter::DropRewrite) {
                maps::count_forwarded(forward.service, forward.id, frame.length());
            }
            counter
        }
    }
}
