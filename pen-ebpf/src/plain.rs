//! The same as [`crate::head`] for what most packets are: untagged, TCP or UDP right behind a
//! header without options, not fragmented. At offsets that are known when the program is compiled,
//! headers are read and written in place, at half the cost.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use pen_common::csum::Change;
use pen_common::net::{
    EthHeader, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader, ethertype, protocol,
};

use crate::head::{self, Head};
use crate::ip::{IP, IPV6_PAYLOAD};
use crate::packet::Frame;

const IPV4_PAYLOAD: usize = IP + size_of::<Ipv4Header>();

/// Reads the headers; false if the packet is another one than that, or is cut short.
#[inline(never)]
pub(crate) fn read(ctx: *mut xdp_md, head: &mut Head) -> bool {
    read_plain(ctx, head).is_some()
}

#[inline(always)]
fn read_plain(ctx: *mut xdp_md, head: &mut Head) -> Option<()> {
    let frame = Frame::of(ctx);
    if ethertype::is_tag(frame.at::<EthHeader>(0)?.ethertype) {
        return None;
    }
    let ip = frame.at::<Ipv4Header>(IP)?;
    let end = if ip.version_ihl == Ipv4Header::NO_OPTIONS {
        if ip.is_fragment() {
            return None;
        }
        head.set_ipv4(ip);
        read_transport::<IPV4_PAYLOAD>(&frame, head)?
    } else {
        head.set_ipv6(frame.at::<Ipv6Header>(IP)?)?;
        read_transport::<IPV6_PAYLOAD>(&frame, head)?
    };
    let packet = IP + head.length as usize;
    if packet < end || packet as u64 > frame.length() {
        return None;
    }
    head.l2 = IP;
    head.part = Head::WHOLE;
    head.is_plain = true;
    Some(())
}

/// Where the transport header ends.
#[inline(always)]
fn read_transport<const AT: usize>(frame: &Frame<'_>, head: &mut Head) -> Option<usize> {
    match head.job.came.protocol {
        protocol::TCP => {
            head.set_tcp(frame.at::<TcpHeader>(AT)?);
            Some(AT + size_of::<TcpHeader>())
        }
        protocol::UDP => {
            head.set_udp(frame.at::<UdpHeader>(AT)?);
            Some(AT + size_of::<UdpHeader>())
        }
        _ => None,
    }
}

/// Gives the packet, of which [`read`] said that it is one of these, its job's ends and this many
/// hops to live.
#[inline(never)]
pub(crate) fn translate(ctx: *mut xdp_md, head: &Head, ttl: u8) -> bool {
    let (frame, change) = (Frame::of(ctx), head::change(head));
    write_addrs(&frame, head, change, ttl)
        .and_then(|()| {
            if head.job.ends.source.is_v4() {
                write_transport::<IPV4_PAYLOAD>(&frame, head, change)
            } else {
                write_transport::<IPV6_PAYLOAD>(&frame, head, change)
            }
        })
        .is_some()
}

#[inline(always)]
fn write_addrs(frame: &Frame<'_>, head: &Head, change: Change, ttl: u8) -> Option<()> {
    let (source, destination) = (head.job.ends.source, head.job.ends.destination);
    if source.is_v4() {
        let checksum = head.ip_checksum(change, ttl);
        frame.write(IP + offset_of!(Ipv4Header, ttl), &[ttl, head.job.came.protocol])?;
        frame.write(IP + offset_of!(Ipv4Header, checksum), &checksum)?;
        frame.write(IP + offset_of!(Ipv4Header, source), &source.v4_bytes())?;
        frame.write(IP + offset_of!(Ipv4Header, destination), &destination.v4_bytes())
    } else {
        frame.write(IP + offset_of!(Ipv6Header, next_header), &[head.job.came.protocol, ttl])?;
        frame.write(IP + offset_of!(Ipv6Header, source), &source.bytes())?;
        frame.write(IP + offset_of!(Ipv6Header, destination), &destination.bytes())
    }
}

#[inline(always)]
fn write_transport<const AT: usize>(frame: &Frame<'_>, head: &Head, change: Change) -> Option<()> {
    let ([a, b], [c, d]) = (head.job.ends.source_port.0, head.job.ends.port.0);
    let checksum = head.transport_checksum(change);
    frame.write(AT, &[a, b, c, d])?;
    if head.job.came.protocol == protocol::TCP {
        frame.write(AT + offset_of!(TcpHeader, checksum), &checksum)
    } else {
        frame.write(AT + offset_of!(UdpHeader, checksum), &checksum)
    }
}
