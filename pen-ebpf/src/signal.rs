//! Tells the controller of servers that fail: counts the signals of `pen_common::signal`. Functions of
//! their own, called for packets that open a connection, that are the first answer to one, and for
//! ICMP errors; never for those of a connection that is established.

use aya_ebpf::bindings::xdp_md;
use pen_common::forward::Lookup as _;
use pen_common::icmp::Message;
use pen_common::nat;
use pen_common::net::{Ipv6Header, VlanTag, protocol};
use pen_common::signal::{Opening, Signal};

use crate::head::Head;
use crate::ip::{self, IP, MAX_TAGS};
use crate::maps::{self, Maps};
use crate::packet::{self, Buffer, Frame};
use crate::related;

/// Where an IP header stands behind two tags, and nowhere later.
const MOST_L2: usize = IP + MAX_TAGS * size_of::<VlanTag>();

/// A SYN goes to this backend, whose answers do not come this way: whether it comes again, because
/// there was none, is known only if it is remembered itself.
///
/// Exported for the verifier's sake, see [`crate::nat`].
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "nothing else in the object has this name")]
pub extern "C" fn pen_opens(ctx: *mut xdp_md, id: u32, hash: u64) -> u32 {
    u32::from(opens(ctx, id, hash).is_some())
}

#[inline(always)]
fn opens(ctx: *mut xdp_md, id: u32, hash: u64) -> Option<()> {
    let l2 = ip::offset(ctx);
    if l2 > MOST_L2 {
        return None;
    }
    let frame = Frame::of(ctx);
    let [first, ..] = frame.at::<[u8; 4]>(l2)?;
    let at = if first >> 4 == 4 {
        l2 + usize::from(first & 0xf) * 4
    } else if frame.at::<Ipv6Header>(l2)?.next_header == protocol::TCP {
        l2 + size_of::<Ipv6Header>()
    } else {
        // Behind extension headers it is not looked for.
        return None;
    };
    let [a, b, c, d, sequence @ ..] = *frame.at::<[u8; 8]>(at)?;
    let ports = u32::from_be_bytes([a, b, c, d]);
    let opening = Opening::new(hash, ports, u32::from_be_bytes(sequence), maps::coarse_now());
    if maps::remember(Opening::place(hash, ports), opening) {
        maps::tell(id, Signal::Unanswered);
    }
    Some(())
}

/// A packet of the backends' side, on the desk, was translated and ends in this counter. That it
/// came from where its backend is makes it hard to forge.
#[inline(never)]
pub(crate) fn returned(ctx: *mut xdp_md, head: &Head) {
    let id = head.job.found.backend;
    let Some(backend) = Maps.backend(id) else { return };
    if backend.ifindex != packet::ingress(ctx) {
        return;
    }
    if !related::is_error(head) {
        if let Some(signal) = nat::told(&head.job) {
            maps::tell(id, signal);
        }
        return;
    }
    let mut buffer = Buffer::<[u8; 2]>::new();
    let Some([kind, code]) = buffer.load(ctx, head.transport) else { return };
    let is_unreachable = if head.job.came.source.is_v4() {
        Message::is_unreachable_v4(*kind, *code)
    } else {
        Message::is_unreachable_v6(*kind, *code)
    };
    if is_unreachable {
        maps::tell(id, Signal::Unreachable);
    }
}
