//! A census of the kernel's records: which slots still have records that disagree with them, and
//! which backends are named. The engine says what to look for ([`Census::ask`]); the records are shown
//! to it one by one, by whoever can read them, at leisure; then it comes back as an event. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ClientKey, FlowKey, Record, Slot};
use pen_common::affinity::is_live;
use pen_common::hash::{self, Secret};
use pen_common::moment::Moment;

use super::slots::Found;
pub use super::slots::Uses;

/// Between two censuses of a service passes this part of its longest time to live, so that a slot
/// settles soon after its last record expired.
const PART: u32 = 8;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// A census, before or after it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    secret: Secret,
    /// Records are judged as of this time.
    now: Moment,
    services: BTreeMap<u32, Asked>,
}

/// What is asked about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    entry: abi::Service,
    slots: Arc<[Slot]>,
    backends: BTreeMap<u32, abi::Backend>,
    found: Found,
}

impl Census {
    /// Asks about nothing yet.
    #[must_use]
    pub fn new(secret: Secret, now: Moment) -> Self {
        Self { secret, now, services: BTreeMap::new() }
    }

    /// Whether it asks about nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Records are judged as of this time.
    #[must_use]
    pub const fn asked_at(&self) -> Moment {
        self.now
    }

    /// Asks about a service with these slots and backends.
    pub fn ask(
        &mut self,
        entry: abi::Service,
        slots: &Arc<[Slot]>,
        backends: BTreeMap<u32, abi::Backend>,
    ) {
        let longest = Duration::from_nanos(entry.flow_ttl_ns.max(entry.client_ttl_ns));
        let pause = (longest / PART).clamp(SHORTEST, LONGEST);
        let found = Found { pause, ..Found::default() };
        let asked = Asked { entry, slots: Arc::clone(slots), backends, found };
        self.services.insert(entry.id, asked);
    }

    /// A record of a flow.
    pub fn see_flow(&mut self, key: &FlowKey, record: &Record) {
        let Some(asked) = self.services.get_mut(&key.service) else { return };
        let hash = if asked.entry.affinity == abi::Service::CLIENT {
            hash::client(self.secret, &key.client, prefix(&asked.entry, key.client.is_v4()))
        } else {
            hash::flow(self.secret, &key.client, key.source_port, key.port)
        };
        let ttl_ns = asked.entry.flow_ttl_ns;
        if let Some(uses) = asked.see(hash, record, self.now, ttl_ns) {
            uses.flows += 1;
            uses.last_seen = uses.last_seen.max(Moment(record.last_seen_ns));
        }
    }

    /// A record of a client.
    pub fn see_client(&mut self, key: &ClientKey, record: &Record) {
        let Some(asked) = self.services.get_mut(&key.service) else { return };
        if asked.entry.affinity != abi::Service::CLIENT {
            // Left over from an earlier configuration; nobody looks it up.
            return;
        }
        let prefix = prefix(&asked.entry, key.client.is_v4());
        let hash = hash::client(self.secret, &key.client, prefix);
        let ttl_ns = asked.entry.client_ttl_ns;
        if let Some(uses) = asked.see(hash, record, self.now, ttl_ns) {
            uses.clients += 1;
        }
    }

    /// What was found, by service id, with the slots that it was found for.
    pub fn found(&self) -> impl Iterator<Item = (u32, &Arc<[Slot]>, &Found)> {
        self.services.iter().map(|(id, asked)| (*id, &asked.slots, &asked.found))
    }
}

impl Asked {
    /// What its backend has, to be counted; `None` if the record is void.
    fn see(&mut self, hash: u64, record: &Record, now: Moment, ttl_ns: u64) -> Option<&mut Uses> {
        let backend = self.backends.get(&record.backend)?;
        if backend.state == abi::Backend::DOWN || !is_live(record, backend, now, ttl_ns) {
            return None;
        }
        let index = hash::slot_index(hash, self.entry.slots);
        if let Some(slot) = self.slots.get(index as usize)
            && u32::from(slot.current()) != record.backend
        {
            self.found.slots.insert(index);
            let until = Moment(record.last_seen_ns) + Duration::from_nanos(ttl_ns);
            self.found.until = self.found.until.max(until);
        }
        Some(self.found.in_use.entry(record.backend).or_default())
    }
}

fn prefix(entry: &abi::Service, is_v4: bool) -> u8 {
    if is_v4 { entry.prefix_v4 } else { entry.prefix_v6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pen_common::net::{Addr, Be16};
    use std::collections::BTreeSet;

    const SECRET: Secret = [3, 4];
    const SECOND: u64 = 1_000_000_000;
    const NOW: Moment = Moment(100 * SECOND);

    fn entry(affinity: u8) -> abi::Service {
        abi::Service {
            id: 5,
            slots: 7,
            affinity,
            prefix_v4: 128,
            prefix_v6: 64,
            flow_ttl_ns: 10 * SECOND,
            client_ttl_ns: 50 * SECOND,
            ..abi::Service::default()
        }
    }

    fn census(affinity: u8) -> Census {
        let backend = |state| abi::Backend { state, generation: 9, ..abi::Backend::default() };
        let backends = BTreeMap::from([
            (1, backend(abi::Backend::UP)),
            (2, backend(abi::Backend::DRAIN)),
            (3, backend(abi::Backend::DOWN)),
        ]);
        let mut census = Census::new(SECRET, NOW);
        census.ask(entry(affinity), &Arc::from([Slot::new(1, 1, true); 7]), backends);
        census
    }

    fn flow(service: u32) -> FlowKey {
        let client = Addr::v4([198, 51, 100, 7]);
        FlowKey { client, service, source_port: Be16::new(4000), port: Be16::new(80) }
    }

    fn record(backend: u32, generation: u32, age: u64) -> Record {
        Record { backend, generation, last_seen_ns: NOW.0 - age * SECOND }
    }

    fn found(census: &Census) -> Found {
        let (_, _, found) = census.found().next().expect("one service");
        found.clone()
    }

    #[test]
    fn only_live_records_that_disagree_count() {
        for (service, record, disagrees, in_use) in [
            (5, record(2, 9, 3), true, Some(2)),
            (5, record(1, 9, 3), false, Some(1)),
            (5, record(2, 9, 10), false, None),
            (5, record(2, 8, 3), false, None),
            (5, record(3, 9, 3), false, None),
            (5, record(4, 9, 3), false, None),
            (6, record(2, 9, 3), false, None),
        ] {
            let mut census = census(abi::Service::FLOW);
            census.see_flow(&flow(service), &record);
            let found = found(&census);
            assert_eq!(!found.slots.is_empty(), disagrees, "{record:?}");
            let used: BTreeSet<u32> = found.in_use.keys().copied().collect();
            assert_eq!(used, in_use.into_iter().collect(), "{record:?}");
        }
    }

    #[test]
    fn a_flow_of_a_service_that_remembers_clients_is_in_the_slot_of_its_client() {
        let mut census = census(abi::Service::CLIENT);
        census.see_flow(&flow(5), &record(2, 9, 3));
        let by_flow = found(&census).slots;
        let key = ClientKey { client: flow(5).client, service: 5, _pad: 0 };
        census.see_client(&key, &record(2, 9, 40));
        assert_eq!(found(&census).slots, by_flow);
        assert_eq!(found(&census).until, Moment(110 * SECOND));
    }

    #[test]
    fn clients_count_only_where_they_are_remembered() {
        let mut census = census(abi::Service::FLOW);
        let key = ClientKey { client: flow(5).client, service: 5, _pad: 0 };
        census.see_client(&key, &record(2, 9, 3));
        assert_eq!(found(&census).in_use, BTreeMap::new());
    }
}
