//! Whether somebody can be told of events.

use serde::{Deserialize, Serialize};

/// Sends a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyTest {
    /// Name of the receiver.
    pub receiver: String,
}

/// How that went: well, otherwise there is a [`super::Refusal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTested {
    /// Name of the receiver.
    pub receiver: String,
    /// Who that is, in words.
    pub to: String,
    /// Milliseconds that it took.
    pub took_ms: u64,
}
