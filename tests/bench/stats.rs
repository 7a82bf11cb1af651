//! Of many runs one number, and how far to trust it.

use serde_json::{Value, json};

/// The middle of some values; of an even number, the mean of the two in the middle. None of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let lower = if sorted.len() % 2 == 1 { upper } else { sorted[middle - 1] };
    Some(f64::midpoint(lower, upper))
}

/// Half the distance between the first and the third quartile, as a part of the median: 0.01 means
/// that half of the runs are within 1 % or so.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let width = sorted[sorted.len() - 1 - quarter] - sorted[quarter];
    Some(width / 2.0 / middle)
}

/// The value below which this part of all lies.
pub(crate) fn percentile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part of a length is one"
    )]
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).or_else(|| sorted.last()).copied()
}

/// The middle of the rounds, and the ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Self { least, median: median(values)?, most })
    }

    pub(crate) fn json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }

    /// For a table.
    pub(crate) fn cell(self) -> String {
        let Self { least, median, most } = self;
        format!("{} ({}..{})", short(median), short(least), short(most))
    }
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order_and_the_outliers() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9e9, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn the_spread_leaves_a_quarter_out_at_each_end() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[5.0]), Some(0.0));
        assert_eq!(spread(&[-1e9, 9.0, 10.0, 11.0, 1e9]), Some(0.1));
    }

    #[test]
    fn of_a_hundred_values_one_is_above_the_99th_percentile() {
        let values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (Some(7.0), None));
    }

    #[test]
    fn values_of_any_size_have_about_three_digits() {
        for (value, text) in
            [(41_234.0, "41.2k"), (2345.0, "2345"), (12.34, "12.3"), (0.456, "0.46")]
        {
            assert_eq!(short(value), text);
        }
    }
}
