//! Limits of rates, as plain arithmetic on what a map holds: connections of one source, and what one
//! CPU may do in a second.

use crate::abi::Window;
use crate::moment::Moment;

/// A burst of this length is let through at once: at 100 a second, 100.
pub const BURST_NS: u64 = 1_000_000_000;

/// Whether one more may pass, by the generic cell rate algorithm (ITU-T I.371 annex A): `arrival` is
/// the time at which the next one would be due at exactly the limit, `interval_ns` the limit's
/// inverse. Returns the new `arrival` if it may.
#[must_use]
#[inline(always)]
pub const fn admit(arrival: u64, now: Moment, interval_ns: u64) -> Option<u64> {
    let due = if arrival > now.0 { arrival } else { now.0 };
    let next = due + interval_ns;
    if next - now.0 > BURST_NS { None } else { Some(next) }
}

/// Whether one more may pass in this second: the window as it is then; `None` if it is full.
#[must_use]
#[inline(always)]
pub const fn pass(window: Window, now: Moment, per_second: u32) -> Option<Window> {
    if now.0 - window.start_ns >= 1_000_000_000 {
        return if per_second == 0 { None } else { Some(Window { start_ns: now.0, passed: 1 }) };
    }
    if window.passed >= per_second as u64 {
        return None;
    }
    Some(Window { start_ns: window.start_ns, passed: window.passed + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` arrivals, `gap_ns` apart, are admitted at `per_second`.
    fn admitted(count: u64, gap_ns: u64, per_second: u64) -> u64 {
        let interval = 1_000_000_000 / per_second;
        let (mut arrival, mut passed) = (0, 0);
        for number in 0..count {
            let now = Moment(5_000_000_000 + number * gap_ns);
            if let Some(next) = admit(arrival, now, interval) {
                arrival = next;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_burst_of_one_second_passes_at_once_and_no_more() {
        assert_eq!(admitted(1000, 0, 100), 100);
        assert_eq!(admitted(1000, 1000, 1), 1);
    }

    #[test]
    fn in_the_long_run_the_limit_holds() {
        // 1000 a second for ten seconds, 100 allowed: the burst and ten seconds' worth.
        let passed = admitted(10_000, 1_000_000, 100);
        assert!((1090..=1101).contains(&passed), "{passed}");
        assert_eq!(admitted(1000, 10_000_000, 100), 1000, "exactly at the limit");
    }

    #[test]
    fn a_valve_lets_so_many_through_in_each_second() {
        let mut window = Window::default();
        let mut passed = [0; 3];
        for number in 0..3000_u64 {
            let now = Moment(7_000_000_000 + number * 1_000_000);
            if let Some(next) = pass(window, now, 10) {
                window = next;
                passed[usize::try_from(number / 1000).expect("three seconds")] += 1;
            }
        }
        assert_eq!(passed, [10, 10, 10]);
        assert_eq!(pass(Window::default(), Moment(9_000_000_000), 0), None, "closed");
    }
}
