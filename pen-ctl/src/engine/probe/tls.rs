//! Is a certificate valid now, and long enough?

use std::time::Duration;

use crate::engine::event::{Outcome, ProbeError};

/// From when to when a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub begin: i64,
    /// Until then.
    pub end: i64,
}

/// Judges it at `now`, in seconds since 1970: for `expires_in` it has to be valid yet.
///
/// # Errors
///
/// If it is not.
pub fn judge(validity: Validity, now: i64, expires_in: Duration) -> Outcome {
    let Validity { begin, end } = validity;
    let left = end.saturating_sub(now);
    let wanted = i64::try_from(expires_in.as_secs()).unwrap_or(i64::MAX);
    if begin > now {
        let words = format!("its certificate begins only in {}", span(begin.saturating_sub(now)));
        return Err(ProbeError::Tls(words));
    }
    if left < 0 {
        return Err(ProbeError::Tls(format!(
            "its certificate ended {} ago",
            span(left.saturating_neg())
        )));
    }
    if left < wanted {
        return Err(ProbeError::Tls(format!(
            "its certificate ends in {}, and has to be valid for {}",
            span(left),
            span(wanted)
        )));
    }
    Ok(())
}

/// A time, as people say it.
fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 3] = [(24 * 3600, "day"), (3600, "hour"), (60, "minute")];
    let fits = |(length, name): &(i64, &'static str)| {
        let count = seconds / length;
        (count > 0).then_some((count, *name))
    };
    let (count, name) = UNITS.iter().find_map(fits).unwrap_or((seconds, "second"));
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    #[test]
    fn a_certificate_has_to_be_valid_now_and_long_enough() {
        let validity = Validity { begin: 100 * DAY, end: 130 * DAY };
        let two_weeks = Duration::from_secs(14 * 24 * 3600);
        for (now, expires_in, error) in [
            (100 * DAY, Duration::ZERO, None),
            (130 * DAY, Duration::ZERO, None),
            (116 * DAY, two_weeks, None),
            (98 * DAY, Duration::ZERO, Some("its certificate begins only in 2 days")),
            (100 * DAY - 90, Duration::ZERO, Some("its certificate begins only in 1 minute")),
            (130 * DAY + 1, Duration::ZERO, Some("its certificate ended 1 second ago")),
            (130 * DAY + 7200, two_weeks, Some("its certificate ended 2 hours ago")),
            (134 * DAY - 1, Duration::ZERO, Some("its certificate ended 3 days ago")),
            (
                116 * DAY + 1,
                two_weeks,
                Some("its certificate ends in 13 days, and has to be valid for 14 days"),
            ),
        ] {
            let outcome = judge(validity, now, expires_in);
            let found = outcome.err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error, "{now}");
        }
    }

    #[test]
    fn no_time_is_too_far_away() {
        let always = Validity { begin: i64::MIN, end: i64::MAX };
        assert_eq!(judge(always, -1, Duration::MAX), Ok(()));
        let never = Validity { begin: i64::MAX, end: i64::MIN };
        assert!(judge(never, i64::MIN, Duration::ZERO).is_err());
        let past = Validity { begin: i64::MIN, end: i64::MIN };
        assert!(judge(past, i64::MAX, Duration::ZERO).is_err());
    }
}
