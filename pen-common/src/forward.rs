//! The balancer in one pure function: facts about a packet and look-ups in, a [`Verdict`] out.
//! The XDP program calls it with BPF maps behind [`Lookup`], the controller with its own tables
//! (to explain), tests with literals; so what `penctl explain` says cannot drift from what the
//! kernel does.
//!
//! Cost of a forwarded packet of a settled slot: six array look-ups (two for the port, settings, two
//! for the slot, backend) and one SipHash. It does not grow with the number of flows, services or
//! backends. A port that has lost its place in `LISTENS` to another one, one of "any", and packets of
//! unusual shape cost two hash look-ups more (address, service); a CARP group one in an array; an
//! unsettled slot a look-up of the flow's record; a SYN of a service that remembers clients one of
//! the client's; an access list one in the trie; a limit of the rate one for each SYN, and so does the
//! memory of SYNs that are not answered ([`crate::signal`]) where no address is translated.

use crate::abi::{
    ACL_DENY, AddrEntry, Backend, Cfg, ClientKey, FlowKey, Group, Listen, Record, Service,
    ServiceKey, Slot,
};
use crate::affinity;
use crate::hash::{self, Secret};
use crate::moment::Moment;
use crate::net::{Addr, Be16, MacAddr, TcpHeader};
use crate::verdict::{DropReason, Forward, PassReason, Verdict};

/// The maps, as a decision sees them. Every look-up may miss, and every record may fail to be made.
pub trait Lookup {
    /// Is this address ours?
    fn addr(&self, addr: &Addr) -> Option<AddrEntry>;
    /// Role of a CARP group.
    fn group(&self, index: u32) -> Option<Group>;
    /// Settings of the whole program.
    fn cfg(&self) -> Option<&Cfg>;
    /// Service of exactly this key.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// What `addr` and `service` say of exactly this port, found faster. It may always be `None`.
    fn listen(&self, _: &ServiceKey) -> Option<&Listen> {
        None
    }
    /// Slot of the table of a service, which has so many `slots`.
    fn slot(&self, service: u32, slots: u32, index: u32) -> Option<Slot>;
    /// A backend.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Record of a flow.
    fn flow(&self, key: &FlowKey) -> Option<Record>;
    /// Record of a client.
    fn client(&self, key: &ClientKey) -> Option<Record>;
    /// Makes or replaces the record of a flow; false if that cannot be.
    fn record_flow(&self, key: &FlowKey, record: &Record) -> bool;
    /// Makes or replaces the record of a client; false if that cannot be.
    fn record_client(&self, key: &ClientKey, record: &Record) -> bool;
    /// The record of a flow was used.
    fn stamp_flow(&self, key: &FlowKey, now: Moment);
    /// The record of a client was used.
    fn stamp_client(&self, key: &ClientKey, now: Moment);
    /// What an access list says of a source: [`crate::abi::ACL_ALLOW`] or
    /// [`crate::abi::ACL_DENY`]; `None` if it says nothing.
    fn acl(&self, list: u32, source: &Addr) -> Option<u32>;
    /// Whether this source may open one more connection to this virtual address now.
    fn admit(&self, vip: &AddrEntry, source: &Addr) -> bool;
    /// The time.
    fn now(&self) -> Moment;
}

/// How a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Interface.
    pub ifindex: u32,
    /// Destination of the Ethernet header.
    pub station: MacAddr,
}

/// What identifies a flow to one of our addresses, besides that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: Addr,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub port: Be16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// What the packet does to the flow.
    pub stage: Stage,
}

impl Flow {
    /// None at all. Not an `Option`: the compiler would leave the rest of a `None` undefined, and
    /// carry it around, which the kernel's verifier does not stand for.
    pub const NONE: Self = Self {
        source: Addr::from_halves(0, 0),
        source_port: Be16::new(0),
        port: Be16::new(0),
        protocol: 0,
        stage: Stage::Datagram,
    };

    /// Whether it is one.
    #[must_use]
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.protocol != 0
    }
}

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A TCP SYN opens it.
    Open,
    /// TCP that neither opens nor resets it.
    Established,
    /// A TCP RST ends it.
    Reset,
    /// UDP, where nobody can tell.
    Datagram,
    /// An ICMP error quotes a packet of it, sent by the backend: source and destination are those of
    /// the client's packets.
    Quoted,
}

impl Stage {
    /// By the flags of a TCP header.
    #[must_use]
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        if flags & TcpHeader::RST != 0 {
            Self::Reset
        } else if flags & (TcpHeader::SYN | TcpHeader::ACK) == TcpHeader::SYN {
            Self::Open
        } else {
            Self::Established
        }
    }

    /// Whether a record may be made or stamped because of it: nobody but the two ends of a flow can
    /// fill the tables.
    #[must_use]
    #[inline(always)]
    pub const fn may_record(self) -> bool {
        !matches!(self, Self::Reset | Self::Quoted)
    }
}

/// Slots tried, from the flow's own one on, until one names a usable backend. Matters only between
/// a backend's change of state (one word) and the new table (one update), some milliseconds later.
/// With two backends left 1 packet in 2^8 is lost there, with more backends fewer.
pub const PROBES: u32 = 8;

/// Whether an address is ours now: known, and its CARP group is master (or about to leave) with a
/// valid lease.
///
/// # Errors
///
/// The reason to leave the packet alone.
#[inline(always)]
pub fn own(lookup: &impl Lookup, addr: &Addr) -> Result<AddrEntry, PassReason> {
    held(lookup, addr, Group::LEAVING)
}

/// Whether neighbours are to be told that an address is here: it is ours, and stays.
///
/// # Errors
///
/// The reason to say nothing.
#[inline(always)]
pub fn told(lookup: &impl Lookup, addr: &Addr) -> Result<AddrEntry, PassReason> {
    held(lookup, addr, Group::MASTER)
}

/// The address, if the role of its group is [`Group::MASTER`] or this one.
#[inline(always)]
fn held(lookup: &impl Lookup, addr: &Addr, role: u32) -> Result<AddrEntry, PassReason> {
    let Some(entry) = lookup.addr(addr) else { return Err(PassReason::PassNotOurs) };
    if holds(lookup, &entry, role) { Ok(entry) } else { Err(PassReason::PassNotMaster) }
}

/// Whether a known address is ours now, in the role of [`Group::MASTER`] or this one.
#[inline(always)]
fn holds(lookup: &impl Lookup, entry: &AddrEntry, role: u32) -> bool {
    if entry.group == Group::NONE {
        return true;
    }
    let Some(group) = lookup.group(entry.group) else { return false };
    (group.role == Group::MASTER || group.role == role)
        && (group.lease_ns == Moment::NEVER.0 || lookup.now().0 < group.lease_ns)
}

/// Decides about an IP packet. `parse` reads the transport header; it is called only once the
/// destination is known to be ours, so that nothing is ever required of other traffic.
#[inline(always)]
pub fn decide<'a, L: Lookup>(
    lookup: &'a L,
    arrival: &Arrival,
    destination: &Addr,
    parse: impl FnOnce() -> Result<Flow, PassReason>,
) -> Verdict<'a> {
    decide_plain(lookup, arrival, destination, Flow::NONE, || match parse() {
        Ok(flow) => (flow, Ok(())),
        Err(reason) => (Flow::NONE, Err(reason)),
    })
}

/// The same with the flow, if it is there for the taking: then its port may be found at once. What
/// `parse` gives is a flow only if it says so.
#[inline(always)]
pub fn decide_plain<'a, L: Lookup>(
    lookup: &'a L,
    arrival: &Arrival,
    destination: &Addr,
    plain: Flow,
    parse: impl FnOnce() -> (Flow, Result<(), PassReason>),
) -> Verdict<'a> {
    // The address is copied once, for all look-ups: on the kernel's side stack is scarce.
    let mut key = ServiceKey::new(*destination, Be16::new(0), 0);
    let listen = if plain.is_some() {
        (key.port, key.protocol) = (plain.port, plain.protocol);
        lookup.listen(&key)
    } else {
        None
    };
    let (found_entry, found_service);
    let (flow, entry, service) = if let Some(listen) = listen {
        if !holds(lookup, &listen.addr, Group::LEAVING) {
            return Verdict::Pass(PassReason::PassNotMaster);
        }
        if !is_addressed(arrival, &listen.addr) {
            return Verdict::Pass(PassReason::PassOtherStation);
        }
        (plain, &listen.addr, &listen.service)
    } else {
        found_entry = match own(lookup, &key.vip) {
            Ok(entry) => entry,
            Err(reason) => return Verdict::Pass(reason),
        };
        if !is_addressed(arrival, &found_entry) {
            return Verdict::Pass(PassReason::PassOtherStation);
        }
        let (flow, parsed) = if plain.is_some() { (plain, Ok(())) } else { parse() };
        if let Err(reason) = parsed {
            return Verdict::Pass(reason);
        }
        (key.port, key.protocol) = (flow.port, flow.protocol);
        found_service = match lookup.service(&key) {
            Some(service) => service,
            None => {
                key.port = Be16::new(0);
                match lookup.service(&key) {
                    Some(service) => service,
                    None => return Verdict::Pass(PassReason::PassNoService),
                }
            }
        };
        (flow, &found_entry, &found_service)
    };
    if let Err(reason) = admit(lookup, entry, &flow) {
        return Verdict::Drop(reason);
    }
    if service.mode == Service::PROXY {
        return Verdict::Pass(PassReason::PassProxy);
    }
    let Some(cfg) = lookup.cfg() else { return Verdict::Drop(DropReason::DropNoTable) };
    let hash = flow_hash(cfg.secret, service, &flow);
    choose(lookup, service, &flow, hash)
}

/// A frame must be addressed to us: a switch floods frames of stations that it does not know, and
/// forwarding those, or a group's, would duplicate them. The station of another network than the
/// address's own is not known here; a group is recognised by its first bit.
#[must_use]
#[inline(always)]
pub fn is_addressed(arrival: &Arrival, entry: &AddrEntry) -> bool {
    let group = arrival.station.0[0] & 1 == 1;
    !group && (arrival.ifindex != entry.ifindex || arrival.station == entry.mac)
}

/// Access list and rate of the virtual address. Packets of connections that are open are never held
/// back by the rate. An ICMP error comes from any router, and about a flow that was let in; neither
/// holds it back.
#[inline(always)]
fn admit<L: Lookup>(lookup: &L, entry: &AddrEntry, flow: &Flow) -> Result<(), DropReason> {
    if flow.stage != Stage::Quoted && is_denied(lookup, entry, &flow.source) {
        return Err(DropReason::DropAcl);
    }
    if entry.syn_interval_ns != 0 && flow.stage == Stage::Open && !lookup.admit(entry, &flow.source)
    {
        return Err(DropReason::DropRate);
    }
    Ok(())
}

/// Whether the access list of an address keeps this source out.
#[must_use]
#[inline(always)]
pub fn is_denied<L: Lookup>(lookup: &L, entry: &AddrEntry, source: &Addr) -> bool {
    entry.acl != 0 && lookup.acl(entry.acl, source) == Some(ACL_DENY)
}

/// Hash of a flow as its service wants it: of the client or of the whole flow.
#[inline(always)]
fn flow_hash(secret: Secret, service: &Service, flow: &Flow) -> u64 {
    if service.affinity == Service::CLIENT {
        let prefix = if flow.source.is_v4() { service.prefix_v4 } else { service.prefix_v6 };
        hash::client(secret, &flow.source, prefix)
    } else {
        hash::flow(secret, &flow.source, flow.source_port, flow.port)
    }
}

#[inline(always)]
fn choose<'a, L: Lookup>(lookup: &'a L, service: &Service, flow: &Flow, hash: u64) -> Verdict<'a> {
    let index = hash::slot_index(hash, service.slots);
    let Some(slot) = lookup.slot(service.id, service.slots, index) else {
        return Verdict::Drop(DropReason::DropNoTable);
    };
    let remembers = service.affinity == Service::CLIENT && flow.stage == Stage::Open;
    let id = if slot.is_unsettled() || remembers {
        affinity::pick(lookup, service, flow, slot)
    } else {
        u32::from(slot.current())
    };
    if id == 0 {
        return Verdict::Drop(DropReason::DropNoBackend);
    }
    let forward = |id, backend| {
        Verdict::Forward(Forward {
            service: service.id,
            mode: service.mode,
            slot: index,
            hash,
            id,
            backend,
            opens: flow.stage == Stage::Open,
        })
    };
    let Some(backend) = lookup.backend(id) else {
        return Verdict::Drop(DropReason::DropNoTable);
    };
    if backend.state != Backend::DOWN {
        return forward(id, backend);
    }
    if service.flags & Service::STUBBORN != 0 {
        return Verdict::Drop(DropReason::DropStubborn);
    }
    let id = probe(lookup, service.id, service.slots, index);
    match lookup.backend(id) {
        Some(backend) if id != 0 => forward(id, backend),
        _ => Verdict::Drop(DropReason::DropNoBackend),
    }
}

/// The first usable backend in the slots after `index`; 0 if there is none. Not inlined: it is
/// needed for some milliseconds after a backend died, and would cost the hot path its registers.
#[inline(never)]
fn probe<L: Lookup>(lookup: &L, service: u32, slots: u32, index: u32) -> u32 {
    let mut at = index;
    for _ in 1..PROBES {
        at += 1;
        if at >= slots {
            at = 0;
        }
        let Some(slot) = lookup.slot(service, slots, at) else { return 0 };
        let id = u32::from(slot.current());
        if let Some(backend) = lookup.backend(id)
            && id != 0
            && backend.state != Backend::DOWN
        {
            return id;
        }
    }
    0
}

#[cfg(test)]
pub(crate) mod tests;
