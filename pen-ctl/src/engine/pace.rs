//! With few backends everything is done at once. With very many, what falls into the same moment is done
//! together: changes are computed once, and checks begin in small groups. Pure.

use std::time::Duration;

use pen_common::moment::Moment;

use super::Engine;
use super::event::Event;

/// With fewer backends each change is computed at once.
const FEW: u32 = 500;
/// With more, after each time this much for each of them belongs to everything else: about as much as
/// the computation takes. With all 16384 that are possible, 49 ms.
const EACH: Duration = Duration::from_micros(3);

/// So much earlier than its time a check may begin together with another one.
const TOGETHER: Duration = Duration::from_millis(4);

/// So long results of checks are waited for that come at about the same time.
const GATHERING: Duration = Duration::from_millis(1);

/// How much earlier than its time a check may begin, so that another one that is due finds it ready.
pub(super) fn slack(backends: usize, interval: Duration) -> Duration {
    if backends < FEW as usize { Duration::ZERO } else { TOGETHER.min(interval / 10) }
}

/// When the next computation may begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    not_before: Moment,
}

impl Pace {
    /// Everything was computed for so many backends.
    pub(super) fn ran(&mut self, now: Moment, backends: usize) {
        let backends = u32::try_from(backends).unwrap_or(u32::MAX);
        self.not_before = if backends < FEW { now } else { now + EACH.saturating_mul(backends) };
    }

    /// When it may be computed again.
    pub(super) const fn next(self) -> Moment {
        self.not_before
    }
}

impl Engine {
    /// For how long events are to be gathered that come at about the same time, if there are so many
    /// backends that to look after all of them takes longer than what one event is about.
    #[must_use]
    pub fn gathers(&self) -> Option<Duration> {
        let backends = self.services.iter().map(|service| service.backends.len());
        (backends.sum::<usize>() >= FEW as usize).then_some(GATHERING)
    }

    /// The next computation waits for nothing.
    pub(super) fn hurry(&mut self) {
        self.pace = Pace::default();
    }

    /// Does at once what was put off: before the end, after which nobody does it.
    pub fn catch_up(&mut self, now: Moment) {
        self.hurry();
        if self.retry_writes_at != Moment::NEVER {
            self.retry_writes_at = now;
        }
        self.handle(now, Event::TimePassed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_with_many_backends_checks_begin_in_groups() {
        assert_eq!(slack(499, Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(slack(500, Duration::from_secs(1)), TOGETHER);
        assert_eq!(slack(500, Duration::from_millis(10)), Duration::from_millis(1));
    }

    #[test]
    fn only_with_many_backends_there_is_a_pause_of_milliseconds() {
        let pause = |backends| {
            let mut pace = Pace::default();
            pace.ran(Moment(7), backends);
            pace.next().since(Moment(7))
        };
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(499), Duration::ZERO);
        assert_eq!(pause(5000), Duration::from_millis(15));
        assert!(pause(16384) < Duration::from_millis(50));
    }
}
