//! What the maps should hold, as plain data: the desired state that the engine computes, the
//! difference to what was applied, and the same look-ups that the kernel makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pen_common::abi::{
    AddrEntry, Backend, Cfg, ClientKey, FlowKey, Group, MAX_ADDRS, MAX_LISTENS, MAX_PREFIXES,
    Record, Service, ServiceKey, Slot,
};
use pen_common::forward::Lookup;
use pen_common::hash;
use pen_common::moment::Moment;
use pen_common::net::Addr;

/// Contents of all maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `CFG`.
    pub cfg: Cfg,
    /// `CARP`.
    pub groups: BTreeMap<u32, Group>,
    /// `ADDRS`.
    pub addrs: BTreeMap<Addr, AddrEntry>,
    /// `SERVICES`.
    pub services: BTreeMap<ServiceKey, Service>,
    /// `TABLES`, by service id.
    pub slots: BTreeMap<u32, Arc<[Slot]>>,
    /// `BACKENDS`, without the unused ones.
    pub backends: BTreeMap<u32, Backend>,
    /// `TX`.
    pub egress: BTreeSet<u32>,
    /// `ACL`: [`pen_common::abi::ACL_ALLOW`] or [`pen_common::abi::ACL_DENY`].
    pub prefixes: Arc<BTreeMap<Prefix, u32>>,
}

/// A prefix of an access list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Number of the list, from 1.
    pub list: u32,
    /// Its first address.
    pub addr: Addr,
    /// Its length, counted in the 128 bits of the address (/24 of IPv4 is 120).
    pub bits: u8,
}

/// One change of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set `CFG`.
    SetCfg(Cfg),
    /// Set a group.
    SetGroup(u32, Group),
    /// Make an interface a target of redirection.
    AddEgress(u32),
    /// Set a backend; the default value removes it.
    SetBackend(u32, Backend),
    /// Replace a service's table at once.
    SetTable(u32, Arc<[Slot]>),
    /// Set a service.
    SetService(ServiceKey, Service),
    /// Set a prefix of an access list.
    SetPrefix(Prefix, u32),
    /// Set an address.
    SetAddr(Addr, AddrEntry),
    /// Remove an address.
    RemoveAddr(Addr),
    /// Remove a service.
    RemoveService(ServiceKey),
    /// Remove a service's table.
    RemoveTable(u32),
    /// Remove a prefix of an access list.
    RemovePrefix(Prefix),
    /// Remove an interface from the targets of redirection.
    RemoveEgress(u32),
}

/// The writes that lead from `applied` to `desired`, in an order that is right for the packets in
/// between: what goes down goes down first, everything is there before it is referred to, and is
/// referred to no more before it is removed.
#[must_use]
pub fn diff(applied: &Tables, desired: &Tables) -> Vec<Write> {
    let mut writes = Vec::new();
    let is_down = |backend: &Backend| backend.state == Backend::DOWN;
    // First of all, because it depends on nothing and nothing may delay it.
    for (id, backend) in changed(&applied.backends, &desired.backends) {
        if is_down(backend) {
            writes.push(Write::SetBackend(*id, *backend));
        }
    }
    if applied.cfg != desired.cfg {
        writes.push(Write::SetCfg(desired.cfg));
    }
    for (index, group) in changed(&applied.groups, &desired.groups) {
        writes.push(Write::SetGroup(*index, *group));
    }
    for ifindex in desired.egress.difference(&applied.egress) {
        writes.push(Write::AddEgress(*ifindex));
    }
    for (id, backend) in changed(&applied.backends, &desired.backends) {
        if !is_down(backend) {
            writes.push(Write::SetBackend(*id, *backend));
        }
    }
    for (id, slots) in changed(&applied.slots, &desired.slots) {
        writes.push(Write::SetTable(*id, Arc::clone(slots)));
    }
    let removed = gone(&applied.services, &desired.services).map(|key| Write::RemoveService(*key));
    let mut removed_services: Vec<Write> = removed.collect();
    // What is gone leaves last, unless that needs more room than there is.
    if !has_room(&applied.services, &desired.services, MAX_LISTENS) {
        writes.append(&mut removed_services);
    }
    for (key, service) in changed(&applied.services, &desired.services) {
        writes.push(Write::SetService(*key, *service));
    }
    let mut removed_prefixes = Vec::new();
    // Compared only if they can differ: there may be a hundred thousand.
    if !Arc::ptr_eq(&applied.prefixes, &desired.prefixes) {
        let removed = gone(&applied.prefixes, &desired.prefixes);
        removed_prefixes.extend(removed.map(|prefix| Write::RemovePrefix(*prefix)));
        if !has_room(&applied.prefixes, &desired.prefixes, MAX_PREFIXES) {
            writes.append(&mut removed_prefixes);
        }
        let set = changed(&applied.prefixes, &desired.prefixes);
        writes.extend(set.map(|(prefix, verdict)| Write::SetPrefix(*prefix, *verdict)));
    }
    let removed = gone(&applied.addrs, &desired.addrs).map(|addr| Write::RemoveAddr(*addr));
    let mut removed_addrs: Vec<Write> = removed.collect();
    if !has_room(&applied.addrs, &desired.addrs, MAX_ADDRS) {
        writes.append(&mut removed_addrs);
    }
    for (addr, entry) in changed(&applied.addrs, &desired.addrs) {
        writes.push(Write::SetAddr(*addr, *entry));
    }
    writes.append(&mut removed_addrs);
    writes.append(&mut removed_prefixes);
    writes.append(&mut removed_services);
    for id in gone(&applied.slots, &desired.slots) {
        writes.push(Write::RemoveTable(*id));
    }
    for id in gone(&applied.backends, &desired.backends) {
        writes.push(Write::SetBackend(*id, Backend::default()));
    }
    for index in gone(&applied.groups, &desired.groups) {
        writes.push(Write::SetGroup(*index, Group::default()));
    }
    for ifindex in applied.egress.difference(&desired.egress) {
        writes.push(Write::RemoveEgress(*ifindex));
    }
    writes
}

fn changed<'a, K: Ord, V: PartialEq>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired.iter().filter(|(key, value)| applied.get(key) != Some(value))
}

/// Whether a map takes what is new before it gives up what is gone.
fn has_room<K: Ord, V>(applied: &BTreeMap<K, V>, desired: &BTreeMap<K, V>, limit: u32) -> bool {
    let new = desired.keys().filter(|key| !applied.contains_key(key)).count();
    applied.len() + new <= limit as usize
}

fn gone<'a, K: Ord, V>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    applied.keys().filter(|key| !desired.contains_key(key))
}

impl Tables {
    /// The tables as a decision at this time sees them, with these records.
    #[must_use]
    pub fn at<'a>(&'a self, now: Moment, records: &'a dyn Records) -> Snapshot<'a> {
        Snapshot { tables: self, records, now }
    }

    /// Carries one write out on these tables, as the kernel's maps do.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::SetCfg(cfg) => self.cfg = *cfg,
            Write::SetGroup(index, group) if *group == Group::default() => {
                self.groups.remove(index);
            }
            Write::SetGroup(index, group) => {
                self.groups.insert(*index, *group);
            }
            Write::AddEgress(ifindex) => {
                self.egress.insert(*ifindex);
            }
            Write::SetBackend(id, backend) if *backend == Backend::default() => {
                self.backends.remove(id);
            }
            Write::SetBackend(id, backend) => {
                self.backends.insert(*id, *backend);
            }
            Write::SetTable(id, slots) => {
                self.slots.insert(*id, Arc::clone(slots));
            }
            Write::SetService(key, service) => {
                self.services.insert(*key, *service);
            }
            Write::SetAddr(addr, entry) => {
                self.addrs.insert(*addr, *entry);
            }
            Write::RemoveAddr(addr) => {
                self.addrs.remove(addr);
            }
            Write::RemoveService(key) => {
                self.services.remove(key);
            }
            Write::RemoveTable(id) => {
                self.slots.remove(id);
            }
            Write::RemoveEgress(ifindex) => {
                self.egress.remove(ifindex);
            }
            Write::SetPrefix(prefix, verdict) => {
                Arc::make_mut(&mut self.prefixes).insert(*prefix, *verdict);
            }
            Write::RemovePrefix(prefix) => {
                Arc::make_mut(&mut self.prefixes).remove(prefix);
            }
        }
    }
}

/// Records of flows and clients. They are not part of [`Tables`]: the kernel makes them, and there
/// may be a million.
pub trait Records {
    /// Of a flow.
    fn flow(&self, key: &FlowKey) -> Option<Record>;
    /// Of a client.
    fn client(&self, key: &ClientKey) -> Option<Record>;
    /// Makes one of a flow, where decisions are carried out; an explanation makes none.
    fn record_flow(&self, _: &FlowKey, _: &Record) {}
    /// Makes one of a client, likewise.
    fn record_client(&self, _: &ClientKey, _: &Record) {}
}

/// No record at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecords;

impl Records for NoRecords {
    fn flow(&self, _: &FlowKey) -> Option<Record> {
        None
    }

    fn client(&self, _: &ClientKey) -> Option<Record> {
        None
    }
}

/// [`Tables`] and records at a point in time.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    tables: &'a Tables,
    records: &'a dyn Records,
    now: Moment,
}

impl Lookup for Snapshot<'_> {
    fn addr(&self, addr: &Addr) -> Option<AddrEntry> {
        self.tables.addrs.get(addr).copied()
    }

    fn group(&self, index: u32) -> Option<Group> {
        self.tables.groups.get(&index).copied()
    }

    fn cfg(&self) -> Option<&Cfg> {
        Some(&self.tables.cfg)
    }

    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.tables.services.get(key).copied()
    }

    fn slot(&self, service: u32, _: u32, index: u32) -> Option<Slot> {
        self.tables.slots.get(&service)?.get(index as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.tables.backends.get(&id)
    }

    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.records.flow(key)
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.records.client(key)
    }

    fn record_flow(&self, key: &FlowKey, record: &Record) -> bool {
        self.records.record_flow(key, record);
        true
    }

    fn record_client(&self, key: &ClientKey, record: &Record) -> bool {
        self.records.record_client(key, record);
        true
    }

    fn stamp_flow(&self, key: &FlowKey, now: Moment) {
        if let Some(record) = self.records.flow(key) {
            self.records.record_flow(key, &Record { last_seen_ns: now.0, ..record });
        }
    }

    fn stamp_client(&self, key: &ClientKey, now: Moment) {
        if let Some(record) = self.records.client(key) {
            self.records.record_client(key, &Record { last_seen_ns: now.0, ..record });
        }
    }

    fn acl(&self, list: u32, source: &Addr) -> Option<u32> {
        let mut lengths = (0..=128_u8).rev();
        lengths.find_map(|bits| {
            let prefix = Prefix { list, addr: hash::masked(source, bits), bits };
            self.tables.prefixes.get(&prefix).copied()
        })
    }

    fn admit(&self, _: &AddrEntry, _: &Addr) -> bool {
        // How fast a source was lately is known to the kernel alone.
        true
    }

    fn now(&self) -> Moment {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pen_common::net::Be16;
    use proptest::prelude::*;

    /// Small random tables in which everything that is referred to exists.
    fn tables() -> impl Strategy<Value = Tables> {
        let backends = prop::collection::btree_map(1_u32..6, 0_u32..3, 0..4);
        let services = prop::collection::btree_set(0_u16..4, 0..4);
        let addrs = prop::collection::btree_set(0_u8..3, 0..3);
        let egress = prop::collection::btree_set(1_u32..4, 0..3);
        (backends, services, addrs, egress, 0_u64..3).prop_map(
            |(backends, services, addrs, egress, secret)| {
                let names: Vec<u16> =
                    backends.keys().map(|id| u16::try_from(*id).expect("small")).collect();
                let slots = |port: u16| -> Arc<[Slot]> {
                    (0..3_usize)
                        .map(|slot| match names.len() {
                            0 => Slot::default(),
                            n => Slot::settled(names[(slot + usize::from(port)) % n]),
                        })
                        .collect()
                };
                Tables {
                    cfg: Cfg { secret: [secret, 0], ..Cfg::default() },
                    groups: BTreeMap::from([(0, Group::ALWAYS)]),
                    addrs: addrs
                        .iter()
                        .map(|last| (Addr::v4([192, 0, 2, *last]), AddrEntry::default()))
                        .collect(),
                    services: services
                        .iter()
                        .map(|port| {
                            let key =
                                ServiceKey::new(Addr::v4([192, 0, 2, 1]), Be16::new(*port), 6);
                            (key, Service { id: u32::from(*port), slots: 3, ..Service::default() })
                        })
                        .collect(),
                    slots: services.iter().map(|port| (u32::from(*port), slots(*port))).collect(),
                    backends: backends
                        .iter()
                        .map(|(id, state)| {
                            let backend = Backend {
                                state: *state,
                                port: Be16::new(80),
                                generation: 1,
                                ..Backend::default()
                            };
                            (*id, backend)
                        })
                        .collect(),
                    egress,
                    prefixes: Arc::default(),
                }
            },
        )
    }

    /// Everything that a service or slot refers to is there.
    fn assert_consistent(tables: &Tables) {
        for service in tables.services.values() {
            let slots = tables.slots.get(&service.id).expect("a service has its table");
            for slot in slots.iter().filter(|slot| slot.current() != 0) {
                assert!(tables.backends.contains_key(&u32::from(slot.current())), "{slot:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn writes_lead_to_the_desired_tables_and_never_dangle_on_the_way(
            before in tables(), after in tables(),
        ) {
            let mut current = before.clone();
            for write in diff(&before, &after) {
                current.apply(&write);
                assert_consistent(&current);
            }
            prop_assert_eq!(&current, &after);
            prop_assert_eq!(diff(&current, &after), vec![]);
        }
    }

    #[test]
    fn what_goes_down_is_written_before_anything_else() {
        let backend = |state| Backend { state, port: Be16::new(80), ..Backend::default() };
        let before = Tables {
            backends: BTreeMap::from([(1, backend(0)), (2, backend(Backend::UP))]),
            ..Tables::default()
        };
        let after = Tables {
            backends: BTreeMap::from([(1, backend(Backend::UP)), (2, backend(0))]),
            egress: BTreeSet::from([3]),
            ..Tables::default()
        };
        assert_eq!(
            diff(&before, &after),
            vec![
                Write::SetBackend(2, backend(Backend::DOWN)),
                Write::AddEgress(3),
                Write::SetBackend(1, backend(Backend::UP)),
            ]
        );
    }

    #[test]
    fn services_that_would_not_fit_beside_those_that_leave_come_after_them() {
        let all = |vip: u8| -> BTreeMap<ServiceKey, Service> {
            let vip = Addr::v4([192, 0, 2, vip]);
            let ports = 1..=u16::MAX;
            let key = |port| ServiceKey::new(vip, Be16::new(port), 6);
            ports.map(|port| (key(port), Service::default())).collect()
        };
        let before = Tables { services: all(1), ..Tables::default() };
        let after = Tables { services: all(2), ..Tables::default() };
        let mut left = before.services.len();
        for write in diff(&before, &after) {
            match write {
                Write::RemoveService(_) => left -= 1,
                Write::SetService(..) => left += 1,
                other => panic!("{other:?}"),
            }
            assert!(left <= MAX_LISTENS as usize);
        }
        assert_eq!(left, after.services.len());
    }
}
