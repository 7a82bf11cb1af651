//! What is still at backends that get nothing new, as the proxies and a census of the kernel's records
//! count it, and the end of what a drain's deadline leaves over: the backend goes into maintenance.

mod left;

use std::collections::BTreeMap;
use std::time::Duration;

use pen_common::moment::Moment;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::census::Census;
use super::event::Action;
use crate::api::Admin;
use crate::config::{Affinity, Mode};
pub(super) use left::Drain;
use left::{Left, Over};

/// Connections of backends that get nothing new are counted so often.
const COUNT: Duration = Duration::from_secs(1);

/// What the engine has to remember of all drains.
#[derive(Debug)]
pub(super) struct Drains {
    /// When connections are counted next.
    count_at: Moment,
    /// The count is under way.
    counting: bool,
    /// Deadlines may be others than those that are kept.
    changed: bool,
    kept: Vec<Kept>,
}

impl Default for Drains {
    fn default() -> Self {
        Self { count_at: Moment::NEVER, counting: false, changed: false, kept: Vec::new() }
    }
}

/// The deadline of a drain, for the next controller: the maps say who is drained, not until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// When it ends, in nanoseconds since boot.
    pub until_ns: u64,
}

// === impl Engine ===

impl Engine {
    /// Has counted what is due by now, tells who is empty, and ends what is left at deadlines.
    pub(super) fn run_drains(&mut self, now: Moment) {
        let mut counts = false;
        let mut at_once = false;
        let mut empty = Vec::new();
        let mut over = Vec::new();
        for (at, service) in self.services.iter().enumerate() {
            let proxied = service.config.mode == Mode::Proxy;
            for (index, backend) in service.backends.iter().enumerate() {
                if !backend.is_watched() {
                    continue;
                }
                counts |= proxied;
                let drain = &backend.drain;
                match drain.deadline {
                    Some(deadline) if deadline <= now => {
                        // What ends is told exactly.
                        let known = drain.connections.is_some_and(|(_, at)| at >= deadline);
                        if proxied && !known {
                            at_once = true;
                        } else {
                            over.push((at, index));
                        }
                    }
                    _ if backend.leaving || drain.told || !backend.is_empty(service) => {}
                    _ => empty.push((at, index)),
                }
            }
        }
        for (at, index) in empty {
            self.told_empty(now, at, index);
        }
        for (at, index) in &over {
            self.end_drain(now, *at, *index);
        }
        if !over.is_empty() {
            self.elect_leaders();
            self.dirty = true;
        }
        self.count_connections(now, counts, at_once);
        self.keep_deadlines();
    }

    /// When [`Engine::run_drains`] has something to do.
    pub(super) fn next_drain(&self) -> Moment {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let deadlines = backends.filter_map(|backend| backend.drain.deadline);
        deadlines.chain([self.drains.count_at]).min().unwrap_or(Moment::NEVER)
    }

    fn count_connections(&mut self, now: Moment, wanted: bool, at_once: bool) {
        let drains = &mut self.drains;
        if !wanted {
            drains.count_at = Moment::NEVER;
            return;
        }
        let due = at_once || drains.count_at == Moment::NEVER || drains.count_at <= now;
        if due && !drains.counting {
            (drains.counting, drains.count_at) = (true, now + COUNT);
            self.actions.push_back(Action::CountConnections);
        }
    }

    /// The proxies have counted their connections, by id of the backend.
    pub(super) fn connections_counted(&mut self, now: Moment, counts: &BTreeMap<u32, u32>) {
        self.drains.counting = false;
        for service in &mut self.services {
            if service.config.mode != Mode::Proxy {
                continue;
            }
            for backend in service.backends.iter_mut().filter(|backend| backend.is_watched()) {
                let count = counts.get(&backend.id).copied().unwrap_or(0);
                let had = backend.drain.has_connections();
                backend.drain.connections = Some((count, now));
                // The census looks again whether it may go.
                if backend.leaving && had && count == 0 {
                    service.table.expect_census(now);
                }
            }
        }
    }

    /// A census has counted the records of these services.
    pub(super) fn records_counted(&mut self, census: &Census) {
        let asked = census.asked_at();
        for (id, _, found) in census.found() {
            let Some(service) = self.services.iter_mut().find(|service| service.id == id) else {
                continue;
            };
            let watched = service.backends.iter_mut().filter(|backend| backend.is_watched());
            // What was found before the drain began says nothing about it.
            for backend in
                watched.filter(|backend| backend.leaving || asked >= backend.draining_since)
            {
                let uses = found.in_use.get(&backend.id).copied().unwrap_or_default();
                backend.drain.records = Some((uses, asked));
            }
        }
    }

    fn told_empty(&mut self, now: Moment, at: usize, index: usize) {
        let service = &mut self.services[at];
        let returns = service.config.mode == Mode::Proxy
            && service.config.affinity == Affinity::Client
            && !service.backends[index].drained;
        let backend = &mut service.backends[index];
        backend.drain.told = true;
        let subject = format!("{}/{}", service.config.name, backend.config.name);
        let more = match returns {
            true => {
                "; clients that are remembered may still come back to it, unless it is in maintenance"
            }
            false => "",
        };
        let text = format!("{subject} is drained: nothing is left, it can be switched off{more}");
        self.tell(now, "drained", &subject, text);
    }

    fn end_drain(&mut self, now: Moment, at: usize, index: usize) {
        let service = &self.services[at];
        let backend = &service.backends[index];
        let over = Over { left: backend.left(service), silent: backend.may_have_silent(service) };
        let told = backend.drain.told;
        let subject = format!("{}/{}", service.config.name, backend.config.name);
        let backend = &mut self.services[at].backends[index];
        backend.admin = Admin::Maint;
        backend.drain = Drain { over: Some(over), ..Drain::default() };
        self.drains.changed = true;
        let words = over.words();
        let text = format!("{subject}: the deadline of its drain is over: {words}; drain -> maint");
        // That it was empty before has been told, and is told once.
        let again = told && over == Over { left: Some(Left::default()), silent: false };
        self.tell(now, if again { "admin" } else { "drained" }, &subject, text);
    }

    /// A controller before this one kept these.
    pub(super) fn deadlines_kept(&mut self, kept: Vec<Kept>) {
        for Kept { service, backend, until_ns } in &kept {
            let Ok((at, index)) = self.find(service, backend) else { continue };
            let backend = &mut self.services[at].backends[index];
            if backend.admin == Admin::Drain {
                backend.drain.deadline = Some(Moment(*until_ns));
            }
        }
        self.drains.kept = kept;
        self.drains.changed = true;
    }

    /// Deadlines were set, replaced or forgotten.
    pub(super) const fn note_deadlines(&mut self) {
        self.drains.changed = true;
    }

    fn keep_deadlines(&mut self) {
        if !std::mem::take(&mut self.drains.changed) {
            return;
        }
        let mut all = Vec::new();
        for service in &self.services {
            for backend in &service.backends {
                let Some(deadline) = backend.drain.deadline else { continue };
                all.push(Kept {
                    service: service.config.name.clone(),
                    backend: backend.config.name.clone(),
                    until_ns: deadline.0,
                });
            }
        }
        if all != self.drains.kept {
            self.drains.kept.clone_from(&all);
            self.actions.push_back(Action::KeepDeadlines(all));
        }
    }
}
