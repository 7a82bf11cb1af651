//! TLS that ends or begins at the proxy. A connection holds no buffer for it: records pass through those that
//! all connections of a thread share, and of one that is cut anywhere only the beginning is kept.

mod agree;
mod choice;
mod handshake;
mod origin;
mod records;
mod relay;
mod state;
mod store;
mod watch;

use std::cell::RefCell;
use std::fmt;

use tokio::sync::Semaphore;

pub(super) use self::agree::Session;
pub(super) use self::handshake::{Opening, begin};
pub(super) use self::origin::{Failure, approach};
pub(super) use self::relay::{End, TlsRelay};
pub(super) use self::state::State;
pub(super) use self::store::Store;
pub(super) use self::watch::Watch;

/// Steps of handshakes that a thread takes before established connections have their turn. One takes
/// some hundred microseconds.
const STEPS: usize = 4;

/// What the TLS connections of a thread share.
pub(super) struct Shared {
    /// Bytes that were deciphered.
    plain: RefCell<Vec<u8>>,
    /// Bytes that were enciphered.
    sealed: RefCell<Vec<u8>>,
    steps: Semaphore,
}

impl Default for Shared {
    fn default() -> Self {
        Self { plain: RefCell::default(), sealed: RefCell::default(), steps: Semaphore::new(STEPS) }
    }
}

impl fmt::Debug for Shared {
    /// Without what connections say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
