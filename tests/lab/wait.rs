//! Waiting for the real world: poll until something is there or the time is up, never a blind
//! sleep.
//!
//! The only file of the lab that reads the clock. A person's Ctrl-C ends every wait at once, so
//! that the error runs up through the owners of namespaces and processes and their `Drop` cleans
//! up.
#![expect(clippy::disallowed_methods, reason = "the lab watches real processes in real time")]

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(10);

/// Polls `probe` until it yields something. `what` names it in the error: "b1 is down: not within
/// 3s".
pub fn wait_until<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let started = Stopwatch::start();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if interrupted() {
            bail!("interrupted while waiting: {what}");
        }
        if started.elapsed() >= limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(POLL);
    }
}

/// As [`wait_until`] for those who clean up: an interruption does not shorten it, and the end of
/// the time is no error.
pub(crate) fn wait_always<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Stopwatch::start();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if started.elapsed() >= limit {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Spaces requests out. Not for waiting until something has happened: that is [`wait_until`].
pub fn pace(gap: Duration) {
    thread::sleep(gap);
}

/// Measures how long something took.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Set it (from a signal handler, say) and every wait of the lab ends with an error.
pub fn stop_flag() -> &'static Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    STOP.get_or_init(Arc::default)
}

/// Whether someone asked the lab to stop.
pub fn interrupted() -> bool {
    stop_flag().load(Ordering::Relaxed)
}
