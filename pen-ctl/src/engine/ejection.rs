//! Ejection: a backend that clients could not reach gets nothing new for a time, which doubles each
//! time that it fails again soon after its return. Pure; `passive` applies it.

use std::time::Duration;

use pen_common::moment::Moment;

use super::event::Failure;

/// How long a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// At first.
    pub(super) time: Duration,
    /// At most.
    pub(super) most: Duration,
}

/// What a backend has done to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ejection {
    /// It gets nothing new, because of this.
    on: Option<Failure>,
    until: Moment,
    lasted: Duration,
}

impl Ejection {
    /// Why it gets nothing new, if that is so.
    pub(super) const fn why(&self) -> Option<Failure> {
        self.on
    }

    /// For how long it gets nothing new.
    pub(super) const fn lasted(&self) -> Duration {
        self.lasted
    }

    /// When it returns; never if it is not ejected.
    pub(super) const fn until(&self) -> Moment {
        if self.on.is_some() { self.until } else { Moment::NEVER }
    }

    /// It failed a client. Begins an ejection unless there is one.
    pub(super) fn begin(&mut self, now: Moment, terms: Terms, failure: Failure) -> bool {
        if self.on.is_some() || terms.time.is_zero() {
            return false;
        }
        // Who has been well for as long as it was ejected starts over.
        let is_relapse = !self.lasted.is_zero() && now < self.until + self.lasted;
        let time = if is_relapse { self.lasted * 2 } else { terms.time };
        self.lasted = time.min(terms.most.max(terms.time));
        self.until = now + self.lasted;
        self.on = Some(failure);
        true
    }

    /// True if it is over by now and was not before.
    pub(super) fn end(&mut self, now: Moment) -> bool {
        let is_over = self.on.is_some() && now >= self.until;
        if is_over {
            self.on = None;
        }
        is_over
    }
}

/// Whether one more backend of a pool may be ejected beside `ejected` others.
#[must_use]
pub fn may_eject_one_more(percent: u32, ejected: usize, pool: usize) -> bool {
    ejected < share(percent, pool)
}

/// So many of a pool may be ejected at a time.
fn share(percent: u32, pool: usize) -> usize {
    let whole = u128::try_from(pool).unwrap_or(0) * u128::from(percent) / 100;
    let share = usize::try_from(whole).unwrap_or(pool);
    if percent == 0 { 0 } else { share.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TERMS: Terms = Terms { time: SECOND, most: Duration::from_secs(5) };

    #[test]
    fn it_doubles_for_who_fails_again_soon_up_to_a_most() {
        let mut ejection = Ejection::default();
        let mut now = Moment(1);
        for seconds in [1, 2, 4, 5, 5] {
            assert!(ejection.begin(now, TERMS, Failure::Refused));
            assert!(!ejection.begin(now, TERMS, Failure::Silent), "it is one ejection");
            assert_eq!(ejection.lasted(), SECOND * seconds);
            assert_eq!(ejection.why(), Some(Failure::Refused));
            now = ejection.until();
            assert!(!ejection.end(Moment(now.0 - 1)) && ejection.end(now) && !ejection.end(now));
            assert_eq!((ejection.why(), ejection.until()), (None, Moment::NEVER));
        }
        now = now + SECOND * 5;
        assert!(ejection.begin(now, TERMS, Failure::Reset));
        assert_eq!(ejection.lasted(), SECOND, "it was well for as long as it was ejected");
    }

    #[test]
    fn without_a_time_there_is_none() {
        let terms = Terms { time: Duration::ZERO, ..TERMS };
        assert!(!Ejection::default().begin(Moment(1), terms, Failure::Refused));
    }

    #[test]
    fn one_at_least_may_be_ejected_unless_none_may() {
        for (percent, pool, expected) in
            [(0, 10, 0), (10, 3, 1), (50, 3, 1), (50, 4, 2), (100, 4, 4), (34, 3, 1), (67, 3, 2)]
        {
            assert_eq!(share(percent, pool), expected, "{percent} % of {pool}");
        }
    }
}
