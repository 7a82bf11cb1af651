//! Decides which of several nodes has a virtual address: CARP, wire-compatible with UCarp and the
//! BSDs' kernels, and with a profile of its own that signs everything. Synchronous and pure like all
//! of the engine: [`Carp::handle`] takes the time and what happened, [`Carp::poll_action`] gives what
//! is to be done, [`Carp::next_deadline`] says when to call again. `io::carp` owns this object in a
//! thread of its own, so that no load delays an advertisement.
//!
//! [`settings`] is what the configuration says, [`event`] what happens and is to be done, [`reject`]
//! why packets are refused.

pub mod event;
pub mod from_config;
pub mod reject;
pub mod settings;

use std::collections::{BTreeMap, VecDeque};

use pen_common::moment::Moment;

pub use self::event::{Action, Event, Family, Hook, Link, Order, Role};
pub use self::reject::RejectReason;
pub use self::settings::{
    Accept, Auth, CARP_GROUP, Key, Legacy, Secret, Settings, Strong, TieBreak, Transport, VipMac,
};
use crate::api::CarpGroup;

/// What a node starts with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Number of the node, unlike its peers' and the same after a restart.
    pub node: u64,
    /// From the system's source of randomness.
    pub random: u64,
    /// First sequence number of trailers: the seconds of the wall clock in the upper half, and not
    /// below any [`Carp::sequence`] of an earlier run.
    pub sequence: u64,
}

/// All groups of this node. See the module's documentation.
pub struct Carp {
    start: Start,
    settings: BTreeMap<u32, Settings>,
    actions: VecDeque<Action>,
}

impl Carp {
    /// Without groups.
    #[must_use]
    pub fn new(start: Start, _now: Moment) -> Self {
        Self { start, settings: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// Takes the groups of the configuration, at the start and at each reload. Groups that are kept
    /// keep their role.
    pub fn configure(&mut self, _now: Moment, settings: Vec<Settings>) {
        self.settings = settings.into_iter().map(|settings| (settings.group, settings)).collect();
    }

    /// Takes note of an event; actions follow from [`Carp::poll_action`].
    pub fn handle(&mut self, _now: Moment, event: Event) {
        if event == Event::Stop {
            self.actions.push_back(Action::Stopped);
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Carp::handle`] with [`Event::TimePassed`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        Moment::NEVER
    }

    /// Sequence number of the last trailer, to be kept for [`Start::sequence`].
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.start.sequence
    }

    /// All groups as they are now, for `penctl carp`.
    #[must_use]
    pub fn snapshot(&self, _now: Moment) -> Vec<CarpGroup> {
        Vec::new()
    }
}
