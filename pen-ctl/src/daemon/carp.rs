//! The thread of CARP, as the daemon sees it: started with the first group, told what changes, and
//! ended in order.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pen_common::abi;
use pen_common::hash::siphash;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Refusal, Reply};
use crate::engine::carp::Start;
use crate::engine::event::{Event, Group};
use crate::io::carp::{Beginning, Command, Question, Thread};
use crate::io::clock;
use crate::io::dataplane::Dataplane;

/// File in the folder of state: the upper half of the sequence numbers that were used last.
const SEQUENCE: &str = "carp-sequence";
/// Bits below the seconds in a sequence number.
const SECONDS: u32 = 32;

/// The thread, if there is a group.
pub(super) struct Carp {
    thread: Option<Thread>,
    /// Roles that the map held at the start.
    adopted: BTreeMap<u32, abi::Group>,
    events: mpsc::Sender<Event>,
    node: String,
    state: PathBuf,
    /// The daemon has started. The thread is told nothing before: a lease that still runs is adopted
    /// only by who can serve at once.
    started: bool,
    /// What it is told then, or when it follows again.
    waiting: VecDeque<Command>,
    /// It did not follow.
    slow: bool,
}

impl Carp {
    pub(super) fn new(
        adopted: BTreeMap<u32, abi::Group>,
        events: mpsc::Sender<Event>,
        node: String,
        state: PathBuf,
    ) -> Self {
        let (started, waiting) = (false, VecDeque::new());
        Self { thread: None, adopted, events, node, state, started, waiting, slow: false }
    }

    /// The daemon has started: the thread may begin.
    pub(super) fn begin(&mut self) {
        self.started = true;
        // First whether this node can serve: that changed during the start.
        let waiting = self.waiting.make_contiguous();
        waiting.sort_by_key(|command| !matches!(command, Command::Usable { .. }));
        self.flush();
    }

    /// Tells the thread what waits, as far as there is room; called with everything that happens.
    pub(super) fn flush(&mut self) {
        let (true, Some(thread)) = (self.started, &self.thread) else { return };
        while let Some(command) = self.waiting.pop_front() {
            if let Err(command) = thread.try_tell(command) {
                self.waiting.push_front(*command);
                if !std::mem::replace(&mut self.slow, true) {
                    tracing::warn!("the thread of CARP does not follow; it is told later");
                }
                return;
            }
        }
        self.slow = false;
    }

    /// Starts the thread with the first groups that it is told of.
    pub(super) fn configure(
        &mut self,
        groups: Vec<Group>,
        dataplane: &Dataplane,
    ) -> anyhow::Result<()> {
        if self.thread.is_none() {
            let beginning = Beginning {
                start: start(&self.node, &self.state)?,
                writer: Box::new(dataplane.role_writer()?),
                adopted: std::mem::take(&mut self.adopted),
                mark: mark(&self.state),
                events: self.events.clone(),
            };
            self.thread = Some(Thread::start(beginning).context("the thread of CARP")?);
        }
        self.tell(Command::Configure(groups));
        Ok(())
    }

    pub(super) fn tell(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.flush();
    }

    pub(super) fn ask(
        &mut self,
        question: Question,
        answer: oneshot::Sender<Result<Reply, Refusal>>,
    ) {
        if self.thread.is_some() {
            return self.tell(Command::Ask(question, answer));
        }
        let reply = match question {
            Question::Show => Ok(Reply::Carp(Vec::new())),
            Question::Order(wish) => Err(Refusal {
                error: format!("there is no group `{}`", wish.group),
                cure: "the configuration has no [[carp]]".to_owned(),
            }),
        };
        // A peer that went away does not want its answer.
        let _ = answer.send(reply);
    }

    /// Waits for the end of the thread; for ever if there is none.
    pub(super) async fn ended(&mut self) {
        match &mut self.thread {
            Some(thread) => thread.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Whether there is something to hand over at the end.
    pub(super) const fn runs(&self) -> bool {
        self.thread.is_some()
    }

    /// Ends the thread, and leaves roles, leases and addresses as they are.
    pub(super) async fn leave(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.leave().await;
        }
    }
}

/// What `Carp` starts with.
fn start(node: &str, state: &Path) -> anyhow::Result<Start> {
    let [random, _] = super::random_secret()?;
    let seconds = u64::from(u32::try_from(clock::wall_seconds()).unwrap_or(u32::MAX));
    let last = last_sequence(state);
    // More than 2^32 advertisements of one daemon reach into the next second.
    let seconds = seconds.max(last.map_or(0, |last| last + 2));
    if let Err(error) = keep_sequence(state, seconds) {
        tracing::warn!(
            "{}: {error}; if the clock is set back before another start, peers that sign with \
             sha256 take this node's advertisements for old ones",
            state.display()
        );
    }
    Ok(Start { node: number(node), random, sequence: seconds << SECONDS })
}

/// A number that peers know the node by.
fn number(node: &str) -> u64 {
    node.bytes().fold(0, |hash, byte| siphash([0, 0], [hash, u64::from(byte), 0]))
}

/// Mark of the addresses of a daemon with this folder, above those that the kernel uses itself.
fn mark(state: &Path) -> u8 {
    let [.., last] = number(&state.to_string_lossy()).to_be_bytes();
    0x80 | last
}

fn last_sequence(state: &Path) -> Option<u64> {
    fs::read_to_string(state.join(SEQUENCE)).ok()?.trim().parse().ok()
}

fn keep_sequence(state: &Path, seconds: u64) -> io::Result<()> {
    fs::create_dir_all(state)?;
    let new = state.join("carp-sequence.new");
    fs::write(&new, format!("{seconds}\n"))?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, state.join(SEQUENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_rise_from_start_to_start_whatever_the_clock_does() {
        let folder = std::env::temp_dir().join(format!("pen-sequence-{}", std::process::id()));
        let first = start("edge1", &folder).expect("a start");
        assert!(first.sequence >> SECONDS >= clock::wall_seconds() - 5);
        let second = start("edge1", &folder).expect("a start");
        assert!(second.sequence > first.sequence);
        assert_eq!(second.node, first.node);
        // A clock that is far behind now.
        keep_sequence(&folder, 1 << 31).expect("writable");
        let third = start("edge2", &folder).expect("a start");
        assert_eq!(third.sequence >> SECONDS, (1 << 31) + 2);
        assert_ne!(third.node, first.node);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
