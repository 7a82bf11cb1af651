//! Whether a datagram is fresh. Each end draws a random session for each peer when it starts; a
//! datagram counts only if it names the receiver's session, which a recording of an earlier one does
//! not, and if its number was not there before. A peer that has started again is recognised by its new
//! session, once it has proved that it hears us.

/// Numbers behind the highest one that may still come, because datagrams overtake each other.
const WINDOW: u64 = 64;
/// Sessions that a peer has left and that are remembered.
const RETIRED: usize = 256;

/// What is known of the sessions of both ends.
#[derive(Debug)]
pub(super) struct Session {
    mine: u64,
    theirs: Option<u64>,
    /// Sessions of theirs that are over.
    retired: Vec<u64>,
    /// Number of the last datagram sent.
    sent: u64,
    /// Highest number received in their session, and bit `n`: `highest - n` has come.
    highest: u64,
    seen: u64,
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Part of the session.
    Fresh,
    /// The first one of another session: the peer has started again.
    Renewed,
    /// It does not know our session (yet).
    Stranger,
    /// It was there before.
    Replayed,
}

impl Session {
    pub(super) const fn new(mine: u64) -> Self {
        Self { mine, theirs: None, retired: Vec::new(), sent: 0, highest: 0, seen: 0 }
    }

    /// Ours.
    pub(super) const fn mine(&self) -> u64 {
        self.mine
    }

    /// The peer's; 0 if it is not known.
    pub(super) fn theirs(&self) -> u64 {
        self.theirs.unwrap_or(0)
    }

    /// The number of the next datagram to be sent.
    pub(super) const fn number(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Judges a sealed datagram by its header. `random` is drawn if too many sessions have gone by
    /// to be remembered: then ours becomes another one.
    pub(super) fn judge(
        &mut self,
        from: u64,
        to: u64,
        number: u64,
        random: impl FnOnce() -> u64,
    ) -> Freshness {
        if to != self.mine {
            return Freshness::Stranger;
        }
        if self.theirs == Some(from) {
            return if self.is_new(number) { Freshness::Fresh } else { Freshness::Replayed };
        }
        if self.retired.contains(&from) {
            return Freshness::Replayed;
        }
        if let Some(theirs) = self.theirs.replace(from) {
            self.retired.push(theirs);
        }
        if self.retired.len() >= RETIRED {
            // Whoever recorded them needs our session as well.
            self.mine = random();
            self.retired.clear();
        }
        (self.highest, self.seen) = (number, 1);
        Freshness::Renewed
    }

    fn is_new(&mut self, number: u64) -> bool {
        if number > self.highest {
            let step = number - self.highest;
            self.seen = if step < WINDOW { self.seen << step } else { 0 } | 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        if behind >= WINDOW || self.seen & 1 << behind != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(session: &mut Session, from: u64, to: u64, number: u64) -> Freshness {
        session.judge(from, to, number, || 99)
    }

    #[test]
    fn who_does_not_know_our_session_is_a_stranger() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 0, 1), Freshness::Stranger);
        assert_eq!(judge(&mut session, 7, 4, 1), Freshness::Stranger);
        assert_eq!(session.theirs(), 0);
    }

    #[test]
    fn each_number_counts_once_in_whatever_order() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 5, 10), Freshness::Renewed);
        for (number, expected) in [
            (10, Freshness::Replayed),
            (12, Freshness::Fresh),
            (11, Freshness::Fresh),
            (11, Freshness::Replayed),
            (9, Freshness::Fresh),
            (200, Freshness::Fresh),
            (137, Freshness::Fresh),
            (136, Freshness::Replayed),
            (137, Freshness::Replayed),
        ] {
            assert_eq!(judge(&mut session, 7, 5, number), expected, "{number}");
        }
    }

    #[test]
    fn a_session_that_is_over_does_not_come_back() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 5, 1), Freshness::Renewed);
        assert_eq!(judge(&mut session, 8, 5, 1), Freshness::Renewed);
        assert_eq!(judge(&mut session, 7, 5, 2), Freshness::Replayed);
        assert_eq!((session.theirs(), session.number(), session.number()), (8, 1, 2));
    }

    #[test]
    fn when_too_many_have_gone_by_ours_changes() {
        let mut session = Session::new(5);
        for from in 0..=256 {
            assert_eq!(judge(&mut session, 1000 + from, 5, 1), Freshness::Renewed);
        }
        assert_eq!(session.mine(), 99);
        assert_eq!(judge(&mut session, 1000, 5, 2), Freshness::Stranger);
    }
}
