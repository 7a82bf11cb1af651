//! Lists of flows and clients out of the kernel's records: which ones are asked for, whether each
//! still counts, and the newest of too many. The records come in one by one, because there may be a
//! million; whoever reads them needs the engine no more, and so does not stall it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pen_common::abi::{
    Backend, ClientKey, FlowKey, Record, Service, ServiceKey, Translation, Tuple,
};
use pen_common::affinity;
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::Engine;
use crate::api::records::MAX_LIMIT;
use crate::api::{self, Cidr, RecordQuery, Refusal};

/// What is known of services and backends, and what is asked for.
#[derive(Clone, Debug)]
pub struct Listing {
    now: Moment,
    services: BTreeMap<u32, Known>,
    backends: BTreeMap<u32, (String, Backend)>,
    service: Option<u32>,
    backend: Option<BTreeSet<u32>>,
    client: Option<Cidr>,
    limit: usize,
}

/// A service.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    vip: Addr,
    entry: Service,
}

impl Engine {
    /// Begins a list.
    ///
    /// # Errors
    ///
    /// If the question names something that does not exist, or asks for too much.
    pub fn listing(&self, now: Moment, query: &RecordQuery) -> Result<Listing, Refusal> {
        if query.limit == 0 || query.limit > MAX_LIMIT {
            return Err(Refusal {
                error: format!("a list of {} rows cannot be had", query.limit),
                cure: format!("give a limit of 1 to {MAX_LIMIT}"),
            });
        }
        let service = match &query.service {
            Some(name) => Some(self.service_named(name)?),
            None => None,
        };
        let backend = match &query.backend {
            Some(name) => Some(self.backends_named(query.service.as_deref(), name)?),
            None => None,
        };
        let entries: BTreeMap<u32, (&ServiceKey, &Service)> =
            self.applied.services.iter().map(|(key, entry)| (entry.id, (key, entry))).collect();
        let services = self.services.iter().filter_map(|service| {
            let (key, entry) = entries.get(&service.id)?;
            let name = service.config.name.clone();
            Some((service.id, Known { name, vip: key.vip, entry: **entry }))
        });
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let backends = backends.filter_map(|backend| {
            let entry = self.applied.backends.get(&backend.id)?;
            Some((backend.id, (backend.config.name.clone(), *entry)))
        });
        Ok(Listing {
            now,
            services: services.collect(),
            backends: backends.collect(),
            service,
            backend,
            client: query.client,
            limit: query.limit,
        })
    }

    pub(super) fn service_named(&self, name: &str) -> Result<u32, Refusal> {
        let found = self.services.iter().find(|service| service.config.name == name);
        found.map(|service| service.id).ok_or_else(|| {
            let all: Vec<_> =
                self.services.iter().map(|service| service.config.name.as_str()).collect();
            Refusal {
                error: format!("there is no service `{name}`"),
                cure: format!("there are: {}", all.join(", ")),
            }
        })
    }

    /// Backends of this name, of one service or of all.
    fn backends_named(&self, service: Option<&str>, name: &str) -> Result<BTreeSet<u32>, Refusal> {
        let services = self
            .services
            .iter()
            .filter(|found| service.is_none_or(|service| found.config.name == service));
        let backends = services.flat_map(|service| &service.backends);
        let ids: BTreeSet<u32> = backends
            .clone()
            .filter(|backend| backend.config.name == name)
            .map(|backend| backend.id)
            .collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
        let all: BTreeSet<_> = backends.map(|backend| backend.config.name.as_str()).collect();
        let all: Vec<_> = all.into_iter().collect();
        Err(Refusal {
            error: format!("there is no backend `{name}`"),
            cure: format!("there are: {}", all.join(", ")),
        })
    }
}

impl Listing {
    /// A list of flows.
    #[must_use]
    pub fn flows(self) -> FlowList {
        let (records, translations) = (Newest::new(self.limit), Newest::new(self.limit));
        FlowList { listing: self, records, translations }
    }

    /// A list of clients.
    #[must_use]
    pub fn clients(self) -> ClientList {
        let records = Newest::new(self.limit);
        ClientList { listing: self, records }
    }

    fn is_wanted(&self, service: u32, backend: u32, client: &Addr) -> bool {
        self.service.is_none_or(|wanted| wanted == service)
            && self.backend.as_ref().is_none_or(|wanted| wanted.contains(&backend))
            && self.client.is_none_or(|wanted| wanted.contains(client))
    }

    fn backend(&self, id: u32) -> (Option<String>, Option<SocketAddr>) {
        match self.backends.get(&id) {
            Some((name, entry)) => (Some(name.clone()), Some(socket(entry.addr, entry.port))),
            None => (None, None),
        }
    }

    fn age(&self, last_seen_ns: u64) -> Duration {
        self.now.since(Moment(last_seen_ns))
    }

    /// Why a record no longer counts, by the rules of [`affinity::is_live`].
    fn why_void(
        &self,
        service: u32,
        record: &Record,
        ttl: impl Fn(&Service) -> u64,
    ) -> Option<String> {
        let Some(service) = self.services.get(&service) else {
            return Some("the service is gone".to_owned());
        };
        let backend = self.backends.get(&record.backend).map(|(_, entry)| entry);
        let Some(backend) = backend.filter(|entry| entry.service == service.entry.id) else {
            return Some("the backend is gone".to_owned());
        };
        let ttl_ns = ttl(&service.entry);
        if affinity::is_live(record, backend, self.now, ttl_ns) {
            return (backend.state == Backend::DOWN).then(|| "the backend is down".to_owned());
        }
        if record.generation != backend.generation {
            return Some("the backend died since".to_owned());
        }
        Some(expired(ttl_ns))
    }
}

/// A list of flows in the making.
#[derive(Clone, Debug)]
pub struct FlowList {
    listing: Listing,
    records: Newest<FlowKey, Record>,
    translations: Newest<Tuple, Translation>,
}

impl FlowList {
    /// Whether some service translates addresses; the table of translations is not worth a look
    /// otherwise.
    #[must_use]
    pub fn wants_translations(&self) -> bool {
        let translates =
            |known: &Known| matches!(known.entry.mode, Service::NAT | Service::MASQUERADE);
        self.listing.services.values().any(translates)
    }

    /// Takes note of a record.
    pub fn record(&mut self, key: FlowKey, record: Record) {
        if self.listing.is_wanted(key.service, record.backend, &key.client) {
            self.records.offer(key, record, record.last_seen_ns);
        }
    }

    /// Takes note of a translation. Those of answers say all there is to say: where the answer
    /// comes from, and what the client sees of it.
    pub fn translation(&mut self, key: Tuple, to: Translation) {
        let is_return = to.flags & Translation::RETURN != 0;
        if is_return && self.listing.is_wanted(to.service, to.backend, &to.destination) {
            self.translations.offer(key, to, to.last_seen_ns);
        }
    }

    /// The list; `complete` if all records were offered.
    #[must_use]
    pub fn finish(self, complete: bool) -> api::Flows {
        let Self { listing, records, translations } = self;
        let mut more = records.count() + translations.count();
        let records = records.finish();
        let records = records.map(|(key, record)| listing.flow_of_record(&key, &record));
        let translations = translations.finish();
        let translations = translations.map(|(key, to)| listing.flow_of_translation(&key, &to));
        let mut flows: Vec<api::Flow> = records.chain(translations).collect();
        flows.sort_by_key(|flow| (flow.age_ms, flow.client));
        flows.truncate(listing.limit);
        more -= flows.len();
        api::Flows { flows, more: u64::try_from(more).unwrap_or(u64::MAX), complete }
    }
}

impl Listing {
    fn flow_of_record(&self, key: &FlowKey, record: &Record) -> api::Flow {
        let (backend, address) = self.backend(record.backend);
        let why = self.why_void(key.service, record, |service| service.flow_ttl_ns);
        let service = self.services.get(&key.service);
        api::Flow {
            kind: "record".to_owned(),
            service: service.map(|service| service.name.clone()),
            client: socket(key.client, key.source_port),
            vip: service.map(|service| socket(service.vip, key.port)),
            backend,
            address,
            seen_as: None,
            age_ms: millis(self.age(record.last_seen_ns)),
            live: why.is_none(),
            why,
        }
    }

    fn flow_of_translation(&self, key: &Tuple, to: &Translation) -> api::Flow {
        let service = self.services.get(&to.service);
        let (backend, _) = self.backend(to.backend);
        let why = self.why_ended(key.protocol, to);
        api::Flow {
            kind: "nat".to_owned(),
            service: service.map(|service| service.name.clone()),
            client: socket(to.destination, to.port),
            vip: Some(socket(to.source, to.source_port)),
            backend,
            address: Some(socket(key.source, key.source_port)),
            seen_as: Some(socket(key.destination, key.port)),
            age_ms: millis(self.age(to.last_seen_ns)),
            live: why.is_none(),
            why,
        }
    }

    /// Why a translation no longer counts. It has no generation: what died may have lived again.
    fn why_ended(&self, protocol: u8, to: &Translation) -> Option<String> {
        let Some(service) = self.services.get(&to.service) else {
            return Some("the service is gone".to_owned());
        };
        let closed = Translation::CLIENT_FIN | Translation::BACKEND_FIN;
        let why = match self.backends.get(&to.backend) {
            None => "the backend is gone",
            Some((_, entry)) if entry.service != service.entry.id => "the backend is gone",
            Some((_, entry)) if entry.state == Backend::DOWN => "the backend is down",
            Some(_) if to.flags & Translation::RESET != 0 => "reset",
            Some(_) if to.flags & closed == closed => "closed by both ends",
            Some(_) => {
                let lifetime = to.lifetime(protocol, service.entry.flow_ttl_ns);
                let age = self.now.0.saturating_sub(to.last_seen_ns);
                return (age >= lifetime).then(|| expired(lifetime));
            }
        };
        Some(why.to_owned())
    }
}

/// A list of clients in the making.
#[derive(Clone, Debug)]
pub struct ClientList {
    listing: Listing,
    records: Newest<ClientKey, Record>,
}

impl ClientList {
    /// Takes note of a record.
    pub fn record(&mut self, key: ClientKey, record: Record) {
        if self.listing.is_wanted(key.service, record.backend, &key.client) {
            self.records.offer(key, record, record.last_seen_ns);
        }
    }

    /// The list; `complete` if all records were offered.
    #[must_use]
    pub fn finish(self, complete: bool) -> api::Clients {
        let Self { listing, records } = self;
        let count = records.count();
        let clients = records.finish().map(|(key, record)| listing.client(&key, &record));
        let mut clients: Vec<api::Client> = clients.collect();
        clients.sort_by_key(|client| client.age_ms);
        let more = u64::try_from(count - clients.len()).unwrap_or(u64::MAX);
        api::Clients { clients, more, complete }
    }
}

impl Listing {
    fn client(&self, key: &ClientKey, record: &Record) -> api::Client {
        let (backend, address) = self.backend(record.backend);
        let why = self.why_void(key.service, record, |service| service.client_ttl_ns);
        let service = self.services.get(&key.service);
        let bits = service.map_or(128, |service| {
            if key.client.is_v4() { service.entry.prefix_v4 } else { service.entry.prefix_v6 }
        });
        api::Client {
            service: service.map(|service| service.name.clone()),
            client: Cidr::of(key.client, bits),
            backend,
            address,
            age_ms: millis(self.age(record.last_seen_ns)),
            live: why.is_none(),
            why,
        }
    }
}

/// The newest of what is offered, each key once. A key may be offered again: the kernel starts over
/// when the key at which a walk through a hash stands is removed meanwhile.
#[derive(Clone, Debug)]
struct Newest<K, V> {
    limit: usize,
    seen: BTreeSet<K>,
    kept: Vec<(u64, K, V)>,
}

impl<K: Ord + Copy, V> Newest<K, V> {
    const fn new(limit: usize) -> Self {
        Self { limit, seen: BTreeSet::new(), kept: Vec::new() }
    }

    fn offer(&mut self, key: K, value: V, time: u64) {
        if !self.seen.insert(key) {
            return;
        }
        self.kept.push((time, key, value));
        // Not at each offer, so that it costs little; and no more than twice the rows are held.
        if self.kept.len() >= 2 * self.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.kept.len() > self.limit {
            let by_time = |(time, key, _): &(u64, K, V)| (Reverse(*time), *key);
            self.kept.select_nth_unstable_by_key(self.limit, by_time);
            self.kept.truncate(self.limit);
        }
    }

    /// How many were offered.
    fn count(&self) -> usize {
        self.seen.len()
    }

    fn finish(mut self) -> impl Iterator<Item = (K, V)> {
        self.cut();
        self.kept.into_iter().map(|(_, key, value)| (key, value))
    }
}

fn expired(ttl_ns: u64) -> String {
    let ttl = humantime::format_duration(Duration::from_nanos(ttl_ns));
    format!("expired: not used for {ttl}")
}

fn socket(addr: Addr, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.into(), port.value())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
