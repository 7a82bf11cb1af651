//! A flow of UDP: a client's address and port, and the socket that leads to its backend.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::Addr;
use tokio::task::AbortHandle;

use super::socket::{Connected, Origin};
use crate::api::{Connection, RecordQuery};
use crate::engine::event::Failure;
use crate::engine::proxy::{self, wheel::Tick};
use crate::io::proxy::conn::TICK;
use crate::io::proxy::shared::{Place, Served, Source};
use crate::io::proxy::worker::Common;

/// Longest first datagram of a flow that is kept until something else is heard of it.
const KEPT: usize = 4096;

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: u64,
    pub(super) origin: Origin,
    pub(super) started: Moment,
    /// The access list denies its client, which has to be content with the server for abuse.
    pub(super) denied: Cell<bool>,
    /// As its backend was chosen by, or has been found again in.
    pub(super) served: RefCell<Arc<Served>>,
    /// Place of its backend; none at the server for abuse.
    pub(super) place: Cell<Option<usize>>,
    /// Its backend is no more: what comes next needs another one.
    pub(super) stale: Cell<bool>,
    /// When it was last asked whether it may leave the server for emergencies.
    pub(super) looked: Cell<Tick>,
    /// Backends that refused since one last answered.
    pub(super) tried: RefCell<Vec<usize>>,
    /// All backends that refused.
    pub(super) retries: Cell<usize>,
    /// Bytes from the client, and to it.
    pub(super) up: Cell<u64>,
    pub(super) down: Cell<u64>,
    /// How many of these its earlier backends have moved.
    credited: Cell<(u64, u64)>,
    /// Its first datagram, as long as it is the only one: a refusal means that nobody has got it.
    first: RefCell<Option<Box<[u8]>>>,
    begun: Cell<bool>,
    /// The server had the last word.
    answered: Cell<bool>,
    held: RefCell<Option<Held>>,
    /// The way to its backend.
    way: RefCell<Option<Way>>,
}

/// Room for a flow, in its service and in the process; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    common: Arc<Common>,
    served: Arc<Served>,
}

impl Room {
    /// Takes it, if there is some.
    pub(super) fn take(common: &Arc<Common>, served: &Arc<Served>) -> Option<Self> {
        if !served.state.gate.try_enter() {
            return None;
        }
        if !common.flows.try_enter() {
            served.state.gate.leave();
            return None;
        }
        Some(Self { common: Arc::clone(common), served: Arc::clone(served) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.common.flows.leave();
        self.served.state.gate.leave();
    }
}

/// What it gives back when it ends.
#[derive(Debug)]
struct Held {
    seat: Option<Place>,
    _source: Option<Source>,
    _room: Room,
}

#[derive(Debug)]
struct Way {
    socket: Rc<Connected>,
    /// The task that waits for what the backend says.
    listening: AbortHandle,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Flow {
    pub(super) fn new(
        id: u64,
        origin: Origin,
        now: Moment,
        served: Arc<Served>,
        source: Option<Source>,
        room: Room,
    ) -> Self {
        Self {
            id,
            origin,
            started: now,
            denied: Cell::new(false),
            served: RefCell::new(served),
            place: Cell::new(None),
            stale: Cell::new(false),
            looked: Cell::new(0),
            tried: RefCell::default(),
            retries: Cell::new(0),
            up: Cell::new(0),
            down: Cell::new(0),
            credited: Cell::default(),
            first: RefCell::new(None),
            begun: Cell::new(false),
            answered: Cell::new(false),
            held: RefCell::new(Some(Held { seat: None, _source: source, _room: room })),
            way: RefCell::new(None),
        }
    }

    /// The socket to its backend.
    pub(super) fn socket(&self) -> Option<Rc<Connected>> {
        self.way.borrow().as_ref().map(|way| Rc::clone(&way.socket))
    }

    /// It has this backend from now on. The earlier one's is seen to be given back before.
    pub(super) fn seat(&self, place: Option<usize>, seat: Option<Place>) {
        self.place.set(place);
        if let Some(held) = &mut *self.held.borrow_mut() {
            held.seat = seat;
        }
    }

    /// And this way to it.
    pub(super) fn lead(&self, socket: Rc<Connected>, listening: AbortHandle) {
        *self.way.borrow_mut() = Some(Way { socket, listening });
        self.stale.set(false);
    }

    /// Leaves its backend, which is credited with what it has moved.
    pub(super) fn leave(&self) {
        *self.way.borrow_mut() = None;
        let Some(held) = &mut *self.held.borrow_mut() else { return };
        let before = self.credited.replace((self.up.get(), self.down.get()));
        if let Some(seat) = held.seat.take() {
            seat.backend.bytes_up.fetch_add(self.up.get() - before.0, Relaxed);
            seat.backend.bytes_down.fetch_add(self.down.get() - before.1, Relaxed);
        }
    }

    /// The service has changed. Who refused the flow did so all the same, and may be the very change.
    pub(super) fn follow(&self, served: &Arc<Served>) {
        let was = self.served.replace(Arc::clone(served));
        let identity = |backend: &proxy::Backend| (backend.id, backend.generation);
        let now = |place: &usize| {
            let refused = identity(&was.service.backends[*place]);
            served.service.backends.iter().position(|found| identity(found) == refused)
        };
        let tried = self.tried.borrow().iter().filter_map(now).collect();
        self.tried.replace(tried);
    }

    /// Its backend could not be reached.
    pub(super) fn blame(&self) {
        let is_seated = matches!(&*self.held.borrow(), Some(Held { seat: Some(_), .. }));
        if let Some(place) = self.place.get().filter(|_| is_seated) {
            self.served.borrow().failed(place, Failure::Refused, None);
        }
        self.retries.set(self.retries.get() + 1);
        self.tried.borrow_mut().extend(self.place.get());
    }

    /// Gives all back. False if it had ended already.
    pub(super) fn end(&self) -> bool {
        self.leave();
        self.held.take().is_some()
    }

    /// A datagram was sent to its backend.
    pub(super) fn sent(&self, datagram: &[u8]) {
        self.up.set(self.up.get() + datagram.len() as u64);
        self.answered.set(false);
        let first = !self.begun.replace(true);
        if first && datagram.len() <= KEPT {
            *self.first.borrow_mut() = Some(datagram.into());
        } else if !first {
            *self.first.borrow_mut() = None;
        }
    }

    /// A datagram came from its backend, which therefore is there.
    pub(super) fn heard(&self, length: usize) {
        self.down.set(self.down.get() + length as u64);
        self.answered.set(true);
        *self.first.borrow_mut() = None;
        self.tried.borrow_mut().clear();
    }

    /// The first datagram, if nobody can have got it.
    pub(super) fn unheard(&self) -> Option<Box<[u8]>> {
        self.first.borrow().clone()
    }

    /// What the operator sees of it, of which something came at tick `seen`.
    pub(super) fn describe(&self, seen: Tick, tick: Tick, now: Moment) -> Connection {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ticks = u32::try_from(tick.saturating_sub(seen)).unwrap_or(u32::MAX);
        let served = self.served.borrow();
        let backend = self.place.get().map(|place| &served.service.backends[place]);
        Connection {
            id: self.id,
            protocol: "udp".to_owned(),
            service: served.service.name.clone(),
            client: self.origin.client.into(),
            backend: backend.map(|backend| backend.name.clone()),
            address: backend.map(|backend| backend.address.clone()),
            state: "open".to_owned(),
            age_ms: millis(now.since(self.started)),
            idle_ms: millis(TICK.saturating_mul(ticks)),
            bytes_up: self.up.get(),
            bytes_down: self.down.get(),
        }
    }

    /// Whether the operator asks for it.
    pub(super) fn fits(&self, wanted: &RecordQuery) -> bool {
        let served = self.served.borrow();
        let service = &served.service;
        let backend = self.place.get().map(|place| &service.backends[place].name);
        wanted.service.as_ref().is_none_or(|name| *name == service.name)
            && wanted.backend.as_ref().is_none_or(|name| Some(name) == backend)
            && wanted.client.is_none_or(|network| network.contains(&self.client()))
    }

    /// A datagram of its client has been sent to some backend.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Nothing was asked on it since the server spoke last.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Address of its client.
    pub(super) fn client(&self) -> Addr {
        Addr::from(self.origin.client.ip().to_canonical())
    }
}
