//! The connections of a thread: what is known of each, and the wheel that finds those that have been
//! silent for too long. A connection notes its activity with a store; only the wheel, which comes by
//! once per deadline, compares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::Addr;

use super::shared::Served;
use crate::api::{Connection, RecordQuery};
use crate::config::Endpoint;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::relay::{Progress, patience};
use crate::engine::proxy::wheel::{Tick, Wheel};
use crate::io::clock;

/// How exact timeouts are.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A connection that lives for so long gets the settings that short ones do without.
const SETTLED: Tick = 100;

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) served: Arc<Served>,
    /// Its client; of a Unix socket, where clients have no address, the socket itself.
    pub(super) client: Endpoint,
    pub(super) started: Moment,
    /// When it had a place at a backend.
    pub(super) placed: Cell<Option<Moment>>,
    /// When it was connected.
    pub(super) connected: Cell<Option<Moment>>,
    /// Backends that were asked in vain.
    pub(super) retries: Cell<u16>,
    /// Place of its backend.
    pub(super) place: Cell<Option<usize>>,
    /// Bytes from the client.
    pub(super) up: Cell<u64>,
    /// Bytes to the client.
    pub(super) down: Cell<u64>,
    progress: Cell<Progress>,
    active: Cell<Tick>,
    /// When the wheel comes by: no later than its patience ends.
    due: Cell<Tick>,
    errand: Cell<Option<Errand>>,
    waker: RefCell<Option<Waker>>,
    settled: Cell<bool>,
}

/// What a connection is to do when it is woken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// To end.
    End(Cause),
    /// To have the server's side watched for a silent death.
    KeepAlive,
}

impl Conn {
    /// What the operator sees of it at this tick and moment.
    pub(super) fn describe(&self, tick: Tick, now: Moment) -> Connection {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ticks = u32::try_from(tick.saturating_sub(self.active.get())).unwrap_or(u32::MAX);
        let service = &self.served.service;
        let backend = self.place.get().map(|place| &service.backends[place]);
        let state = match (self.connected.get(), self.progress.get().half_closed) {
            (None, _) => "connecting",
            (Some(_), false) => "open",
            (Some(_), true) => "half-closed",
        };
        Connection {
            id: self.id,
            protocol: "tcp".to_owned(),
            service: service.name.clone(),
            client: self.client.clone(),
            backend: backend.map(|backend| backend.name.clone()),
            address: backend.map(|backend| backend.address.clone()),
            state: state.to_owned(),
            age_ms: millis(now.since(self.started)),
            idle_ms: millis(TICK.saturating_mul(ticks)),
            bytes_up: self.up.get(),
            bytes_down: self.down.get(),
        }
    }

    /// Its client's address; none at a Unix socket.
    pub(super) fn address(&self) -> Option<Addr> {
        self.client.inet().map(|client| Addr::from(client.ip().to_canonical()))
    }

    /// Whether the operator asks for it.
    pub(super) fn fits(&self, wanted: &RecordQuery) -> bool {
        let service = &self.served.service;
        let backend = self.place.get().map(|place| &service.backends[place].name);
        let client = self.address();
        wanted.service.as_ref().is_none_or(|name| *name == service.name)
            && wanted.backend.as_ref().is_none_or(|name| Some(name) == backend)
            && wanted
                .client
                .is_none_or(|network| client.is_some_and(|client| network.contains(&client)))
    }

    /// What it is to do, once.
    pub(super) fn errand(&self) -> Option<Errand> {
        self.errand.take()
    }

    /// It is waited for by this task.
    pub(super) fn wake_by(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if known.is_none() {
            *known = Some(waker.clone());
        }
    }

    fn send(&self, errand: Errand) {
        self.errand.set(Some(errand));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn patience(&self) -> (Tick, Cause) {
        let (time, cause) = patience(self.progress.get(), &self.served.service.proxy.timeouts);
        (ticks(time), cause)
    }
}

/// Ticks that are no less than this time.
pub(super) fn ticks(time: Duration) -> Tick {
    // One more: the tick that it is may be over in a moment.
    let ticks = time.as_nanos().div_ceil(TICK.as_nanos()) + 1;
    Tick::try_from(ticks).unwrap_or(Tick::MAX / 2)
}

/// The connections of a thread.
#[derive(Debug)]
pub(super) struct Conns {
    /// The tick that it is.
    now: Cell<Tick>,
    all: RefCell<Vec<Option<Rc<Conn>>>>,
    free: RefCell<Vec<usize>>,
    wheel: RefCell<Wheel<(usize, u64)>>,
}

impl Conns {
    pub(super) fn new() -> Self {
        Self {
            now: Cell::new(0),
            all: RefCell::default(),
            free: RefCell::default(),
            wheel: RefCell::new(Wheel::new(0)),
        }
    }

    /// A new one.
    pub(super) fn open(self: &Rc<Self>, id: u64, served: Arc<Served>, client: Endpoint) -> Entry {
        let conn = Rc::new(Conn {
            id,
            served,
            client,
            started: clock::now(),
            placed: Cell::new(None),
            connected: Cell::new(None),
            retries: Cell::new(0),
            place: Cell::new(None),
            up: Cell::new(0),
            down: Cell::new(0),
            progress: Cell::default(),
            active: Cell::new(self.now.get()),
            due: Cell::new(Tick::MAX),
            errand: Cell::new(None),
            waker: RefCell::new(None),
            settled: Cell::new(false),
        });
        let mut all = self.all.borrow_mut();
        let at = self.free.borrow_mut().pop().unwrap_or_else(|| {
            all.push(None);
            all.len() - 1
        });
        all[at] = Some(Rc::clone(&conn));
        Entry { conn, at, conns: Rc::clone(self) }
    }

    /// Something happened on a connection that changes for how long it may be silent.
    fn enter(&self, at: usize, conn: &Conn) {
        let (patience, _) = conn.patience();
        let mut due = conn.active.get() + patience;
        if !conn.settled.get() {
            due = due.min(conn.active.get() + SETTLED);
        }
        if conn.due.get() <= due {
            // The wheel comes by in time as it is.
            return;
        }
        conn.due.set(due);
        self.wheel.borrow_mut().enter(due, (at, conn.id));
    }

    /// Time goes on to this tick.
    pub(super) fn turn(&self, now: Tick) {
        self.now.set(now);
        let due = self.wheel.borrow_mut().turn(now);
        for (at, id) in due {
            let conn = match &self.all.borrow()[at] {
                Some(conn) if conn.id == id => Rc::clone(conn),
                _ => continue,
            };
            if conn.due.get() > now {
                // It has been here since this was entered.
                continue;
            }
            conn.due.set(Tick::MAX);
            let (patience, cause) = conn.patience();
            if conn.active.get() + patience <= now {
                conn.send(Errand::End(cause));
                continue;
            }
            if !conn.settled.replace(true) {
                conn.send(Errand::KeepAlive);
            }
            self.enter(at, &conn);
        }
    }

    /// The tick that it is.
    pub(super) fn now(&self) -> Tick {
        self.now.get()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Rc<Conn>> {
        self.all.borrow().iter().flatten().cloned().collect()
    }

    /// Ends those that shall end.
    pub(super) fn end(&self, cause: Cause, wanted: impl Fn(&Conn) -> bool) -> usize {
        let ended: Vec<_> = self.all().into_iter().filter(|conn| wanted(conn)).collect();
        for conn in &ended {
            conn.send(Errand::End(cause));
        }
        ended.len()
    }
}

/// A connection among the others, until dropped.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) conn: Rc<Conn>,
    at: usize,
    conns: Rc<Conns>,
}

impl Entry {
    /// Something came, or went.
    pub(super) fn touch(&self) {
        self.conn.active.set(self.conns.now());
    }

    /// The two sides have got further.
    pub(super) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        let before = self.conn.progress.get();
        let mut progress = before;
        change(&mut progress);
        if progress != before {
            self.conn.progress.set(progress);
            self.watch();
        }
    }

    /// From now on it may not be silent for too long.
    pub(super) fn watch(&self) {
        self.touch();
        self.conns.enter(self.at, &self.conn);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.conns.all.borrow_mut()[self.at] = None;
        self.conns.free.borrow_mut().push(self.at);
    }
}
