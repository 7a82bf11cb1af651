//! What a service has of TLS that outlives any one view of it: the certificates in service, and how often
//! servers failed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::origin::Originator;
use super::store::Terminator;
use crate::engine::proxy::cause::ServerFault;

/// TLS of a service.
#[derive(Debug, Default)]
pub(in crate::io::proxy) struct State {
    terminator: Mutex<Option<Arc<Terminator>>>,
    originator: Mutex<Option<Arc<Originator>>>,
    /// By [`ServerFault`].
    faults: [AtomicU64; ServerFault::ALL.len()],
}

impl State {
    /// How TLS ends here now. One lock for each handshake, which costs a thousand times as much.
    pub(super) fn terminator(&self) -> Option<Arc<Terminator>> {
        get(&self.terminator)
    }

    /// From now on it ends so.
    pub(super) fn set_terminator(&self, terminator: Option<Arc<Terminator>>) {
        set(&self.terminator, terminator);
    }

    /// How TLS begins towards servers now.
    pub(in crate::io::proxy) fn originator(&self) -> Option<Arc<Originator>> {
        get(&self.originator)
    }

    /// From now on it begins so.
    pub(super) fn set_originator(&self, originator: Option<Arc<Originator>>) {
        set(&self.originator, originator);
    }

    /// TLS was not agreed upon with a server.
    pub(in crate::io::proxy) fn count(&self, fault: ServerFault) {
        self.faults[fault as usize].fetch_add(1, Relaxed);
    }

    /// Times that this was the reason.
    pub(in crate::io::proxy) fn counted(&self, fault: ServerFault) -> u64 {
        self.faults[fault as usize].load(Relaxed)
    }
}

fn get<T>(now: &Mutex<Option<Arc<T>>>) -> Option<Arc<T>> {
    now.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(now: &Mutex<Option<Arc<T>>>, next: Option<Arc<T>>) {
    *now.lock().unwrap_or_else(PoisonError::into_inner) = next;
}
