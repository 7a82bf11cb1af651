//! The clock: monotonic, the same one that the XDP program reads.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use pen_common::moment::Moment;

/// The time.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Moment::default() + Duration::from(time)
}

/// The time of day, for what people read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "io owns the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The wall clock, in seconds since 1970. It may be set at any time: nothing but numbers that have to
/// rise across starts is made of it.
#[must_use]
pub fn wall_seconds() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has this clock");
    Duration::from(time).as_secs()
}

/// Waits until `deadline`; for ever if it is [`Moment::NEVER`].
pub async fn sleep_until(deadline: Moment) {
    if deadline == Moment::NEVER {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(deadline.since(now())).await;
}
