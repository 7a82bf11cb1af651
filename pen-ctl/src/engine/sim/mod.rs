//! The engine in a world of its own: a virtual clock, an interface, and backends that can die.
//! Actions are carried out on plain tables, so that a packet's fate is asked with the decision that
//! the kernel makes. The tests in the modules below read as stories.

mod access;
mod agent;
mod draining;
mod emergency;
mod groups;
mod init;
mod judged;
mod judgement;
mod listing;
mod modes;
mod naming;
mod notify;
mod operator;
mod pace;
mod passive;
mod ports;
mod proxied;
mod random;
mod reload;
mod share;
mod signals;
mod simulation;
mod stories;
mod takeover;
mod troubles;
mod why;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{ClientKey, FlowKey, Record};
use pen_common::forward::{self, Arrival, Flow, Stage};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::{DropReason, Verdict};

use super::Engine;
use super::draining::Kept;
use super::event::{self, Action, Attachment, Event, Link, Neighbour, ProbeError, Route};
use super::names;
use super::notify::Delivery;
use super::probe::agent::Said;
use super::proxy;
use super::sync::view::View;
use super::tables::{NoRecords, Records, Tables, Write};
use crate::api::{Admin, Change, Counts, Explain, Refusal, SetAdmin, SetWeight};
use crate::config::{
    self, Affinity, Backend, Check, CheckKind, Config, Control, Interface, Listen, Mode, Node,
    Ports, Protocol, Service, Sizes, Vip, XdpMode,
};

pub(super) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
/// This node's own address.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254));
const NIC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A service `web` on 192.0.2.10:80/tcp with backends b1, b2, ... and checks each second.
pub(super) fn config(backends: u8) -> Config {
    Config {
        node: Node {
            name: "edge1".into(),
            secret: Some([1, 2]),
            masquerade_ports: Ports { first: 10240, last: 32767 },
            sizes: Sizes::default(),
            drain_at_exit: None,
            resolvers: Vec::new(),
        },
        interfaces: vec![Interface { name: "eth0".into(), xdp: XdpMode::Auto }],
        control: Control { socket: "/run/pen/pend.sock".into() },
        access_log: None,
        responder: None,
        acls: Vec::new(),
        carp: Vec::new(),
        sync: None,
        notify: Vec::new(),
        vips: vec![vip(VIP)],
        services: vec![Service {
            name: "web".into(),
            listen: Listen { address: VIP, ports: Ports::one(80) },
            protocol: Protocol::Tcp,
            mode: Mode::Dsr,
            source: None,
            affinity: Affinity::Flow,
            memory: config::Memory::of(Protocol::Tcp),
            backends: (1..=backends)
                .map(|number| Backend {
                    name: format!("b{number}"),
                    address: address(number),
                    port: 80,
                    socket: None,
                    weight: 1,
                    limits: config::Limits::default(),
                })
                .collect(),
            emergency: None,
            names: Vec::new(),
            stubborn: false,
            judgement: config::Judgement::usual(),
            proxy: None,
            check: Check {
                kind: CheckKind::Tcp,
                port: None,
                tunnel: false,
                interval: Duration::from_secs(1),
                fast_interval: Duration::from_secs(1),
                down_interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                rise: 2,
                fall: 3,
                init: config::Init::First,
                jitter: 0,
                agent: None,
                address: None,
            },
        }],
    }
}

/// The same with servers that the DNS names, as `app`, and no others.
pub(super) fn named(srv: bool) -> Config {
    let mut config = config(0);
    config.services[0].names = vec![config::Named {
        name: "app".into(),
        host: "app.example".into(),
        srv,
        port: if srv { 0 } else { 80 },
        weight: if srv { 1 } else { 3 },
        limits: config::Limits::default(),
    }];
    config
}

/// A virtual address that answers everybody.
pub(super) fn vip(address: IpAddr) -> Vip {
    let (echo, acl, syn_rate) = (false, None, None);
    Vip { address, interface: "eth0".into(), carp: None, echo, acl, syn_rate }
}

pub(super) fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

/// The world.
pub(super) struct Sim {
    pub(super) engine: Engine,
    pub(super) now: Moment,
    /// What the kernel's maps hold.
    pub(super) maps: Tables,
    /// Hosts that do not answer at all.
    pub(super) dead: BTreeSet<IpAddr>,
    /// Hosts that refuse connections.
    pub(super) refusing: BTreeSet<IpAddr>,
    /// What the agents on hosts say; elsewhere there is none.
    pub(super) agents: BTreeMap<IpAddr, &'static str>,
    /// What the DNS says to every question.
    pub(super) dns: Result<names::Answer, String>,
    /// When it was asked.
    pub(super) questions: Vec<Moment>,
    /// What is kept for the next controller.
    pub(super) kept_names: Vec<(names::Query, names::Answer)>,
    /// What all backends are behind.
    pub(super) router: Option<IpAddr>,
    /// This node's own address.
    pub(super) own: Option<IpAddr>,
    /// This machine has no descriptors left.
    pub(super) starved: bool,
    /// The next writes to the maps fail.
    pub(super) broken_maps: bool,
    /// How often the maps were written.
    written: usize,
    pub(super) attached: Vec<String>,
    /// Neighbours that were to be confirmed.
    pub(super) doubted: Vec<IpAddr>,
    /// Interfaces that were not to be detached when last asked.
    pub(super) kept: BTreeSet<u32>,
    pub(super) probes: BTreeMap<IpAddr, Vec<Moment>>,
    /// How all probes ended, in their order.
    pub(super) results: Vec<(IpAddr, bool)>,
    pub(super) solicited: BTreeSet<(u32, Ipv6Addr)>,
    pub(super) records: Memory,
    /// What the proxies serve.
    pub(super) proxies: Arc<proxy::View>,
    /// Virtual addresses that the machine's own stack takes.
    pub(super) held: BTreeSet<IpAddr>,
    /// Answers to clients that it takes in.
    pub(super) answers: BTreeSet<proxy::transparent::Answers>,
    /// Connections that exist need more of them.
    pub(super) answers_in_use: bool,
    /// What is missing for that.
    pub(super) unrouted: BTreeSet<String>,
    /// How often that was looked after.
    pub(super) answers_checked: u32,
    /// What the proxies cannot listen on.
    pub(super) deaf: Vec<(String, String)>,
    /// What CARP was told.
    pub(super) groups: Vec<event::Group>,
    pub(super) usable: BTreeMap<u32, Result<(), String>>,
    pub(super) demoted: BTreeMap<(u32, String), u16>,
    /// Messages of events.
    pub(super) told: Vec<Delivery>,
    /// When records were counted, and how long that takes.
    pub(super) censuses: Vec<Moment>,
    pub(super) census_takes: Duration,
    /// Connections that the proxies have, by id of the backend.
    pub(super) connections: BTreeMap<u32, u32>,
    /// Deadlines that are kept for the next controller.
    pub(super) deadlines: Vec<Kept>,
    /// What peers may know.
    pub(super) shared: Option<Arc<View>>,
    /// What packets have told of backends.
    pub(super) signals: event::SignalsRead,
    /// How often that was read.
    pub(super) signals_read: u32,
}

/// The kernel's records.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) flows: RefCell<BTreeMap<FlowKey, Record>>,
    pub(super) clients: RefCell<BTreeMap<ClientKey, Record>>,
}

impl Records for Memory {
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.flows.borrow().get(key).copied()
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.clients.borrow().get(key).copied()
    }

    fn record_flow(&self, key: &FlowKey, record: &Record) {
        self.flows.borrow_mut().insert(*key, *record);
    }

    fn record_client(&self, key: &ClientKey, record: &Record) {
        self.clients.borrow_mut().insert(*key, *record);
    }
}

impl Sim {
    /// Starts with empty maps.
    pub(super) fn start(config: Config) -> Self {
        Self::start_over(config, Tables::default())
    }

    /// Starts with maps that an earlier controller left.
    pub(super) fn start_over(config: Config, maps: Tables) -> Self {
        Self::start_among(config, maps, BTreeSet::new())
    }

    /// Starts with maps that an earlier controller left, while these hosts refuse connections.
    pub(super) fn start_among(config: Config, maps: Tables, refusing: BTreeSet<IpAddr>) -> Self {
        let mut sim = Self { refusing, ..Self::prepare(config, maps) };
        sim.begin();
        sim
    }

    /// As [`Sim::start_over`], before the start.
    fn prepare(config: Config, maps: Tables) -> Self {
        let now = Moment(1_000_000_000);
        let engine = Engine::new(config, maps.clone(), [7, 7], now);
        Self {
            engine,
            now,
            maps,
            dead: BTreeSet::new(),
            refusing: BTreeSet::new(),
            agents: BTreeMap::new(),
            dns: Err("no answer".to_owned()),
            questions: Vec::new(),
            kept_names: Vec::new(),
            router: None,
            own: Some(OWN),
            starved: false,
            broken_maps: false,
            written: 0,
            attached: Vec::new(),
            doubted: Vec::new(),
            kept: BTreeSet::new(),
            probes: BTreeMap::new(),
            results: Vec::new(),
            solicited: BTreeSet::new(),
            records: Memory::default(),
            proxies: Arc::default(),
            held: BTreeSet::new(),
            answers: BTreeSet::new(),
            answers_in_use: false,
            unrouted: BTreeSet::new(),
            answers_checked: 0,
            deaf: Vec::new(),
            groups: Vec::new(),
            usable: BTreeMap::new(),
            demoted: BTreeMap::new(),
            told: Vec::new(),
            censuses: Vec::new(),
            census_takes: Duration::ZERO,
            connections: BTreeMap::new(),
            deadlines: Vec::new(),
            shared: None,
            signals: event::SignalsRead::default(),
            signals_read: 0,
        }
    }

    fn begin(&mut self) {
        self.event(Event::LinkChanged(link(true)));
        self.event(Event::Started);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.carry_out();
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        loop {
            let next = self.engine.next_deadline();
            if next > end {
                break;
            }
            assert!(next != self.now || self.engine.next_deadline() > Moment(0), "no progress");
            self.now = self.now.max(next);
            self.event(Event::TimePassed);
            assert!(self.engine.next_deadline() > self.now, "a deadline is not served");
        }
        self.now = end;
        self
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::WriteTables(writes) => {
                    self.written += 1;
                    self.write(&writes);
                }
                Action::ResolveNeighbour(address) => self.resolve(address),
                Action::Notify(delivery) => self.told.push(*delivery),
                Action::StartProbe { probe, target, timeout, .. } => {
                    let address = target.key().ip();
                    self.probes.entry(address).or_default().push(self.now);
                    let outcome = if self.starved {
                        Err(ProbeError::Local("too many open files".to_owned()))
                    } else if self.dead.contains(&address) {
                        assert!(timeout < Duration::from_secs(1));
                        Err(ProbeError::Timeout(timeout))
                    } else if self.refusing.contains(&address) {
                        Err(ProbeError::Refused)
                    } else {
                        Ok(())
                    };
                    self.results.push((address, outcome.is_ok()));
                    let took = Duration::ZERO;
                    self.engine.handle(self.now, Event::ProbeDone { probe, took, outcome });
                }
                Action::AskAgent(event::Question { probe, target, .. }) => {
                    let words = self.agents.get(&target.ip()).ok_or(ProbeError::Refused);
                    let answer = words.and_then(|words| Said::parse(words.as_bytes()));
                    self.engine.handle(self.now, Event::AgentAnswered { probe, answer });
                }
                Action::AskName { query, .. } => {
                    self.questions.push(self.now);
                    let result = self.dns.clone();
                    self.engine.handle(self.now, Event::NameAnswered { query, result });
                }
                Action::KeepNames(answers) => self.kept_names = answers,
                Action::KeepDeadlines(kept) => self.deadlines = kept,
                Action::CountConnections => {
                    let counts = Event::ConnectionsCounted(self.connections.clone());
                    self.engine.handle(self.now, counts);
                }
                Action::AttachXdp { interface, .. } => {
                    self.attached.push(interface.clone());
                    let result = Ok(Attachment { native: true, frags: false, warning: None });
                    self.engine.handle(self.now, Event::AttachDone { interface, result });
                }
                Action::JoinSolicited { ifindex, address } => {
                    assert!(self.solicited.insert((ifindex, address)), "joined twice");
                }
                Action::LeaveSolicited { ifindex, address } => {
                    assert!(self.solicited.remove(&(ifindex, address)), "never joined");
                }
                Action::ReadSignals { known } => {
                    if known != Some(self.signals.total) {
                        self.signals_read += 1;
                        let read = self.signals.clone();
                        self.engine.handle(self.now, Event::SignalsRead(read));
                    }
                }
                Action::TakeCensus(mut census) => {
                    for (key, record) in self.records.flows.borrow().iter() {
                        census.see_flow(key, record);
                    }
                    for (key, record) in self.records.clients.borrow().iter() {
                        census.see_client(key, record);
                    }
                    self.censuses.push(self.now);
                    let end = self.now + self.census_takes;
                    self.engine.handle(end, Event::CensusTaken(census));
                }
                Action::ServeProxies(view) => {
                    self.proxies = view;
                    let failures = self.deaf.clone();
                    self.engine.handle(self.now, Event::ProxiesServed { failures });
                }
                Action::RouteAnswers(wanted) => {
                    self.answers = wanted;
                    self.answers_routed();
                }
                Action::CheckAnswers => self.answers_routed(),
                Action::HoldAddress(address) => {
                    assert!(self.held.insert(address), "held twice");
                }
                Action::ReleaseAddress(address) => {
                    assert!(self.held.remove(&address), "never held");
                }
                Action::ConfigureCarp(groups) => self.groups = groups,
                Action::CarpUsable { group, result } => drop(self.usable.insert(group, result)),
                Action::DemoteCarp { group, reason, weight } => {
                    self.demoted.insert((group, reason), weight);
                }
                Action::ShareState { view, .. } => self.shared = Some(view),
                Action::ConfirmNeighbour { address, .. } => self.doubted.push(address),
                Action::DetachOthers(keep) => self.kept = keep,
                Action::Log { .. } => {}
            }
        }
    }

    fn answers_routed(&mut self) {
        self.answers_checked += 1;
        let any = !self.answers.is_empty() || self.answers_in_use;
        let problems = self.unrouted.clone();
        self.engine.handle(self.now, Event::AnswersRouted { problems, any });
    }

    fn write(&mut self, writes: &[Write]) {
        if self.broken_maps {
            self.broken_maps = false;
            let actual = Box::new(self.maps.clone());
            let error = "out of memory".to_owned();
            self.engine.handle(self.now, Event::WriteFailed { error, actual });
            return;
        }
        for write in writes {
            self.maps.apply(write);
        }
    }

    fn resolve(&mut self, address: IpAddr) {
        let route = Some(Route { ifindex: 3, gateway: self.router, source: self.own });
        self.engine.handle(self.now, Event::RouteFound { address, route, mac: None });
        let address = self.router.unwrap_or(address);
        let neighbour = if self.dead.contains(&address) {
            Neighbour::Failed
        } else {
            let IpAddr::V4(v4) = address else { unreachable!("the world is IPv4") };
            Neighbour::Resolved(MacAddr([2, 0, 0, 0, 1, v4.octets()[3]]))
        };
        self.engine.handle(self.now, Event::NeighbourChanged { ifindex: 3, address, neighbour });
    }

    /// Backends that `flows` flows reach in the kernel's maps, or `None` for lost packets.
    pub(super) fn flows(&self, flows: u16) -> Vec<Option<IpAddr>> {
        (0..flows).map(|flow| self.reach(flow)).collect()
    }

    fn reach(&self, source_port: u16) -> Option<IpAddr> {
        let flow = Flow {
            source: Addr::v4([198, 51, 100, 7]),
            source_port: Be16::new(source_port),
            port: Be16::new(80),
            protocol: protocol::TCP,
            stage: Stage::Open,
        };
        let arrival = Arrival { ifindex: 3, station: NIC };
        let destination = Addr::from(VIP);
        let lookup = self.maps.at(self.now, &NoRecords);
        match forward::decide(&lookup, &arrival, &destination, || Ok(flow)) {
            Verdict::Forward(forward) => Some(IpAddr::from(forward.backend.addr)),
            Verdict::Drop(_) | Verdict::Pass(_) => None,
        }
    }

    /// Last numbers of the addresses that get flows.
    pub(super) fn serving(&self) -> BTreeSet<u8> {
        let last = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!("the world is IPv4"),
        };
        self.flows(500).into_iter().flatten().map(last).collect()
    }

    pub(super) fn set_admin(&mut self, backend: &str, admin: Admin) -> Result<Change, Refusal> {
        let wish = SetAdmin {
            service: "web".into(),
            backend: backend.into(),
            admin,
            deadline_ms: None,
            dry_run: false,
        };
        let change = self.engine.set_admin(self.now, &wish);
        self.carry_out();
        change
    }

    pub(super) fn set_weight(&mut self, backend: &str, weight: u32) -> Result<Change, Refusal> {
        let wish =
            SetWeight { service: "web".into(), backend: backend.into(), weight, dry_run: false };
        let change = self.engine.set_weight(self.now, &wish);
        self.carry_out();
        change
    }
}

fn link(up: bool) -> Link {
    let (mtu, forwards_v4, forwards_v6) = (1500, false, false);
    Link { ifindex: 3, name: "eth0".into(), mac: NIC, up, mtu, forwards_v4, forwards_v6 }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
