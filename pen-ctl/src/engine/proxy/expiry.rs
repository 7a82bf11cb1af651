//! When the operator is told that a certificate is about to expire.

const DAY: i64 = 24 * 3600;

/// How much time a certificate has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// More than anybody needs to know of.
    Fine,
    /// At most 21 days: what renews it by itself should have done so.
    Soon,
    /// At most 7 days.
    VerySoon,
    /// None.
    Expired,
}

impl Stage {
    /// That of a certificate that is valid until `not_after`, at `now`, both in seconds since 1970.
    #[must_use]
    pub const fn of(not_after: i64, now: i64) -> Self {
        match not_after.saturating_sub(now) {
            ..0 => Self::Expired,
            left if left <= 7 * DAY => Self::VerySoon,
            left if left <= 21 * DAY => Self::Soon,
            _ => Self::Fine,
        }
    }
}

/// Whole days that are left; below zero those since it expired.
#[must_use]
pub const fn days_left(not_after: i64, now: i64) -> i64 {
    not_after.saturating_sub(now).div_euclid(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_told_21_and_7_days_before_and_at_the_end() {
        for (left, stage, days) in [
            (21 * DAY + 1, Stage::Fine, 21),
            (21 * DAY, Stage::Soon, 21),
            (7 * DAY + 1, Stage::Soon, 7),
            (7 * DAY, Stage::VerySoon, 7),
            (0, Stage::VerySoon, 0),
            (-1, Stage::Expired, -1),
            (-DAY - 1, Stage::Expired, -2),
        ] {
            assert_eq!((Stage::of(1000 + left, 1000), days_left(1000 + left, 1000)), (stage, days));
        }
        assert_eq!(Stage::of(i64::MIN, i64::MAX), Stage::Expired);
    }
}
