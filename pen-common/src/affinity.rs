//! To which backend a flow of a service belongs while its slot is unsettled, and which records that
//! takes. A settled slot needs none of this: all its flows belong to `current`.
//!
//! A record says to which backend a flow (or a client) went. Flows without a record belong to the
//! slot's `base`, so that nothing has to be known of those that were there before the table moved;
//! new ones go to `current` and are recorded. See [`pick`].

use crate::abi::{Backend, ClientKey, FlowKey, Record, Service, Slot};
use crate::forward::{Flow, Lookup, Stage};
use crate::hash;
use crate::moment::Moment;
use crate::net::protocol;

/// A record that is used is stamped anew after this time: a write for each packet would make the
/// CPUs fight for its cache line.
pub const STAMP_NS: u64 = 1_000_000_000;

/// The key of a flow's record.
#[must_use]
#[inline(always)]
pub const fn flow_key(service: &Service, flow: &Flow) -> FlowKey {
    FlowKey {
        client: flow.source,
        service: service.id,
        source_port: flow.source_port,
        port: flow.port,
    }
}

/// The key of a client's record.
#[must_use]
#[inline(always)]
pub const fn client_key(service: &Service, flow: &Flow) -> ClientKey {
    let prefix = if flow.source.is_v4() { service.prefix_v4 } else { service.prefix_v6 };
    ClientKey { client: hash::masked(&flow.source, prefix), service: service.id, _pad: 0 }
}

/// Whether a record still holds: made of the same backend, which did not die since, and not older
/// than `ttl_ns`.
#[must_use]
#[inline(always)]
pub const fn is_live(record: &Record, backend: &Backend, now: Moment, ttl_ns: u64) -> bool {
    record.generation == backend.generation && now.0.saturating_sub(record.last_seen_ns) < ttl_ns
}

/// The backend (its id; 0 if there is none) of a packet whose slot is unsettled, or which opens a
/// connection of a service that remembers clients. It may be down, if the table does not yet say so.
///
/// * TCP SYN: the record of the flow, if its backend is up (a repeated SYN); else that of the
///   client; else `current`. If it cannot be recorded: `base`, where its next packets would be
///   looked for.
/// * Other TCP: the record of the flow; else `base`, and recorded there.
/// * UDP: the record, else `base`, and recorded there. The key is the flow or, with affinity by
///   client, the client.
#[inline(never)]
pub fn pick<L: Lookup>(lookup: &L, service: &Service, flow: &Flow, slot: Slot) -> u32 {
    let now = lookup.now();
    // By protocol, not by stage: an ICMP error may quote a datagram.
    if flow.protocol == protocol::UDP && service.affinity == Service::CLIENT {
        return pick_for_datagram_of_client(lookup, service, flow, slot, now);
    }
    if flow.stage == Stage::Open {
        return open(lookup, service, flow, slot, now);
    }
    let key = flow_key(service, flow);
    if let Some(id) = recorded_flow(lookup, service, &key, flow.stage, Backend::DRAINED, now) {
        return id;
    }
    // Not the client's record: it may be younger than this flow.
    let id = home(lookup, slot);
    if flow.stage.may_record() {
        record_flow(lookup, &key, id, now);
    }
    id
}

/// A SYN.
#[inline(always)]
fn open<L: Lookup>(lookup: &L, service: &Service, flow: &Flow, slot: Slot, now: Moment) -> u32 {
    let key = flow_key(service, flow);
    let client = client_key(service, flow);
    let by_client = service.affinity == Service::CLIENT;
    let mut known = 0;
    if by_client {
        known = recorded_client(lookup, service, &client, flow.stage, Backend::DRAIN, now);
        // In a settled slot nobody would look the flow's next packets up.
        if !slot.is_unsettled() && known != u32::from(slot.current()) {
            known = 0;
        }
    }
    let mut id = if known == 0 { u32::from(slot.current()) } else { known };
    if slot.is_unsettled() {
        if let Some(repeated) = recorded_flow(lookup, service, &key, flow.stage, Backend::UP, now) {
            id = repeated;
        } else if id != 0 && !record_flow(lookup, &key, id, now) {
            let base = u32::from(slot.base());
            if accepts(lookup, base, Backend::DRAINED) {
                return base;
            }
        }
    }
    if by_client && known == 0 && id != 0 {
        record_client(lookup, &client, id, now);
    }
    id
}

#[inline(always)]
fn pick_for_datagram_of_client<L: Lookup>(
    lookup: &L,
    service: &Service,
    flow: &Flow,
    slot: Slot,
    now: Moment,
) -> u32 {
    let client = client_key(service, flow);
    let known = recorded_client(lookup, service, &client, flow.stage, Backend::DRAINED, now);
    if known != 0 {
        return known;
    }
    let id = home(lookup, slot);
    if flow.stage.may_record() {
        record_client(lookup, &client, id, now);
    }
    id
}

/// Where a flow without a record belongs.
#[inline(always)]
fn home<L: Lookup>(lookup: &L, slot: Slot) -> u32 {
    if accepts(lookup, u32::from(slot.base()), Backend::DRAINED) {
        u32::from(slot.base())
    } else {
        u32::from(slot.current())
    }
}

#[inline(always)]
fn accepts<L: Lookup>(lookup: &L, id: u32, least: u32) -> bool {
    match lookup.backend(id) {
        Some(backend) => id != 0 && backend.state >= least,
        None => false,
    }
}

/// The backend of a flow's record, if that is live and the backend in state `least` or better.
#[inline(always)]
fn recorded_flow<L: Lookup>(
    lookup: &L,
    service: &Service,
    key: &FlowKey,
    stage: Stage,
    least: u32,
    now: Moment,
) -> Option<u32> {
    let record = lookup.flow(key)?;
    let backend = lookup.backend(record.backend)?;
    if backend.state < least || !is_live(&record, backend, now, service.flow_ttl_ns) {
        return None;
    }
    if stage.may_record() && now.0.saturating_sub(record.last_seen_ns) >= STAMP_NS {
        lookup.stamp_flow(key, now);
    }
    Some(record.backend)
}

/// The same of a client; 0 if there is none.
#[inline(always)]
fn recorded_client<L: Lookup>(
    lookup: &L,
    service: &Service,
    key: &ClientKey,
    stage: Stage,
    least: u32,
    now: Moment,
) -> u32 {
    let Some(record) = lookup.client(key) else { return 0 };
    let Some(backend) = lookup.backend(record.backend) else { return 0 };
    if backend.state < least || !is_live(&record, backend, now, service.client_ttl_ns) {
        return 0;
    }
    if stage.may_record() && now.0.saturating_sub(record.last_seen_ns) >= STAMP_NS {
        lookup.stamp_client(key, now);
    }
    record.backend
}

#[inline(always)]
fn record_flow<L: Lookup>(lookup: &L, key: &FlowKey, id: u32, now: Moment) -> bool {
    match record_of(lookup, id, now) {
        Some(record) => lookup.record_flow(key, &record),
        None => false,
    }
}

#[inline(always)]
fn record_client<L: Lookup>(lookup: &L, key: &ClientKey, id: u32, now: Moment) -> bool {
    match record_of(lookup, id, now) {
        Some(record) => lookup.record_client(key, &record),
        None => false,
    }
}

/// A record of this backend; `None` if it is down, so that it never outlives its backend.
#[inline(always)]
fn record_of<L: Lookup>(lookup: &L, id: u32, now: Moment) -> Option<Record> {
    let backend = lookup.backend(id)?;
    if id == 0 || backend.state == Backend::DOWN {
        return None;
    }
    Some(Record { backend: id, generation: backend.generation, last_seen_ns: now.0 })
}

/// What a slot becomes when the table names `current` for it; `is_dead` tells which backends no
/// longer hold flows.
///
/// A dead backend is replaced at once. Otherwise `base` stays, and the slot is unsettled until the
/// controller has seen that no record disagrees.
#[must_use]
pub fn moved(slot: Slot, current: u16, is_dead: impl Fn(u16) -> bool) -> Slot {
    let base = if slot.base() == 0 || is_dead(slot.base()) { current } else { slot.base() };
    let unsettled = slot.is_unsettled() || base != current;
    Slot::new(base, current, unsettled)
}
