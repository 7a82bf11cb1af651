//! When all entries of the maps are read, and which of them are told: everything to a peer that asked
//! for everything, and to the others what was used since, so that ages stay right, and what was
//! missed.

use std::time::Duration;

use pen_common::moment::Moment;

use super::Node;
use super::item::{Of, Record};
use super::peer::Stage;
use super::view::{Entry, Role};

/// Between two scans.
const PAUSE_NS: u64 = 10_000_000_000;
/// A scan for what was missed comes this early.
const SOON: Duration = Duration::from_secs(1);
/// An age is told again after this part of its record's time to live.
const PART: u64 = 8;

/// The state of scanning.
#[derive(Debug)]
pub(super) struct Scan {
    running: bool,
    started_at: Moment,
    /// What happened before has been told.
    told_until: Moment,
    due: Moment,
    /// Something was missed since the last one began.
    lost: bool,
    /// Something was missed before this one began: it tells all that is younger than what was told.
    catches_up: bool,
    /// Records of a peer became ours, which the others may not have: the next scan tells everything.
    all: bool,
    /// This one does.
    tells_all: bool,
    /// How many there were.
    turn: u64,
    /// How often something was missed.
    pub(super) losses: u64,
}

impl Scan {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            running: false,
            started_at: now,
            told_until: now,
            due: now + Duration::from_nanos(PAUSE_NS),
            lost: false,
            catches_up: false,
            all: false,
            tells_all: false,
            turn: 0,
            losses: 0,
        }
    }

    /// Something was missed.
    pub(super) fn lose(&mut self, now: Moment) {
        self.losses += 1;
        self.lost = true;
        self.due = self.due.min(now + SOON);
    }

    /// Everything is to be told again.
    pub(super) fn repeat(&mut self, now: Moment) {
        self.all = true;
        self.due = self.due.min(now + SOON);
    }

    /// Whether a peer that knows the rest is told this one.
    fn is_news(&self, record: &Record, ttl_ns: u64) -> bool {
        if self.tells_all || self.catches_up && record.seen >= self.told_until {
            return true;
        }
        // In its turn, by a number of its own, so that not all of them come at once.
        let turns = (ttl_ns / PART / PAUSE_NS).max(1);
        let since = self.started_at.0.saturating_sub((turns + 1) * PAUSE_NS);
        record.seen.0 >= since && (self.turn + number(record)).is_multiple_of(turns)
    }
}

/// A number that spreads records evenly.
fn number(record: &Record) -> u64 {
    let (high, low) = match record.of {
        Of::Flow { client, source_port, .. } => {
            let (high, low) = client.halves();
            (high, low ^ u64::from(source_port.value()) << 32)
        }
        Of::Client { client, .. } => client.halves(),
        Of::Translation { ends, .. } => {
            let (high, low) = ends.source.halves();
            let ports = u64::from(ends.source_port.value()) << 16 | u64::from(ends.port.value());
            (high, low ^ ports << 32)
        }
    };
    (high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Node {
    fn masters(&self) -> bool {
        self.view.shared().any(|service| service.role == Role::Master)
    }

    pub(super) fn scan_is_due(&self, now: Moment) -> bool {
        if self.scan.running {
            return false;
        }
        let waits = self
            .peers
            .iter()
            .any(|peer| peer.telling.is_some_and(|telling| telling.stage == Stage::Waiting));
        waits || now >= self.scan.due && self.masters() && self.peers.iter().any(|peer| peer.alive)
    }

    pub(super) fn scan_deadline(&self, now: Moment) -> Moment {
        if self.scan_is_due(now) {
            return now;
        }
        if self.scan.running || !self.masters() {
            return Moment::NEVER;
        }
        // Without a peer it is looked at again when one comes.
        if self.peers.iter().any(|peer| peer.alive) { self.scan.due } else { Moment::NEVER }
    }

    /// Begins a scan; false if there is nothing to be found.
    pub(super) fn begin_scan(&mut self, now: Moment) -> bool {
        let masters = self.masters();
        for telling in self.peers.iter_mut().filter_map(|peer| peer.telling.as_mut()) {
            if telling.stage == Stage::Waiting {
                telling.stage = if masters { Stage::Reading } else { Stage::Tail };
            }
        }
        if !masters {
            return false;
        }
        let scan = &mut self.scan;
        scan.running = true;
        scan.started_at = now;
        scan.catches_up = std::mem::take(&mut scan.lost);
        scan.tells_all = std::mem::take(&mut scan.all);
        scan.due = now + Duration::from_nanos(PAUSE_NS);
        scan.turn += 1;
        true
    }

    /// Whether more entries may be handed to [`Node::scanned`] now.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.peers.iter().all(super::peer::Peer::has_room)
    }

    /// These entries are in the maps now: they were read after all that [`Node::observed`] was told,
    /// and before all that it will be told.
    pub fn scanned(&mut self, now: Moment, entries: &[Entry]) {
        for entry in entries {
            let Ok(record) = self.view.record(now, entry) else { continue };
            let Some(service) = self.view.service(&record.service) else { continue };
            let ttl_ns = match record.of {
                Of::Client { .. } => service.client_ttl_ns,
                Of::Flow { .. } | Of::Translation { .. } => service.flow_ttl_ns,
            };
            let is_news = self.scan.is_news(&record, ttl_ns);
            for peer in &mut self.peers {
                let reads = peer.telling.is_some_and(|telling| telling.stage == Stage::Reading);
                // What was told since everything began to be told is told twice: no harm.
                if (reads || is_news && peer.telling.is_none()) && !peer.tell(record) {
                    self.scan.lose(now);
                }
            }
        }
    }

    /// The scan is over; `whole` if all entries were seen.
    pub fn scan_ended(&mut self, now: Moment, whole: bool) {
        self.scan.running = false;
        if whole {
            self.scan.told_until = self.scan.started_at;
        } else {
            self.scan.lose(now);
            self.scan.all |= self.scan.tells_all;
        }
        for telling in self.peers.iter_mut().filter_map(|peer| peer.telling.as_mut()) {
            if telling.stage == Stage::Reading {
                // Maps that change faster than they can be read are told as far as they could be: the
                // changes have been told as well.
                telling.stage = Stage::Tail;
            }
        }
    }
}
