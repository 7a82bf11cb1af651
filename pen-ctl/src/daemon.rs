//! Connects the engine with the world: carries its actions out, feeds it with events, answers
//! `penctl`, and ends cleanly on a signal. The only place that knows both sides.

mod aside;
mod carp;
mod drain;
mod machine;
mod place;
mod reload;
mod reply;
mod signals;
mod sync;
pub mod ucarp;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use pen_common::hash::Secret;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::aside::{Answer, Aside};
use self::carp::Carp;
use self::machine::{raise_descriptor_limit, random_secret};
use self::place::Place;
use self::reload::{Outcome, Reader, Wish};
use self::signals::{EndSignals, Signals};
use self::sync::Sync;
use crate::api::{Reload, Reply, Request};
use crate::config::{Config, DRAIN_FOR_HEIR};
use crate::engine::Engine;
use crate::engine::draining::Kept;
use crate::engine::event::{Action, Attachment, Event};
use crate::engine::tables::Tables;
use crate::io::answers::Answering;
use crate::io::carp::Command;
use crate::io::control::server::{self, Call};
use crate::io::dataplane::{AttachError, Dataplane};
use crate::io::health::{Prober, Way};
use crate::io::names::Resolver;
use crate::io::netlink::Netlink;
use crate::io::notify::Notifier;
use crate::io::proxy::Proxies;
use crate::io::store::{self, Store};
use crate::io::{clock, privileges};
use crate::show;

/// Events that may wait for the loop. More than probes of all backends at once would need.
const EVENTS: usize = 8192;
/// Events that are taken at once: what follows from them is computed once.
const BATCH: usize = 512;
/// Requests that may wait for the loop.
const CALLS: usize = 64;
/// Answers that are under way at the end get this time.
const FAREWELL: Duration = Duration::from_secs(1);

/// At the end a handover may take so long: longer than any of them waits for another node.
const HANDOVER: Duration = Duration::from_secs(15);

/// Where things are kept that have to outlive a restart, unless another place is named.
pub const DEFAULT_STATE: &str = "/var/lib/pen";

/// Where maps and links are pinned unless another place is named.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/pen";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The configuration, for those who want it to be read again.
    pub config: PathBuf,
    /// Object file of the XDP program.
    pub object: PathBuf,
    /// Folder below which maps and links are pinned, on a bpffs.
    pub pins: PathBuf,
    /// Folder for what has to outlive a restart.
    pub state: PathBuf,
    /// Take over from a daemon that runs.
    pub replace: bool,
}

/// How the daemon ends.
enum End {
    /// Forwarding ends with it.
    Detach,
    /// The kernel goes on forwarding, for the next daemon.
    Leave,
    /// The same, and a service manager is to start that daemon.
    Fail(&'static str),
}

/// Runs until SIGTERM or SIGINT, then detaches; or until it is asked to leave.
///
/// # Errors
///
/// If something that is needed at the start is missing; nothing is left behind then that was not
/// there before.
pub async fn run(config: Config, places: Places) -> anyhow::Result<()> {
    privileges::check().map_err(|missing| anyhow!("{missing}"))?;
    raise_descriptor_limit();
    // Before anything is made, so that an end during the start is a clean one as well.
    let mut signals = Signals::new()?;
    let socket = config.control.socket.clone();
    let place = tokio::select! {
        placed = place::take(&socket, &places) => placed?,
        () = signals.end.recv() => return Ok(()),
    };
    serve(config, &places, place, signals).await
}

async fn serve(
    config: Config,
    places: &Places,
    place: Place,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let Place { lock, socket, estate } = place;
    let control = config.control.socket.clone();
    let dataplane = Dataplane::open_locked(&places.object, lock, config.node.sizes)?;
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let (adopted, secret, (netlink, mut news), mut known) =
        match look_around(&dataplane, &events).await {
            Ok(found) => found,
            Err(error) => {
                dataplane.abandon();
                return Err(error);
            }
        };
    let (groups, node) = (adopted.groups.clone(), config.node.name.clone());
    let sync = match Sync::start(&config, &dataplane, events.clone()) {
        Ok(sync) => sync,
        Err(error) => {
            dataplane.abandon();
            return Err(error);
        }
    };
    let carp = Carp::new(groups, events.clone(), node, places.state.clone());
    let named = store::load(&places.state, store::NAMES);
    let mut engine = Engine::knowing(config, adopted, secret, clock::now(), named);
    if dataplane.has_other_version() {
        tracing::warn!(
            "another version of pen forwards here. It goes on until all backends are known, and is \
             replaced then; what it remembers of flows and clients, and drains and weights that were \
             set at run time, do not last"
        );
        engine.attach_when_filled(clock::now());
    }
    let (reader, mut outcomes) = Reader::new(places.config.clone());
    let proxy_events = events.clone();
    let answers = Answering::new(events.clone());
    let mut daemon = Daemon {
        engine,
        dataplane,
        netlink,
        prober: Prober::new(events.clone()),
        notifier: Notifier::new(events.clone()),
        resolver: Resolver::new(events.clone(), places.state.clone()),
        deadlines: Store::new(places.state.clone(), store::DEADLINES),
        events,
        starting: true,
        failure: None,
        leaving: JoinSet::new(),
        aside: Aside::new(),
        reader,
        proxies: Proxies::with(estate, proxy_events),
        answers,
        carp,
        sync,
    };
    known.push(Event::DeadlinesKept(store::load(&places.state, store::DEADLINES)));
    daemon.handle_all(known);
    daemon.handle(Event::Started);
    daemon.starting = false;
    daemon.answers.begin();
    if let Some(failure) = daemon.failure.take() {
        daemon.answers.end();
        daemon.carp.leave().await;
        // Nothing works without its interface; an adopted attachment goes on forwarding.
        if !daemon.dataplane.has_adopted() {
            daemon.leave().await;
        }
        daemon.dataplane.abandon();
        return Err(anyhow!(failure));
    }
    daemon.carp.begin();
    let (calls, mut requests) = mpsc::channel(CALLS);
    let (ending, ended) = watch::channel(false);
    let mut server = tokio::spawn(server::serve(socket, calls, ended));
    tracing::info!("ready");
    let mut batch = Vec::new();
    let end = loop {
        tokio::select! {
            _ = inbox.recv_many(&mut batch, BATCH) => {
                if let Some(pause) = daemon.engine.gathers() {
                    clock::sleep_until(clock::now() + pause).await;
                    while batch.len() < BATCH && let Ok(event) = inbox.try_recv() {
                        batch.push(event);
                    }
                }
                daemon.handle_all(batch.drain(..));
            }
            Some(call) = requests.recv() => {
                let leaves = call.request == Request::Leave;
                daemon.answer(call);
                if leaves {
                    break End::Leave;
                }
            }
            Some(outcome) = outcomes.recv() => daemon.reload(outcome),
            () = clock::sleep_until(daemon.engine.next_deadline()) => {
                daemon.handle(Event::TimePassed);
            }
            _ = signals.user1.recv() => daemon.proxies.reopen_log(),
            _ = signals.hangup.recv() => {
                daemon.proxies.reopen_log();
                daemon.reader.begin(Wish { dry_run: false, answer: None });
            }
            () = daemon.carp.ended() => break End::Fail("the thread of CARP ended"),
            _ = &mut news => break End::Fail("the connection to rtnetlink ended"),
            () = signals.end.recv() => break End::Detach,
        }
    };
    // Whoever waits for an answer is told that there will be none.
    drop(requests);
    ending.send_replace(true);
    if timeout(FAREWELL, &mut server).await.is_err() {
        server.abort();
        let _ = server.await;
    }
    daemon.catch_up();
    // The socket is gone. Who wants to take this place waits for the lock on the pins, which the
    // data plane holds.
    match end {
        End::Detach => {
            daemon.hand_over(&mut inbox, &mut signals.end).await;
            daemon.drain(&mut inbox, &mut signals).await;
            tracing::info!("detaching");
            daemon.answers.end();
            daemon.leave().await;
            daemon.dataplane.detach();
        }
        End::Leave => {
            tracing::info!("leaving; the kernel goes on forwarding");
            let has_heir = daemon.leave_to_heir(&control);
            if !has_heir {
                daemon.drain(&mut inbox, &mut signals).await;
                // An heir needs them, and so do connections that go on beside it.
                daemon.answers.end();
            }
            daemon.carp.leave().await;
            let (mut proxies, limit) = (daemon.proxies, daemon.engine.drain_at_exit());
            drop(daemon.sync);
            // The next daemon reads what they write.
            drop((daemon.deadlines, daemon.resolver));
            // Whoever waits for the place has it now.
            daemon.dataplane.leave();
            if has_heir {
                let limit = limit.unwrap_or(DRAIN_FOR_HEIR);
                drain::go_on(&mut proxies, limit, &mut signals).await;
            }
        }
        End::Fail(reason) => {
            daemon.answers.end();
            daemon.carp.leave().await;
            daemon.dataplane.leave();
            return Err(anyhow!(reason));
        }
    }
    Ok(())
}

/// What is there before the engine begins; nothing is changed yet.
async fn look_around(
    dataplane: &Dataplane,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<(Tables, Secret, (Netlink, JoinHandle<()>), Vec<Event>)> {
    let adopted = dataplane.read()?;
    let netlink = Netlink::connect(events.clone()).context("rtnetlink")?;
    let mut known = netlink.0.dump().await.context("rtnetlink")?;
    known.push(Event::MapsOpened(dataplane.sizes()?));
    let secret = dataplane.inherited_secret().map_or_else(random_secret, Ok)?;
    Ok((adopted, secret, netlink, known))
}

struct Daemon {
    engine: Engine,
    dataplane: Dataplane,
    netlink: Netlink,
    events: mpsc::Sender<Event>,
    prober: Prober,
    resolver: Resolver,
    deadlines: Store<Kept>,
    /// An interface that cannot be attached at the start ends the daemon.
    starting: bool,
    failure: Option<String>,
    /// Requests that have to end before the daemon does.
    leaving: JoinSet<()>,
    aside: Aside,
    reader: Reader,
    proxies: Proxies,
    answers: Answering,
    carp: Carp,
    sync: Sync,
    notifier: Notifier,
}

impl Daemon {
    fn handle(&mut self, event: Event) {
        self.handle_all([event]);
    }

    fn handle_all(&mut self, events: impl IntoIterator<Item = Event>) {
        self.engine.handle_all(clock::now(), events);
        self.carry_out();
    }

    /// Gives back what was asked of interfaces, except for XDP.
    async fn leave(&mut self) {
        self.engine.stop();
        self.carry_out();
        while self.leaving.join_next().await.is_some() {}
    }

    /// Hands the virtual addresses of all groups over to other nodes, and goes on serving meanwhile.
    /// A second signal ends the wait.
    async fn hand_over(&mut self, inbox: &mut mpsc::Receiver<Event>, signals: &mut EndSignals) {
        if !self.carp.runs() {
            return;
        }
        tracing::info!("handing over");
        self.carp.tell(Command::Stop);
        let limit = clock::now() + HANDOVER;
        loop {
            tokio::select! {
                biased;
                // What it has to tell before its end.
                Some(event) = inbox.recv() => self.handle(event),
                () = self.carp.ended() => return,
                // Servers are checked and replaced until the end.
                () = clock::sleep_until(self.engine.next_deadline()) => {
                    self.handle(Event::TimePassed);
                }
                () = signals.recv() => return,
                () = clock::sleep_until(limit) => {
                    tracing::warn!("the handover did not end within {HANDOVER:?}");
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::WriteTables(writes) => {
                    if let Err(error) = self.dataplane.write(&writes) {
                        self.reread(error.to_string());
                    }
                }
                Action::ResolveNeighbour(address) => self.netlink.resolve(address),
                Action::ConfirmNeighbour { ifindex, address } => {
                    self.netlink.confirm(ifindex, address);
                }
                Action::JoinSolicited { ifindex, address } => {
                    let netlink = self.netlink.clone();
                    tokio::spawn(async move {
                        if let Err(error) = netlink.join_solicited(ifindex, address).await {
                            tracing::warn!("{address}: solicitations may not be heard: {error}");
                        }
                    });
                }
                Action::LeaveSolicited { ifindex, address } => {
                    let netlink = self.netlink.clone();
                    while self.leaving.try_join_next().is_some() {}
                    // An interface that is gone has left already.
                    self.leaving.spawn(async move {
                        let _ = netlink.leave_solicited(ifindex, address).await;
                    });
                }
                Action::StartProbe { probe, kind, target, through, timeout } => {
                    let way = Way { target, through };
                    self.prober.start(probe, kind, way, timeout);
                }
                Action::AskAgent(question) => self.prober.ask_agent(question),
                Action::AskName { query, resolvers } => self.resolver.ask(query, resolvers),
                Action::KeepNames(answers) => self.resolver.keep(answers),
                Action::CountConnections => {
                    let counts = Event::ConnectionsCounted(self.proxies.connections());
                    self.engine.handle(clock::now(), counts);
                }
                Action::KeepDeadlines(kept) => self.deadlines.keep(kept),
                Action::AttachXdp { interface, ifindex, mtu, mode } => {
                    let result = self.dataplane.attach(&interface, ifindex, mtu, mode);
                    self.attached(interface, result);
                }
                Action::ReadSignals { known } => {
                    match self.dataplane.signals(self.engine.tables(), known) {
                        Ok(Some(read)) => {
                            self.engine.handle(clock::now(), Event::SignalsRead(read));
                        }
                        Ok(None) => {}
                        Err(error) => tracing::debug!("signals of backends not read: {error}"),
                    }
                }
                Action::TakeCensus(census) => {
                    let (reader, events) = (self.dataplane.record_reader(), self.events.clone());
                    tokio::task::spawn_blocking(move || {
                        let event = match reader.count(*census) {
                            Ok(census) => Event::CensusTaken(Box::new(census)),
                            Err(error) => Event::CensusFailed { error: error.to_string() },
                        };
                        // Without a receiver the daemon has ended.
                        let _ = events.blocking_send(event);
                    });
                }
                Action::ServeProxies(view) => {
                    let failures = self.proxies.serve(&view);
                    if self.starting
                        && let Some((service, error)) = failures.first()
                    {
                        self.failure.get_or_insert_with(|| format!("service {service}: {error}"));
                    }
                    self.engine.handle(clock::now(), Event::ProxiesServed { failures });
                }
                Action::RouteAnswers(wanted) => {
                    self.answers.follow(wanted, self.proxies.answering());
                }
                Action::CheckAnswers => self.answers.check(self.proxies.answering()),
                Action::HoldAddress(address) => {
                    let netlink = self.netlink.clone();
                    tokio::spawn(async move {
                        if let Err(error) = netlink.hold(address).await {
                            tracing::warn!("{address}: no route to the proxy: {error}");
                        }
                    });
                }
                Action::ReleaseAddress(address) => {
                    let netlink = self.netlink.clone();
                    while self.leaving.try_join_next().is_some() {}
                    self.leaving.spawn(async move {
                        // Somebody may have removed it already.
                        let _ = netlink.release(address).await;
                    });
                }
                Action::ConfigureCarp(groups) => {
                    if let Err(error) = self.carp.configure(groups, &self.dataplane) {
                        tracing::error!("CARP does not run: {error:#}");
                    }
                }
                Action::CarpUsable { group, result } => {
                    self.carp.tell(Command::Usable { group, result });
                }
                Action::DemoteCarp { group, reason, weight } => {
                    self.carp.tell(Command::Demote { group, reason, weight });
                }
                Action::ShareState { view, secret } => self.sync.share(view, secret),
                Action::DetachOthers(keep) => self.dataplane.detach_others(&keep),
                Action::Notify(delivery) => {
                    self.notifier.start(self.engine.node_name(), *delivery);
                }
                Action::Log { warning: true, text } => tracing::warn!("{text}"),
                Action::Log { warning: false, text } => tracing::info!("{text}"),
            }
        }
        self.carp.flush();
    }

    /// The engine must know what the maps hold; if even that cannot be read, it assumes what it
    /// wanted, and the error is in the log.
    fn reread(&mut self, error: String) {
        match self.dataplane.read() {
            Ok(tables) => {
                let actual = Box::new(tables);
                self.engine.handle(clock::now(), Event::WriteFailed { error, actual });
            }
            Err(second) => tracing::error!("maps: {error}; and not readable: {second}"),
        }
    }

    fn attached(&mut self, interface: String, result: Result<Attachment, AttachError>) {
        let result: Result<Attachment, String> = result.map_err(|error| error.to_string());
        if self.starting
            && let Err(error) = &result
        {
            self.failure.get_or_insert_with(|| error.clone());
        }
        self.engine.handle(clock::now(), Event::AttachDone { interface, result });
    }

    fn answer(&mut self, call: Call) {
        let result = match self.reply(&call.request) {
            Ok(Answer::ByCarp(question)) => return self.carp.ask(question, call.reply),
            Ok(Answer::ByReceiver(test)) => {
                return self.notifier.test(self.engine.node_name(), test, call.reply);
            }
            Ok(Answer::Later(work)) => return self.aside.run(call.reply, work),
            Ok(Answer::AfterReading(Reload { dry_run })) => {
                return self.reader.begin(Wish { dry_run, answer: Some(call.reply) });
            }
            Ok(Answer::Now(reply)) => Ok(reply),
            Err(refusal) => Err(refusal),
        };
        self.carry_out();
        // A peer that went away does not want its answer.
        let _ = call.reply.send(result);
    }

    /// The configuration was read again.
    fn reload(&mut self, Outcome { wish, config }: Outcome) {
        self.reader.end();
        // Whoever gave up waiting does not expect that anything happens any more.
        if wish.answer.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return;
        }
        let now = clock::now();
        let result = config.and_then(|new| self.engine.reconfigure(now, new, wish.dry_run));
        match &result {
            _ if wish.dry_run => {}
            Ok(changes) => {
                for line in show::change_lines(changes) {
                    tracing::info!("{line}");
                }
                // They were good a moment ago, when the configuration was read.
                for (service, why) in self.proxies.renew_certificates() {
                    tracing::warn!("service {service}: {why}; it goes on with what it has");
                }
            }
            Err(refusal) => self.engine.reload_refused(now, &refusal.to_string()),
        }
        self.carry_out();
        if let Some(answer) = wish.answer {
            let _ = answer.send(result.map(Reply::Changes));
        }
    }
}
