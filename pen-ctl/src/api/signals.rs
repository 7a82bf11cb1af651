//! What clients' packets told of a backend.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What clients' packets told of a backend since the counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// Connections that it refused; in modes `nat` and `masquerade`.
    pub refused: u64,
    /// SYNs that were sent again, because nobody had answered.
    pub unanswered: u64,
    /// ICMP errors that said that it, or its port, cannot be reached; in modes `nat` and
    /// `masquerade`.
    pub unreachable: u64,
    /// Flows that it answered; in modes `nat` and `masquerade`.
    pub answered: u64,
}

impl From<pen_common::abi::Signals> for Signals {
    fn from(counted: pen_common::abi::Signals) -> Self {
        let pen_common::abi::Signals { refused, unanswered, unreachable, answered } = counted;
        Self { refused, unanswered, unreachable, answered }
    }
}

/// Those that tell of trouble, as `3 refused, 1 unanswered`; `none` if there are none.
impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refused, unanswered, unreachable, .. } = *self;
        let parts =
            [(refused, "refused"), (unanswered, "unanswered"), (unreachable, "unreachable")];
        let mut before = "";
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{before}{count} {what}")?;
            before = ", ";
        }
        if before.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_there_are_are_told() {
        let signals = Signals { refused: 1, unanswered: 2, unreachable: 3, answered: 9 };
        assert_eq!(signals.to_string(), "1 refused, 2 unanswered, 3 unreachable");
        assert_eq!(Signals { refused: 0, unreachable: 0, ..signals }.to_string(), "2 unanswered");
        assert_eq!(Signals { answered: 9, ..Signals::default() }.to_string(), "none");
    }
}
