//! What happened lately, for `penctl events`: a bounded list with sequence numbers, so that a
//! reader who comes again sees what is new and notices what it missed.

use std::collections::VecDeque;

use pen_common::moment::Moment;

/// Entries kept.
const KEPT: usize = 1000;

/// Something that an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number, from 1, without gaps.
    pub sequence: u64,
    /// When.
    pub at: Moment,
    /// What kind, in words joined by `-`, e.g. `backend-down`.
    pub kind: &'static str,
    /// What it is about, e.g. `web/b1`.
    pub subject: String,
    /// The whole story in a sentence.
    pub text: String,
}

/// The latest entries.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    last: u64,
}

impl Journal {
    /// Adds an entry, and returns its number; the oldest goes if there are too many.
    pub fn add(&mut self, at: Moment, kind: &'static str, subject: &str, text: String) -> u64 {
        self.last += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        let entry = Entry { sequence: self.last, at, kind, subject: subject.to_owned(), text };
        self.entries.push_back(entry);
        self.last
    }

    /// Entries with a number above `sequence`, oldest first.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.sequence > sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_entries_are_kept_and_numbered_without_gaps() {
        let mut journal = Journal::default();
        for number in 1..=1500_u64 {
            journal.add(Moment(number), "kind", "subject", number.to_string());
        }
        let kept: Vec<u64> = journal.since(0).map(|entry| entry.sequence).collect();
        assert_eq!(kept, (501..=1500).collect::<Vec<_>>());
        let new: Vec<u64> = journal.since(1498).map(|entry| entry.sequence).collect();
        assert_eq!(new, [1499, 1500]);
    }
}
