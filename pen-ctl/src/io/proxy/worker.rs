//! A thread of the proxy: its own listeners, runtime, connections, buffer and pipes. Threads share
//! nothing but what `shared` holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use pen_common::abi::ServiceKey;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::conn::{Conn, Conns, TICK};
use super::establish::{self, Asker, Established, Reached, establish};
use super::linger::linger;
use super::log::{Line, Log};
use super::pipe::Pipes;
use super::preface::{self, Preface};
use super::relay::Relay;
use super::shared::{Gate, Place, Served, Source};
use super::stream::{Ear, Listener, Stream};
use super::tls::{self, End, Opening, Session, TlsRelay};
use super::udp::Udp;
use crate::api::{Close, Connection, RecordQuery};
use crate::config::Endpoint;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::fields;
use crate::engine::proxy::wheel::Tick;
use crate::io::clock;

/// Bytes that are read at once.
pub(super) const BUFFER: usize = 64 * 1024;
/// Connections that are accepted before those that exist have a turn.
const BATCH: u32 = 32;
/// After an error of accept that will not go away by itself: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

/// What all threads are to do.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The services, each with the sockets of all threads.
    pub(super) services: Vec<(Arc<Served>, Arc<Vec<Ear>>)>,
    /// Those of UDP.
    pub(super) udp: Vec<(Arc<Served>, Arc<Vec<UdpSocket>>)>,
    /// No new clients come.
    pub(super) retired: bool,
    /// Where it is said what became of connections.
    pub(super) log: Option<Arc<Log>>,
}

/// What the operator wants of a thread.
#[derive(Debug)]
pub(super) enum Question {
    /// The connections that fit, at most so many, and how many others do.
    List(RecordQuery, oneshot::Sender<(Vec<Connection>, u64)>),
    /// To close those that fit; how many there are.
    Close(Close, oneshot::Sender<u64>),
}

/// What a thread listens to.
pub(super) struct Ears {
    pub(super) orders: watch::Receiver<Arc<Orders>>,
    pub(super) questions: mpsc::Receiver<Question>,
}

/// What all threads have in common, for the whole time.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// Connections of all services.
    pub(super) gate: Gate,
    /// Flows of all services. Apart, since anybody can begin flows in any name, and connections are not
    /// to wait for those.
    pub(super) flows: Gate,
    /// Tasks that accept: each may have a client that is not behind the gate yet.
    accepting: AtomicU32,
    /// Numbers of connections.
    pub(super) last_id: AtomicU64,
    /// Times that accept failed for want of descriptors or memory.
    pub(super) starved: AtomicU64,
    /// Datagrams that were not passed on.
    pub(super) lost: AtomicU64,
}

/// What a thread's connections share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) buffer: RefCell<Box<[u8]>>,
    pub(super) pipes: RefCell<Pipes>,
    pub(super) tls: tls::Shared,
    conns: Rc<Conns>,
    udp: Udp,
    pub(super) common: Arc<Common>,
    log: RefCell<Option<Arc<Log>>>,
}

/// A service that is listened for.
struct Listening {
    served: Rc<RefCell<Arc<Served>>>,
    /// Dropping it ends accepting, when the client is served that was accepted last.
    _accepting: oneshot::Sender<()>,
}

/// A task that accepts, until dropped.
struct Accepting(Arc<Common>);

impl Accepting {
    fn new(common: &Arc<Common>) -> Self {
        common.accepting.fetch_add(1, Relaxed);
        Self(Arc::clone(common))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // Whoever sees that it is gone sees also who it let in.
        self.0.accepting.fetch_sub(1, Release);
    }
}

impl Common {
    /// Nobody accepts any more, and there is neither a connection nor a flow.
    pub(super) fn is_over(&self) -> bool {
        self.accepting.load(Acquire) == 0 && self.open() == 0
    }

    /// Connections and flows.
    pub(super) fn open(&self) -> u32 {
        self.gate.inside() + self.flows.inside()
    }
}

/// Runs thread number `index` until there are no more orders.
pub(super) fn run(index: usize, common: Arc<Common>, ears: Ears) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("proxy {index}: {error}"),
    };
    let worker = Rc::new(Worker {
        buffer: RefCell::new(vec![0; BUFFER].into()),
        pipes: RefCell::default(),
        tls: tls::Shared::default(),
        conns: Rc::new(Conns::new()),
        udp: Udp::default(),
        common,
        log: RefCell::default(),
    });
    LocalSet::new().block_on(&runtime, worker.serve(index, ears));
}

impl Worker {
    async fn serve(self: Rc<Self>, index: usize, ears: Ears) {
        let Ears { mut orders, mut questions } = ears;
        let ticking = spawn_local(tick(Rc::clone(&self)));
        let mut listening = HashMap::new();
        loop {
            let now = Arc::clone(&orders.borrow_and_update());
            self.follow(index, &now, &mut listening);
            loop {
                tokio::select! {
                    changed = orders.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => {
                            // They hold this thread's things, which hold them.
                            self.udp.follow(&self, index, &[]);
                            return ticking.abort();
                        }
                    },
                    Some(question) = questions.recv() => self.answer(question),
                }
            }
        }
    }

    /// Whoever asked may have given up.
    fn answer(&self, question: Question) {
        match question {
            Question::List(wanted, answer) => {
                let (tick, now) = (self.conns.now(), clock::now());
                let mut fit = self.conns.all();
                fit.retain(|conn| conn.fits(&wanted));
                fit.sort_by_key(|conn| std::cmp::Reverse(conn.id));
                let more = fit.len().saturating_sub(wanted.limit) as u64;
                let shown = fit.iter().take(wanted.limit);
                let shown = shown.map(|conn| conn.describe(tick, now));
                let (flows, more_flows) = self.udp.list(&wanted, tick, now);
                let _ = answer.send((shown.chain(flows).collect(), more + more_flows));
            }
            Question::Close(wish, answer) => {
                let (id, wanted) = (wish.id, wish.query());
                let fits = |conn: &Conn| id.is_none_or(|id| id == conn.id) && conn.fits(&wanted);
                let count = match wish.dry_run {
                    true => self.conns.all().iter().filter(|conn| fits(conn)).count(),
                    false => self.conns.end(Cause::Killed, fits),
                };
                let _ = answer.send((count + self.udp.close(&wish)) as u64);
            }
        }
    }

    /// The tick that it is.
    pub(super) fn now(&self) -> Tick {
        self.conns.now()
    }

    /// The number of a new connection or flow.
    pub(super) fn next_id(&self) -> u64 {
        self.common.last_id.fetch_add(1, Relaxed) + 1
    }

    /// This machine lacked something.
    pub(super) fn starve(&self) {
        self.common.starved.fetch_add(1, Relaxed);
    }

    /// A datagram was not passed on.
    pub(super) fn lose_datagram(&self) {
        self.common.lost.fetch_add(1, Relaxed);
    }

    /// Writes a line to the access log, if there is one.
    pub(super) fn write(&self, line: impl FnOnce() -> Line) {
        if let Some(log) = &*self.log.borrow() {
            log.write(line());
        }
    }

    /// Says what became of a connection.
    fn tell(&self, conn: &Conn, cause: Cause) {
        let Some(log) = &*self.log.borrow() else { return };
        let now = clock::now();
        let placed = conn.placed.get().unwrap_or(now);
        log.write(Line {
            ended: clock::wall(),
            id: conn.id,
            client: conn.client.clone(),
            served: Arc::clone(&conn.served),
            place: conn.place.get(),
            queue: placed.since(conn.started),
            connect: conn.connected.get().map_or(Duration::ZERO, |at| at.since(placed)),
            total: now.since(conn.started),
            up: conn.up.get(),
            down: conn.down.get(),
            cause,
            retries: usize::from(conn.retries.get()),
        });
    }

    fn follow(
        self: &Rc<Self>,
        index: usize,
        orders: &Orders,
        listening: &mut HashMap<ServiceKey, Listening>,
    ) {
        self.log.borrow_mut().clone_from(&orders.log);
        let wanted =
            |key: &ServiceKey| orders.services.iter().any(|(served, _)| served.service.key == *key);
        listening.retain(|key, _| wanted(key));
        for (served, listeners) in &orders.services {
            let key = served.service.key;
            if let Some(found) = listening.get(&key) {
                *found.served.borrow_mut() = Arc::clone(served);
                continue;
            }
            if served.service.starting {
                continue;
            }
            match listeners.get(index).map(Ear::listen).transpose() {
                Ok(Some(listener)) => {
                    let served = Rc::new(RefCell::new(Arc::clone(served)));
                    let (sender, over) = oneshot::channel();
                    let accepting = Accepting::new(&self.common);
                    let task = accept(Rc::clone(self), listener, Rc::clone(&served), over);
                    spawn_local(async move {
                        task.await;
                        drop(accepting);
                    });
                    listening.insert(key, Listening { served, _accepting: sender });
                }
                // Its sockets could not be had.
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("service {}: proxy {index}: {error}", served.service.name);
                }
            }
        }
        match orders.retired && !orders.udp.is_empty() {
            true => self.udp.stop_receiving(),
            false => self.udp.follow(self, index, &orders.udp),
        }
        // A backend in maintenance has no connections.
        self.conns.end(Cause::Killed, |conn| {
            let Some(place) = conn.place.get() else { return false };
            let id = conn.served.service.backends[place].id;
            let now = orders.services.iter().map(|(served, _)| &served.service);
            let mut backends = now
                .filter(|service| service.key == conn.served.service.key)
                .flat_map(|service| &service.backends);
            backends.any(|backend| backend.id == id && backend.maintenance)
        });
    }
}

async fn tick(worker: Rc<Worker>) {
    let mut interval = interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Counted, not read from the clock: if this thread did not run for a while, what came meanwhile is
    // noted with the tick before, and nobody is to be closed for the silence of a machine.
    for now in 1.. {
        interval.tick().await;
        worker.conns.turn(now);
        worker.udp.turn(now);
    }
}

/// Accepts for a service. Whatever goes wrong, it goes on, and never in circles.
async fn accept(
    worker: Rc<Worker>,
    listener: Listener,
    served: Rc<RefCell<Arc<Served>>>,
    mut over: oneshot::Receiver<()>,
) {
    let mut pause = PAUSE[0];
    let mut last_said = None;
    for number in 1_u32.. {
        let accepted = tokio::select! {
            biased;
            _ = &mut over => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                pause = PAUSE[0];
                let served = Arc::clone(&served.borrow());
                // If there is no room, this one waits, and the kernel keeps the others.
                served.state.gate.enter().await;
                worker.common.gate.enter().await;
                served.state.accepted.fetch_add(1, Relaxed);
                let id = worker.next_id();
                spawn_local(handle(Rc::clone(&worker), served, id, client, peer));
            }
            // The client is gone already.
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                worker.common.starved.fetch_add(1, Relaxed);
                let now = clock::now();
                let silent = Duration::from_secs(1);
                if last_said.is_none_or(|said| now.since(said) >= silent) {
                    last_said = Some(now);
                    let name = served.borrow().service.name.clone();
                    tracing::warn!("service {name}: not accepting for a moment: {error}");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE[1]);
            }
        }
        if number % BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Errors of accept that concern one connection (accept(2), "Error handling").
fn is_of_the_client(error: &io::Error) -> bool {
    const CLIENT: [Errno; 9] = [
        Errno::ECONNABORTED,
        Errno::EPROTO,
        Errno::ENETDOWN,
        Errno::ENOPROTOOPT,
        Errno::EHOSTDOWN,
        Errno::ENONET,
        Errno::EHOSTUNREACH,
        Errno::EOPNOTSUPP,
        Errno::ENETUNREACH,
    ];
    error.raw_os_error().is_some_and(|number| CLIENT.contains(&Errno::from_raw(number)))
}

/// A place behind both gates.
struct Inside {
    common: Arc<Common>,
    served: Arc<Served>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.common.gate.leave();
        self.served.state.gate.leave();
    }
}

/// A connection that has its server, and what it holds for as long.
struct Serving {
    relay: Link,
    conn: Rc<Conn>,
    place: Option<Place>,
    source: Option<Source>,
    worker: Rc<Worker>,
    inside: Inside,
}

/// How its bytes are carried.
#[expect(clippy::large_enum_variant, reason = "plain ones are most, and need no box of their own")]
enum Link {
    Plain(Relay),
    Tls(Box<TlsRelay>),
}

impl Future for Link {
    type Output = Cause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Cause> {
        match self.get_mut() {
            Self::Plain(relay) => Pin::new(relay).poll(cx),
            Self::Tls(relay) => Pin::new(relay).poll(cx),
        }
    }
}

impl Link {
    /// The side that is cut off while it sends or has not got all; the other one is told the end.
    fn cut_off(&self) -> Option<&Stream> {
        match self {
            Self::Plain(relay) => relay.cut_off(),
            Self::Tls(relay) => relay.cut_off(),
        }
    }
}

/// One connection, from its acceptance to its end.
fn handle(
    worker: Rc<Worker>,
    served: Arc<Served>,
    id: u64,
    client: Stream,
    peer: Option<SocketAddr>,
) -> impl Future<Output = ()> {
    // Boxed, and made out here: what is needed until there is a server, arguments too, is not held
    // for as long as it serves.
    let beginning = Box::pin(begin(worker, served, id, client, peer));
    async move {
        let Some(mut serving) = beginning.await else { return };
        // By reference: a future that is awaited by value has two places, one to be moved from.
        let cause = (&mut serving.relay).await;
        if let Some(other) = serving.relay.cut_off() {
            Box::pin(linger(other)).await;
        }
        serving.end(cause);
    }
}

/// Finds a server for a connection. None if it ends before it has one.
async fn begin(
    worker: Rc<Worker>,
    served: Arc<Served>,
    id: u64,
    mut client: Stream,
    peer: Option<SocketAddr>,
) -> Option<Serving> {
    let inside = Inside { common: Arc::clone(&worker.common), served: Arc::clone(&served) };
    let mut preface = match preface::is_expected(&served.service) {
        false => Preface::of(peer),
        true => Box::pin(preface::read(&served.service, &client, peer)).await,
    };
    let source = preface.client.map_or_else(|| served.service.listen.clone(), Endpoint::Inet);
    let entry = worker.conns.open(id, Arc::clone(&served), source);
    let conn = Rc::clone(&entry.conn);
    let with_tls = served.service.proxy.tls.is_some() || served.service.routes.is_some();
    let opening = match preface.refused {
        None if with_tls && establish::is_shut_out(&conn) => Err(Cause::Denied),
        None if with_tls => {
            let sent = std::mem::take(&mut preface.said);
            let limit = served.service.proxy.timeouts.header;
            let deadline = preface.deadline.unwrap_or_else(|| Instant::now() + limit);
            let opening = tls::begin(&worker, &conn, &mut client, sent, deadline).await;
            opening.map(|mut opening| {
                preface.said = std::mem::take(&mut opening.said);
                preface.heard = preface.said.len() as u64;
                opening
            })
        }
        None => Ok(Opening::default()),
        Some(cause) => Err(cause),
    };
    let mut begin = Vec::new();
    let found = match opening {
        Ok(opening) => {
            begin = preface::introduction(&conn, &client, preface.asked).unwrap_or_default();
            if let Some(facts) = &opening.facts {
                fields::add(&mut begin, facts);
            }
            let asker = Asker {
                worker: &worker,
                conn: &conn,
                barred: opening.barred.as_deref().unwrap_or_default(),
                greeting: &begin,
                alpn: opening.session.as_ref().and_then(Session::alpn),
            };
            let established = establish(&asker).await;
            if let Err(cause) = established {
                preface::see_off(&served.service, &client, cause).await;
            }
            established.map(|established| (opening.session, established))
        }
        Err(cause) => Err(cause),
    };
    let (session, Established { server, place, source }) = match found {
        Ok(found) => found,
        Err(cause) => {
            served.state.count(cause);
            worker.tell(&conn, cause);
            return None;
        }
    };
    if server.session.is_some() {
        // It was told before TLS began.
        begin.clear();
    }
    if preface.heard > 0 {
        conn.up.set(preface.heard);
        entry.advance(|progress| progress.client_spoke = true);
        begin.extend(preface.said);
    }
    let Reached { stream: server, session: of_server } = server;
    let (of_server, said) = of_server.unzip();
    let relay = match (session, of_server) {
        (None, None) => {
            let mut relay = Relay::new(client, server, entry, Rc::clone(&worker), begin);
            relay.limit(preface.left);
            Link::Plain(relay)
        }
        (session, of_server) => {
            let server = End::new(server, of_server, said.unwrap_or_default());
            let ends = [End::new(client, session, begin), server];
            let relay = TlsRelay::new(ends, preface.left, entry, Rc::clone(&worker));
            Link::Tls(Box::new(relay))
        }
    };
    Some(Serving { relay, conn, place, source, worker, inside })
}

impl Serving {
    /// Closes it, frees its places, and says what became of it.
    fn end(self, cause: Cause) {
        let Self { relay, conn, place, source, worker, inside } = self;
        drop(relay);
        if let Some(place) = &place {
            place.backend.bytes_up.fetch_add(conn.up.get(), Relaxed);
            place.backend.bytes_down.fetch_add(conn.down.get(), Relaxed);
        }
        if let Some(at) = conn.place.get().filter(|_| place.is_some()) {
            conn.served.ended(at, cause, conn.down.get());
        }
        drop((place, source));
        conn.served.state.count(cause);
        worker.tell(&conn, cause);
        drop(inside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_little_more_than_its_sockets() {
        fn of<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = of(handle);
        assert!(size <= 384, "{size} bytes for each connection");
    }
}
