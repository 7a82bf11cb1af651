//! Slow start: a server that returns has cold caches, so that its weight grows in steps. Pure.

use std::time::Duration;

use pen_common::moment::Moment;

/// Steps from the return to the whole weight.
pub(super) const STEPS: u32 = 10;

/// How much of its weight a backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ramp {
    /// When it returned; never while it has all of its weight.
    since: Moment,
    step: u32,
    /// It has failed, and its next return is a slow one. At the start of all nobody is spared.
    due: bool,
}

impl Default for Ramp {
    fn default() -> Self {
        Self { since: Moment::NEVER, step: STEPS, due: false }
    }
}

impl Ramp {
    /// The backend failed, or was taken away.
    pub(super) const fn fail(&mut self) {
        self.due = true;
    }

    /// It is back.
    pub(super) const fn begin(&mut self, now: Moment, time: Duration) {
        if self.due && !time.is_zero() {
            self.since = now;
            self.step = 1;
        }
        self.due = false;
    }

    /// Takes the steps that are due. True if it took one.
    pub(super) fn follow(&mut self, now: Moment, time: Duration) -> bool {
        if self.since == Moment::NEVER {
            return false;
        }
        let each = time / STEPS;
        let passed = now.since(self.since).as_nanos() / each.as_nanos().max(1);
        let step = u32::try_from(passed).unwrap_or(STEPS).saturating_add(1).min(STEPS);
        // Slow starts may have been given up since.
        let step = if time.is_zero() { STEPS } else { step };
        let moved = step != self.step;
        self.step = step;
        if step == STEPS {
            self.since = Moment::NEVER;
        }
        moved
    }

    /// When the next step is due.
    pub(super) fn next(&self, time: Duration) -> Moment {
        if self.since == Moment::NEVER {
            Moment::NEVER
        } else {
            self.since + time / STEPS * self.step
        }
    }

    /// It has not all of its weight.
    pub(super) fn is_on(&self) -> bool {
        self.step < STEPS
    }

    /// Its weight in parts of [`STEPS`], for a service in which some backend is on its way.
    pub(super) const fn weight(&self, weight: u32) -> u32 {
        weight * self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[test]
    fn a_return_takes_ten_steps_and_the_first_start_none() {
        let start = Moment(5_000_000_000);
        let mut ramp = Ramp::default();
        ramp.begin(start, TIME);
        assert!(!ramp.is_on(), "nothing was known of it");
        ramp.fail();
        ramp.begin(start, TIME);
        let mut weights = Vec::new();
        while ramp.is_on() {
            weights.push(ramp.weight(3));
            let next = ramp.next(TIME);
            assert!(!ramp.follow(Moment(next.0 - 1), TIME) && ramp.follow(next, TIME));
        }
        assert_eq!(weights, [3, 6, 9, 12, 15, 18, 21, 24, 27]);
        assert_eq!((ramp.weight(3), ramp.next(TIME)), (30, Moment::NEVER));
        ramp.begin(start, TIME);
        assert!(!ramp.is_on(), "it has not failed since");
    }

    #[test]
    fn one_that_is_no_longer_wanted_ends_at_once() {
        let mut ramp = Ramp::default();
        ramp.fail();
        ramp.begin(Moment(7), TIME);
        assert!(ramp.follow(Moment(7), Duration::ZERO) && !ramp.is_on());
    }

    #[test]
    fn steps_that_were_missed_are_made_up_for() {
        let mut ramp = Ramp::default();
        ramp.fail();
        ramp.begin(Moment(0), TIME);
        assert!(ramp.follow(Moment(4_500_000_000), TIME));
        assert_eq!((ramp.weight(1), ramp.next(TIME)), (5, Moment(5_000_000_000)));
        assert!(ramp.follow(Moment(60_000_000_000), TIME) && !ramp.is_on());
    }
}
