//! The inside of a tunnel: whether a packet for a virtual address is in it, and taking it out.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::csum::Change;
use pen_common::decap::{self, End};
use pen_common::net::{Addr, Be16, Ipv4Header, Ipv6Header, Stations, VlanTag, ethertype};

use crate::maps;
use crate::outer::{IP, Outer};
use crate::packet::{self, Frame};

/// Checks the packet in a tunnel.
///
/// # Errors
///
/// The end of the frame, if the packet does not come out.
#[inline(always)]
pub(crate) fn check(ctx: *mut xdp_md, outer: &Outer) -> Result<(), End> {
    let frame = Frame::of(ctx);
    let offset = outer.l2 + outer.length;
    let (destination, length) = if outer.ethertype == ethertype::IPV4 {
        let ip = frame.at::<Ipv4Header>(offset).ok_or(End::Malformed)?;
        let header = ip.header_length().ok_or(End::Malformed)?;
        let length = ip.total_length.value() as usize;
        if length < header {
            return Err(End::Malformed);
        }
        (Addr::v4(ip.destination), length)
    } else {
        let ip = frame.at::<Ipv6Header>(offset).ok_or(End::Malformed)?;
        if !ip.is_version_6() {
            return Err(End::Malformed);
        }
        let destination = Addr::v6(ip.destination);
        if destination.is_v4() {
            // As for the outer header.
            return Err(End::RefusedVip);
        }
        (destination, size_of::<Ipv6Header>() + ip.payload_length.value() as usize)
    };
    if length > outer.payload {
        return Err(End::Malformed);
    }
    if maps::is_vip(&destination) { Ok(()) } else { Err(End::RefusedVip) }
}

/// Hands a mark of congestion on to the packet, which is all right besides.
///
/// # Errors
///
/// The end of the frame, if the packet cannot bear it.
#[inline(always)]
pub(crate) fn mark(ctx: *mut xdp_md, outer: &Outer) -> Result<(), End> {
    if !decap::is_marked(outer.class) {
        return Ok(());
    }
    let frame = Frame::of(ctx);
    let offset = outer.l2 + outer.length;
    let written = if outer.ethertype == ethertype::IPV4 {
        let ip = frame.at::<Ipv4Header>(offset).ok_or(End::Malformed)?;
        let old = Be16([ip.version_ihl, ip.tos]);
        let new = Be16([ip.version_ihl, decap::class(outer.class, ip.tos)?]);
        let sum = Change::default().word(old, new).apply(ip.checksum);
        frame
            .write(offset, &new)
            .and_then(|()| frame.write(offset + offset_of!(Ipv4Header, checksum), &sum))
    } else {
        let ip = frame.at::<Ipv6Header>(offset).ok_or(End::Malformed)?;
        let [version, label, ..] = ip.version_class_flow;
        let class = decap::class(outer.class, ip.class())?;
        frame.write(offset, &Be16([(version & 0xf0) | (class >> 4), (class << 4) | (label & 0xf)]))
    };
    written.ok_or(End::Malformed)
}

/// Takes the tunnel's headers away: stations and tags move to the packet, and the last EtherType
/// becomes that of the packet. Headers of tunnels are longer than what moves but for the last
/// EtherType, so that nothing is overwritten before it is read.
#[inline(always)]
pub(crate) fn strip(ctx: *mut xdp_md, outer: &Outer) -> Result<(), End> {
    let by = i32::try_from(outer.length).map_err(|_| End::Malformed)?;
    move_headers(&Frame::of(ctx), outer)
        .and_then(|()| packet::move_start(ctx, by))
        .ok_or(End::Malformed)
}

#[inline(always)]
fn move_headers(frame: &Frame<'_>, outer: &Outer) -> Option<()> {
    const TAG: usize = size_of::<VlanTag>();
    // Each tag begins with the EtherType that says so.
    const FIRST: usize = size_of::<Stations>();
    const SECOND: usize = FIRST + TAG;
    if outer.l2 > IP {
        let tag = *frame.at::<[u8; TAG]>(FIRST)?;
        frame.write(outer.length + FIRST, &tag)?;
    }
    if outer.l2 > IP + TAG {
        let tag = *frame.at::<[u8; TAG]>(SECOND)?;
        frame.write(outer.length + SECOND, &tag)?;
    }
    let stations = *frame.at::<Stations>(0)?;
    frame.write(outer.length, &stations)?;
    frame.write(outer.length + outer.l2 - size_of::<Be16>(), &outer.ethertype)
}
