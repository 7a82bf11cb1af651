//! What the threads of the proxy share: places at backends, that are never given twice, what services
//! remember of their clients, and counters. Outlives any one [`View`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use pen_common::abi::ServiceKey;
use pen_common::hash::Secret;
use pen_common::moment::Moment;
use pen_common::net::Addr;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::blame::Teller;
use super::tls;
use crate::engine::event::Event;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::choose::{Load, State};
use crate::engine::proxy::clients::Clients;
use crate::engine::proxy::transparent;
use crate::engine::proxy::turns::Turns;
use crate::engine::proxy::{Service, View};
use crate::io::clock;

/// For so long it is told that a server does not answer clients' addresses.
const UNHEARD: Duration = Duration::from_secs(60);
/// Who was called and found nothing looks again after this time.
const AGAIN: Duration = Duration::from_millis(10);

/// A thread that panics holds none of these locks for longer than a simple change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service at one time, with what outlives that time.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) service: Arc<Service>,
    pub(super) secret: Secret,
    pub(super) state: Arc<ServiceState>,
    /// In the order of [`Service::backends`].
    pub(super) backends: Vec<Arc<BackendState>>,
}

/// What outlives a view of a service.
#[derive(Debug)]
pub(super) struct ServiceState {
    /// One lock for each choice, of some hundred nanoseconds. Exact memory and turns are worth it.
    memory: Mutex<State>,
    sources: Mutex<HashMap<Addr, u32>>,
    waiting: Mutex<Waiting>,
    waiters: AtomicUsize,
    pub(super) tls: tls::State,
    pub(super) gate: Gate,
    /// By cause.
    ends: Vec<AtomicU64>,
    /// Connections that were accepted.
    pub(super) accepted: AtomicU64,
    /// Tries that failed, after which another backend was asked.
    pub(super) redispatched: AtomicU64,
    /// Connections and flows of a transparent service that come from our own address all the same.
    pub(super) not_transparent: AtomicU64,
}

/// What outlives a view of a backend.
#[derive(Debug, Default)]
pub(super) struct BackendState {
    connections: AtomicU32,
    /// A moment in nanoseconds.
    ejected_until: AtomicU64,
    /// Connections in a row that it reset before it had sent anything.
    pub(super) resets: AtomicU32,
    /// Tells the engine of it.
    pub(super) teller: OnceLock<Teller>,
    pub(super) total: AtomicU64,
    pub(super) failures: AtomicU64,
    /// Bytes to the backend.
    pub(super) bytes_up: AtomicU64,
    /// Bytes from it.
    pub(super) bytes_down: AtomicU64,
    /// A moment in nanoseconds: until then it is told that answers to clients' addresses are missed.
    unheard_until: AtomicU64,
    /// A moment in nanoseconds: until then it is not told again that TLS failed with it.
    mistrusted_until: AtomicU64,
    /// The client whose address it did not answer last, hashed; 0 if it has answered one since.
    unheard_by: AtomicU64,
}

// === BackendState ===

impl BackendState {
    /// Takes a place, if that leaves no more than `limit` taken.
    fn take(&self, limit: Option<u32>) -> bool {
        let limit = limit.unwrap_or(u32::MAX);
        let more = |taken: u32| (taken < limit).then(|| taken + 1);
        self.connections.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Connections now, with those that are being made.
    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// It gets nothing new for this time. True if that is news.
    pub(super) fn eject(&self, now: Moment, time: Duration) -> bool {
        let until = |until: u64| (until <= now.0).then(|| (now + time).0);
        self.ejected_until.fetch_update(Relaxed, Relaxed, until).is_ok()
    }

    /// It did not answer a client's address. True if that is news.
    fn miss(&self, now: Moment) -> bool {
        self.unheard_until.swap((now + UNHEARD).0, Relaxed) <= now.0
    }

    /// It did not answer this client's address. True if it did not answer another one's before
    /// either, and nobody's in between: then it is not up to the client.
    fn misses_others(&self, client: IpAddr) -> bool {
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        let client = hasher.finish().max(1);
        ![0, client].contains(&self.unheard_by.swap(client, Relaxed))
    }

    /// TLS was not agreed upon with it. True if that is to be told.
    pub(super) fn mistrust(&self, now: Moment) -> bool {
        let until = self.mistrusted_until.load(Relaxed);
        until <= now.0 && {
            self.mistrusted_until.store((now + UNHEARD).0, Relaxed);
            true
        }
    }

    /// It has answered the address of a client.
    fn heard(&self) {
        // Nearly always it is known, and then nothing is written that other threads read.
        if self.unheard_by.load(Relaxed) != 0 {
            self.unheard_by.store(0, Relaxed);
        }
    }

    /// Whether it lately did not answer the address of a client.
    pub(super) fn is_missed(&self, now: Moment) -> bool {
        self.unheard_until.load(Relaxed) > now.0
    }

    /// Whether it is ejected, and until when.
    pub(super) fn ejected(&self, now: Moment) -> Option<Moment> {
        let until = Moment(self.ejected_until.load(Relaxed));
        (until > now).then_some(until)
    }
}

/// A place at a backend; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) backend: Arc<BackendState>,
    service: Arc<ServiceState>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.connections.fetch_sub(1, Relaxed);
        self.service.call_next();
    }
}

// === Served ===

/// The load as choices see it.
pub(super) struct LoadNow<'a> {
    served: &'a Served,
    now: Moment,
}

impl Load for LoadNow<'_> {
    fn connections(&self, place: usize) -> u32 {
        self.served.backends[place].connections()
    }

    fn is_ejected(&self, place: usize) -> bool {
        self.served.backends[place].ejected(self.now).is_some()
    }
}

impl Served {
    /// The client's address, if connections to this server are to come from there.
    pub(super) fn source(&self, client: IpAddr, server: IpAddr) -> Option<IpAddr> {
        if !self.service.proxy.transparent {
            return None;
        }
        let source = transparent::source(client, server);
        if source.is_none() {
            self.state.not_transparent.fetch_add(1, Relaxed);
        }
        source
    }

    /// A server has answered the address of a client.
    pub(super) fn heard(&self, place: usize) {
        self.backends[place].heard();
    }

    /// A server did not answer the address of a client in time. True if it answers nobody's, as far
    /// as is known: to a client in the server's own network it answers past this node.
    pub(super) fn unheard(&self, place: usize, client: IpAddr) -> bool {
        if self.backends[place].miss(clock::now()) {
            tracing::warn!("{} (asked from {client})", self.missed(place));
        }
        self.backends[place].misses_others(client)
    }

    /// What the operator should look after if a server does not answer addresses of clients.
    pub(super) fn missed(&self, place: usize) -> String {
        let (service, server) = (&self.service.name, &self.service.backends[place].address);
        format!(
            "service {service}: {server} does not answer connections from the addresses of clients: \
             see that the server's route to clients leads through this node"
        )
    }

    /// The load at this time.
    pub(super) const fn load(&self, now: Moment) -> LoadNow<'_> {
        LoadNow { served: self, now }
    }

    /// Takes a place at a backend, if one is free.
    pub(super) fn take(&self, place: usize, known: bool) -> Option<Place> {
        let backend = &self.backends[place];
        let limit = self.service.backends[place].limit(known);
        backend.take(limit).then(|| {
            backend.total.fetch_add(1, Relaxed);
            Place { backend: Arc::clone(backend), service: Arc::clone(&self.state) }
        })
    }
}

// === ServiceState ===

impl ServiceState {
    fn new(clients: usize) -> Self {
        let state = State { clients: Clients::new(clients), turns: Turns::default() };
        Self {
            memory: Mutex::new(state),
            sources: Mutex::default(),
            waiting: Mutex::default(),
            waiters: AtomicUsize::new(0),
            tls: tls::State::default(),
            gate: Gate::default(),
            ends: Cause::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            accepted: AtomicU64::new(0),
            redispatched: AtomicU64::new(0),
            not_transparent: AtomicU64::new(0),
        }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, State> {
        lock(&self.memory)
    }

    /// A connection ended.
    pub(super) fn count(&self, cause: Cause) {
        self.ends[cause as usize].fetch_add(1, Relaxed);
    }

    /// Connections that ended in this way.
    pub(super) fn ended(&self, cause: Cause) -> u64 {
        self.ends[cause as usize].load(Relaxed)
    }

    /// Counts a source's connection in, if that leaves no more than `limit`.
    pub(super) fn admit(self: &Arc<Self>, source: Addr, limit: u32) -> Option<Source> {
        let mut sources = lock(&self.sources);
        let count = sources.entry(source).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Source { source, service: Arc::clone(self) })
    }

    /// A turn in the queue, unless `length` wait already.
    pub(super) fn queue(&self, length: u32) -> Option<Turn<'_>> {
        let mut waiting = lock(&self.waiting);
        if waiting.turns.len() >= length as usize {
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        let (call, called) = oneshot::channel();
        waiting.turns.push_back((number, Some(call)));
        self.waiters.store(waiting.turns.len(), Relaxed);
        Some(Turn { service: self, number, called: Some(called) })
    }

    /// Connections that wait for a place.
    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Relaxed)
    }

    /// A place is free: whoever has waited for longest may look.
    pub(super) fn call_next(&self) {
        if self.waiters() == 0 {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if let Some((_, call)) = waiting.turns.front_mut()
            && let Some(call) = call.take()
        {
            // It looks again by itself if it does not hear this.
            let _ = call.send(());
        }
    }
}

/// Those that wait for a place, in their order.
#[derive(Debug, Default)]
struct Waiting {
    turns: VecDeque<(u64, Option<oneshot::Sender<()>>)>,
    last: u64,
}

/// A connection's turn; it leaves the queue when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    service: &'a ServiceState,
    number: u64,
    called: Option<oneshot::Receiver<()>>,
}

impl Turn<'_> {
    /// Waits to be called, but not for ever: an ejected backend comes back without a word. True if
    /// it is the first one's turn to look for a place.
    pub(super) async fn wait(&mut self, limit: Duration) -> bool {
        match self.called.take() {
            Some(mut called) => {
                if timeout(limit, &mut called).await.is_err() {
                    self.called = Some(called);
                }
            }
            None => sleep(limit.min(AGAIN)).await,
        }
        let waiting = lock(&self.service.waiting);
        waiting.turns.front().is_some_and(|(number, _)| *number == self.number)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.service.waiting);
        waiting.turns.retain(|(number, _)| *number != self.number);
        self.service.waiters.store(waiting.turns.len(), Relaxed);
        drop(waiting);
        // There may be more places than one.
        self.service.call_next();
    }
}

/// A source's connection; counted out when dropped.
#[derive(Debug)]
pub(super) struct Source {
    source: Addr,
    service: Arc<ServiceState>,
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut sources = lock(&self.service.sources);
        if let Entry::Occupied(mut entry) = sources.entry(self.source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

// === Gate ===

/// Lets so many in at a time; the others wait.
#[derive(Debug)]
pub(super) struct Gate {
    inside: AtomicU32,
    limit: AtomicU32,
    freed: Notify,
}

impl Default for Gate {
    fn default() -> Self {
        Self { inside: AtomicU32::new(0), limit: AtomicU32::new(u32::MAX), freed: Notify::new() }
    }
}

impl Gate {
    /// Changes how many may be inside. Nobody is thrown out.
    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
        self.freed.notify_one();
    }

    /// How many are inside.
    pub(super) fn inside(&self) -> u32 {
        self.inside.load(Relaxed)
    }

    /// Takes room, if there is some.
    pub(super) fn try_enter(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        let more = |inside: u32| (inside < limit).then(|| inside + 1);
        self.inside.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Waits until there is room, and takes it.
    pub(super) async fn enter(&self) {
        while !self.try_enter() {
            self.freed.notified().await;
        }
        // Several that left at once may have left but one word.
        if self.inside() < self.limit.load(Relaxed) {
            self.freed.notify_one();
        }
    }

    /// Leaves.
    pub(super) fn leave(&self) {
        self.inside.fetch_sub(1, Relaxed);
        self.freed.notify_one();
    }
}

// === Registry ===

/// All that outlives views, by what the engine knows it by.
#[derive(Debug, Default)]
pub(super) struct Registry {
    services: HashMap<ServiceKey, Arc<ServiceState>>,
    backends: HashMap<(ServiceKey, u32, u32), Arc<BackendState>>,
}

impl Registry {
    /// The services of a view, with what was there of them before.
    /// The engine is told by `events` of those that fail.
    pub(super) fn serve(
        &mut self,
        view: &View,
        events: Option<&mpsc::Sender<Event>>,
    ) -> Vec<Arc<Served>> {
        let mut before = std::mem::take(self);
        let serve = |service: &Arc<Service>| {
            let key = service.key;
            let state = before.services.remove(&key);
            let state = state.unwrap_or_else(|| Arc::new(ServiceState::new(view.clients)));
            state.gate.set_limit(service.proxy.max_connections.unwrap_or(u32::MAX));
            let exists = |id| service.backends.iter().any(|backend| backend.id == id);
            state.memory().turns.retain(exists);
            let backends = service.backends.iter().map(|backend| {
                let key = (key, backend.id, backend.generation);
                let state = before.backends.remove(&key).unwrap_or_default();
                if let Some(events) = events {
                    let (backend, generation) = (backend.id, backend.generation);
                    let teller = || Teller { events: events.clone(), backend, generation };
                    state.teller.get_or_init(teller);
                }
                self.backends.insert(key, Arc::clone(&state));
                state
            });
            let backends = backends.collect();
            self.services.insert(key, Arc::clone(&state));
            // Perhaps there are more places than before.
            state.call_next();
            let service = Arc::clone(service);
            Arc::new(Served { service, secret: view.secret, state, backends })
        };
        view.services.iter().map(serve).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_limit_holds_exactly_whoever_comes_at_once() {
        let backend = BackendState::default();
        let taken = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        taken.fetch_add(u32::from(backend.take(Some(10))), Relaxed);
                    }
                });
            }
        });
        assert_eq!((taken.into_inner(), backend.connections()), (10, 10));
        assert!(backend.take(None));
    }

    #[test]
    fn a_place_that_is_given_back_calls_who_waits_longest() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            const SHORT: Duration = Duration::from_millis(1);
            const LONG: Duration = Duration::from_secs(10);
            let state = Arc::new(ServiceState::new(1));
            let mut first = state.queue(3).expect("room");
            let mut second = state.queue(3).expect("room");
            let third = state.queue(3).expect("room");
            assert!(state.queue(3).is_none() && state.waiters() == 3);
            assert!(first.wait(SHORT).await && !second.wait(SHORT).await, "nobody is called yet");
            let backend = Arc::new(BackendState::default());
            assert!(backend.take(None));
            drop(Place { backend: Arc::clone(&backend), service: Arc::clone(&state) });
            assert!(first.wait(LONG).await, "called");
            // Who gives up or is served calls the next one.
            drop(third);
            drop(first);
            assert!(second.wait(LONG).await);
            drop(second);
            assert_eq!((state.waiters(), backend.connections()), (0, 0));
        });
    }

    #[test]
    fn a_source_may_have_so_many_at_a_time_and_others_are_not_concerned() {
        let state = Arc::new(ServiceState::new(1));
        let (one, other) = (Addr::v4([192, 0, 2, 1]), Addr::v4([192, 0, 2, 2]));
        let held: Vec<Source> = (0..3).filter_map(|_| state.admit(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(state.admit(other, 2).is_some());
        drop(held);
        assert!(state.admit(one, 2).is_some());
        assert!(lock(&state.sources).is_empty(), "nothing is kept of those that left");
    }

    #[test]
    fn a_server_that_does_not_answer_one_client_may_answer_others() {
        let backend = BackendState::default();
        let [one, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        assert!(!backend.misses_others(one) && !backend.misses_others(one));
        assert!(backend.misses_others(other) && backend.misses_others(one));
        backend.heard();
        assert!(!backend.misses_others(other) && backend.misses_others(one));
    }

    #[test]
    fn ejection_ends_by_itself() {
        let backend = BackendState::default();
        let now = Moment(1_000);
        let until = now + Duration::from_secs(1);
        assert!(backend.eject(now, Duration::from_secs(1)));
        assert!(!backend.eject(now, Duration::from_secs(9)), "it is ejected");
        assert_eq!((backend.ejected(now), backend.ejected(until)), (Some(until), None));
    }

    #[test]
    fn a_gate_lets_in_as_many_as_leave() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let gate = Arc::new(Gate::default());
            gate.set_limit(2);
            gate.enter().await;
            gate.enter().await;
            let waits = |gate: &Arc<Gate>| {
                let gate = Arc::clone(gate);
                tokio::spawn(async move { gate.enter().await })
            };
            let (third, fourth) = (waits(&gate), waits(&gate));
            tokio::task::yield_now().await;
            assert!(!third.is_finished() && !fourth.is_finished());
            // Both at once, before anybody looks.
            gate.leave();
            gate.leave();
            third.await.expect("enters");
            fourth.await.expect("enters");
            assert_eq!(gate.inside(), 2);
        });
    }
}
