//! When a relayed connection has been silent for too long, and why that is held against whom; and
//! when a direction moves so much that it is worth a pipe.

use std::time::Duration;

use super::cause::Cause;
use crate::config::Timeouts;

/// How far the two sides have got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The client has sent something.
    pub client_spoke: bool,
    /// The server has sent something.
    pub server_spoke: bool,
    /// One of them has ended its half.
    pub half_closed: bool,
}

/// For how long such a connection may be silent, and how it ends then.
#[must_use]
pub fn patience(progress: Progress, timeouts: &Timeouts) -> (Duration, Cause) {
    match progress {
        Progress { half_closed: true, .. } => (timeouts.half_closed, Cause::HalfClosedTimeout),
        Progress { client_spoke: true, server_spoke: true, .. } => {
            (timeouts.tunnel, Cause::TunnelTimeout)
        }
        // Whoever speaks first in this protocol: the one that has not spoken is waited for, and if
        // neither has, the client.
        Progress { client_spoke: true, .. } => (timeouts.server, Cause::ServerTimeout),
        Progress { .. } => (timeouts.client, Cause::ClientTimeout),
    }
}

/// Bytes that a direction moves without a pause before it is called bulk.
pub const BULK: usize = 256 * 1024;
/// A read below this is a pause.
pub const FULL: usize = 16 * 1024;
/// Short reads in a row after which bulk is over.
const PAUSES: u8 = 4;

/// Whether one direction moves bulk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    burst: u32,
    pauses: u8,
    bulk: bool,
}

impl Pace {
    /// Whether its bytes had better stay in the kernel.
    #[must_use]
    pub const fn is_bulk(self) -> bool {
        self.bulk
    }

    /// So many bytes came at once.
    pub fn note(&mut self, bytes: usize) {
        if bytes >= FULL {
            self.pauses = 0;
            self.burst = self.burst.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
            self.bulk |= self.burst as usize >= BULK;
        } else {
            self.pauses = self.pauses.saturating_add(1);
            if self.pauses >= PAUSES {
                *self = Self::default();
            }
        }
    }

    /// A pipe is of no use here.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Proxy;

    #[test]
    fn silence_is_held_against_whom_it_is_up_to() {
        let timeouts = Proxy::usual().timeouts;
        for (client_spoke, server_spoke, half_closed, cause, seconds) in [
            (false, false, false, Cause::ClientTimeout, 300),
            (false, true, false, Cause::ClientTimeout, 300),
            (true, false, false, Cause::ServerTimeout, 300),
            (true, true, false, Cause::TunnelTimeout, 3600),
            (true, true, true, Cause::HalfClosedTimeout, 30),
            (false, false, true, Cause::HalfClosedTimeout, 30),
        ] {
            let progress = Progress { client_spoke, server_spoke, half_closed };
            let expected = (Duration::from_secs(seconds), cause);
            assert_eq!(patience(progress, &timeouts), expected, "{progress:?}");
        }
    }

    #[test]
    fn bulk_is_what_keeps_coming_in_large_pieces() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            pace.note(100);
        }
        assert!(!pace.is_bulk(), "many small ones are not");
        for _ in 0..BULK / FULL - 1 {
            pace.note(FULL);
        }
        assert!(!pace.is_bulk(), "not yet");
        pace.note(FULL);
        assert!(pace.is_bulk());
        for _ in 0..PAUSES - 1 {
            pace.note(1);
        }
        assert!(pace.is_bulk(), "a pause or two do not matter");
        pace.note(1);
        assert!(!pace.is_bulk());
        pace.note(BULK);
        pace.forget();
        assert!(!pace.is_bulk());
    }
}
