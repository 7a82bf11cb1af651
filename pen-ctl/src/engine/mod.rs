//! The engine decides everything that the controller does: which backends are usable, what the
//! maps hold, what is probed and resolved next. It is synchronous and pure: time and events come
//! in through [`Engine::handle`], actions go out through [`Engine::poll_action`], and
//! [`Engine::next_deadline`] says when to call again. It knows no clock, socket, task or log.
//!
//! [`event`] is the vocabulary that all parts share; the parts ([`health`], [`ids`], [`journal`],
//! [`network`], [`notify`], [`scheduler`]) know nothing of each other and meet only here.

pub mod access;
mod agent;
mod answers;
mod attaching;
pub mod carp;
pub mod census;
mod changes;
mod desired;
pub mod draining;
mod ejection;
pub mod event;
mod groups;
pub mod health;
pub mod ids;
pub mod journal;
mod judgement;
mod merge;
pub mod names;
mod naming;
pub mod network;
pub mod notify;
mod operator;
mod pace;
mod passive;
pub mod probe;
mod probing;
mod proxied;
pub mod proxy;
mod random;
pub mod records;
mod reload;
mod report;
pub mod scheduler;
mod settling;
mod share;
mod signals;
#[cfg(test)]
mod sim;
pub mod simulation;
pub mod slots;
mod slow;
pub mod sync;
pub mod tables;
mod takeover;
mod telling;
mod warnings;
mod why;

pub use ejection::may_eject_one_more;
pub use report::counters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ServiceKey};
use pen_common::hash::Secret;
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use crate::api::Admin;
use crate::config::{self, Config, Sizes, XdpMode};
use access::Lists;
use answers::Answering;
use draining::{Drain, Drains};
use ejection::Ejection;
use event::{Action, Attachment, Event};
use groups::Groups;
use health::Health;
use ids::Ids;
use journal::Journal;
use network::Network;
use notify::Receivers;
use pace::Pace;
use probing::Asked;
use scheduler::Member;
use share::Sharing;
use signals::Suspicion;
use slots::Table;
use slow::Ramp;
use sync::item::Place;
use tables::Tables;

/// First probes of all backends start this far apart, so that a start is no burst; of many, closer, so
/// that all are asked within their interval.
const SPREAD: Duration = Duration::from_millis(10);
/// Records that could not be read are counted again after this time.
const CENSUS_RETRY: Duration = Duration::from_secs(60);
/// A service whose backends were all lost and are back waits so long for what peers know of it: the
/// kernel asks for a neighbour that did not answer once a second.
const ASK: Duration = Duration::from_secs(2);
/// A service starts at the latest after this time, with the backends that are usable by then.
const START_WINDOW: Duration = Duration::from_secs(1);
/// Maps that could not be written are tried again after this time.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Identity of a backend: its service, address and port; its name is only for people.
type BackendKey = (ServiceKey, Addr, Be16);

/// Decides. See the module's documentation.
pub struct Engine {
    config: Config,
    secret: Secret,
    started_at: Moment,
    /// The network is known: tables may be written.
    started: bool,
    services: Vec<Service>,
    interfaces: BTreeMap<String, Interface>,
    network: Network,
    service_ids: Ids<ServiceKey>,
    backend_ids: Ids<BackendKey>,
    addr_ids: Ids<Addr>,
    /// Access lists of the configuration.
    lists: Lists,
    last_generation: u32,
    /// What the maps hold once all actions so far are carried out.
    applied: Tables,
    /// Something changed that the maps may have to follow.
    dirty: bool,
    /// When they may follow.
    pace: Pace,
    retry_writes_at: Moment,
    /// Virtual addresses whose solicitations an interface receives.
    solicited: BTreeSet<(u32, Ipv6Addr)>,
    /// A census of the records is being taken.
    census_under_way: bool,
    /// When the last one began.
    census_began: Moment,
    /// Nothing is attached before the tables are filled: see [`Engine::attach_when_filled`].
    /// None if nothing is held back; otherwise when to look again.
    attach_held: Option<Moment>,
    /// Not before this time: after one that failed, or took long.
    next_census: Moment,
    /// What the maps have room for.
    sizes: Option<Sizes>,
    /// What the proxies serve once all actions so far are carried out.
    proxies: Arc<proxy::View>,
    /// Virtual addresses that the machine's own stack takes, for the proxies.
    held: BTreeSet<IpAddr>,
    /// Services whose sockets could not be had, and why not.
    deaf: Vec<(String, String)>,
    /// What is wrong with the certificates of the proxies.
    certificate_problems: BTreeSet<String>,
    listen_again_at: Moment,
    answers: Answering,
    reading: signals::Reading,
    names: names::Names,
    drains: Drains,
    groups: Groups,
    sharing: Sharing,
    /// What the operator was warned of.
    warned: BTreeSet<String>,
    actions: VecDeque<Action>,
    journal: Journal,
    /// Who is told of events.
    receivers: Receivers,
}

/// A service at run time.
struct Service {
    config: config::Service,
    key: ServiceKey,
    id: u32,
    backends: Vec<Backend>,
    /// The members that the table was last computed for; `None` if it has to be computed anew.
    members: Option<Vec<Member>>,
    table: Table,
    /// While another node holds its address: the slots as they are there.
    inherited: Option<Arc<[abi::Slot]>>,
    /// While another node holds its address: the backends that this one can use.
    usable_there: BTreeSet<Place>,
    /// This node had its address and its flows, and nobody else has said so since.
    held: bool,
    /// All its backends were lost, and with them its table; peers may have a better one.
    lost: bool,
    /// When it goes on without having been told a better one.
    ask_until: Moment,
    /// It has no flows yet: its table is made when the first checks of all backends have ended, so
    /// that not all flows begin at the backend that answers first.
    fresh: bool,
    /// When it is made at the latest; never once that is over.
    start_by: Moment,
    /// What names of its servers stand for is still to be learned.
    unnamed: bool,
    /// Too few of its backends are usable.
    panicking: bool,
    /// Whether it has its quorum; `None` before the first checks.
    quorum: Option<bool>,
    /// Whether it has no usable backend, as the operator was told or may take for granted; `None`
    /// before the first checks.
    down: Option<bool>,
}

/// A backend at run time.
struct Backend {
    config: config::Backend,
    id: u32,
    /// Tells probes of it from those of an earlier backend of the same id.
    generation: u32,
    /// Tells records of it from those before its last death; what the map calls its generation.
    incarnation: u32,
    /// The same at the holder of the service's address, and who that is.
    life_there: Option<(String, u32)>,
    /// The state word of the map.
    state: u32,
    /// The configuration no longer has it; it stays for the flows that it has.
    leaving: bool,
    /// When the operator drained it.
    draining_since: Moment,
    /// What it still has.
    drain: Drain,
    /// The drain's time is over: clients that are remembered go elsewhere as well.
    drained: bool,
    admin: Admin,
    /// Weight that the operator set at run time.
    weight: Option<u32>,
    health: Health,
    agent: agent::Agent,
    /// Who is asked about it, and how.
    asked: Asked,
    /// Clients could not reach it lately.
    ejection: Ejection,
    /// How much of its weight it has after its return.
    ramp: Ramp,
    /// What clients' packets tell of it.
    suspicion: Suspicion,
    usable: bool,
    usable_since: Moment,
}

impl Service {
    /// Whether a backend is the one that takes over when no other can.
    fn is_emergency(&self, backend: &Backend) -> bool {
        let id = |backend: &config::Backend| (backend.address, backend.port);
        let emergency = self.config.emergency.as_ref().map(id);
        !backend.leaving && emergency == Some(id(&backend.config))
    }
}

/// An interface that XDP is (to be) attached to.
struct Interface {
    mode: XdpMode,
    attached: Option<Attachment>,
    error: Option<String>,
    /// Index at the last attempt: a new interface of the same name is attached anew.
    ifindex: Option<u32>,
    retry_at: Moment,
}

// === impl Engine ===

impl Engine {
    /// For how long connections of the proxies may go on after the daemon was told to end.
    #[must_use]
    pub const fn drain_at_exit(&self) -> Option<Duration> {
        self.config.node.drain_at_exit
    }

    /// Starts with what the maps hold already (from a controller before this one). `random` is the
    /// secret if neither the configuration nor the maps have one.
    #[must_use]
    pub fn new(config: Config, adopted: Tables, random: Secret, now: Moment) -> Self {
        Self::knowing(config, adopted, random, now, Vec::new())
    }

    /// The same with what the DNS said to the controller before this one.
    #[must_use]
    pub fn knowing(
        config: Config,
        adopted: Tables,
        random: Secret,
        now: Moment,
        named: Vec<(names::Query, names::Answer)>,
    ) -> Self {
        let kept = adopted.cfg.secret;
        let secret = config.node.secret.unwrap_or(if kept == [0, 0] { random } else { kept });
        let mut engine = Self {
            config: config.clone(),
            secret,
            started_at: now,
            started: false,
            services: Vec::new(),
            interfaces: BTreeMap::new(),
            network: Network::default(),
            service_ids: Ids::new(0, abi::MAX_SERVICES),
            backend_ids: Ids::new(1, abi::MAX_BACKENDS),
            addr_ids: Ids::new(1, abi::MAX_ADDRS + 1),
            lists: Lists::default(),
            last_generation: 0,
            applied: adopted,
            dirty: false,
            pace: Pace::default(),
            retry_writes_at: Moment::NEVER,
            solicited: BTreeSet::new(),
            census_under_way: false,
            census_began: Moment(0),
            attach_held: None,
            next_census: Moment(0),
            sizes: None,
            proxies: Arc::default(),
            held: BTreeSet::new(),
            deaf: Vec::new(),
            certificate_problems: BTreeSet::new(),
            listen_again_at: Moment::NEVER,
            answers: Answering::default(),
            reading: signals::Reading::default(),
            names: names::Names::new(named),
            drains: Drains::default(),
            groups: Groups::default(),
            sharing: Sharing::default(),
            warned: BTreeSet::new(),
            actions: VecDeque::new(),
            journal: Journal::default(),
            receivers: Receivers::default(),
        };
        engine.adopt_ids();
        engine.adopt_groups();
        engine.take_config(now, config);
        engine.merge_config(now);
        engine.adopt_hops();
        engine
    }

    /// Takes note of an event; actions follow from [`Engine::poll_action`].
    pub fn handle(&mut self, now: Moment, event: Event) {
        self.handle_all(now, [event]);
    }

    /// The same of several events that came at once. What follows from them is computed once: with
    /// ten thousand backends that takes longer than all of them together.
    pub fn handle_all(&mut self, now: Moment, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.note(now, event);
        }
        self.run_timers(now);
        // After a failure the maps are left alone until the next attempt is due.
        if now >= self.next_refresh() {
            self.dirty = false;
            self.refresh(now);
            let backends = self.services.iter().map(|service| service.backends.len());
            self.pace.ran(now, backends.sum());
        }
        self.release_attach(now);
        // Last: what has just happened is told as well.
        self.notify(now);
    }

    fn note(&mut self, now: Moment, event: Event) {
        match event {
            Event::Started => {
                self.started = true;
                self.dirty = true;
                self.detach_others();
                let text = format!("node {} started", self.config.node.name);
                let name = self.config.node.name.clone();
                self.note_event(now, false, "started", &name, text);
            }
            Event::TimePassed => {}
            Event::LinkChanged(link) => self.link_changed(now, link),
            Event::LinkRemoved { ifindex } => self.link_removed(now, ifindex),
            Event::LinksKnown(existing) => {
                for ifindex in self.network.links_beside(&existing) {
                    self.link_removed(now, ifindex);
                }
            }
            Event::RouteFound { address, route, mac } => {
                self.dirty |= self.network.route_found(address, route, mac, now);
            }
            Event::NeighbourChanged { ifindex, address, neighbour } => {
                self.dirty |= self.network.neighbour_changed(ifindex, address, neighbour, now);
            }
            Event::ProbeDone { probe, took, outcome } => {
                self.probe_done(now, probe, took, outcome);
            }
            Event::NameAnswered { query, result } => self.name_answered(now, &query, result),
            Event::AgentAnswered { probe, answer } => self.agent_answered(now, probe, answer),
            Event::BackendFailed { backend, generation, failure } => {
                self.backend_failed(now, backend, generation, failure);
            }
            Event::SignalsRead(read) => self.signals_read(now, read),
            Event::AttachDone { interface, result } => self.attach_done(now, &interface, result),
            Event::CensusTaken(census) => self.census_taken(now, &census),
            Event::CensusFailed { error } => {
                self.census_under_way = false;
                self.next_census = now + CENSUS_RETRY;
                self.warn(now, "census-failed", "maps", format!("records not read: {error}"));
            }
            Event::ProxiesServed { failures } => self.listened(now, failures),
            Event::CertificateNews { news, problems } => {
                self.certificates_noted(now, news, problems);
            }
            Event::AnswersRouted { problems, any } => self.answers_routed(now, problems, any),
            Event::ConnectionsCounted(counts) => self.connections_counted(now, &counts),
            Event::DeadlinesKept(kept) => self.deadlines_kept(kept),
            Event::MapsOpened(sizes) => self.sizes = Some(sizes),
            Event::CarpRole { group, role } => {
                self.note_role(group, role);
                // What is shared with peers depends on it, and which addresses the proxies have.
                self.dirty |= self.config.sync.is_some() || self.has_proxied_groups();
            }
            Event::PeerState(adopted) => self.adopt_state(now, &adopted),
            Event::SyncComplete(complete) => self.note_complete(complete),
            Event::SyncReport(report) => self.note_sync(report),
            Event::CarpTold { warning, kind, subject, text } => {
                self.announce(now, warning, kind, &subject, text);
            }
            Event::Notified { receiver, serial, result } => {
                self.notified(now, &receiver, serial, result);
            }
            Event::CarpTwin { group, address } => {
                self.groups.twins.insert(group, address);
                self.dirty = true;
            }
            Event::CarpHindered(why) => {
                self.groups.hindered = why;
                self.dirty = true;
            }
            Event::WriteFailed { error, actual } => {
                self.applied = *actual;
                self.retry_writes_at = now + WRITE_RETRY;
                self.warn(now, "write-failed", "maps", format!("maps not written: {error}"));
            }
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Engine::handle`] with [`Event::TimePassed`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        let attaches = self
            .interfaces
            .values()
            .filter(|_| self.attach_held.is_none())
            .map(|interface| interface.retry_at);
        attaches
            .chain([
                self.next_probe(),
                self.next_judgement(),
                self.next_signals(),
                self.next_settling(),
                self.next_drain(),
                self.next_release(),
            ])
            .chain([self.network.next_deadline(), self.retry_writes_at, self.listen_again_at])
            .chain([self.next_refresh()])
            .chain([
                self.answers.next_deadline(),
                self.next_agent(),
                self.receivers.next_deadline(),
                self.names.next_deadline(),
            ])
            .min()
            .unwrap_or(Moment::NEVER)
    }

    /// When the maps are to follow what has changed.
    fn next_refresh(&self) -> Moment {
        let wanted = self.dirty && self.started && self.retry_writes_at == Moment::NEVER;
        if wanted { self.pace.next() } else { Moment::NEVER }
    }

    /// What the maps hold once all actions so far are carried out.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.applied
    }

    /// Gives back what the engine asked of interfaces, for the clean end.
    pub fn stop(&mut self) {
        for (ifindex, address) in std::mem::take(&mut self.solicited) {
            self.actions.push_back(Action::LeaveSolicited { ifindex, address });
        }
        for address in std::mem::take(&mut self.held) {
            self.actions.push_back(Action::ReleaseAddress(address));
        }
    }

    // --- timers ---

    fn run_timers(&mut self, now: Moment) {
        if now >= self.retry_writes_at {
            self.retry_writes_at = Moment::NEVER;
            self.dirty = true;
        }
        for address in self.network.poll(now) {
            self.actions.push_back(Action::ResolveNeighbour(address));
        }
        self.read_signals(now);
        self.start_probes(now);
        self.ask_agents(now);
        self.ask_names(now);
        self.run_ejections(now);
        self.run_ramps(now);
        self.listen_again(now);
        self.check_answers(now);
        self.run_settling(now);
        self.run_drains(now);
        if self.started && self.attach_held.is_none() {
            self.attach_due(now);
        }
    }

    // --- events ---

    fn link_changed(&mut self, now: Moment, link: event::Link) {
        if let Some(interface) = self.interfaces.get_mut(&link.name)
            && interface.mode != XdpMode::Off
            && interface.ifindex != Some(link.ifindex)
        {
            interface.attached = None;
            interface.retry_at = now;
        }
        let (name, up) = (link.name.clone(), link.up);
        let known = self.network.link(link.ifindex).map(|link| link.up);
        if !self.network.link_changed(link, now) {
            return;
        }
        self.dirty = true;
        self.answers.hurry(now);
        if self.interfaces.contains_key(&name) && known.is_some_and(|known| known != up) {
            if up {
                self.tell(now, "link-up", &name, format!("interface {name} is up"));
            } else {
                self.warn(now, "link-down", &name, format!("interface {name} is down"));
            }
        }
    }

    fn link_removed(&mut self, now: Moment, ifindex: u32) {
        let Some(link) = self.network.link_removed(ifindex, now) else { return };
        // Its memberships went with it.
        self.solicited.retain(|(index, _)| *index != ifindex);
        self.dirty = true;
        self.answers.hurry(now);
        if let Some(interface) = self.interfaces.get_mut(&link.name) {
            interface.attached = None;
            interface.ifindex = None;
            interface.error = Some("the interface is gone".to_owned());
            let text = format!("interface {} is gone; waiting for its return", link.name);
            self.warn(now, "link-gone", &link.name, text);
            self.detach_others();
        }
    }
}
