//! The engine decides everything that the controller does: which backends are usable, what the
//! maps hold, what is probed and resolved next. It is synchronous and pure: time and events come
//! in through [`Engine::handle`], actions go out through [`Engine::poll_action`], and
//! [`Engine::next_deadline`] says when to call again. It knows no clock, socket, task or log.
//!
//! [`event`] is the vocabulary that all parts share; the parts ([`health`], [`ids`], [`journal`],
//! [`network`], [`scheduler`]) know nothing of each other and meet only here.

mod desired;
pub mod event;
pub mod health;
pub mod ids;
pub mod journal;
pub mod network;
mod operator;
mod report;
pub mod scheduler;
#[cfg(test)]
mod sim;
pub mod tables;

pub use report::counters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ServiceKey, Slot};
use pen_common::hash::Secret;
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, protocol};

use crate::api::Admin;
use crate::config::{self, CheckKind, Config, Protocol, XdpMode};
use event::{Action, Attachment, Event, ProbeError, ProbeId};
use health::{Health, Rules, State};
use ids::Ids;
use journal::Journal;
use network::{Hop, Network};
use scheduler::Member;
use tables::Tables;

/// First probes of all backends start this far apart, so that a start is no burst.
const SPREAD: Duration = Duration::from_millis(10);
/// An interface that could not be attached is tried again after this time.
const ATTACH_RETRY: Duration = Duration::from_secs(5);
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
    last_generation: u32,
    /// What the maps hold once all actions so far are carried out.
    applied: Tables,
    /// Something changed that the maps may have to follow.
    dirty: bool,
    retry_writes_at: Moment,
    /// Virtual addresses whose solicitations an interface receives.
    solicited: BTreeSet<(u32, Ipv6Addr)>,
    actions: VecDeque<Action>,
    journal: Journal,
}

/// A service at run time.
struct Service {
    config: config::Service,
    key: ServiceKey,
    id: u32,
    backends: Vec<Backend>,
    /// The members that the table was last computed for.
    members: Vec<Member>,
    slots: Arc<[Slot]>,
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
    /// The state word of the map.
    state: u32,
    admin: Admin,
    /// Weight that the operator set at run time.
    weight: Option<u32>,
    health: Health,
    usable: bool,
    usable_since: Moment,
}

impl Backend {
    fn weight(&self) -> u32 {
        self.weight.unwrap_or(self.config.weight)
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
    /// Starts with what the maps hold already (from a controller before this one). `random` is the
    /// secret if neither the configuration nor the maps have one.
    #[must_use]
    pub fn new(config: Config, adopted: Tables, random: Secret, now: Moment) -> Self {
        let kept = adopted.cfg.secret;
        let secret = config.node.secret.unwrap_or(if kept == [0, 0] { random } else { kept });
        let mut engine = Self {
            config,
            secret,
            started_at: now,
            started: false,
            services: Vec::new(),
            interfaces: BTreeMap::new(),
            network: Network::default(),
            service_ids: Ids::new(0, abi::MAX_SERVICES),
            backend_ids: Ids::new(1, abi::MAX_BACKENDS),
            last_generation: 0,
            applied: adopted,
            dirty: false,
            retry_writes_at: Moment::NEVER,
            solicited: BTreeSet::new(),
            actions: VecDeque::new(),
            journal: Journal::default(),
        };
        engine.adopt_ids();
        engine.merge_config(now);
        engine.adopt_hops();
        engine
    }

    /// Takes note of an event; actions follow from [`Engine::poll_action`].
    pub fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Started => {
                self.started = true;
                self.dirty = true;
                self.detach_others();
                let text = format!("node {} started", self.config.node.name);
                self.journal.add(now, "started", &self.config.node.name, text);
            }
            Event::TimePassed => {}
            Event::LinkChanged(link) => self.link_changed(now, link),
            Event::LinkRemoved { ifindex } => self.link_removed(now, ifindex),
            Event::LinksKnown(existing) => {
                for ifindex in self.network.links_beside(&existing) {
                    self.link_removed(now, ifindex);
                }
            }
            Event::RouteFound { address, route } => {
                self.dirty |= self.network.route_found(address, route);
            }
            Event::NeighbourChanged { ifindex, address, neighbour } => {
                self.dirty |= self.network.neighbour_changed(ifindex, address, neighbour, now);
            }
            Event::ProbeDone { probe, outcome } => self.probe_done(now, probe, outcome),
            Event::AttachDone { interface, result } => self.attach_done(now, &interface, result),
            Event::WriteFailed { error, actual } => {
                self.applied = *actual;
                self.retry_writes_at = now + WRITE_RETRY;
                self.warn(now, "write-failed", "maps", format!("maps not written: {error}"));
            }
        }
        self.run_timers(now);
        // After a failure the maps are left alone until the next attempt is due.
        if self.dirty && self.started && self.retry_writes_at == Moment::NEVER {
            self.dirty = false;
            self.refresh(now);
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Engine::handle`] with [`Event::TimePassed`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        let probes = self
            .services
            .iter()
            .filter(|service| service.config.check.kind != CheckKind::None)
            .flat_map(|service| &service.backends)
            .filter(|backend| backend.admin != Admin::Maint)
            .map(|backend| backend.health.next_deadline());
        let attaches = self.interfaces.values().map(|interface| interface.retry_at);
        probes
            .chain(attaches)
            .chain([self.network.next_deadline(), self.retry_writes_at])
            .min()
            .unwrap_or(Moment::NEVER)
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
        for service in &mut self.services {
            let check = &service.config.check;
            let CheckKind::Tcp { port } = check.kind else { continue };
            let rules = rules(check);
            for backend in &mut service.backends {
                if backend.admin == Admin::Maint {
                    continue;
                }
                let Some(serial) = backend.health.poll(now, &rules) else { continue };
                self.actions.push_back(Action::StartProbe {
                    probe: ProbeId { backend: backend.id, generation: backend.generation, serial },
                    address: backend.config.address,
                    port: port.unwrap_or(backend.config.port),
                    timeout: check.timeout,
                });
            }
        }
        if self.started {
            self.attach_due(now);
        }
    }

    fn attach_due(&mut self, now: Moment) {
        for (name, interface) in &mut self.interfaces {
            if interface.retry_at > now {
                continue;
            }
            interface.retry_at = Moment::NEVER;
            let Some(link) = self.network.link_by_name(name) else { continue };
            interface.ifindex = Some(link.ifindex);
            self.actions.push_back(Action::AttachXdp {
                interface: name.clone(),
                ifindex: link.ifindex,
                mode: interface.mode,
            });
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
        if let Some(interface) = self.interfaces.get_mut(&link.name) {
            interface.attached = None;
            interface.ifindex = None;
            interface.error = Some("the interface is gone".to_owned());
            let text = format!("interface {} is gone; waiting for its return", link.name);
            self.warn(now, "link-gone", &link.name, text);
            self.detach_others();
        }
    }

    fn detach_others(&mut self) {
        let with_xdp = self.interfaces.iter().filter(|(_, found)| found.mode != XdpMode::Off);
        let links = with_xdp.filter_map(|(name, _)| self.network.link_by_name(name));
        let keep = links.map(|link| link.ifindex).collect();
        self.actions.push_back(Action::DetachOthers(keep));
    }

    fn attach_done(&mut self, now: Moment, name: &str, result: Result<Attachment, String>) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        match result {
            Ok(attachment) => {
                let how = if attachment.native { "native" } else { "generic" };
                let warning = attachment.warning.clone();
                interface.error = None;
                interface.attached = Some(attachment);
                self.tell(now, "attached", name, format!("XDP attached to {name}, {how} mode"));
                if let Some(warning) = warning {
                    self.warn(now, "xdp-warning", name, warning);
                }
            }
            Err(error) => {
                interface.attached = None;
                interface.retry_at = now + ATTACH_RETRY;
                let news = interface.error.as_ref() != Some(&error);
                interface.error = Some(error.clone());
                if news {
                    self.warn(now, "attach-failed", name, error);
                }
            }
        }
    }

    fn probe_done(&mut self, now: Moment, probe: ProbeId, outcome: event::Outcome) {
        let found = self.services.iter_mut().find_map(|service| {
            let backend = service.backends.iter_mut().find(|backend| {
                backend.id == probe.backend && backend.generation == probe.generation
            })?;
            Some((&service.config, backend))
        });
        let Some((service, backend)) = found else { return };
        let rules = rules(&service.check);
        let was_local = matches!(backend.health.last_error(), Some(ProbeError::Local(_)));
        let state = backend.health.record(probe.serial, outcome, &rules);
        let subject = format!("{}/{}", service.name, backend.config.name);
        if let Some(error @ ProbeError::Local(_)) = backend.health.last_error()
            && !was_local
        {
            let text = format!("{subject}: {error}; its state stays as it is");
            self.warn(now, "not-probed", &subject, text);
            return;
        }
        let Some(state) = state else { return };
        self.dirty = true;
        let address = backend.config.address;
        // Silence may come of a changed Ethernet address, which the kernel would go on believing for
        // a minute.
        if backend.health.last_error() == Some(&ProbeError::Timeout)
            && let Ok(hop) = self.network.hop(address)
        {
            self.actions.push_back(Action::ConfirmNeighbour { ifindex: hop.ifindex, address });
        }
        match (state, backend.health.last_error().cloned()) {
            (State::Down, error) => {
                let error = error.map_or_else(String::new, |error| format!(": {error}"));
                self.warn(now, "backend-down", &subject, format!("{subject} is down{error}"));
            }
            (State::Up | State::Checking, _) => {
                self.tell(now, "backend-up", &subject, format!("{subject} is up"));
            }
        }
    }

    // --- configuration ---

    /// Numbers given by the controller before this one stay, so that no packet in between meets a
    /// slot whose number changed its meaning.
    fn adopt_ids(&mut self) {
        let mut keys = BTreeMap::new();
        for (key, service) in &self.applied.services {
            self.service_ids.adopt(*key, service.id);
            keys.insert(service.id, *key);
        }
        for (id, backend) in &self.applied.backends {
            self.last_generation = self.last_generation.max(backend.generation);
            if let Some(key) = keys.get(&backend.service) {
                self.backend_ids.adopt((*key, backend.addr, backend.port), *id);
            }
        }
    }

    fn adopt_hops(&mut self) {
        for backend in self.applied.backends.values() {
            let hop =
                Hop { ifindex: backend.ifindex, source_mac: backend.source_mac, mac: backend.mac };
            if backend.state != abi::Backend::DOWN {
                self.network.adopt(IpAddr::from(backend.addr), hop);
            }
        }
    }

    /// Builds the run-time state that the configuration asks for; what was there before keeps its
    /// health, operator's wishes and numbers.
    fn merge_config(&mut self, now: Moment) {
        let mut before: BTreeMap<BackendKey, Backend> = BTreeMap::new();
        for service in std::mem::take(&mut self.services) {
            for backend in service.backends {
                before.insert(backend_key(service.key, &backend.config), backend);
            }
        }
        let wanted: BTreeSet<BackendKey> = self
            .config
            .services
            .iter()
            .flat_map(|service| {
                let key = service_key(service);
                service.backends.iter().map(move |backend| backend_key(key, backend))
            })
            .collect();
        let services: BTreeSet<ServiceKey> = wanted.iter().map(|(service, ..)| *service).collect();
        self.service_ids.make_room(&services);
        self.backend_ids.make_room(&wanted);
        let mut first_probe = now;
        for config in self.config.services.clone() {
            let key = service_key(&config);
            let (id, _) =
                self.service_ids.assign(&key).expect("config has no more services than ids");
            let mut backends = Vec::new();
            for backend in &config.backends {
                let identity = backend_key(key, backend);
                backends.push(match before.remove(&identity) {
                    Some(kept) => Backend { config: backend.clone(), ..kept },
                    None => self.new_backend(backend, &identity, now, first_probe),
                });
                first_probe = first_probe + SPREAD.min(config.check.interval);
            }
            let known = self.applied.services.contains_key(&key);
            let slots = self.applied.slots.get(&id).filter(|_| known).cloned();
            let slots = slots.unwrap_or_else(|| Arc::from([]));
            self.services.push(Service {
                config,
                key,
                id,
                backends,
                members: Vec::new(),
                slots,
                down: None,
            });
        }
        self.service_ids.retain(&services);
        self.backend_ids.retain(&wanted);
        let attached = self.config.interfaces.iter().filter(|found| found.xdp != XdpMode::Off);
        self.network.declare(attached.map(|interface| interface.name.clone()));
        for interface in &self.config.interfaces {
            let retry_at = if interface.xdp == XdpMode::Off { Moment::NEVER } else { now };
            self.interfaces.entry(interface.name.clone()).or_insert(Interface {
                mode: interface.xdp,
                attached: None,
                error: None,
                ifindex: None,
                retry_at,
            });
        }
        let addresses = self.services.iter().flat_map(|service| &service.backends);
        self.network.watch(addresses.map(|backend| backend.config.address), now);
        self.dirty = true;
    }

    fn new_backend(
        &mut self,
        config: &config::Backend,
        identity: &BackendKey,
        now: Moment,
        first_probe: Moment,
    ) -> Backend {
        let (id, is_new) =
            self.backend_ids.assign(identity).expect("config has no more backends than ids");
        let adopted = self.applied.backends.get(&id).filter(|_| !is_new);
        let generation = match adopted {
            Some(adopted) => adopted.generation,
            None => {
                self.last_generation = self.last_generation.wrapping_add(1);
                self.last_generation
            }
        };
        let was_up = adopted.is_some_and(|adopted| adopted.state != abi::Backend::DOWN);
        let state = if was_up { State::Up } else { State::Checking };
        Backend {
            config: config.clone(),
            id,
            generation,
            incarnation: generation,
            state: adopted.map_or(abi::Backend::DOWN, |adopted| adopted.state),
            admin: match adopted.map(|adopted| adopted.admin) {
                Some(abi::Backend::DRAINING) => Admin::Drain,
                Some(abi::Backend::MAINT) => Admin::Maint,
                _ => Admin::Ready,
            },
            weight: adopted.and_then(|adopted| adopted.weight.checked_sub(1)),
            health: Health::new(state, first_probe),
            usable: was_up,
            usable_since: now,
        }
    }

    // --- telling ---

    fn tell(&mut self, now: Moment, kind: &'static str, subject: &str, text: String) {
        self.actions.push_back(Action::Log { warning: false, text: text.clone() });
        self.journal.add(now, kind, subject, text);
    }

    fn warn(&mut self, now: Moment, kind: &'static str, subject: &str, text: String) {
        self.actions.push_back(Action::Log { warning: true, text: text.clone() });
        self.journal.add(now, kind, subject, text);
    }
}

fn rules(check: &config::Check) -> Rules {
    Rules { interval: check.interval, rise: check.rise, fall: check.fall }
}

fn service_key(service: &config::Service) -> ServiceKey {
    let protocol = match service.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    };
    ServiceKey::new(Addr::from(service.vip), Be16::new(service.port), protocol)
}

fn backend_key(service: ServiceKey, backend: &config::Backend) -> BackendKey {
    (service, Addr::from(backend.address), Be16::new(backend.port))
}
