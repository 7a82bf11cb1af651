//! A packet that is translated: its ends before and after, the entry that was found and the one to be
//! made, and what can be said and done about them without asking the map.

use super::LINGER_NS;
use crate::abi::{Backend, Service, Translation, Tuple};
use crate::forward::Stage;
use crate::moment::Moment;
use crate::net::{Addr, Be16, TcpHeader, protocol};

/// A packet that is translated, and room to work it out: all in one place that is not the stack,
/// because the kernel's has 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The ends of the packet as it came.
    pub came: Tuple,
    /// The ends with which it goes on.
    pub ends: Tuple,
    /// Flags of its TCP header; 0 for UDP.
    pub tcp_flags: u8,
    /// Of a request: [`Service::NAT`] or [`Service::MASQUERADE`].
    pub mode: u8,
    /// Of a request: the backend's port, 0 if it has none of its own.
    pub port: Be16,
    /// Of a request: id of the service.
    pub service: u32,
    /// Of a request: id of the backend.
    pub id: u32,
    /// Of a request: address of the backend.
    pub addr: Addr,
    /// Of a request: our address on the way to it.
    pub source: Addr,
    /// The entry that was found.
    pub found: Translation,
    pub(super) now: Moment,
    /// Key of an entry.
    pub(super) key: Tuple,
    /// The entry to be made.
    pub(super) made: Translation,
}

// === impl Tuple ===

impl Tuple {
    /// Ends with the padding zeroed.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        source: Addr,
        source_port: Be16,
        destination: Addr,
        port: Be16,
        protocol: u8,
    ) -> Self {
        Self { source, destination, source_port, port, protocol, _pad: [0; 3] }
    }

    /// Ends of a packet in the other direction.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.destination, self.port, self.source, self.source_port, self.protocol)
    }

    /// What these ends become.
    #[must_use]
    #[inline(always)]
    pub const fn translated(&self, entry: &Translation) -> Self {
        let Translation { source, source_port, destination, port, .. } = *entry;
        Self::new(source, source_port, destination, port, self.protocol)
    }
}

// === impl Translation ===

impl Translation {
    /// Whether both make the same of a packet.
    #[must_use]
    #[inline(always)]
    pub(super) fn has_ends_of(&self, other: &Self) -> bool {
        self.source == other.source
            && self.destination == other.destination
            && self.source_port == other.source_port
            && self.port == other.port
    }

    /// Whether both ends have closed the flow, or one has reset it.
    #[must_use]
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        const BOTH: u32 = Translation::CLIENT_FIN | Translation::BACKEND_FIN;
        self.flags & Self::RESET != 0 || self.flags & BOTH == BOTH
    }

    /// How long it lives without being used, in nanoseconds, in a service of this `flow_ttl_ns`.
    #[must_use]
    #[inline(always)]
    pub const fn lifetime(&self, protocol: u8, flow_ttl_ns: u64) -> u64 {
        let lingers = self.is_closed() || self.flags & Self::ANSWERED == 0;
        if protocol == protocol::TCP && lingers && flow_ttl_ns > LINGER_NS {
            LINGER_NS
        } else {
            flow_ttl_ns
        }
    }

    #[inline(always)]
    pub(super) const fn idle_ns(&self, now: Moment) -> u64 {
        now.0.saturating_sub(self.last_seen_ns)
    }
}

// === impl Job ===

impl Job {
    /// Makes it a request for which this backend has been chosen; how it came is filled in apart.
    #[inline(always)]
    pub const fn set_backend(&mut self, mode: u8, service: u32, id: u32, backend: &Backend) {
        (self.mode, self.service, self.id) = (mode, service, id);
        (self.addr, self.source, self.port) = (backend.addr, backend.source, backend.port);
    }

    #[inline(always)]
    pub(super) const fn stage(&self) -> Stage {
        if self.came.protocol == protocol::TCP {
            Stage::of_tcp(self.tcp_flags)
        } else {
            Stage::Datagram
        }
    }

    /// A packet that changes a flow's flags; all others only need it to be alive.
    #[inline(always)]
    pub(super) const fn is_signal(&self) -> bool {
        self.tcp_flags & (TcpHeader::SYN | TcpHeader::FIN | TcpHeader::RST) != 0
    }

    /// Whether a packet of the backends' side can tell anything of its backend: the first answer of a
    /// flow, or an error. Most cannot.
    #[must_use]
    #[inline(always)]
    pub const fn may_tell(&self) -> bool {
        self.found.flags & Translation::ANSWERED == 0
    }

    #[inline(always)]
    pub(super) const fn masquerades(&self) -> bool {
        self.mode == Service::MASQUERADE
    }

    /// Sets the key to that of the answer to what goes on. Field by field, as in all of these: a
    /// whole one would be copied by way of the stack.
    #[inline(always)]
    pub(super) const fn set_key(&mut self) {
        let Self { key, ends, .. } = self;
        key.source = ends.destination;
        key.destination = ends.source;
        key.source_port = ends.port;
        key.port = ends.source_port;
        key.protocol = ends.protocol;
        key._pad = [0; 3];
    }

    /// Sets the return entry: answers become answers to this request.
    #[inline(always)]
    pub(super) const fn make_return(&mut self) {
        let Self { made, came, .. } = self;
        made.source = came.destination;
        made.destination = came.source;
        made.source_port = came.port;
        made.port = came.source_port;
        made.flags = marks(self.tcp_flags, Translation::RETURN, Translation::CLIENT_FIN);
        self.sign();
    }

    /// Sets the request entry: more requests go on as this one.
    #[inline(always)]
    pub(super) const fn make_request(&mut self) {
        let Self { made, ends, .. } = self;
        made.source = ends.source;
        made.destination = ends.destination;
        made.source_port = ends.source_port;
        made.port = ends.port;
        made.flags = 0;
        self.sign();
    }

    #[inline(always)]
    const fn sign(&mut self) {
        self.made.service = self.service;
        self.made.backend = self.id;
        self.made.last_seen_ns = self.now.0;
    }

    /// Sets the ends with which a request goes to the backend, the source port still open if it
    /// masquerades. The request is the packet, or what the key says.
    #[inline(always)]
    pub(super) fn send(&mut self, is_key: bool) {
        let Self { came, key, ends, .. } = self;
        let request = if is_key { &*key } else { &*came };
        let masquerades = self.mode == Service::MASQUERADE;
        ends.source = if masquerades { self.source } else { request.source };
        ends.destination = self.addr;
        ends.source_port = request.source_port;
        // A service on any port may have backends without a port of their own.
        ends.port = if self.port == Be16::new(0) { request.port } else { self.port };
        ends.protocol = request.protocol;
        ends._pad = [0; 3];
    }

    /// Whether the request entry that was found leads to this backend, from this address of ours.
    #[inline(always)]
    pub(super) fn is_known(&self) -> bool {
        let Self { found, ends, .. } = self;
        found.flags & Translation::RETURN == 0
            && found.source == ends.source
            && found.destination == ends.destination
            && found.port == ends.port
    }
}

/// The flags that a packet adds: `always`, `fin` if its sender has nothing more to send.
#[inline(always)]
pub(super) const fn marks(tcp_flags: u8, always: u32, fin: u32) -> u32 {
    let mut marks = always;
    if tcp_flags & TcpHeader::FIN != 0 {
        marks |= fin;
    }
    if tcp_flags & TcpHeader::RST != 0 {
        marks |= Translation::RESET;
    }
    marks
}
