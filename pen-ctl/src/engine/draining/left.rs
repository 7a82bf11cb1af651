//! What is known of the drain of one backend: what is still there, how that is counted, and what a
//! deadline has ended.

use std::time::Duration;

use pen_common::abi;
use pen_common::moment::Moment;

use crate::api::{self, Admin};
use crate::config::{Mode, Protocol};
use crate::engine::census::Uses;
use crate::engine::settling::is_named;
use crate::engine::{Backend, Service};

/// The kernel's records are counted first after this time: by then flows have sent something.
const FIRST_CENSUS: Duration = Duration::from_secs(1);
/// So often while somebody may wait for the end.
const CENSUS: Duration = Duration::from_secs(2);
/// That is for so long after the beginning, and before a deadline.
const NEAR: Duration = Duration::from_secs(60);
/// So often otherwise.
const LATER_CENSUS: Duration = Duration::from_secs(10);

/// What is known of the drain of one backend.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Drain {
    /// What is left then is ended.
    pub(super) deadline: Option<Moment>,
    /// Connections of the proxies, and when they were counted.
    pub(super) connections: Option<(u32, Moment)>,
    /// The kernel's records, and when they were.
    pub(super) records: Option<(Uses, Moment)>,
    /// It was told that nothing is left.
    pub(super) told: bool,
    pub(super) over: Option<Over>,
}

/// What a deadline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// `None` if it was not counted.
    pub(super) left: Option<Left>,
    /// There may have been others.
    pub(super) silent: bool,
}

/// What is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    connections: u64,
    flows: u64,
    clients: u64,
}

// === impl Drain ===

impl Drain {
    /// One that begins now.
    pub(in crate::engine) fn until(deadline: Option<Moment>) -> Self {
        Self { deadline, ..Self::default() }
    }

    pub(in crate::engine) const fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// Another deadline, or none, of one that goes on.
    pub(in crate::engine) const fn set_deadline(&mut self, deadline: Option<Moment>) {
        self.deadline = deadline;
    }

    /// Why its backend is in maintenance, if that is the end of it.
    pub(in crate::engine) fn why(&self) -> Option<String> {
        let over = self.over.as_ref()?;
        Some(format!("in maintenance since the deadline of its drain: {}", over.words()))
    }

    /// Whether the proxies have connections to its backend, as they said last.
    pub(in crate::engine) fn has_connections(&self) -> bool {
        self.connections.is_some_and(|(count, _)| count > 0)
    }
}

impl Over {
    pub(super) fn words(&self) -> String {
        match (self.left, self.silent) {
            (None, _) => "what was left was ended, and not counted".to_owned(),
            (Some(left), false) if left.sum() == 0 => "nothing was left".to_owned(),
            (Some(left), true) if left.sum() == 0 => {
                "nothing was left but flows that may have been silent since it began".to_owned()
            }
            (Some(left), false) => format!("{} ended", left.words()),
            (Some(left), true) => {
                format!("{} ended, and flows that were silent since it began", left.words())
            }
        }
    }
}

impl Left {
    const fn sum(&self) -> u64 {
        self.connections + self.flows + self.clients
    }

    fn words(&self) -> String {
        let parts = [
            (self.connections, "connection"),
            (self.flows, "flow"),
            (self.clients, "remembered client"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let part = |(count, what)| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        parts.map(part).collect::<Vec<_>>().join(" and ")
    }
}

// === impl Backend ===

impl Backend {
    /// Whether it gets nothing new, so that what it has is counted.
    pub(super) fn is_watched(&self) -> bool {
        self.leaving || self.wish() == Admin::Drain
    }

    /// How soon the kernel's records are to be counted.
    pub(in crate::engine) fn census_pause(&self, now: Moment) -> Option<Duration> {
        if !self.is_watched() {
            return None;
        }
        if self.wish() != Admin::Drain || self.drain.told {
            return Some(LATER_CENSUS);
        }
        let near = now < self.draining_since + NEAR
            || self.drain.deadline.is_some_and(|deadline| now + NEAR > deadline);
        Some(match (self.drain.records, near) {
            (None, _) => FIRST_CENSUS,
            (Some(_), true) => CENSUS,
            (Some(_), false) => LATER_CENSUS,
        })
    }

    /// What is left at it; `None` if that is not known.
    pub(super) fn left(&self, service: &Service) -> Option<Left> {
        if service.config.mode == Mode::Proxy {
            let (count, _) = self.drain.connections?;
            return Some(Left { connections: u64::from(count), ..Left::default() });
        }
        let (Uses { flows, clients, .. }, _) =
            self.drain.records.filter(|_| service.inherited.is_none())?;
        // Of UDP a client is all that is known of its flows; of TCP it goes elsewhere in the end.
        let stay = self.state != abi::Backend::DRAINED || service.config.protocol == Protocol::Udp;
        Some(Left { flows, clients: if stay { clients } else { 0 }, ..Left::default() })
    }

    /// Whether it may have flows that no record tells of, since they were silent.
    pub(super) fn may_have_silent(&self, service: &Service) -> bool {
        service.config.mode != Mode::Proxy && is_named(&service.table, self)
    }

    pub(super) fn is_empty(&self, service: &Service) -> bool {
        self.left(service).is_some_and(|left| left.sum() == 0) && !self.may_have_silent(service)
    }

    /// What the operator is shown of it; none unless it gets nothing new.
    pub(in crate::engine) fn draining(
        &self,
        service: &Service,
        now: Moment,
    ) -> Option<api::Draining> {
        let drain = &self.drain;
        if let Some(over) = &drain.over {
            let ended = over.left.map(|left| left.sum());
            return Some(api::Draining { over: true, ended, ..api::Draining::default() });
        }
        if !self.is_watched() {
            return None;
        }
        let left = self.left(service);
        let proxied = service.config.mode == Mode::Proxy;
        let records = drain.records.filter(|_| !proxied && left.is_some());
        let connections = drain.connections.filter(|_| proxied);
        let counted = connections.map(|(_, at)| at).or_else(|| records.map(|(_, at)| at));
        let seen = records.filter(|(uses, _)| uses.flows > 0);
        Some(api::Draining {
            left: left.map(|left| left.sum()),
            connections: connections.map(|(count, _)| count),
            flows: records.map(|(uses, _)| uses.flows),
            clients: records.map(|(uses, _)| uses.clients),
            counted_ms: counted.map(|at| millis(now.since(at))),
            quiet_ms: seen.map(|(uses, at)| millis(at.since(uses.last_seen))),
            silent: self.may_have_silent(service),
            empty: self.is_empty(service),
            deadline_in_ms: drain.deadline.map(|at| millis(at.since(now))),
            over: false,
            ended: None,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
