//! What a thread has of one service of UDP: the socket that clients send to, and their flows. Begins
//! flows, carries datagrams both ways, and moves flows away from backends that are no more.

use std::cell::{Ref, RefCell};
use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pen_common::net::Be16;
use tokio::io::Interest;
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tokio::time::sleep;

use super::flow::{Flow, Room};
use super::socket::{self, Connected, Listener, Origin, Replier, Trouble, trouble};
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::choose::{Choice, Client, choose};
use crate::engine::proxy::flow::{Fate, Flows, fate};
use crate::engine::proxy::wheel::Tick;
use crate::io::clock;
use crate::io::proxy::conn::ticks;
use crate::io::proxy::establish::{Taken, draw, take};
use crate::io::proxy::log::Line;
use crate::io::proxy::shared::Served;
use crate::io::proxy::worker::Worker;

/// Datagrams of one socket after which others have their turn.
const BATCH: u32 = 32;
/// After an error that will not go away by itself.
const PAUSE: Duration = Duration::from_millis(5);
/// A flow that was silent for so long gives way to a new one, if there are as many as there may be.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// And one whose server had the last word: most are a question and its answer.
const ANSWERED_GIVES_WAY: Duration = Duration::from_millis(200);
/// So many of the oldest flows are looked at for such a one.
const LOOKED_AT: usize = 16;
/// A flow at the server for emergencies is not asked more often whether it may leave.
const LOOK: Duration = Duration::from_secs(1);

/// A service of UDP on one thread.
#[derive(Debug)]
pub(super) struct Station {
    worker: Rc<Worker>,
    served: RefCell<Arc<Served>>,
    /// What its own socket is one of.
    sockets: Arc<Vec<UdpSocket>>,
    replier: Replier,
    flows: RefCell<Flows<Origin, Rc<Flow>>>,
    receiving: RefCell<Option<AbortHandle>>,
}

impl Station {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// If this machine has no descriptors for it.
    pub(super) fn open(
        worker: &Rc<Worker>,
        served: &Arc<Served>,
        sockets: &Arc<Vec<UdpSocket>>,
        index: usize,
    ) -> io::Result<Rc<Self>> {
        let own = sockets.get(index).ok_or(io::ErrorKind::NotFound)?;
        let listener = Listener::new(own.try_clone()?)?;
        let station = Rc::new(Self {
            worker: Rc::clone(worker),
            served: RefCell::new(Arc::clone(served)),
            sockets: Arc::clone(sockets),
            replier: listener.replier()?,
            flows: RefCell::default(),
            receiving: RefCell::new(None),
        });
        let receiving = spawn_local(receive(Rc::clone(&station), listener));
        *station.receiving.borrow_mut() = Some(receiving.abort_handle());
        Ok(station)
    }

    /// Whether its socket is one of these.
    pub(super) fn is_on(&self, sockets: &Arc<Vec<UdpSocket>>) -> bool {
        Arc::ptr_eq(&self.sockets, sockets)
    }

    /// The service has changed.
    pub(super) fn follow(self: &Rc<Self>, served: &Arc<Served>) {
        *self.served.borrow_mut() = Arc::clone(served);
        for flow in self.all() {
            let Some(place) = flow.place.get() else { continue };
            let was = Arc::clone(&flow.served.borrow());
            match fate(&was.service.backends[place], Some(&served.service.backends)) {
                Fate::Stays(place) => {
                    flow.place.set(Some(place));
                    flow.follow(served);
                }
                // Not now: many may have to, and those that have ended in truth need not.
                Fate::Moves => flow.stale.set(true),
                Fate::Ends => self.end(&flow, Cause::Killed),
            }
        }
    }

    /// Leaves what clients send to others.
    pub(super) fn stop_receiving(&self) {
        if let Some(receiving) = self.receiving.take() {
            receiving.abort();
        }
    }

    /// The service is no more.
    pub(super) fn close(&self) {
        self.stop_receiving();
        for flow in self.all() {
            self.end(&flow, Cause::Killed);
        }
    }

    /// The flows.
    pub(super) fn flows(&self) -> Ref<'_, Flows<Origin, Rc<Flow>>> {
        self.flows.borrow()
    }

    fn all(&self) -> Vec<Rc<Flow>> {
        self.flows.borrow().iter().map(|(flow, _)| Rc::clone(flow)).collect()
    }

    /// Ends the flows that have been silent for their time.
    pub(super) fn expire(&self, now: Tick) {
        let patience = ticks(self.served.borrow().service.proxy.timeouts.udp);
        let Some(since) = now.checked_sub(patience) else { return };
        while let Some(flow) = self.silent(since) {
            self.end(&flow, Cause::FlowIdle);
        }
    }

    /// The flow that has been silent for longest, if nothing came since this tick.
    fn silent(&self, since: Tick) -> Option<Rc<Flow>> {
        self.flows.borrow().oldest(since).cloned()
    }

    /// Ends a flow, unless it has ended.
    pub(super) fn end(&self, flow: &Rc<Flow>, cause: Cause) {
        if !flow.end() {
            return;
        }
        self.flows.borrow_mut().remove(&flow.origin);
        let served = Arc::clone(&flow.served.borrow());
        served.state.count(cause);
        // Who got nothing leaves no line: anybody can send datagrams in any name.
        if !flow.has_begun() {
            return;
        }
        self.worker.write(|| Line {
            ended: clock::wall(),
            id: flow.id,
            client: flow.origin.client.into(),
            place: flow.place.get(),
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            total: clock::now().since(flow.started),
            up: flow.up.get(),
            down: flow.down.get(),
            cause,
            retries: flow.retries.get(),
            served,
        });
    }

    /// A datagram from a client.
    fn carry(self: &Rc<Self>, datagram: &[u8], from: Origin) {
        let now = self.worker.now();
        let known = self.flows.borrow_mut().touch(&from, now).cloned();
        let flow = match known {
            Some(flow) if !self.is_to_move(&flow, now) => Ok(flow),
            Some(flow) => self.lead(&flow).map(|()| flow),
            None => self.begin(from, now),
        };
        // Nobody can have it: the flow has ended, or has not begun.
        let Ok(flow) = flow else { return };
        while let Some(socket) = flow.socket() {
            match socket.get_ref().send(datagram) {
                Ok(_) => return flow.sent(datagram),
                Err(error) if trouble(&error) == Trouble::Server => {
                    if self.failed(&flow).is_err() {
                        return;
                    }
                }
                Err(_) => return self.worker.lose_datagram(),
            }
        }
    }

    /// A datagram to a client.
    fn answer(&self, flow: &Flow, datagram: &[u8]) {
        self.flows.borrow_mut().touch(&flow.origin, self.worker.now());
        match self.replier.reply(datagram, &flow.origin) {
            Ok(()) => flow.heard(datagram.len()),
            Err(_) => self.worker.lose_datagram(),
        }
    }

    /// A flow of a client that has none, at a backend.
    fn begin(self: &Rc<Self>, origin: Origin, now: Tick) -> Result<Rc<Flow>, Cause> {
        let served = Arc::clone(&self.served.borrow());
        self.admit(&served, origin).inspect_err(|cause| served.state.count(*cause)).and_then(
            |flow| {
                self.flows.borrow_mut().insert(origin, Rc::clone(&flow), now);
                served.state.accepted.fetch_add(1, Relaxed);
                self.lead(&flow).map(|()| flow)
            },
        )
    }

    /// A flow, if its client may have one.
    fn admit(&self, served: &Arc<Served>, origin: Origin) -> Result<Rc<Flow>, Cause> {
        let service = &served.service;
        let client = pen_common::net::Addr::from(origin.client.ip().to_canonical());
        if service.vip_access.as_ref().is_some_and(|access| access.denies(&client)) {
            return Err(Cause::Denied);
        }
        let denied = service.access.as_ref().is_some_and(|access| access.denies(&client));
        if denied && service.proxy.abuse.is_none() {
            return Err(Cause::Denied);
        }
        let source = match service.proxy.max_per_source.filter(|_| !denied) {
            Some(limit) => Some(served.state.admit(client, limit).ok_or(Cause::SourceLimit)?),
            None => None,
        };
        let room = self.room(served).ok_or(Cause::FlowLimit)?;
        let id = self.worker.next_id();
        let flow = Flow::new(id, origin, clock::now(), Arc::clone(served), source, room);
        flow.denied.set(denied);
        Ok(Rc::new(flow))
    }

    /// Room for one more flow; a silent one of this thread gives way if there is none.
    fn room(&self, served: &Arc<Served>) -> Option<Room> {
        let common = &self.worker.common;
        if let Some(room) = Room::take(common, served) {
            return Some(room);
        }
        self.end(&self.dispensable()?, Cause::FlowDisplaced);
        Room::take(common, served)
    }

    /// The flow that is missed least if it ends.
    fn dispensable(&self) -> Option<Rc<Flow>> {
        let now = self.worker.now();
        let since = |time| now.checked_sub(ticks(time));
        if let Some(silent) = since(GIVES_WAY).and_then(|since| self.silent(since)) {
            return Some(silent);
        }
        let since = since(ANSWERED_GIVES_WAY)?;
        let flows = self.flows.borrow();
        let mut old = flows.oldest_first().take(LOOKED_AT).take_while(|(_, seen)| *seen <= since);
        old.find(|(flow, _)| flow.is_answered()).map(|(flow, _)| Rc::clone(flow))
    }

    /// Whether what comes next on a flow has to go to another backend.
    fn is_to_move(&self, flow: &Flow, now: Tick) -> bool {
        if flow.stale.get() {
            return true;
        }
        let served = flow.served.borrow();
        let backends = &served.service.backends;
        let Some(place) = flow.place.get().filter(|place| backends[*place].emergency) else {
            return false;
        };
        if now < flow.looked.get() + ticks(LOOK) {
            return false;
        }
        flow.looked.set(now);
        let (time, client) = (clock::now(), client(flow, &[]));
        let mut memory = served.state.memory();
        let (service, load) = (&served.service, served.load(time));
        let choice = choose(service, served.secret, &client, &mut memory, &load, time);
        matches!(choice, Choice::Take { place: better, .. }
            if better != place && !backends[better].emergency)
    }

    /// A backend that refuses is left alone for a time, and the flow goes to another one.
    fn failed(self: &Rc<Self>, flow: &Rc<Flow>) -> Result<(), Cause> {
        let served = Arc::clone(&flow.served.borrow());
        flow.blame();
        served.state.redispatched.fetch_add(1, Relaxed);
        let unheard = flow.unheard();
        if flow.denied.get() {
            self.end(flow, Cause::ConnectFailed);
            return Err(Cause::ConnectFailed);
        }
        self.lead(flow)?;
        if let Some((datagram, socket)) = unheard.zip(flow.socket()) {
            // If this is lost as well, it is as a datagram may be.
            let _ = socket.get_ref().send(&datagram);
        }
        Ok(())
    }

    /// Leads a flow to a backend that has not refused it, or ends it.
    fn lead(self: &Rc<Self>, flow: &Rc<Flow>) -> Result<(), Cause> {
        flow.leave();
        let served = Arc::clone(&self.served.borrow());
        if !Arc::ptr_eq(&served, &*flow.served.borrow()) {
            flow.follow(&served);
        }
        flow.looked.set(self.worker.now());
        let found = match &served.service.proxy.abuse {
            Some(abuse) if flow.denied.get() => {
                let address = abuse.endpoint().key();
                socket::connect(address, served.source(flow.origin.client.ip(), address.ip()))
                    .map_err(|error| self.cause(&error))
            }
            _ => self.find(flow, &served),
        };
        match found {
            Ok(socket) => {
                let socket = Rc::new(socket);
                let listening = hear(Rc::clone(self), Rc::clone(flow), Rc::clone(&socket));
                flow.lead(socket, spawn_local(listening).abort_handle());
                Ok(())
            }
            Err(cause) => {
                self.end(flow, cause);
                Err(cause)
            }
        }
    }

    /// A backend, and a socket that leads there.
    fn find(&self, flow: &Flow, served: &Arc<Served>) -> Result<Connected, Cause> {
        loop {
            let now = clock::now();
            let tried = flow.tried.borrow().clone();
            flow.seat(None, None);
            let place = match take(served, &client(flow, &tried), now) {
                Taken::Seat(place, seat) => {
                    flow.seat(Some(place), Some(seat));
                    place
                }
                Taken::Full => return Err(Cause::Full),
                Taken::None if flow.retries.get() == 0 => return Err(Cause::NoBackend),
                Taken::None => return Err(Cause::ConnectFailed),
            };
            let server = served.service.backends[place].address.key();
            let source = served.source(flow.origin.client.ip(), server.ip());
            match socket::connect(server, source) {
                Ok(socket) => return Ok(socket),
                // This machine knows no way there.
                Err(error) if trouble(&error) == Trouble::Server => {
                    flow.blame();
                    served.state.redispatched.fetch_add(1, Relaxed);
                }
                Err(error) => return Err(self.cause(&error)),
            }
        }
    }

    /// Why a flow cannot be had, if it is not for its backend.
    fn cause(&self, error: &io::Error) -> Cause {
        if trouble(error) == Trouble::Server {
            return Cause::ConnectFailed;
        }
        self.worker.starve();
        Cause::Local
    }
}

fn client<'a>(flow: &Flow, tried: &'a [usize]) -> Client<'a> {
    let port = Be16::new(flow.origin.client.port());
    Client { address: Some(flow.client()), port, barred: &[], tried, draw: draw() }
}

/// Receives what clients send. Whatever goes wrong, it goes on, and never in circles.
async fn receive(station: Rc<Station>, mut listener: Listener) {
    loop {
        listener.readable().await;
        if !receive_some(&station, &mut listener) {
            station.worker.starve();
            sleep(PAUSE).await;
        }
        yield_now().await;
    }
}

/// Receives what is there, if it is not too much. False if that fails.
fn receive_some(station: &Rc<Station>, listener: &mut Listener) -> bool {
    let mut buffer = station.worker.buffer.borrow_mut();
    for _ in 0..BATCH {
        match listener.receive(&mut buffer) {
            Ok((length, from)) => station.carry(&buffer[..length], from),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Waits for what a flow's backend says, until that refuses or has to be left.
async fn hear(station: Rc<Station>, flow: Rc<Flow>, socket: Rc<Connected>) {
    loop {
        let Ok(mut ready) = socket.ready(Interest::READABLE | Interest::ERROR).await else {
            return;
        };
        for _ in 0..BATCH {
            let mut buffer = station.worker.buffer.borrow_mut();
            // Not `socket.try_io`: tokio's knows no two interests at a time.
            match ready.try_io(|socket| socket.get_ref().recv(&mut buffer)) {
                Ok(Ok(length)) => station.answer(&flow, &buffer[..length]),
                Ok(Err(error)) if trouble(&error) == Trouble::Server => {
                    // It has another socket now, and another one of these; or it has ended.
                    let _ = station.failed(&flow);
                    return;
                }
                // Reading it has cleared it.
                Ok(Err(_)) => station.worker.lose_datagram(),
                Err(_would_block) => break,
            }
        }
        drop(ready);
        yield_now().await;
    }
}
