//! How hard those tests try that can also be run for figures: for longer, with more load, by a person
//! who has a quiet machine and time.

use std::time::Duration;

/// The time that was asked for with `PEN_SECONDS`.
pub(crate) fn time() -> Option<Duration> {
    let seconds = std::env::var("PEN_SECONDS").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether all load is wanted that a site may have: `PEN_LOAD=full`.
pub(crate) fn is_full() -> bool {
    std::env::var("PEN_LOAD").is_ok_and(|load| load == "full")
}
