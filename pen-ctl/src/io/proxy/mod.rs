//! The userspace proxy: a thread for each core, each with listeners of its own on the same addresses.
//! What is served is a [`View`] that the engine makes; threads take it over between two connections,
//! and connections that exist go on by the one that they began with.

mod ask;
mod assume;
mod blame;
mod conn;
mod establish;
mod heir;
mod linger;
mod listen;
mod log;
mod pipe;
mod preface;
mod relay;
mod report;
mod responder;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod udp;
mod unix;
mod worker;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use nix::sys::resource::{Resource, getrlimit};
use pen_common::abi::ServiceKey;
use tokio::sync::{mpsc, watch};

pub use self::ask::Asker;
pub use self::heir::{Estate, Heir};
use self::log::Writer;
pub use self::report::Traffic;
use self::responder::Responder;
use self::shared::{BackendState, Registry, Served};
use self::stream::Ear;
use self::worker::{Common, Ears, Orders, Question};
use crate::api;
use crate::config::{self, Endpoint};
use crate::engine::event::Event;
use crate::engine::proxy::transparent::Answers;
use crate::engine::proxy::{Service, View};
use crate::io::clock;

/// Descriptors for everything but connections: maps, probes, penctl, log.
const RESERVE: u64 = 256;
/// Questions of the operator that a thread may not have answered yet.
const QUESTIONS: usize = 8;

/// All proxies of this process. Dropping it ends their threads and connections.
#[derive(Debug)]
pub struct Proxies {
    threads: Vec<JoinHandle<()>>,
    orders: Option<watch::Sender<Arc<Orders>>>,
    common: Arc<Common>,
    registry: Registry,
    served: Vec<Arc<Served>>,
    /// Servers that were not gone yet when they were last served, and may have connections.
    departed: Vec<(Answers, Weak<BackendState>)>,
    sockets: HashMap<ServiceKey, Sockets>,
    datagrams: udp::Sockets,
    count: usize,
    most: Most,
    /// What was taken over, until it is known what is needed.
    estate: Estate,
    /// No new clients come any more.
    retired: bool,
    questions: Vec<mpsc::Sender<Question>>,
    writer: Option<Writer>,
    responder: Responder,
    certificates: Arc<Mutex<tls::Store>>,
    watch: Option<tls::Watch>,
    events: Option<mpsc::Sender<Event>>,
}

/// How many there may be at a time, of all services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Most {
    connections: u32,
    flows: u32,
}

/// Sockets of a service, one for each thread.
#[derive(Debug)]
struct Sockets {
    at: Endpoint,
    foreign: bool,
    listeners: Arc<Vec<Ear>>,
    /// The file of a Unix socket.
    file: Option<unix::Bound>,
}

impl Sockets {
    /// Those of a service, for so many threads, or those that were left of it.
    fn of(service: &Service, count: usize, estate: &mut Estate) -> io::Result<Self> {
        let (at, foreign) = (service.listen.clone(), service.virtual_address);
        let (listeners, file) = match (&at, &service.proxy.socket) {
            (Endpoint::Unix(_), Some(file)) => {
                let (file, listeners) = unix::listen(file, count, estate)?;
                (listeners.into_iter().map(Ear::Unix).collect(), Some(file))
            }
            // A Unix socket always says what its file is like.
            (at, _) => {
                let listeners = listen::listen(at.key(), foreign, count, estate)?;
                (listeners.into_iter().map(Ear::Tcp).collect(), None)
            }
        };
        Ok(Self { at, foreign, listeners: Arc::new(listeners), file })
    }

    /// Gives the file of a Unix socket what the configuration now wants of it.
    fn follow(&mut self, service: &Service) -> io::Result<()> {
        match (&mut self.file, &service.proxy.socket) {
            (Some(bound), Some(file)) if bound.file() != Some(file) => bound.follow(file),
            _ => Ok(()),
        }
    }

    /// What an heir needs: of a Unix socket all threads have the same.
    fn for_heir(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let count = match &self.file {
            Some(bound) if bound.is_there() => 1,
            // Somebody has put another file there.
            Some(_) => 0,
            None => self.listeners.len(),
        };
        self.listeners.iter().take(count).map(AsFd::as_fd)
    }
}

impl Default for Proxies {
    fn default() -> Self {
        Self {
            threads: Vec::new(),
            orders: None,
            common: Arc::default(),
            registry: Registry::default(),
            served: Vec::new(),
            departed: Vec::new(),
            sockets: HashMap::new(),
            datagrams: udp::Sockets::default(),
            questions: Vec::new(),
            writer: None,
            responder: Responder::default(),
            certificates: Arc::default(),
            watch: None,
            events: None,
            most: Most::default(),
            estate: Estate::default(),
            retired: false,
            count: thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

impl Proxies {
    /// Goes on with what another daemon has left. What happens to certificates is told to the engine by
    /// these events.
    #[must_use]
    pub fn with(estate: Estate, events: mpsc::Sender<Event>) -> Self {
        let mut proxies = Self::default();
        // One thread for each socket: the kernel has given each its clients already.
        proxies.count = proxies.count.max(estate.threads());
        proxies.estate = estate;
        proxies.events = Some(events);
        proxies
    }

    /// Serves these services and no others. Returns the names of those whose sockets are not to be
    /// had, and why not; the others are served.
    pub fn serve(&mut self, view: &View) -> Vec<(String, String)> {
        // What is not needed now never will be: nobody may wait in sockets that nobody accepts from.
        let mut estate = std::mem::take(&mut self.estate);
        self.responder.follow(view.responder.as_ref().filter(|_| !self.retired));
        if self.retired || view.services.is_empty() && self.threads.is_empty() {
            return Vec::new();
        }
        let mut failures = Vec::new();
        let mut before = std::mem::take(&mut self.sockets);
        for service in view.services.iter().filter(|service| !service.is_udp()) {
            let (at, foreign) = (&service.listen, service.virtual_address);
            let kept = before.remove(&service.key);
            let kept = kept.filter(|kept| (&kept.at, kept.foreign) == (at, foreign));
            let mut fails = |error| failures.push((service.name.clone(), format!("{at}: {error}")));
            let sockets = match kept {
                Some(mut kept) => {
                    kept.follow(service).unwrap_or_else(&mut fails);
                    kept
                }
                None => match Sockets::of(service, self.count, &mut estate) {
                    Ok(sockets) => sockets,
                    Err(error) => {
                        fails(error);
                        continue;
                    }
                },
            };
            self.sockets.insert(service.key, sockets);
        }
        self.datagrams.follow(view, self.count, &mut estate, &mut failures);
        self.set_limits();
        let before =
            std::mem::replace(&mut self.served, self.registry.serve(view, self.events.as_ref()));
        self.departed.extend(before.iter().flat_map(connected));
        let present: HashSet<_> =
            self.served.iter().flat_map(connected).map(|(_, state)| state.as_ptr()).collect();
        self.departed.retain(|(_, state)| is_busy(state) && !present.contains(&state.as_ptr()));
        failures.extend(self.store().follow(&self.served, false));
        self.watch_certificates(&mut failures);
        let none = Arc::new(Vec::new());
        let of_tcp = self.served.iter().filter(|served| !served.service.is_udp());
        let services = of_tcp.map(|served| {
            let sockets = self.sockets.get(&served.service.key);
            let listeners = sockets.map_or(&none, |sockets| &sockets.listeners);
            (Arc::clone(served), Arc::clone(listeners))
        });
        let services = services.collect();
        let udp = self.served.iter().filter_map(|served| {
            Some((Arc::clone(served), self.datagrams.of(&served.service.key)?))
        });
        let udp = udp.collect();
        self.follow_log(view, &mut failures);
        let log = self.writer.as_ref().map(|writer| Arc::clone(&writer.log));
        let orders = Arc::new(Orders { services, udp, log, retired: false });
        match &self.orders {
            Some(sender) => drop(sender.send_replace(orders)),
            None => self.start(orders, &mut failures),
        }
        failures
    }

    /// Certificates may have been renewed in their files. Returns the names of the services whose files
    /// are not good, and why not: those go on with what they have.
    pub fn renew_certificates(&mut self) -> Vec<(String, String)> {
        self.store().follow(&self.served, true)
    }

    /// The certificates in service.
    #[must_use]
    pub fn certificates(&self) -> Vec<api::Certificate> {
        self.store().list(i64::try_from(clock::wall_seconds()).unwrap_or(i64::MAX))
    }

    fn store(&self) -> MutexGuard<'_, tls::Store> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has their files looked at, if there are any.
    fn watch_certificates(&mut self, failures: &mut Vec<(String, String)>) {
        let Some(events) = &self.events else { return };
        let with_files = |proxy: &config::Proxy| proxy.tls.is_some() || proxy.backend_tls.is_some();
        let any = self.served.iter().any(|served| with_files(&served.service.proxy));
        if !any || self.watch.is_some() {
            return;
        }
        match tls::Watch::start(Arc::clone(&self.certificates), events.clone()) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => failures.push(("certificates".to_owned(), error.to_string())),
        }
    }

    /// Leaves the sockets that clients connect to to the daemon that is about to take the place of the
    /// one behind this control socket; false if there is none.
    ///
    /// # Errors
    ///
    /// If they cannot be sent.
    pub fn leave_to_heir(&self, control: &Path) -> io::Result<bool> {
        let listeners = self.sockets.values().flat_map(Sockets::for_heir);
        let sockets: Vec<_> = listeners.chain(self.datagrams.all()).collect();
        heir::leave(control, &sockets)
    }

    /// Takes no more clients. Connections go on until they end, or this is dropped; flows of UDP only
    /// if an heir has their sockets: what their clients send is his, what servers send reaches them.
    pub fn retire(&mut self, has_heir: bool) {
        self.retired = true;
        self.responder.follow(None);
        let Some(orders) = &self.orders else { return };
        let before = Arc::clone(&orders.borrow());
        let udp = if has_heir { before.udp.clone() } else { Vec::new() };
        let log = before.log.clone();
        orders.send_replace(Arc::new(Orders { services: Vec::new(), udp, log, retired: true }));
        for sockets in self.sockets.drain().map(|(_, sockets)| sockets) {
            if let Some(bound) = sockets.file.filter(|_| has_heir) {
                bound.leave();
            }
        }
        self.datagrams = udp::Sockets::default();
    }

    /// Connections and flows that there are.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.common.open()
    }

    /// After [`Self::retire`]: whether all have ended, also those that were accepted last.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.common.is_over()
    }

    /// Writes where the view wants it. What is written elsewhere is written to the end.
    fn follow_log(&mut self, view: &View, failures: &mut Vec<(String, String)>) {
        if self.writer.as_ref().map(|writer| &writer.config) == view.access_log.as_ref() {
            return;
        }
        self.writer = None;
        let Some(config) = &view.access_log else { return };
        match Writer::start(config) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => {
                let file = config.file.display();
                failures.push(("access log".to_owned(), format!("{file}: {error}")));
            }
        }
    }

    /// The file of the access log was moved away.
    pub fn reopen_log(&self) {
        if let Some(writer) = &self.writer {
            writer.log.reopen();
        }
    }

    /// Servers that connections have which come from the addresses of their clients.
    #[must_use]
    pub fn answering(&self) -> BTreeSet<Answers> {
        let now = self.served.iter().flat_map(connected);
        let all = now.chain(self.departed.iter().cloned());
        all.filter_map(|(answers, state)| is_busy(&state).then_some(answers)).collect()
    }

    /// What the operator should look after.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let now = clock::now();
        let of_service = |served: &Arc<Served>| {
            let backends = served.backends.iter().enumerate();
            let missed = backends.filter(|(_, backend)| backend.is_missed(now));
            missed.map(|(place, _)| served.missed(place)).collect::<Vec<_>>()
        };
        let missed = self.served.iter().flat_map(of_service);
        missed.chain(self.responder.warnings()).collect()
    }

    /// Whoever wants to ask the threads something.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { questions: self.questions.clone() }
    }

    fn start(&mut self, orders: Arc<Orders>, failures: &mut Vec<(String, String)>) {
        let (sender, receiver) = watch::channel(orders);
        for index in 0..self.count {
            let common = Arc::clone(&self.common);
            let (ask, questions) = mpsc::channel(QUESTIONS);
            let ears = Ears { orders: receiver.clone(), questions };
            self.questions.push(ask);
            let thread = thread::Builder::new().name(format!("proxy-{index}"));
            match thread.spawn(move || worker::run(index, common, ears)) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => failures.push((format!("thread {index}"), error.to_string())),
            }
        }
        self.orders = Some(sender);
    }

    fn set_limits(&mut self) {
        let most = self.most();
        if most == self.most {
            return;
        }
        self.most = most;
        let Most { connections, flows } = most;
        self.common.gate.set_limit(connections);
        self.common.flows.set_limit(flows);
        let flows = if flows == 0 { String::new() } else { format!(", {flows} flows of UDP") };
        let count = self.count;
        tracing::info!(
            "proxy: {count} threads, at most {connections} connections at a time{flows}"
        );
    }

    /// Connections and flows for which there are descriptors: two for each connection, one for each
    /// flow, beside those for pipes, for the sockets that listen, and for the rest of the daemon.
    fn most(&self) -> Most {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let pipes = 2 * pipe::MOST * self.count;
        let listeners = 2 * self.count * (self.sockets.len() + 2 * self.datagrams.len());
        let others = RESERVE + u64::try_from(pipes + listeners).unwrap_or(u64::MAX);
        // With few descriptors at all, half of them.
        let free = limit.saturating_sub(others).max(limit / 2);
        let share = |parts: u64| u32::try_from(free / parts).unwrap_or(u32::MAX);
        match self.datagrams.len() {
            0 => Most { connections: share(2), flows: 0 },
            _ => Most { connections: share(3), flows: share(3) },
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.watch = None;
        // Without a sender the threads end.
        self.orders = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Nobody writes any more: what there is is written to the end.
        self.served.clear();
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
    }
}

/// The servers of a transparent service, each with what shows whether it has connections.
fn connected(served: &Arc<Served>) -> impl Iterator<Item = (Answers, Weak<BackendState>)> {
    let service = &served.service;
    let backends = service.backends.iter().zip(&served.backends);
    let backends = backends.filter(|_| service.proxy.transparent);
    backends.filter_map(|(backend, state)| {
        let answers = Answers { server: backend.address.inet()?, udp: service.is_udp() };
        Some((answers, Arc::downgrade(state)))
    })
}

fn is_busy(state: &Weak<BackendState>) -> bool {
    state.upgrade().is_some_and(|state| state.connections() > 0)
}
