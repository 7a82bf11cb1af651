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

use std::cell::{Cell, RefCell};
use std::fmt;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;

pub(super) use self::agree::Session;
pub(super) use self::handshake::{Opening, begin};
pub(super) use self::origin::{NotAgreed, approach};
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
    /// For one step at a time. It has to be waited for only behind one that lets others go on.
    steps: Semaphore,
    /// Steps since established connections had their turn.
    taken: Cell<usize>,
}

/// To be ended when a step of a handshake is done.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    /// `None` if the semaphore were closed, which nobody does.
    _step: Option<SemaphorePermit<'a>>,
}

impl Shared {
    /// For the next step of a handshake.
    async fn turn(&self) -> Turn<'_> {
        Turn { shared: self, _step: self.steps.acquire().await.ok() }
    }
}

impl Turn<'_> {
    /// Lets connections that exist go on, if enough steps were taken.
    async fn end(self) {
        let taken = self.shared.taken.get() + 1;
        if taken < STEPS {
            self.shared.taken.set(taken);
            return;
        }
        // Also if the client's time ends meanwhile.
        self.shared.taken.set(0);
        yield_now().await;
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            plain: RefCell::default(),
            sealed: RefCell::default(),
            steps: Semaphore::new(1),
            taken: Cell::new(0),
        }
    }
}

impl fmt::Debug for Shared {
    /// Without what connections say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
