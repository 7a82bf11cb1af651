//! The outside of a tunnel: finds it in a frame, and knows whether it leads to this host.

use aya_ebpf::bindings::xdp_md;
use pen_common::decap::End;
use pen_common::net::{
    Addr, Be16, EthHeader, Ipv4Header, Ipv6Header, UdpHeader, VlanTag, ethertype, protocol,
};
use pen_common::tunnel::GUE_PORT;

use crate::maps;
use crate::packet::{self, Frame};

/// Where an IP header stands in a frame without VLAN tag.
pub(crate) const IP: usize = size_of::<EthHeader>();
/// Most VLAN tags that are stepped over: a provider's one and a customer's one.
const MAX_TAGS: usize = 2;

/// Kind of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ipip,
    Gue,
}

/// A tunnel to this host.
#[derive(Clone, Copy)]
pub(crate) struct Outer {
    pub(crate) kind: Kind,
    /// Where its IP header stands.
    pub(crate) l2: usize,
    /// Length of its headers.
    pub(crate) length: usize,
    /// Type of service or traffic class.
    pub(crate) class: u8,
    /// EtherType of what is in it, by its own word.
    pub(crate) ethertype: Be16,
    /// Bytes in it.
    pub(crate) payload: usize,
}

/// What both versions of IP say of a tunnel.
struct Ip {
    destination: Addr,
    protocol: u8,
    class: u8,
    /// Length of the header.
    header: usize,
    /// Length of what follows it.
    payload: usize,
}

/// The tunnel in the frame.
///
/// # Errors
///
/// The end of the frame, if there is none to this host.
#[inline(always)]
pub(crate) fn find(ctx: *mut xdp_md) -> Result<Outer, End> {
    let frame = Frame::of(ctx);
    let eth = frame.at::<EthHeader>(0).ok_or(End::PassOther)?;
    let (mut ethertype, mut l2) = (eth.ethertype, IP);
    for _ in 0..MAX_TAGS {
        if !ethertype::is_tag(ethertype) {
            break;
        }
        ethertype = frame.at::<VlanTag>(l2).ok_or(End::PassOther)?.ethertype;
        l2 += size_of::<VlanTag>();
    }
    let ip = match ethertype {
        ethertype::IPV4 => ipv4(&frame, l2)?,
        ethertype::IPV6 => ipv6(&frame, l2)?,
        _ => return Err(End::PassOther),
    };
    let Ip { class, header, payload, .. } = ip;
    let (kind, ethertype) = match ip.protocol {
        protocol::IPIP => (Kind::Ipip, ethertype::IPV4),
        protocol::IPV6 => (Kind::Ipip, ethertype::IPV6),
        protocol::UDP => (Kind::Gue, ethertype::IPV4),
        _ => return Err(End::PassOther),
    };
    let mut outer = Outer { kind, l2, length: header, class, ethertype, payload };
    if kind == Kind::Gue {
        let udp = frame.at::<UdpHeader>(l2 + header).ok_or(End::PassOther)?;
        if udp.destination != GUE_PORT {
            return Err(End::PassOther);
        }
        if !maps::is_address(&ip.destination) {
            return Err(End::PassAddress);
        }
        if udp.length.value() as usize != payload {
            return Err(End::Malformed);
        }
        outer.length += size_of::<UdpHeader>();
        outer.payload = payload.checked_sub(size_of::<UdpHeader>()).ok_or(End::Malformed)?;
        outer.ethertype = variant(&frame, l2 + outer.length)?;
    } else if !maps::is_address(&ip.destination) {
        return Err(End::PassAddress);
    }
    if (outer.l2 + outer.length + outer.payload) as u64 > packet::length(ctx) {
        return Err(End::Malformed);
    }
    Ok(outer)
}

#[inline(always)]
fn ipv4(frame: &Frame<'_>, l2: usize) -> Result<Ip, End> {
    let ip = frame.at::<Ipv4Header>(l2).ok_or(End::PassOther)?;
    // pen makes neither options nor fragments; others may, for tunnels of their own.
    if ip.version_ihl != Ipv4Header::NO_OPTIONS || ip.is_fragment() {
        return Err(End::PassOther);
    }
    let header = size_of::<Ipv4Header>();
    Ok(Ip {
        destination: Addr::v4(ip.destination),
        protocol: ip.protocol,
        class: ip.tos,
        header,
        payload: (ip.total_length.value() as usize).checked_sub(header).ok_or(End::PassOther)?,
    })
}

#[inline(always)]
fn ipv6(frame: &Frame<'_>, l2: usize) -> Result<Ip, End> {
    let ip = frame.at::<Ipv6Header>(l2).ok_or(End::PassOther)?;
    let destination = Addr::v6(ip.destination);
    // The lists hold IPv4 addresses mapped; on a wire a mapped address is nobody's.
    if !ip.is_version_6() || destination.is_v4() {
        return Err(End::PassOther);
    }
    Ok(Ip {
        destination,
        protocol: ip.next_header,
        class: ip.class(),
        header: size_of::<Ipv6Header>(),
        payload: ip.payload_length.value() as usize,
    })
}

/// What a GUE header says of itself: of variant 1 it is not there, and the first four bits are the
/// version of the IP packet.
#[inline(always)]
fn variant(frame: &Frame<'_>, offset: usize) -> Result<Be16, End> {
    let [first, _] = frame.at::<[u8; 2]>(offset).ok_or(End::Malformed)?;
    match first >> 4 {
        4 => Ok(ethertype::IPV4),
        6 => Ok(ethertype::IPV6),
        // The first two bits are the variant.
        0b0101 | 0b0111 => Err(End::Malformed),
        _ => Err(End::PassVariant),
    }
}
