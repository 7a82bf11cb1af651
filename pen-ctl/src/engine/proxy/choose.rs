//! Chooses the backend of a connection, and the next one when that cannot be reached. The rules are
//! pen's, with what it got wrong put right: memory that ends, limits that hold, and a fail-over that
//! goes by the same scheduler instead of to the next in the list.

use pen_common::abi;
use pen_common::hash::{self, Secret};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::clients::{Clients, Memory};
use super::turns::Turns;
use super::{Backend, Service};
use crate::config::{Affinity, Scheduler};

/// What the threads of a proxy know of a service's backends, by their places in
/// [`Service::backends`].
pub trait Load {
    /// Connections that a backend has, with those that are being made.
    fn connections(&self, place: usize) -> u32;
    /// It could not be connected to lately.
    fn is_ejected(&self, place: usize) -> bool;
}

/// What a service remembers from one connection to the next.
#[derive(Debug)]
pub struct State {
    /// Which client was sent where.
    pub clients: Clients,
    /// Whose turn it is.
    pub turns: Turns,
}

/// A client that wants a backend.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address. None for one of a Unix socket: those are not told apart, so that each connection
    /// is a client of its own, which nobody remembers.
    pub address: Option<Addr>,
    /// Its port.
    pub port: Be16,
    /// Places of the backends that are not for what it asks for.
    pub barred: &'a [usize],
    /// Places of the backends that it was to have, and could not.
    pub tried: &'a [usize],
    /// A random number.
    pub draw: u64,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A backend.
    Take {
        /// Its place in [`Service::backends`].
        place: usize,
        /// The client is remembered there, and may have a place that is kept for such.
        known: bool,
    },
    /// Nothing for now: those that could take it have as many as they may have.
    Full,
    /// Nothing.
    None,
}

/// Chooses.
pub fn choose(
    service: &Service,
    secret: Secret,
    client: &Client<'_>,
    state: &mut State,
    load: &impl Load,
    now: Moment,
) -> Choice {
    Chooser { service, secret, client, load }.choose(state, now)
}

struct Chooser<'a, L> {
    service: &'a Service,
    secret: Secret,
    client: &'a Client<'a>,
    load: &'a L,
}

impl<L: Load> Chooser<'_, L> {
    fn choose(&self, state: &mut State, now: Moment) -> Choice {
        let service = self.service;
        let key = self.client.address.map(|address| service.client(&address));
        let remembered = key.filter(|_| service.affinity == Affinity::Client);
        let ttl = service.memory.affinity_ttl;
        let memory = remembered.and_then(|key| state.clients.find(&key, now, ttl));
        let known = memory.and_then(|memory| self.place(memory));
        let mut full = false;
        if let Some(place) = known {
            let backend = &service.backends[place];
            let able = backend.state >= abi::Backend::DRAIN
                && !backend.maintenance
                && !self.is_ejected(place)
                && !self.client.tried.contains(&place);
            if able && self.has_room(place, true) {
                if let Some(key) = remembered {
                    state.clients.note(&key, memory_of(backend), now);
                }
                return Choice::Take { place, known: true };
            }
            if service.stubborn && !self.nobody_can() {
                return if able { Choice::Full } else { Choice::None };
            }
            full |= able;
        }
        let chosen = self.scheduled(state);
        if let Choice::Take { place, known: false } = chosen {
            if let Some(key) = remembered {
                state.clients.note(&key, memory_of(&service.backends[place]), now);
            }
            return chosen;
        }
        full |= chosen == Choice::Full;
        let stays = service.stubborn && !self.nobody_can();
        match self.emergency().filter(|_| !stays) {
            // Not remembered: once others are back, it is a new client.
            Some(place) => Choice::Take { place, known: false },
            None if full => Choice::Full,
            None => self.last_resort(state),
        }
    }

    /// One that clients could not reach lately is better than nobody, for it may be back. Not one after
    /// the other: each may take its time to fail.
    fn last_resort(&self, state: &mut State) -> Choice {
        let all = 0..self.service.backends.len();
        let failed = |place: &usize| self.client.tried.contains(place) && self.is_ejected(*place);
        if self.service.stubborn || all.clone().filter(failed).count() > 1 {
            return Choice::None;
        }
        let may_be_back = |place: &usize| {
            self.is_wanted(*place)
                && !self.client.tried.contains(place)
                && self.has_room(*place, false)
        };
        let pool: Vec<usize> = all.filter(may_be_back).collect();
        let place = self.pick(&pool, state);
        place.map_or(Choice::None, |place| Choice::Take { place, known: false })
    }

    /// Where a remembered client was, if that backend has lived ever since.
    fn place(&self, memory: Memory) -> Option<usize> {
        let same = |backend: &Backend| {
            !backend.emergency
                && (backend.id, backend.incarnation) == (memory.backend, memory.incarnation)
        };
        let place = self.service.backends.iter().position(same)?;
        (!self.client.barred.contains(&place)).then_some(place)
    }

    fn has_room(&self, place: usize, known: bool) -> bool {
        let limit = self.service.backends[place].limit(known);
        limit.is_none_or(|limit| self.load.connections(place) < limit)
    }

    /// Clients could not reach it lately, and those are believed.
    fn is_ejected(&self, place: usize) -> bool {
        let ejected = self.service.backends[place].ejected || self.load.is_ejected(place);
        ejected && !self.service.uses_all
    }

    /// It takes new clients, as far as it is up to itself.
    fn is_able(&self, place: usize) -> bool {
        self.is_wanted(place) && !self.is_ejected(place)
    }

    /// The same, whatever clients have found out about it.
    fn is_wanted(&self, place: usize) -> bool {
        let backend = &self.service.backends[place];
        backend.state == abi::Backend::UP
            && backend.wanted
            && !backend.emergency
            && !self.client.barred.contains(&place)
    }

    fn nobody_can(&self) -> bool {
        !(0..self.service.backends.len()).any(|place| self.is_able(place))
    }

    fn emergency(&self) -> Option<usize> {
        let backends = self.service.backends.iter().enumerate();
        let usable = backends.filter(|(place, backend)| {
            backend.emergency
                && backend.wanted
                && backend.state == abi::Backend::UP
                && !self.is_ejected(*place)
                && !self.client.tried.contains(place)
                && self.has_room(*place, false)
        });
        usable.map(|(place, _)| place).next()
    }

    /// What the scheduler says.
    fn scheduled(&self, state: &mut State) -> Choice {
        let all = 0..self.service.backends.len();
        if self.service.stubborn {
            // The first choice is made as if all were well, and is the only one.
            let wanted = |place: &usize| {
                let backend = &self.service.backends[*place];
                backend.wanted && !backend.emergency && !self.client.barred.contains(place)
            };
            let pool: Vec<usize> = all.filter(wanted).collect();
            if !self.client.tried.is_empty() {
                return Choice::None;
            }
            return match self.pick(&pool, state) {
                Some(place) if !self.is_able(place) => Choice::None,
                Some(place) if !self.has_room(place, false) => Choice::Full,
                Some(place) => Choice::Take { place, known: false },
                None => Choice::None,
            };
        }
        let able = all.filter(|place| self.is_able(*place) && !self.client.tried.contains(place));
        let mut pool: Vec<usize> = able.collect();
        let anybody = !pool.is_empty();
        pool.retain(|place| self.has_room(*place, false));
        match self.pick(&pool, state) {
            Some(place) => Choice::Take { place, known: false },
            None if anybody => Choice::Full,
            None => Choice::None,
        }
    }

    /// One of the pool.
    fn pick(&self, pool: &[usize], state: &mut State) -> Option<usize> {
        let backends = &self.service.backends;
        let load = |place: &usize| {
            // In parts of a connection for each unit of weight.
            let connections = u64::from(self.load.connections(*place));
            (connections << 16) / u64::from(backends[*place].weight.max(1))
        };
        match self.service.proxy.scheduler {
            _ if pool.is_empty() => None,
            Scheduler::Maglev => Some(self.slot(pool)),
            Scheduler::RoundRobin => self.turn(pool, state),
            Scheduler::LeastConn => {
                let least = pool.iter().map(load).min()?;
                let equals: Vec<usize> =
                    pool.iter().copied().filter(|place| load(place) == least).collect();
                self.turn(&equals, state)
            }
            Scheduler::Random => {
                let [first, second] = self.two(pool);
                Some(if load(&second) < load(&first) { second } else { first })
            }
            Scheduler::Weight => pool.iter().copied().min_by_key(load),
            Scheduler::Prio => {
                let prio = |place: &usize| backends[*place].limits.prio;
                let best = pool.iter().map(prio).min()?;
                let tier: Vec<usize> =
                    pool.iter().copied().filter(|place| prio(place) == best).collect();
                self.turn(&tier, state)
            }
            Scheduler::Hash => Some(self.highest(pool)),
        }
    }

    fn turn(&self, pool: &[usize], state: &mut State) -> Option<usize> {
        let weights: Vec<(u32, u32)> = pool
            .iter()
            .map(|place| &self.service.backends[*place])
            .map(|backend| (backend.id, backend.weight))
            .collect();
        state.turns.next(&weights).map(|at| pool[at])
    }

    /// Hash of the client as the kernel has it.
    fn hash(&self) -> u64 {
        let Client { address, port, .. } = self.client;
        let service = self.service;
        let Some(address) = address else { return self.client.draw };
        match service.affinity {
            // With all bits: the client is the network already.
            Affinity::Client => hash::client(self.secret, &service.client(address), 128),
            Affinity::Flow => hash::flow(self.secret, address, *port, service.key.port),
        }
    }

    /// The backend of the client's slot, or of the first slot after it that names one of the pool.
    fn slot(&self, pool: &[usize]) -> usize {
        let slots = &self.service.slots;
        let count = u32::try_from(slots.len()).unwrap_or(0);
        let first = if count == 0 { 0 } else { hash::slot_index(self.hash(), count) as usize };
        let around = slots.iter().skip(first).chain(slots.iter().take(first));
        let of_pool = |slot: &abi::Slot| {
            let id = u32::from(slot.current());
            pool.iter().copied().find(|place| self.service.backends[*place].id == id)
        };
        // The table may be a moment older than the states of its backends.
        around.filter_map(of_pool).next().unwrap_or(pool[0])
    }

    /// Two of the pool, drawn by weight.
    fn two(&self, pool: &[usize]) -> [usize; 2] {
        let weight = |place: &usize| u64::from(self.service.backends[*place].weight.max(1));
        let total: u64 = pool.iter().map(weight).sum();
        let draw = |number: u64| {
            let mut left = number % total;
            pool.iter().copied().find(|place| {
                let weight = weight(place);
                let found = left < weight;
                left = left.saturating_sub(weight);
                found
            })
        };
        let first = draw(self.client.draw >> 32).unwrap_or(pool[0]);
        let second = draw(self.client.draw & u64::from(u32::MAX)).unwrap_or(pool[0]);
        if first != second || pool.len() == 1 {
            return [first, second];
        }
        // The same one twice would be no choice.
        let at = pool.iter().position(|place| *place == first).unwrap_or(0);
        [first, pool[(at + 1) % pool.len()]]
    }

    /// The one whose own hash with the client is the highest for its weight (rendezvous hashing,
    /// Thaler and Ravishankar 1998): if one goes, only its clients move.
    fn highest(&self, pool: &[usize]) -> usize {
        let client = self.hash();
        let distance = |place: &usize| {
            let backend = &self.service.backends[*place];
            let key = backend.address.key();
            let (high, low) = Addr::from(key.ip()).halves();
            let port = u64::from(key.port());
            let hash = hash::siphash(self.secret, [client ^ high, low, port]);
            // In (0, 1): the logarithm is finite.
            let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -uniform.ln() / f64::from(backend.weight.max(1))
        };
        let nearest = pool.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.unwrap_or(pool[0])
    }
}

const fn memory_of(backend: &Backend) -> Memory {
    Memory { backend: backend.id, incarnation: backend.incarnation }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
