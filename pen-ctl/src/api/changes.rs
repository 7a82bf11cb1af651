//! What `penctl reload` and `penctl diff` ask for and get.

use serde::{Deserialize, Serialize};

/// Reads the configuration again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What reading the configuration again changed, or would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In the order of the configuration.
    pub changes: Vec<ConfigChange>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// What happens to the subject.
    pub kind: ChangeKind,
    /// What it is about, e.g. `service web` or `backend web/b1`.
    pub subject: String,
    /// The key that changed; `None` if the subject as a whole came or went.
    pub key: Option<String>,
    /// What was there before; of a list what left it.
    pub was: Option<String>,
    /// What is there now; of a list what was added.
    pub now: Option<String>,
    /// Flows that are established may change their backend, or end.
    pub moves_flows: bool,
}

/// What happens to a part of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is there before and after.
    Changed,
}
