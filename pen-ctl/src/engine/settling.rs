//! Lets what has moved come to rest: drains end, slots' bases follow, a census tells which slots are
//! settled again, and backends that left the configuration go when nothing belongs to them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pen_common::abi;
use pen_common::moment::Moment;

use super::census::Census;
use super::desired::service_entry;
use super::event::Action;
use super::slots::Table;
use super::{Backend, Engine};
use crate::api::Admin;
use crate::config::Mode;

/// A census is not taken more often than so many times the time that the last one took: it reads all
/// records, and is to cost no more than this part of a CPU.
const CENSUS_PART: u32 = 20;
/// But however long that took, the next one is not later than this.
const LONGEST_REST: Duration = Duration::from_secs(60);

impl Engine {
    /// Does what is due by now.
    pub(super) fn run_settling(&mut self, now: Moment) {
        let mut gone = false;
        for service in &mut self.services {
            let settle = service.config.memory.settle;
            // While another node holds its address, that one says which slots are settled.
            let own = service.inherited.is_none();
            self.dirty |= own && service.table.follow(now, settle);
            if now >= service.start_by {
                service.start_by = Moment::NEVER;
                self.dirty = true;
            }
            for backend in &mut service.backends {
                if is_draining(backend) && now >= backend.draining_since + settle {
                    backend.drained = true;
                    self.dirty = true;
                }
            }
            if now >= service.ask_until {
                (service.lost, service.ask_until) = (false, Moment::NEVER);
                self.dirty = true;
            }
            let before = service.backends.len();
            let table = &service.table;
            service.backends.retain(|backend| {
                !backend.leaving
                    || backend.state != abi::Backend::DOWN
                    || backend.drain.has_connections()
                    || is_named(table, backend)
            });
            gone |= service.backends.len() != before;
            let counted = |backend: &Backend| {
                // Proxies count those of draining ones themselves.
                let in_kernel = service.config.mode != Mode::Proxy || backend.leaving;
                backend.census_pause(now).filter(|_| in_kernel)
            };
            let pauses = service.backends.iter().filter_map(counted);
            if own && let Some(pause) = pauses.min() {
                service.table.expect_census(now + pause);
            }
        }
        if gone {
            self.forget_backends(now);
        }
        if !self.census_under_way && now >= self.next_census {
            self.take_census(now);
        }
    }

    /// When [`Engine::run_settling`] has something to do.
    pub(super) fn next_settling(&self) -> Moment {
        let mut next = Moment::NEVER;
        for service in &self.services {
            let settle = service.config.memory.settle;
            if service.inherited.is_none() {
                next = next.min(service.table.next_move(settle));
            }
            if service.inherited.is_none() && !self.census_under_way {
                next = next.min(service.table.census_at().max(self.next_census));
            }
            next = next.min(service.start_by).min(service.ask_until);
            for backend in service.backends.iter().filter(|backend| is_draining(backend)) {
                next = next.min(backend.draining_since + settle);
            }
        }
        next
    }

    fn take_census(&mut self, now: Moment) {
        let mut census = Census::new(self.secret, now);
        let due = self
            .services
            .iter()
            .filter(|service| service.inherited.is_none() && service.table.census_at() <= now);
        for service in due {
            let backends = service.backends.iter().map(|backend| {
                let (state, generation) = (backend.state, backend.incarnation);
                (backend.id, abi::Backend { state, generation, ..abi::Backend::default() })
            });
            census.ask(service_entry(service), service.table.slots(), backends.collect());
        }
        if !census.is_empty() {
            self.census_under_way = true;
            self.census_began = now;
            self.actions.push_back(Action::TakeCensus(Box::new(census)));
        }
    }

    /// A census came back.
    pub(super) fn census_taken(&mut self, now: Moment, census: &Census) {
        self.census_under_way = false;
        let took = now.since(self.census_began);
        self.next_census = now + took.saturating_mul(CENSUS_PART).min(LONGEST_REST);
        self.records_counted(census);
        let found: BTreeMap<_, _> =
            census.found().map(|(id, slots, found)| (id, (slots, found))).collect();
        let mut gone = false;
        for service in &mut self.services {
            let Some((slots, found)) = found.get(&service.id) else { continue };
            if service.inherited.is_none() {
                self.dirty |= service.table.judge(slots, found, now);
            }
            let before = service.backends.len();
            let table = &service.table;
            service.backends.retain(|backend| {
                !backend.leaving
                    || found.in_use.contains_key(&backend.id)
                    || backend.drain.has_connections()
                    || is_named(table, backend)
            });
            gone |= service.backends.len() != before;
        }
        if gone {
            self.forget_backends(now);
        }
    }

    /// Backends were taken off the lists.
    fn forget_backends(&mut self, now: Moment) {
        self.elect_leaders();
        self.free_ids();
        self.watch_backends(now);
        self.dirty = true;
    }
}

fn is_draining(backend: &Backend) -> bool {
    backend.wish() == Admin::Drain && !backend.drained
}

/// Whether flows without a record may belong to a backend.
pub(super) fn is_named(table: &Table, backend: &Backend) -> bool {
    let id = u16::try_from(backend.id).expect("backend ids end below 2^14");
    table.names(id)
}

/// Ids of backends that still hold flows.
pub(super) fn alive(backends: &[Backend]) -> BTreeSet<u16> {
    let alive = backends.iter().filter(|backend| backend.state != abi::Backend::DOWN);
    alive.map(|backend| u16::try_from(backend.id).expect("backend ids end below 2^14")).collect()
}
