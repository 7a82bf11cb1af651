//! What is still at a backend that gets nothing new.

use serde::{Deserialize, Serialize};

/// What is still at a backend that gets nothing new: one that is drained, or has left the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// All that is left. None if it was not counted (yet): the first count takes a second, and of a
    /// service whose address another node holds nothing is counted here.
    pub left: Option<u64>,
    /// Connections of the proxy, and flows of UDP there; none in other modes.
    pub connections: Option<u32>,
    /// Flows that the kernel has records of; none in mode `proxy`.
    pub flows: Option<u64>,
    /// Clients that the kernel remembers to be here; none in mode `proxy`. Once the settle time is
    /// over they go elsewhere, and are not counted in `left`.
    pub clients: Option<u64>,
    /// Milliseconds since these were counted.
    pub counted_ms: Option<u64>,
    /// Milliseconds since the last packet of one of these flows, at the time of the count, within a
    /// second.
    pub quiet_ms: Option<u64>,
    /// Flows that have sent nothing since this began may be here beside those that are counted.
    pub silent: bool,
    /// Nothing is left.
    pub empty: bool,
    /// Milliseconds until all that is left is ended, if there is a deadline.
    pub deadline_in_ms: Option<u64>,
    /// The deadline is over: the backend is in maintenance.
    pub over: bool,
    /// So much was ended then, if that is known.
    pub ended: Option<u64>,
}
