//! The threads among each other. The kernel spreads connections over their sockets by a hash, which is
//! even only in the long run; whoever has got clearly more than another one hands the next over.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::mpsc;

use super::shared::Served;
use super::worker::Common;

/// So much more than another one is not worth a word: a few connections, and a small part of many.
const SLACK: [u32; 2] = [2, 16];

/// All threads.
#[derive(Debug)]
pub(super) struct Crew {
    loads: Vec<AtomicU32>,
    ways: Vec<mpsc::Sender<Handed>>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) client: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) id: u64,
    pub(super) inside: Inside,
}

/// A place behind the gates and in the count of a thread; given back when dropped.
#[derive(Debug)]
pub(super) struct Inside {
    common: Arc<Common>,
    pub(super) served: Arc<Served>,
    crew: Arc<Crew>,
    thread: usize,
}

impl Crew {
    /// One with these ways to its threads.
    pub(super) fn new(ways: Vec<mpsc::Sender<Handed>>) -> Self {
        Self { loads: ways.iter().map(|_| AtomicU32::new(0)).collect(), ways }
    }

    /// The thread that is to have the next connection of thread `own`.
    pub(super) fn choose(&self, own: usize) -> usize {
        let loads = self.loads.iter().map(|load| load.load(Relaxed)).enumerate();
        let Some((least, load)) = loads.min_by_key(|(_, load)| *load) else { return own };
        let mine = self.loads[own].load(Relaxed);
        if mine > load + SLACK[0] + load / SLACK[1] { least } else { own }
    }

    /// Gives a connection to its thread, or back if that has too many to look at.
    pub(super) fn hand_over(&self, handed: Handed) -> Result<(), Handed> {
        let way = &self.ways[handed.inside.thread];
        way.try_send(handed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed) => {
                handed
            }
        })
    }
}

impl Inside {
    /// Both gates have been passed.
    pub(super) fn new(
        common: Arc<Common>,
        served: Arc<Served>,
        crew: Arc<Crew>,
        thread: usize,
    ) -> Self {
        crew.loads[thread].fetch_add(1, Relaxed);
        Self { common, served, crew, thread }
    }

    /// It counts for this thread after all.
    pub(super) fn moved_to(&mut self, thread: usize) {
        self.crew.loads[self.thread].fetch_sub(1, Relaxed);
        self.thread = thread;
        self.crew.loads[thread].fetch_add(1, Relaxed);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.crew.loads[self.thread].fetch_sub(1, Relaxed);
        self.common.gate.leave();
        self.served.state.gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_goes_to_who_has_clearly_fewer() {
        let ways = (0..3).map(|_| mpsc::channel(1).0).collect();
        let crew = Crew::new(ways);
        for (loads, own, chosen) in [
            ([0, 0, 0], 1, 1),
            ([2, 0, 0], 0, 0),
            ([3, 0, 1], 0, 1),
            ([3, 0, 1], 2, 2),
            ([100, 97, 95], 0, 0),
            ([110, 97, 95], 0, 2),
        ] {
            for (load, value) in crew.loads.iter().zip(loads) {
                load.store(value, Relaxed);
            }
            assert_eq!(crew.choose(own), chosen, "{loads:?} at {own}");
        }
    }
}
