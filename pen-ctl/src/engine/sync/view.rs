//! What this node knows of its services, and the way between its own numbers, which the maps hold,
//! and names that its peers understand.

use std::collections::BTreeMap;
use std::sync::Arc;

use pen_common::abi::{self, ClientKey, FlowKey, ServiceKey, Slot, Translation, Tuple};
use pen_common::moment::Moment;

use super::item::{BLOCK, FEW, Fact, Of, Outline, Part, Place, Record, Standing, Topic};

/// An entry of one of the maps `FLOWS`, `CLIENTS` and `NAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A flow's record.
    Flow(FlowKey, abi::Record),
    /// A client's record.
    Client(ClientKey, abi::Record),
    /// A translation.
    Translation(Tuple, Translation),
}

/// Who holds the address of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// This node, always: there is nobody to share with.
    #[default]
    Alone,
    /// Another node, or nobody.
    Backup,
    /// This node.
    Master,
}

/// All services, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    services: Vec<Arc<Service>>,
    by_key: BTreeMap<ServiceKey, usize>,
    by_id: BTreeMap<u32, usize>,
    /// Backends of shared services by their number.
    places: BTreeMap<u32, Place>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its identity.
    pub key: ServiceKey,
    /// Its number in the maps.
    pub id: u32,
    /// Its name, for people.
    pub name: String,
    /// Who holds its address.
    pub role: Role,
    /// What peers compare with theirs; [`Outline::mastered`] is not used.
    pub outline: Outline,
    /// Its translations mean the same on another node: what goes to the backend bears an address that
    /// moves with the service's.
    pub moves: bool,
    /// A flow's record that was not used for this time is void, in nanoseconds.
    pub flow_ttl_ns: u64,
    /// The same of a client's.
    pub client_ttl_ns: u64,
    /// Its table.
    pub slots: Option<Arc<[Slot]>>,
    /// Its backends.
    pub backends: BTreeMap<Place, Backend>,
}

/// A backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its number in the maps.
    pub id: u32,
    /// How it stands; [`Standing::life`] is the generation of its records in the maps.
    pub standing: Standing,
    /// It takes packets, at least those of the flows that it has.
    pub usable: bool,
}

/// Why an entry is not told to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// It concerns nobody: of a service that does not move, or void.
    Private,
    /// The view is older than the entry, or the other way round.
    Unknown,
}

impl View {
    /// Of these services.
    #[must_use]
    pub fn new(services: Vec<Arc<Service>>) -> Self {
        let index = services.iter().zip(0..);
        Self {
            by_key: index.clone().map(|(service, at)| (service.key, at)).collect(),
            by_id: index.map(|(service, at)| (service.id, at)).collect(),
            places: services
                .iter()
                .filter(|service| service.role != Role::Alone)
                .flat_map(|service| &service.backends)
                .map(|(place, backend)| (backend.id, *place))
                .collect(),
            services,
        }
    }

    /// Those that are not alone on this node.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().filter(|service| service.role != Role::Alone)
    }

    pub(super) fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(*self.by_key.get(key)?)
    }

    /// An entry of our maps as a record that peers understand.
    pub(super) fn record(&self, now: Moment, entry: &Entry) -> Result<Record, Untold> {
        let (id, backend, seen_ns) = match entry {
            Entry::Flow(key, record) => (key.service, record.backend, record.last_seen_ns),
            Entry::Client(key, record) => (key.service, record.backend, record.last_seen_ns),
            Entry::Translation(_, to) => (to.service, to.backend, to.last_seen_ns),
        };
        let service = self.by_id.get(&id).and_then(|at| self.services.get(*at));
        let service = service.ok_or(Untold::Unknown)?;
        if service.role != Role::Master {
            return Err(Untold::Private);
        }
        let place = self.places.get(&backend).ok_or(Untold::Unknown)?;
        let life = service.backends.get(place).ok_or(Untold::Unknown)?.standing.life;
        // The view may be the older one: then it has not seen the backend die yet.
        let is_known = |record: &abi::Record| {
            if record.generation == life { Ok(()) } else { Err(Untold::Unknown) }
        };
        let (of, ttl_ns) = match *entry {
            Entry::Flow(FlowKey { client, source_port, port, .. }, record) => {
                is_known(&record)?;
                (Of::Flow { client, source_port, port, life }, service.flow_ttl_ns)
            }
            Entry::Client(ClientKey { client, .. }, record) => {
                is_known(&record)?;
                (Of::Client { client, life }, service.client_ttl_ns)
            }
            Entry::Translation(..) if !service.moves => return Err(Untold::Private),
            Entry::Translation(ends, to) => {
                let ttl_ns = to.lifetime(ends.protocol, service.flow_ttl_ns);
                (Of::Translation { ends, to: ends.translated(&to), flags: to.flags }, ttl_ns)
            }
        };
        if now.0.saturating_sub(seen_ns) >= ttl_ns {
            return Err(Untold::Private);
        }
        Ok(Record { service: service.key, backend: *place, seen: Moment(seen_ns), of })
    }

    /// A peer's record as an entry of our maps; `None` if it means nothing here. `life` is that of the
    /// backend at the peer.
    pub(super) fn entry(&self, record: &Record, life: Option<u32>) -> Option<Entry> {
        let service = self.service(&record.service)?;
        if service.role == Role::Alone {
            return None;
        }
        let backend = service.backends.get(&record.backend)?;
        let here = abi::Record {
            backend: backend.id,
            generation: backend.standing.life,
            last_seen_ns: record.seen.0,
        };
        let id = service.id;
        match record.of {
            Of::Flow { client, source_port, port, life: there } => (Some(there) == life)
                .then_some(Entry::Flow(FlowKey { client, service: id, source_port, port }, here)),
            Of::Client { client, life: there } => (Some(there) == life)
                .then_some(Entry::Client(ClientKey { client, service: id, _pad: 0 }, here)),
            Of::Translation { ends, to, flags } => {
                let to = Translation {
                    source: to.source,
                    destination: to.destination,
                    source_port: to.source_port,
                    port: to.port,
                    flags,
                    service: id,
                    backend: backend.id,
                    last_seen_ns: record.seen.0,
                };
                Some(Entry::Translation(ends, to))
            }
        }
    }
}

impl Service {
    /// What is told of it.
    pub(super) fn facts(&self) -> BTreeMap<Topic, Fact> {
        let mut facts = BTreeMap::new();
        if self.role == Role::Alone {
            return facts;
        }
        let topic = |part| Topic { service: self.key, part };
        let mastered = self.role == Role::Master;
        facts.insert(topic(Part::Service), Fact::Service(Outline { mastered, ..self.outline }));
        let mut places = BTreeMap::new();
        for (place, backend) in &self.backends {
            places.insert(backend.id, *place);
            facts.insert(topic(Part::Backend(*place)), Fact::Backend(backend.standing));
        }
        if !mastered {
            return facts;
        }
        let slots: &[Slot] = self.slots.as_deref().unwrap_or_default();
        for (block, slots) in (0..).zip(slots.chunks(BLOCK as usize)) {
            let unsettled = (0_u8..).zip(slots).filter(|(_, slot)| slot.is_unsettled());
            let bases: Vec<(u8, Place)> = unsettled
                .filter_map(|(at, slot)| Some((at, *places.get(&u32::from(slot.base()))?)))
                .collect();
            if !bases.is_empty() {
                facts.insert(topic(Part::Slots(block)), Fact::Bases(bases));
            }
        }
        let usable = self.backends.iter().filter(|(_, backend)| backend.usable);
        let usable: Vec<Place> = usable.map(|(place, _)| *place).collect();
        for (number, few) in (0..).zip(usable.chunks(FEW)) {
            facts.insert(topic(Part::Usable(number)), Fact::Usable(few.to_vec()));
        }
        facts
    }
}
