//! Sends ICMP errors to clients, in the name of the virtual address: "packet too big", so that they
//! send smaller ones through a tunnel, and "time exceeded". So many a second for each CPU
//! (`icmp_per_second`), because anybody may cause them under anybody's name.
//!
//! The frame itself becomes the error: the packet's begin stays where it is and is the quote, its
//! end is cut off, and the headers of the error go before it.

use aya_ebpf::bindings::xdp_md;
use pen_common::abi::Valve;
use pen_common::csum::Checksum;
use pen_common::forward::Lookup;
use pen_common::icmp::{
    self, Complaint, ERROR_V4, ERROR_V6, IcmpHeader, QUOTE_V4, QUOTE_V6, may_complain,
};
use pen_common::net::{Addr, Be16, FragmentHeader, Ipv4Header, Ipv6Header, VlanTag, protocol};
use pen_common::verdict::Counter;

use crate::ip::{IP, MAX_TAGS};
use crate::maps::{self, Maps};
use crate::packet::{self, Frame, move_start, resize};

/// The packet at `l2` is longer than fits on the way to its backend: tells its sender that `room`
/// bytes would.
///
/// The frame must be as it came in, addressed to a virtual address. Also when "don't fragment" is
/// not set: we do not fragment, and a sender that is told sends smaller packets or fragments itself.
#[inline(always)]
pub(crate) fn too_big(ctx: *mut xdp_md, l2: usize, room: u16) -> Counter {
    let complaint = Complaint::TooBig { mtu: u32::from(room) };
    if complain(ctx, l2, complaint) { Counter::TooBigReply } else { Counter::DropTooBig }
}

/// The packet at `l2` has reached its last hop and would have to go further: tells its sender. The
/// frame must be as it came in, addressed to a virtual address.
#[inline(always)]
pub(crate) fn time_exceeded(ctx: *mut xdp_md, l2: usize) -> Counter {
    if complain(ctx, l2, Complaint::TimeExceeded) { Counter::TtlReply } else { Counter::DropTtl }
}

/// Makes the frame, which must be as it came in, an error about the packet at `l2`, to be sent back;
/// false if there must be none, and then the frame has to be dropped, because it may be spoilt.
#[inline(always)]
fn complain(ctx: *mut xdp_md, l2: usize, complaint: Complaint) -> bool {
    let (kind, mtu) = match complaint {
        Complaint::TooBig { mtu } => (TOO_BIG, mtu),
        Complaint::TimeExceeded => (TIME_EXCEEDED, 0),
    };
    pen_complain(ctx, l2, kind, mtu) != 0
}

const TOO_BIG: u32 = 0;
const TIME_EXCEEDED: u32 = 1;
/// Where an IP header stands behind two tags, and nowhere later.
const MOST_L2: usize = IP + MAX_TAGS * size_of::<VlanTag>();

/// [`complain`], as a function that the verifier looks at once, for any numbers that it could get:
/// functions whose name is exported are such. Other functions it follows anew from each of the many
/// places and states from which they are called, and this one is long.
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the name is exported; nothing else in the object has it")]
pub extern "C" fn pen_complain(ctx: *mut xdp_md, l2: usize, kind: u32, mtu: u32) -> u32 {
    let complaint =
        if kind == TIME_EXCEEDED { Complaint::TimeExceeded } else { Complaint::TooBig { mtu } };
    if l2 > MOST_L2 {
        return 0;
    }
    let frame = Frame::of(ctx);
    let sent = match frame.at::<[u8; 4]>(l2) {
        Some([first, ..]) if first >> 4 == 4 => ipv4(ctx, l2, &complaint.v4()),
        Some([first, ..]) if first >> 4 == 6 => ipv6(ctx, l2, &complaint.v6()),
        _ => None,
    };
    u32::from(sent.is_some())
}

#[inline(always)]
fn ipv4(ctx: *mut xdp_md, l2: usize, header: &IcmpHeader) -> Option<()> {
    let frame = Frame::of(ctx);
    let ip = frame.at::<Ipv4Header>(l2)?;
    if !may_complain(&Addr::v4(ip.source), ip.protocol, ip.is_later_fragment()) || !passes() {
        return None;
    }
    let quoted = icmp::quoted_v4(ip);
    let ip = icmp::ipv4_header(ip.destination, ip.source, quoted);
    let sum = icmp::sum(Checksum::new(), header);
    let checksum = put_before::<{ QUOTE_V4 as usize }>(ctx, l2, ERROR_V4, quoted, sum)?;
    let frame = Frame::of(ctx);
    frame.write(l2, &ip)?;
    frame.write(l2 + size_of::<Ipv4Header>(), &IcmpHeader { checksum, ..*header })
}

#[inline(always)]
fn ipv6(ctx: *mut xdp_md, l2: usize, header: &IcmpHeader) -> Option<()> {
    let frame = Frame::of(ctx);
    let ip = frame.at::<Ipv6Header>(l2)?;
    let (mut protocol, mut later) = (ip.next_header, false);
    if protocol == protocol::FRAGMENT {
        let fragment = frame.at::<FragmentHeader>(l2 + size_of::<Ipv6Header>())?;
        (protocol, later) = (fragment.next_header, fragment.is_later());
    }
    if !may_complain(&Addr::v6(ip.source), protocol, later) || !passes() {
        return None;
    }
    let quoted = icmp::quoted_v6(ip);
    let ip = icmp::ipv6_header(ip.destination, ip.source, quoted);
    let pseudo = Checksum::ipv6_pseudo_header(
        &Addr::v6(ip.source),
        &Addr::v6(ip.destination),
        ip.payload_length.value(),
        protocol::ICMPV6,
    );
    let sum = icmp::sum(pseudo, header);
    let checksum = put_before::<{ QUOTE_V6 as usize }>(ctx, l2, ERROR_V6, quoted, sum)?;
    let frame = Frame::of(ctx);
    frame.write(l2, &ip)?;
    frame.write(l2 + size_of::<Ipv6Header>(), &IcmpHeader { checksum, ..*header })
}

/// Whether one more error may be sent.
#[inline(always)]
fn passes() -> bool {
    maps::passes(Valve::Icmp, Maps.now())
}

/// Cuts the packet at `l2` down to `quoted` bytes, at most `MOST`, makes room for headers of this
/// length before it, and addresses the frame to the station that it came from. VLAN tags are kept.
/// Returns the checksum of what `sum` covers and the quote.
#[inline(always)]
fn put_before<const MOST: usize>(
    ctx: *mut xdp_md,
    l2: usize,
    headers: u16,
    quoted: u16,
    sum: Checksum,
) -> Option<Be16> {
    let end = l2 + quoted as usize;
    resize(ctx, end)?;
    // Filled up with zeros, which do not count: the verifier would take a loop over a length that
    // it does not know for many different programs.
    resize(ctx, l2 + MOST)?;
    let checksum = packet::add_to::<MOST>(ctx, l2, sum)?.finish();
    resize(ctx, end)?;
    move_start(ctx, -i32::from(headers))?;
    let old = headers as usize;
    super::turn_round(ctx, old)?;
    let frame = Frame::of(ctx);
    for tags in 0..MAX_TAGS {
        let at = IP + size_of::<VlanTag>() * tags;
        if at >= l2 {
            break;
        }
        frame.write(at, frame.at::<VlanTag>(old + at)?)?;
    }
    Some(checksum)
}
