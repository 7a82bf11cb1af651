//! Whether somebody can be told of events, for a person.

use crate::api::NotifyTested;

/// `penctl notify test`.
#[must_use]
pub fn notify_tested(tested: &NotifyTested) -> String {
    let NotifyTested { receiver, to, took_ms } = tested;
    format!("{receiver} was told in {took_ms} ms: {to}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_went_well_says_who_was_told() {
        let (receiver, to) = ("pager".to_owned(), "webhook https://a.example".to_owned());
        let text = notify_tested(&NotifyTested { receiver, to, took_ms: 17 });
        assert_eq!(text, "pager was told in 17 ms: webhook https://a.example\n");
    }
}
