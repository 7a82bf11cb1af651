//! How the last probes of a backend ended.

use serde::{Deserialize, Serialize};

use super::{Draining, Health, Signals};

/// Names a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneBackend {
    /// Name of its service.
    pub service: String,
    /// Its name.
    pub backend: String,
}

/// How the last probes of a backend ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// What it is about, e.g. `web/b1`.
    pub subject: String,
    /// What is asked, and which answer is right.
    pub check: String,
    /// What is known from them.
    pub health: Health,
    /// What clients' packets told of it; none in mode `proxy`.
    #[serde(default)]
    pub signals: Option<Signals>,
    /// The last 20, newest first.
    pub results: Vec<Probe>,
    /// What is still there; only of one that gets nothing new.
    #[serde(default)]
    pub draining: Option<Draining>,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Milliseconds since it ended.
    pub ago_ms: u64,
    /// Microseconds that it took.
    pub took_us: u64,
    /// Why it failed; none if it did not.
    pub error: Option<String>,
}
