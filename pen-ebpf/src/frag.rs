//! Fragments: the ports of a datagram, which stand in its first one, are recorded for the others.

use pen_common::abi::{Frag, FragKey};
use pen_common::forward::Lookup as _;
use pen_common::net::{Addr, Be16};

use crate::maps::{self, Maps};

/// What the fragments of a datagram have in common (of IPv4 the identification has 16 bits).
#[inline(always)]
pub(crate) const fn key(source: Addr, destination: Addr, protocol: u8, id: u32) -> FragKey {
    FragKey { source, destination, id, protocol, _pad: [0; 3] }
}

/// Records what the first fragment says.
#[inline(always)]
pub(crate) fn record(key: &FragKey, source_port: Be16, port: Be16) {
    maps::record_fragment(key, &Frag::new(source_port, port, Maps.now()));
}

/// The ports of the datagram that a later fragment belongs to.
#[inline(always)]
pub(crate) fn ports(key: &FragKey) -> Option<(Be16, Be16)> {
    let frag = maps::fragment(key)?;
    if frag.is_live(Maps.now()) { Some((frag.source_port, frag.port)) } else { None }
}
