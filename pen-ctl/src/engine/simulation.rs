//! Sends random flows to a service, in thought: who would get how many? By the decision that the
//! kernel makes, over the same slots and records, so that the answer is not an estimate. Owns what it
//! needs, so that a million of flows do not hold the engine up.

use std::collections::BTreeMap;
use std::sync::Arc;

use pen_common::abi::ServiceKey;
use pen_common::forward::{self, Arrival, Flow, Stage};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::{Counter, Verdict};

use super::operator::percent;
use super::random::Random;
use super::tables::{Records, Tables};
use super::{Engine, desired};
use crate::api::{self, Refusal, Simulate};

/// Most flows of a simulation: a second or two of work.
pub const MAX_FLOWS: u32 = 1_000_000;

/// Between two questions whether to go on, so many flows are decided.
const STRIDE: u32 = 1024;

/// A simulation.
#[derive(Clone, Debug)]
pub struct Simulation {
    tables: Tables,
    key: ServiceKey,
    arrival: Arrival,
    now: Moment,
    flows: u32,
    seed: u64,
    established: bool,
    service: String,
    backends: BTreeMap<u32, Expected>,
}

/// A backend, and its share by weight, in percent.
#[derive(Clone, Debug, Default)]
struct Expected {
    name: String,
    percent: f64,
}

impl Engine {
    /// Prepares a simulation.
    ///
    /// # Errors
    ///
    /// If there is no such service, or too much is asked for.
    pub fn simulation(&self, now: Moment, wish: &Simulate) -> Result<Simulation, Refusal> {
        if wish.flows == 0 || wish.flows > MAX_FLOWS {
            return Err(Refusal {
                error: format!("{} flows cannot be simulated", wish.flows),
                cure: format!("ask for 1 to {MAX_FLOWS}"),
            });
        }
        let id = self.service_named(&wish.service)?;
        let found = self.services.iter().find(|service| service.id == id);
        let service = found.expect("it was just found");
        let members = desired::members(service, &self.network, None);
        let total: u32 = members.iter().map(|member| member.weight).sum();
        let share = |id: u32| {
            let weight = members.iter().find(|member| u32::from(member.id) == id);
            weight.map_or(0.0, |member| percent(member.weight as usize, total as usize))
        };
        let backends = service.backends.iter().map(|backend| {
            let name = backend.config.name.clone();
            (backend.id, Expected { name, percent: share(backend.id) })
        });
        let backends = backends.collect();
        let simulation = Simulation::new(&self.applied, service.key, now, wish);
        Ok(Simulation { backends, ..simulation })
    }
}

impl Simulation {
    /// Of a service as these tables have it.
    #[must_use]
    pub fn new(tables: &Tables, key: ServiceKey, now: Moment, wish: &Simulate) -> Self {
        let entry = tables.addrs.get(&key.vip);
        let service = tables.services.get(&key);
        let id = service.map(|service| service.id);
        // Small tables are quick to search.
        let only = Tables {
            cfg: tables.cfg,
            groups: tables.groups.clone(),
            addrs: entry.map(|entry| (key.vip, *entry)).into_iter().collect(),
            services: service.map(|service| (key, *service)).into_iter().collect(),
            slots: id
                .and_then(|id| Some((id, tables.slots.get(&id)?.clone())))
                .into_iter()
                .collect(),
            // All: a record may name any.
            backends: tables.backends.clone(),
            prefixes: Arc::clone(&tables.prefixes),
            ..Tables::default()
        };
        let arrival = entry.map_or(Arrival { ifindex: 0, station: MacAddr::NONE }, |entry| {
            Arrival { ifindex: entry.ifindex, station: entry.mac }
        });
        Self {
            tables: only,
            key,
            arrival,
            now,
            flows: wish.flows,
            seed: wish.seed,
            established: wish.established,
            service: wish.service.clone(),
            backends: BTreeMap::new(),
        }
    }

    /// Its flows: the same for the same seed.
    pub fn flows(&self) -> impl Iterator<Item = Flow> + use<> {
        let (key, established) = (self.key, self.established);
        let mut rng = Random(self.seed);
        (0..self.flows).map(move |_| {
            let [a, b, c, d, e, f, g, h] = rng.next().to_be_bytes();
            let (source, port) = if key.vip.is_v4() {
                (Addr::v4([a, b, c, d]), [e, f])
            } else {
                let [i, j, k, l, m, n, o, p] = rng.next().to_be_bytes();
                // 2000::/3, where clients are.
                let first = 0x20 | a & 0x1f;
                let bytes = [first, b, c, d, e, f, i, j, k, l, m, n, o, p, g, h];
                (Addr::v6(bytes), rng.next().to_be_bytes().first_chunk().copied().unwrap_or([0, 1]))
            };
            let port = u16::from_be_bytes(port);
            Flow {
                source,
                // Nobody sends from port 0.
                source_port: Be16::new(port.max(1)),
                port: match key.port.value() {
                    0 => Be16::new(80),
                    _ => key.port,
                },
                protocol: key.protocol,
                stage: match key.protocol {
                    protocol::TCP if established => Stage::Established,
                    protocol::TCP => Stage::Open,
                    _ => Stage::Datagram,
                },
            }
        })
    }

    /// The backend of a flow, or the counter that its packet would end in.
    ///
    /// # Errors
    ///
    /// If no backend gets it.
    pub fn choose(&self, flow: Flow, records: &dyn Records) -> Result<u32, Counter> {
        let lookup = self.tables.at(self.now, records);
        match forward::decide(&lookup, &self.arrival, &self.key.vip, || Ok(flow)) {
            Verdict::Forward(forward) => Ok(forward.id),
            Verdict::Drop(reason) => Err(reason.counter()),
            Verdict::Pass(reason) => Err(reason.counter()),
        }
    }

    /// Decides about all flows; asks now and then whether to go on.
    #[must_use]
    pub fn run(self, records: &dyn Records, go_on: &dyn Fn() -> bool) -> api::Simulation {
        let mut chosen: BTreeMap<u32, u32> = BTreeMap::new();
        let mut others: BTreeMap<Counter, u32> = BTreeMap::new();
        let mut done = 0;
        for flow in self.flows() {
            if done % STRIDE == 0 && !go_on() {
                break;
            }
            done += 1;
            match self.choose(flow, records) {
                Ok(id) => *chosen.entry(id).or_default() += 1,
                Err(counter) => *others.entry(counter).or_default() += 1,
            }
        }
        let share = |flows: u32| percent(flows as usize, done as usize);
        let mut shares: Vec<api::Share> = Vec::new();
        for (id, Expected { name, percent: expected }) in &self.backends {
            let flows = chosen.remove(id).unwrap_or(0);
            let backend = name.clone();
            shares.push(api::Share { backend, flows, percent: share(flows), expected: *expected });
        }
        let others = others.into_iter().map(|(counter, flows)| api::Other {
            counter: counter.name().to_owned(),
            flows,
            percent: share(flows),
        });
        api::Simulation {
            service: self.service,
            flows: done,
            seed: self.seed,
            shares,
            others: others.collect(),
            complete: done == self.flows,
        }
    }
}
