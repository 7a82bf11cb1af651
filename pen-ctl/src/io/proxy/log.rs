//! The access log: a line for each connection that has ended, written by a thread of its own. The
//! threads that carry bytes never wait for a disk: what does not fit in the queue is dropped and
//! counted.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use super::shared::Served;
use crate::config::{AccessLog, Endpoint};
use crate::engine::proxy::cause::Cause;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;
/// A file that was moved away is left after this time at the latest.
const LOOK: Duration = Duration::from_millis(250);

/// What is said of a connection that has ended.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) ended: SystemTime,
    pub(super) id: u64,
    pub(super) client: Endpoint,
    pub(super) served: Arc<Served>,
    /// Place of its backend.
    pub(super) place: Option<usize>,
    /// Until it had a place at a backend, or gave up.
    pub(super) queue: Duration,
    /// From then on until it was connected.
    pub(super) connect: Duration,
    pub(super) total: Duration,
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) cause: Cause,
    /// Backends that were asked in vain.
    pub(super) retries: usize,
}

/// The writing end, for all threads.
#[derive(Debug)]
pub(super) struct Log {
    lines: SyncSender<Line>,
    reopen: Arc<AtomicBool>,
    dropped: AtomicU64,
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) config: AccessLog,
    pub(super) log: Arc<Log>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Hands a line over, or drops it.
    pub(super) fn write(&self, line: Line) {
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// The file is to be opened anew: it was moved away.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Lines that did not fit.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Writer {
    /// Opens the file and starts.
    ///
    /// # Errors
    ///
    /// If there is no such file to be had.
    pub(super) fn start(config: &AccessLog) -> io::Result<Self> {
        let file = open(config)?;
        let (lines, queue) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Log { lines, reopen: Arc::clone(&reopen), dropped: AtomicU64::new(0) });
        let own = config.clone();
        let thread = thread::Builder::new().name("access-log".to_owned());
        let thread = thread.spawn(move || run(&own, file, &queue, &reopen))?;
        Ok(Self { config: config.clone(), log, thread })
    }

    /// Waits until all is written, once nobody writes any more.
    pub(super) fn end(self) {
        let Self { log, thread, .. } = self;
        drop(log);
        let _ = thread.join();
    }
}

fn open(config: &AccessLog) -> io::Result<BufWriter<File>> {
    OpenOptions::new().append(true).create(true).open(&config.file).map(BufWriter::new)
}

fn run(config: &AccessLog, mut file: BufWriter<File>, queue: &Receiver<Line>, reopen: &AtomicBool) {
    let mut failing = false;
    loop {
        let first = match queue.recv_timeout(LOOK) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if reopen.swap(false, Relaxed) {
            match open(config) {
                Ok(new) => file = new,
                Err(error) => tracing::warn!("{}: {error}", config.file.display()),
            }
        }
        let mut text = String::new();
        for line in first.into_iter().chain(queue.try_iter().take(QUEUE)) {
            if config.json { line.json(&mut text) } else { line.text(&mut text) }
        }
        let result = file.write_all(text.as_bytes()).and_then(|()| file.flush());
        // A full disk is told once, not with each line.
        if let Err(error) = &result
            && !failing
        {
            tracing::warn!("{}: {error}", config.file.display());
        }
        failing = result.is_err();
    }
}

impl Line {
    fn backend(&self) -> Option<(&str, &Endpoint)> {
        let backend = &self.served.service.backends[self.place?];
        Some((&backend.name, &backend.address))
    }

    /// For a person and for `awk`: always the same fields in the same places.
    fn text(&self, out: &mut String) {
        let (name, address) = match self.backend() {
            Some((name, address)) => (name, address.to_string()),
            None => ("-", "-".to_owned()),
        };
        let _ = writeln!(
            out,
            "{} {} {} {} {} queue={} connect={} total={} up={} down={} cause={} retries={} id={}",
            humantime::format_rfc3339_millis(self.ended),
            self.client,
            self.served.service.name,
            name,
            address,
            self.queue.as_millis(),
            self.connect.as_millis(),
            self.total.as_millis(),
            self.up,
            self.down,
            self.cause.name(),
            self.retries,
            self.id,
        );
    }

    fn json(&self, out: &mut String) {
        let backend = self.backend();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let value = serde_json::json!({
            "time": humantime::format_rfc3339_millis(self.ended).to_string(),
            "id": self.id,
            "client": self.client,
            "service": self.served.service.name,
            "backend": backend.map(|(name, _)| name),
            "address": backend.map(|(_, address)| address),
            "queue_ms": millis(self.queue),
            "connect_ms": millis(self.connect),
            "total_ms": millis(self.total),
            "bytes_up": self.up,
            "bytes_down": self.down,
            "cause": self.cause.name(),
            "retries": self.retries,
        });
        let _ = writeln!(out, "{value}");
    }
}
