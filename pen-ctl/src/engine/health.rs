//! Is a backend up? Counts probe results in a row and plans the probes of one backend. Pure: the
//! time and the results come in, `io::health` does the probing.

use std::collections::VecDeque;
use std::time::Duration;

use pen_common::hash::{Secret, siphash};
use pen_common::moment::Moment;

use super::event::{Outcome, ProbeError};

/// What is known about a backend from its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No probe has ended yet: it gets no packets. The first result decides.
    Checking,
    /// Up.
    Up,
    /// Down.
    Down,
}

/// Results that are remembered.
pub const REMEMBERED: usize = 20;

/// A probe that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// When it ended.
    pub at: Moment,
    /// How long it took.
    pub took: Duration,
    /// Its result.
    pub outcome: Outcome,
}

/// Rules of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// The same while results contradict the state, or nothing is known.
    pub fast_interval: Duration,
    /// The same while it is down.
    pub down_interval: Duration,
    /// Each of these waits is longer or shorter by up to so many percent.
    pub jitter: u32,
    /// What decides by how much; another one for each backend and node.
    pub seed: Secret,
    /// Successes in a row that bring it up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// Health of one backend.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    /// Results in a row that contradict the state.
    streak: u32,
    last_error: Option<ProbeError>,
    next_probe: Moment,
    /// When the last probe was due.
    last_probe: Moment,
    /// The last results, oldest first.
    tried: VecDeque<Tried>,
    /// Serial number of the probe under way; results of others come too late.
    in_flight: Option<u64>,
    serial: u64,
}

impl Health {
    /// Starts in `state` and probes at `first_probe` for the first time.
    #[must_use]
    pub fn new(state: State, first_probe: Moment) -> Self {
        Self {
            state,
            streak: 0,
            last_error: None,
            next_probe: first_probe,
            last_probe: first_probe,
            tried: VecDeque::new(),
            in_flight: None,
            serial: 0,
        }
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the last failed probe failed, unless a success came after it.
    #[must_use]
    pub fn last_error(&self) -> Option<&ProbeError> {
        self.last_error.as_ref()
    }

    /// The last [`REMEMBERED`] results, oldest first.
    pub fn tried(&self) -> impl DoubleEndedIterator<Item = &Tried> {
        self.tried.iter()
    }

    /// When [`Health::poll`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        if self.in_flight.is_some() { Moment::NEVER } else { self.next_probe }
    }

    /// Starts a probe if one is due: returns its serial number. The next one is planned when its
    /// result is there ([`Health::record`]).
    pub fn poll(&mut self, now: Moment, rules: &Rules) -> Option<u64> {
        if self.in_flight.is_some() || now < self.next_probe {
            return None;
        }
        self.serial += 1;
        self.in_flight = Some(self.serial);
        // On the grid of the first one, so that the spreading of the start is kept; rounds that were
        // missed are left out.
        let missed = now.since(self.next_probe) > rules.interval;
        self.last_probe = if missed { now } else { self.next_probe };
        self.in_flight
    }

    /// Records the result of a probe; returns the new state if it changed.
    pub fn record(
        &mut self,
        now: Moment,
        serial: u64,
        took: Duration,
        outcome: Outcome,
        rules: &Rules,
    ) -> Option<State> {
        if self.in_flight != Some(serial) {
            return None;
        }
        self.in_flight = None;
        if self.tried.len() == REMEMBERED {
            self.tried.pop_front();
        }
        self.tried.push_back(Tried { at: now, took, outcome: outcome.clone() });
        let changed = self.judge(outcome, rules);
        self.plan(now, rules);
        changed
    }

    fn judge(&mut self, outcome: Outcome, rules: &Rules) -> Option<State> {
        let success = outcome.is_ok();
        self.last_error = outcome.err();
        if let Some(ProbeError::Local(_)) = self.last_error {
            return None;
        }
        let (agrees, needed) = match self.state {
            State::Checking => (false, 1),
            State::Up => (success, rules.fall),
            State::Down => (!success, rules.rise),
        };
        if agrees {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.state = if success { State::Up } else { State::Down };
        Some(self.state)
    }

    /// Plans the next probe: at once if the last one took longer than the wait.
    fn plan(&mut self, now: Moment, rules: &Rules) {
        let wait = match self.state {
            State::Checking => rules.fast_interval,
            State::Up | State::Down if self.streak > 0 => rules.fast_interval,
            State::Down => rules.down_interval,
            State::Up => rules.interval,
        };
        let wait = jittered(wait, rules, self.serial);
        self.next_probe = now.max(self.last_probe + wait);
    }

    /// There is a doubt that it is up: the next probe is made at `when`, unless it is due sooner, one is
    /// under way, or the last one is not yet `gap` ago. True if it is hurried.
    pub fn hurry(&mut self, when: Moment, gap: Duration) -> bool {
        let when = when.max(self.last_probe + gap);
        let is_hurried =
            self.state == State::Up && self.in_flight.is_none() && when < self.next_probe;
        if is_hurried {
            self.next_probe = when;
        }
        is_hurried
    }

    /// Takes over what is known of another backend that is the same server. True if the state changed.
    pub fn follow(&mut self, leader: &Self) -> bool {
        let changed = self.state != leader.state;
        // A probe of its own that is under way is not waited for.
        *self = Self { in_flight: None, serial: self.serial, ..leader.clone() };
        changed
    }

    /// The operator brought it back, or its check changed: start over in `state`.
    pub fn restart(&mut self, state: State, first_probe: Moment) {
        self.state = state;
        self.streak = 0;
        self.last_error = None;
        self.in_flight = None;
        self.next_probe = first_probe;
    }
}

/// A wait that is a little longer or shorter, as the probe before it and the seed decide.
fn jittered(wait: Duration, rules: &Rules, serial: u64) -> Duration {
    let span = wait * rules.jitter / 100;
    let choices = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 4) * 2 + 1;
    let drawn = siphash(rules.seed, [serial, 0, 0]) % choices;
    wait.saturating_sub(span) + Duration::from_nanos(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RULES: Rules = Rules {
        interval: SECOND,
        fast_interval: SECOND,
        down_interval: SECOND,
        jitter: 0,
        seed: [0; 2],
        rise: 2,
        fall: 3,
    };
    const TOOK: Duration = Duration::from_millis(1);
    const SILENCE: ProbeError = ProbeError::Timeout(Duration::from_millis(500));

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    /// A probe ends as soon as it was begun.
    fn record(health: &mut Health, serial: u64, outcome: Outcome) -> Option<State> {
        health.record(health.last_probe, serial, TOOK, outcome, &RULES)
    }

    /// Feeds results (`+` success, `-` failure), one a second; returns the state after each
    /// (`U`, `D`, `C`).
    fn run(start: State, results: &str) -> String {
        let mut health = Health::new(start, at(0));
        let mut states = String::new();
        for (result, second) in results.chars().zip(0..) {
            let serial = health.poll(at(second * 1000), &RULES).expect("a probe is due");
            let outcome = if result == '+' { Ok(()) } else { Err(SILENCE) };
            record(&mut health, serial, outcome);
            states.push(match health.state() {
                State::Checking => 'C',
                State::Up => 'U',
                State::Down => 'D',
            });
        }
        states
    }

    #[test]
    fn results_in_a_row_decide() {
        for (start, results, states) in [
            (State::Checking, "+", "U"),
            (State::Checking, "-", "D"),
            (State::Up, "--", "UU"),
            (State::Up, "---", "UUD"),
            (State::Up, "--+--", "UUUUU"),
            (State::Up, "---+", "UUDD"),
            (State::Up, "---++", "UUDDU"),
            (State::Down, "+-+-++", "DDDDDU"),
        ] {
            assert_eq!(run(start, results), states, "{results} from {start:?}");
        }
    }

    #[test]
    fn only_one_probe_is_under_way_and_late_results_count_nothing() {
        let mut health = Health::new(State::Up, at(0));
        let first = health.poll(at(0), &RULES).expect("due");
        assert_eq!(health.poll(at(5000), &RULES), None);
        assert_eq!(health.next_deadline(), Moment::NEVER);
        health.restart(State::Checking, at(5000));
        assert_eq!(record(&mut health, first, Ok(())), None);
        assert_eq!(health.state(), State::Checking);
    }

    #[test]
    fn probes_keep_to_the_grid_and_skip_missed_rounds() {
        let mut health = Health::new(State::Up, at(250));
        assert_eq!(health.poll(at(249), &RULES), None);
        let serial = health.poll(at(260), &RULES).expect("due");
        record(&mut health, serial, Ok(()));
        assert_eq!(health.next_deadline(), at(1250));
        let serial = health.poll(at(9000), &RULES).expect("due");
        record(&mut health, serial, Ok(()));
        assert_eq!(health.next_deadline(), at(10_000));
    }

    #[test]
    fn doubts_are_settled_faster_and_the_dead_are_asked_less_often() {
        let rules = Rules { fast_interval: SECOND / 10, down_interval: 5 * SECOND, ..RULES };
        let mut health = Health::new(State::Checking, at(0));
        let mut starts = Vec::new();
        for result in "+---+++".chars() {
            let due = health.next_deadline();
            let serial = health.poll(due, &rules).expect("due");
            starts.push(due.since(at(0)).as_millis());
            let outcome = if result == '+' { Ok(()) } else { Err(SILENCE) };
            health.record(due, serial, TOOK, outcome, &rules);
        }
        // Up at 0, in doubt from 1000 on, down at 1200, in doubt from 6200 on, up at 6300.
        assert_eq!(starts, [0, 1000, 1100, 1200, 6200, 6300, 7300]);
    }

    /// The waits between the first probes of a backend that is well.
    fn waits(rules: &Rules) -> Vec<u128> {
        let mut health = Health::new(State::Up, at(0));
        let mut last = at(0);
        let mut wait = || {
            let due = health.next_deadline();
            let serial = health.poll(due, rules).expect("due");
            health.record(due, serial, TOOK, Ok(()), rules);
            let waited = due.since(last).as_micros();
            last = due;
            waited
        };
        (0..2000).map(|_| wait()).skip(1).collect()
    }

    #[test]
    fn waits_differ_by_as_much_as_the_jitter_allows_and_the_interval_holds_on_average() {
        let rules = Rules { jitter: 10, seed: [1, 2], ..RULES };
        let drawn = waits(&rules);
        let (shortest, longest) = (drawn.iter().min().copied(), drawn.iter().max().copied());
        assert!((900_000..905_000).contains(&shortest.expect("some")), "{shortest:?}");
        assert!((1_095_000..=1_100_000).contains(&longest.expect("some")), "{longest:?}");
        let mean = drawn.iter().sum::<u128>() / 1999;
        assert!((995_000..1_005_000).contains(&mean), "{mean}");
        assert_eq!(drawn, waits(&rules), "the same seed draws the same");
        assert_ne!(drawn, waits(&Rules { seed: [1, 3], ..rules }), "another backend, another draw");
        let none = waits(&Rules { jitter: 0, ..rules });
        assert!(none.iter().all(|wait| *wait == 1_000_000), "none without");
    }

    #[test]
    fn a_probe_that_takes_longer_than_the_wait_is_followed_at_once() {
        let rules = Rules { fast_interval: SECOND / 10, ..RULES };
        let mut health = Health::new(State::Up, at(0));
        let serial = health.poll(at(0), &rules).expect("due");
        health.record(at(500), serial, SECOND / 2, Err(SILENCE), &rules);
        assert_eq!(health.next_deadline(), at(500));
    }

    #[test]
    fn a_doubt_hurries_the_next_probe_of_who_is_up_but_not_too_soon_after_the_last() {
        let mut health = Health::new(State::Up, at(0));
        let serial = health.poll(at(0), &RULES).expect("due");
        assert!(!health.hurry(at(100), SECOND / 2), "one is under way");
        record(&mut health, serial, Ok(()));
        assert!(health.hurry(at(100), SECOND / 2));
        assert_eq!(health.next_deadline(), at(500));
        assert!(!health.hurry(at(600), SECOND / 2), "it is due sooner");
        let serial = health.poll(at(500), &RULES).expect("due");
        record(&mut health, serial, Err(SILENCE));
        assert!(health.hurry(at(1200), SECOND / 2));
        assert_eq!(health.next_deadline(), at(1200));
        let mut down = Health::new(State::Down, at(0));
        assert!(!down.hurry(at(0), SECOND / 2), "nobody is sent there");
    }

    #[test]
    fn the_last_results_are_remembered() {
        let mut health = Health::new(State::Up, at(0));
        for number in 0..25_u32 {
            let now = at(u64::from(number) * 1000);
            let serial = health.poll(now, &RULES).expect("due");
            let outcome = if number % 2 == 0 { Ok(()) } else { Err(ProbeError::Refused) };
            health.record(now, serial, TOOK * number, outcome, &RULES);
        }
        let tried: Vec<_> = health.tried().cloned().collect();
        assert_eq!(tried.len(), REMEMBERED);
        let first = Tried { at: at(5000), took: TOOK * 5, outcome: Err(ProbeError::Refused) };
        assert_eq!(tried[0], first);
        assert_eq!(tried[19].at, at(24_000));
    }

    #[test]
    fn a_probe_that_this_machine_could_not_make_says_nothing() {
        let mut health = Health::new(State::Up, at(0));
        for second in 0..10 {
            let serial = health.poll(at(second * 1000), &RULES).expect("due");
            let local = ProbeError::Local("too many open files".to_owned());
            assert_eq!(record(&mut health, serial, Err(local)), None);
        }
        assert_eq!(health.state(), State::Up);
    }

    #[test]
    fn an_error_is_remembered_until_a_success() {
        let mut health = Health::new(State::Up, at(0));
        let serial = health.poll(at(0), &RULES).expect("due");
        record(&mut health, serial, Err(ProbeError::Refused));
        assert_eq!(health.last_error(), Some(&ProbeError::Refused));
        let serial = health.poll(at(1000), &RULES).expect("due");
        record(&mut health, serial, Ok(()));
        assert_eq!(health.last_error(), None);
    }

    proptest! {
        #[test]
        fn the_state_only_ever_contradicts_fewer_than_rise_or_fall_last_results(
            results in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let mut health = Health::new(State::Checking, at(0));
            let mut since = 0_usize;
            for (success, second) in results.iter().zip(0..) {
                let serial = health.poll(at(second * 1000), &RULES).expect("due");
                let outcome = if *success { Ok(()) } else { Err(ProbeError::Refused) };
                record(&mut health, serial, outcome);
                let up = health.state() == State::Up;
                since = if *success == up { 0 } else { since + 1 };
                let limit = if up { RULES.fall } else { RULES.rise };
                prop_assert!(since < limit as usize);
            }
        }
    }
}
