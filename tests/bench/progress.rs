//! Says on standard error what is being measured, so that standard output is the result alone: on a
//! terminal one line that changes, elsewhere a line for each number of flows.

use std::io::{self, IsTerminal as _, Write as _};

/// The one who says it.
pub(crate) struct Progress {
    terminal: bool,
    last_flows: u32,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), last_flows: 0 }
    }

    /// Something that takes a moment on its own.
    pub(crate) fn note(&mut self, what: &str) {
        self.show(&format!("bench: {what} ..."), true);
    }

    /// Something that is done several times, in parts that are told only where lines change.
    pub(crate) fn part(&mut self, what: &str) {
        if !self.terminal {
            self.note(what);
        }
    }

    /// One of these parts.
    pub(crate) fn within(&mut self, what: &str) {
        if self.terminal {
            self.note(what);
        }
    }

    /// The next run.
    pub(crate) fn step(&mut self, flows: u32, when: &str, case: &str) {
        let first = self.last_flows != flows;
        self.last_flows = flows;
        let flows = flow_count(flows);
        if self.terminal {
            self.show(&format!("bench: {flows}, {when}: {case} ..."), false);
        } else if first {
            self.show(&format!("bench: {flows} ..."), true);
        }
    }

    /// All is measured.
    pub(crate) fn done(&mut self) {
        if self.terminal {
            self.show("", false);
        }
        self.last_flows = 0;
    }

    fn show(&self, text: &str, whole: bool) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let end = if whole && !self.terminal { "\n" } else { "" };
        let mut stderr = io::stderr().lock();
        // A closed standard error is no reason not to measure.
        let _ = write!(stderr, "{clear}{text}{end}").and_then(|()| stderr.flush());
    }
}

/// A number of flows for people: 1, 1k, 100k, 1M.
pub(crate) fn count(number: u32) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{}M", number / 1_000_000),
        1000.. if number.is_multiple_of(1000) => format!("{}k", number / 1000),
        _ => number.to_string(),
    }
}

/// The same with the word: 1 flow, 1k flows.
pub(crate) fn flow_count(number: u32) -> String {
    format!("{} flow{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers_are_short_and_others_exact() {
        for (number, text) in [
            (1, "1"),
            (999, "999"),
            (1000, "1k"),
            (1024, "1024"),
            (100_000, "100k"),
            (1_000_000, "1M"),
            (1_500_000, "1500k"),
        ] {
            assert_eq!(count(number), text);
        }
    }
}
