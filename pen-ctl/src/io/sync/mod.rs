//! Carries out what `engine::sync` decides: speaks with the peers over UDP, hears of new records from
//! the kernel, reads all of them when that is asked for, and writes those of a peer.
//!
//! ```text
//!  daemon --View--> thread `sync` -----> UDP socket
//!         <-Event--  (owns `Node`) ----> ring buffer, maps
//! ```
//!
//! In a thread of its own: a hundred thousand records a second shall not delay probes, and the other
//! way round. Nothing queues up towards it, for only the last view counts.

mod maps;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pen_common::hash::Secret;
use pen_common::moment::Moment;
use tokio::sync::{mpsc, watch};

use self::maps::{Found, Maps};
use self::socket::Socket;
use crate::engine::event::Event;
use crate::engine::sync::view::View;
use crate::engine::sync::{Node, Output, Settings};
use crate::io::clock;

/// Between two reports to the engine.
const REPORT: Duration = Duration::from_millis(500);
/// An address to listen on that is not there yet is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Datagrams that are taken at once.
const BATCH: usize = 64;

/// What the engine knows.
type Known = (Arc<View>, Secret);

/// What the thread starts with.
pub struct Beginning {
    /// For the node.
    pub settings: Settings,
    /// Where peers reach it.
    pub listen: SocketAddr,
    /// Folder of the pinned maps.
    pub folder: PathBuf,
    /// Where news go.
    pub events: mpsc::Sender<Event>,
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub struct Thread {
    known: watch::Sender<Option<Known>>,
}

impl Thread {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the maps cannot be opened, or the system gives no thread.
    pub fn start(beginning: Beginning) -> io::Result<Self> {
        let (known, wanted) = watch::channel(None);
        let (opened, result) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name("sync".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error))),
            };
            runtime.block_on(async {
                match Maps::open(&beginning.folder) {
                    Ok(maps) => {
                        let _ = opened.send(Ok(()));
                        Driver::new(beginning, maps, wanted).run().await;
                    }
                    Err(error) => drop(opened.send(Err(io::Error::other(error)))),
                }
            });
            // A scan may be under way, which nobody waits for.
            runtime.shutdown_background();
        })?;
        result.recv().map_err(|_| io::Error::other("it ended at once"))??;
        Ok(Self { known })
    }

    /// The engine knows this by now.
    pub fn share(&self, view: Arc<View>, secret: Secret) {
        self.known.send_replace(Some((view, secret)));
    }
}

struct Driver {
    node: Node,
    maps: Maps,
    listen: SocketAddr,
    socket: Option<Socket>,
    /// Why there is none.
    error: Option<String>,
    retry_at: Moment,
    report_at: Moment,
    scan: Option<mpsc::Receiver<Found>>,
    known: watch::Receiver<Option<Known>>,
    events: mpsc::Sender<Event>,
    /// A write failed, and it was said.
    complained: bool,
}

impl Driver {
    fn new(beginning: Beginning, maps: Maps, known: watch::Receiver<Option<Known>>) -> Self {
        let now = clock::now();
        Self {
            node: Node::new(beginning.settings, now),
            maps,
            listen: beginning.listen,
            socket: None,
            error: None,
            retry_at: now,
            report_at: now,
            scan: None,
            known,
            events: beginning.events,
            complained: false,
        }
    }

    async fn run(mut self) {
        while self.step().await {}
    }

    /// Does what is due, and waits for what comes next; false at the end.
    async fn step(&mut self) -> bool {
        let now = clock::now();
        self.listen(now);
        while let Some(output) = self.node.poll_output(now) {
            if !self.carry_out(output).await {
                return false;
            }
        }
        if let Some(socket) = &self.socket {
            while let Some((to, datagram)) = self.node.poll_datagram(now) {
                // What does not go now is lost, as any datagram may be, and sent again.
                socket.send(to, &datagram);
            }
        }
        if now >= self.report_at {
            self.report(now);
        }
        let next = self.node.next_deadline(now).min(self.report_at);
        let reads = self.scan.is_some() && self.node.wants_more();
        tokio::select! {
            changed = self.known.changed() => {
                if changed.is_err() {
                    return false;
                }
                let known = self.known.borrow_and_update().clone();
                if let Some((view, secret)) = known {
                    self.node.share(clock::now(), view, secret);
                }
            }
            entries = self.maps.news() => match entries {
                Ok(entries) => self.node.observed(clock::now(), &entries),
                Err(error) => {
                    tracing::error!("new records cannot be read: {error}");
                    return false;
                }
            },
            () = received(self.socket.as_ref()) => self.receive(),
            found = found(self.scan.as_mut()), if reads => self.scanned(found),
            () = clock::sleep_until(next) => {}
        }
        true
    }

    /// The address may be one that comes later than we do.
    fn listen(&mut self, now: Moment) {
        if self.socket.is_some() || now < self.retry_at {
            return;
        }
        match Socket::bind(self.listen) {
            Ok(socket) => (self.socket, self.error) = (Some(socket), None),
            Err(error) => {
                self.retry_at = now + RETRY;
                let error = format!("{}: {error}", self.listen);
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!("peers cannot be heard: {error}");
                }
                self.error = Some(error);
            }
        }
    }

    async fn carry_out(&mut self, output: Output) -> bool {
        let event = match output {
            Output::Write { entry, replace } => {
                if let Err(error) = self.maps.write(&entry, replace)
                    && !std::mem::replace(&mut self.complained, true)
                {
                    tracing::warn!("a record of a peer cannot be written: {error}");
                }
                return true;
            }
            Output::Scan => {
                self.scan = Some(self.maps.scan());
                return true;
            }
            Output::Adopt(adopted) => Event::PeerState(Box::new(adopted)),
            Output::Complete(complete) => Event::SyncComplete(complete),
        };
        self.events.send(event).await.is_ok()
    }

    fn report(&mut self, now: Moment) {
        self.report_at = now + REPORT;
        if self.maps.has_missed() {
            self.node.missed(now);
        }
        let mut report = self.node.report(now);
        report.error.clone_from(&self.error);
        // If the engine does not follow, it does not have to know that now.
        let _ = self.events.try_send(Event::SyncReport(report));
    }

    fn receive(&mut self) {
        let Some(socket) = &self.socket else { return };
        let now = clock::now();
        for _ in 0..BATCH {
            let Some((from, datagram)) = socket.receive() else { return };
            self.node.receive(now, from, &datagram);
        }
    }

    /// Keys of a scan. Entries are read here, between what the kernel told before and after, so that
    /// no older one is told after a newer one.
    fn scanned(&mut self, found: Option<Found>) {
        let now = clock::now();
        match found {
            Some(Found::Keys(keys)) => {
                loop {
                    let told = self.maps.told();
                    if told.is_empty() {
                        break;
                    }
                    self.node.observed(now, &told);
                }
                let entries: Vec<_> =
                    keys.into_iter().filter_map(|key| self.maps.read(key)).collect();
                self.node.scanned(now, &entries);
            }
            other => {
                self.scan = None;
                self.node.scan_ended(now, matches!(other, Some(Found::End(true))));
            }
        }
    }
}

async fn received(socket: Option<&Socket>) {
    match socket {
        Some(socket) => socket.readable().await,
        None => std::future::pending().await,
    }
}

async fn found(scan: Option<&mut mpsc::Receiver<Found>>) -> Option<Found> {
    match scan {
        Some(scan) => scan.recv().await,
        None => std::future::pending().await,
    }
}
