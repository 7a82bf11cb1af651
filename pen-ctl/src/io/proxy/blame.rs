//! What becomes of a backend that failed a client. It is left alone by all threads at once, for the
//! first client paid for that already, and the engine is told, which decides for how long, and for
//! which other services. A full channel loses no more than the engine's part of it.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use pen_common::moment::Moment;
use tokio::sync::mpsc;

use super::shared::{BackendState, Served};
use crate::engine::event::{Event, Failure};
use crate::engine::may_eject_one_more;
use crate::engine::proxy::cause::Cause;
use crate::io::clock;

/// Tells the engine of one backend.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) backend: u32,
    pub(super) generation: u32,
}

impl Teller {
    fn tell(&self, failure: Failure) {
        let Self { backend, generation, .. } = *self;
        let _ = self.events.try_send(Event::BackendFailed { backend, generation, failure });
    }
}

impl Served {
    /// A backend could not be connected to. `seen`: it was asked from this address of a client, which
    /// it may not have been able to answer.
    pub(super) fn failed(&self, place: usize, failure: Failure, seen: Option<IpAddr>) {
        self.backends[place].failures.fetch_add(1, Relaxed);
        let is_its_fault = match (failure, seen) {
            (Failure::Silent, Some(client)) => self.unheard(place, client),
            _ => true,
        };
        if is_its_fault {
            self.blame(place, clock::now(), failure);
        }
    }

    /// A connection to a backend ended, that had brought so many bytes from it.
    pub(super) fn ended(&self, place: usize, cause: Cause, bytes: u64) {
        let resets = &self.backends[place].resets;
        if bytes > 0 {
            // Nearly always there were none, and then nothing is written that other threads read.
            if resets.load(Relaxed) != 0 {
                resets.store(0, Relaxed);
            }
            return;
        }
        let most = self.service.proxy.eject_resets;
        if cause == Cause::ServerReset && most > 0 && resets.fetch_add(1, Relaxed) + 1 >= most {
            resets.store(0, Relaxed);
            self.backends[place].failures.fetch_add(1, Relaxed);
            self.blame(place, clock::now(), Failure::Reset);
        }
    }

    fn blame(&self, place: usize, now: Moment, failure: Failure) {
        let time = self.service.proxy.eject;
        if time.is_zero() || !self.may_eject(place, now) {
            return;
        }
        let backend: &BackendState = &self.backends[place];
        if backend.eject(now, time)
            && let Some(teller) = backend.teller.get()
        {
            teller.tell(failure);
        }
    }

    /// Whether one more may be ejected. Two threads that ask at once may both hear yes: the engine
    /// counts again.
    fn may_eject(&self, place: usize, now: Moment) -> bool {
        if self.service.backends[place].emergency {
            return true;
        }
        let backends = self.service.backends.iter().zip(&self.backends);
        let pool = backends.filter(|(backend, _)| backend.wanted && !backend.emergency);
        let ejected = pool
            .clone()
            .filter(|(backend, state)| backend.ejected || state.ejected(now).is_some())
            .count();
        may_eject_one_more(self.service.max_ejected, ejected, pool.count())
    }
}
