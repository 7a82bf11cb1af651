//! What `penctl explain --simulate` asks for and gets.

use serde::{Deserialize, Serialize};

/// Asks which backends random flows to a service would reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulate {
    /// Name of the service.
    pub service: String,
    /// How many flows.
    pub flows: u32,
    /// The same seed draws the same flows.
    #[serde(default)]
    pub seed: u64,
    /// Packets of open connections instead of SYNs; of no meaning for UDP.
    #[serde(default)]
    pub established: bool,
}

/// Who would get how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulation {
    /// Name of the service.
    pub service: String,
    /// Flows that were decided.
    pub flows: u32,
    /// Seed that drew them.
    pub seed: u64,
    /// Shares of all backends of the service.
    pub shares: Vec<Share>,
    /// Flows that no backend gets.
    pub others: Vec<Other>,
    /// All flows that were asked for were decided. Otherwise time was up before.
    pub complete: bool,
}

/// What a backend gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Name of the backend.
    pub backend: String,
    /// Flows.
    pub flows: u32,
    /// The same in percent.
    pub percent: f64,
    /// What its weight promises, in percent.
    pub expected: f64,
}

/// Flows that end elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// The counter that their packets would end in.
    pub counter: String,
    /// Flows.
    pub flows: u32,
    /// The same in percent.
    pub percent: f64,
}
