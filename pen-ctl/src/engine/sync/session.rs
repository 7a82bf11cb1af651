//! Whether a datagram is fresh. Each end draws a random session for each peer when it starts; a
//! datagram counts only if it names the receiver's session, which a recording of an earlier one does
//! not, and if its number was not there before. A peer that has started again is recognised by its new
//! session, once it has proved that it hears us: it names a later datagram of ours than anybody did
//! before. Whatever an ended session said, on its way for long or recorded, cannot do that.

use super::seal::Header;

/// Numbers behind the highest one that may still come, because datagrams overtake each other.
const WINDOW: u64 = 64;

/// What is known of the sessions of both ends.
#[derive(Debug)]
pub(super) struct Session {
    mine: u64,
    theirs: Option<u64>,
    /// Number of the last datagram sent.
    sent: u64,
    /// The highest of these that the peer said it has heard, in any of its sessions.
    proved: u64,
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
    /// It was there before, or belongs to a session that has ended.
    Replayed,
}

impl Session {
    pub(super) const fn new(mine: u64) -> Self {
        Self { mine, theirs: None, sent: 0, proved: 0, highest: 0, seen: 0 }
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

    /// The highest number that was received in their session; 0 if none was.
    pub(super) const fn heard(&self) -> u64 {
        self.highest
    }

    /// Judges a sealed datagram by its header.
    pub(super) fn judge(&mut self, header: &Header) -> Freshness {
        let Header { from, to, number, heard, .. } = *header;
        if to != self.mine {
            return Freshness::Stranger;
        }
        if self.theirs == Some(from) {
            if !self.is_new(number) {
                return Freshness::Replayed;
            }
            self.proved = self.proved.max(heard);
            return Freshness::Fresh;
        }
        if heard <= self.proved {
            return Freshness::Replayed;
        }
        self.proved = heard;
        self.theirs = Some(from);
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
    use super::super::seal::Kind;
    use super::*;

    /// From a session to ours, under a number, by somebody who has heard that one of ours.
    fn judge(session: &mut Session, from: u64, to: u64, number: u64, heard: u64) -> Freshness {
        let (next, beyond, wants) = (0, 0, 0);
        session.judge(&Header { kind: Kind::Ack, from, to, number, heard, next, beyond, wants })
    }

    #[test]
    fn who_does_not_know_our_session_is_a_stranger() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 0, 1, 1), Freshness::Stranger);
        assert_eq!(judge(&mut session, 7, 4, 1, 1), Freshness::Stranger);
        assert_eq!((session.theirs(), session.heard()), (0, 0));
    }

    #[test]
    fn who_has_heard_nothing_of_us_has_proved_nothing() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 5, 1, 0), Freshness::Replayed);
        assert_eq!(session.theirs(), 0);
    }

    #[test]
    fn each_number_counts_once_in_whatever_order() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 5, 10, 1), Freshness::Renewed);
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
            assert_eq!(judge(&mut session, 7, 5, number, 1), expected, "{number}");
        }
        assert_eq!(session.heard(), 200);
    }

    #[test]
    fn a_session_that_is_over_does_not_come_back() {
        let mut session = Session::new(5);
        assert_eq!(judge(&mut session, 7, 5, 1, 1), Freshness::Renewed);
        assert_eq!(judge(&mut session, 7, 5, 2, 4), Freshness::Fresh);
        assert_eq!(judge(&mut session, 8, 5, 1, 6), Freshness::Renewed);
        for heard in 0..=6 {
            assert_eq!(judge(&mut session, 7, 5, 3 + heard, heard), Freshness::Replayed);
        }
        assert_eq!((session.theirs(), session.number(), session.number()), (8, 1, 2));
    }

    #[test]
    fn what_an_ended_session_sent_before_the_first_word_of_the_next_one_ends_that_one_not() {
        let mut session = Session::new(5);
        // Session 7 has heard our first datagram and said so, but 8 was faster.
        assert_eq!(judge(&mut session, 8, 5, 1, 2), Freshness::Renewed);
        assert_eq!(judge(&mut session, 7, 5, 2, 1), Freshness::Replayed);
        assert_eq!(judge(&mut session, 8, 5, 2, 2), Freshness::Fresh);
    }
}
