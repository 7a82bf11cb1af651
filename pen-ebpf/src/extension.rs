//! The chain of IPv6 extension headers (RFC 8200 section 4), up to what is no longer one of those
//! that may be stepped over on the way to the transport header.

use aya_ebpf::bindings::xdp_md;
use pen_common::net::{ExtensionHeader, protocol};
use pen_common::verdict::PassReason;

use crate::packet::Buffer;

/// Most headers that are stepped over. Nobody has a use for more, and a chain that does not end
/// shall not cost more than this.
const MAX_HEADERS: usize = 8;

/// Steps over hop-by-hop, routing and destination headers from `offset` on, where `protocol` stands;
/// tells where what else stands. A fragment header is not stepped over.
///
/// # Errors
///
/// If the frame ends before the chain, the chain is too long, or has a routing header by which the
/// packet has to go on to another node: its flow is not one of this address.
#[inline(always)]
pub(crate) fn skip(
    ctx: *mut xdp_md,
    mut offset: usize,
    mut protocol: u8,
) -> Result<(usize, u8), PassReason> {
    for _ in 0..=MAX_HEADERS {
        match protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {}
            _ => return Ok((offset, protocol)),
        }
        let mut buffer = Buffer::<ExtensionHeader>::new();
        let Some(header) = buffer.load(ctx, offset) else {
            return Err(PassReason::PassMalformed);
        };
        if protocol == protocol::ROUTING && header.segments_left != 0 {
            break;
        }
        offset += header.size();
        protocol = header.next_header;
    }
    Err(PassReason::PassOptions)
}
