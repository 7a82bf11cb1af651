//! Carries out what `engine::carp` decides: hears and sends the packets of CARP, writes the roles that
//! the XDP program obeys, gives interfaces their addresses, and runs the operator's programs.
//!
//! ```text
//!  daemon ──Command──> thread `carp` ──────> packet sockets, CARP map
//!         <──Event────   (owns `Carp`) ────> rtnetlink (links, addresses)
//!                                      ────> thread `carp-hooks` (programs)
//! ```
//!
//! All of it is in a thread of its own that runs before ordinary ones: whatever keeps the daemon busy,
//! advertisements go out in time, and so do leases. Nothing in it waits for a file, a program or the
//! daemon; both channels are bounded, and what does not fit is left out.

mod addresses;
mod driver;
mod filter;
mod hooks;
mod hosts;
mod links;
mod priority;
mod routed;
mod saying;
mod socket;
mod taken;
mod telling;

use std::collections::BTreeMap;
use std::io;
use std::thread;

use pen_common::abi;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use self::driver::Driver;
use crate::api::carp::CarpWish;
use crate::api::{Refusal, Reply};
use crate::engine::carp::Start;
use crate::engine::event::{Event, Group};

/// Commands that may wait.
const QUEUE: usize = 1024;

/// Writes an entry of the map `CARP`.
pub type RoleWriter = Box<dyn FnMut(u32, abi::Group) -> Result<(), String> + Send>;

/// What the thread is told.
#[derive(Debug)]
pub enum Command {
    /// These are the groups from now on.
    Configure(Vec<Group>),
    /// Whether this node can serve the addresses of a group.
    Usable {
        /// Index of the group.
        group: u32,
        /// Or why not.
        result: Result<(), String>,
    },
    /// Something that a group depends on failed or works again.
    Demote {
        /// Index of the group.
        group: u32,
        /// What it is, for people.
        reason: String,
        /// Its weight; 0: it works again.
        weight: u16,
    },
    /// Somebody wants to know or to have something.
    Ask(Question, oneshot::Sender<Result<Reply, Refusal>>),
    /// Hand everything over, then end.
    Stop,
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// All groups as they are.
    Show,
    /// An operator's order.
    Order(CarpWish),
}

/// What the thread starts with.
pub struct Beginning {
    /// For `Carp`.
    pub start: Start,
    /// Writes roles.
    pub writer: RoleWriter,
    /// What the map `CARP` holds, from a daemon before this one.
    pub adopted: BTreeMap<u32, abi::Group>,
    /// Marks addresses that it adds to interfaces (`IFA_PROTO`), so that the next daemon of this place
    /// finds those that have no group any more; 0 is no mark.
    pub mark: u8,
    /// Where news go.
    pub events: mpsc::Sender<Event>,
}

/// The thread. Dropping it ends the thread as well, but leaves roles, leases and addresses as they
/// are, for the next daemon.
#[derive(Debug)]
pub struct Thread {
    commands: mpsc::Sender<Command>,
    /// Closes at its end.
    ended: mpsc::Receiver<()>,
}

impl Thread {
    /// Starts it, without groups.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(beginning: Beginning) -> io::Result<Self> {
        let (commands, wanted) = mpsc::channel(QUEUE);
        // Never sent to.
        let (running, ended) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("carp".to_owned()).spawn(move || {
            runtime.block_on(async {
                match Driver::new(beginning).await {
                    Ok(driver) => driver.run(wanted).await,
                    Err(error) => tracing::error!("CARP does not run: {error}"),
                }
            });
            drop(running);
        })?;
        Ok(Self { commands, ended })
    }

    /// Tells it something. False if it has ended, or does not follow.
    pub fn tell(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// The same; what it does not follow with is given back.
    ///
    /// # Errors
    ///
    /// If there is no room now. A thread that has ended is told nothing.
    pub fn try_tell(&self, command: Command) -> Result<(), Box<Command>> {
        match self.commands.try_send(command) {
            Err(TrySendError::Full(command)) => Err(Box::new(command)),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self) {
        let _ = self.ended.recv().await;
    }

    /// Ends it and leaves everything as it is; waits until it writes nothing any more.
    pub async fn leave(self) {
        let Self { commands, mut ended } = self;
        drop(commands);
        let _ = ended.recv().await;
    }
}
