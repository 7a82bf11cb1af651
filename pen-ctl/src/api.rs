//! What `penctl` and the daemon say to each other, in JSON over HTTP on a Unix socket. These types
//! are a public interface: fields may be added, none is renamed or removed.

pub mod carp;
mod certificates;
mod changes;
mod connections;
mod decap;
mod draining;
mod notify;
mod probes;
pub mod records;
mod signals;
mod simulation;
mod sync;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::carp::{CarpGroup, CarpOrdered, CarpRole, CarpWish};
pub use self::certificates::Certificate;
pub use self::changes::{ChangeKind, Changes, ConfigChange, Reload};
pub use self::connections::{Close, Closed, Connection, Connections};
pub use self::decap::{Decap, DecapCounter};
pub use self::draining::Draining;
pub use self::notify::{NotifyTest, NotifyTested};
pub use self::probes::{OneBackend, Probe, Probes};
pub use self::records::{Cidr, Client, Clients, Flow, Flows, RecordQuery};
pub use self::signals::Signals;
pub use self::simulation::{Other, Share, Simulate, Simulation};
pub use self::sync::{Sync, SyncPeer};
use crate::config::{Endpoint, Protocol};

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `GET /v1/status`: [`Status`].
    Status,
    /// `GET /v1/services`: a list of [`Service`].
    Services,
    /// `GET /v1/backends`: a list of [`Backend`].
    Backends,
    /// `GET /v1/probes?service=NAME&backend=NAME`: [`Probes`].
    Probes(OneBackend),
    /// `GET /v1/vips`: a list of [`Vip`].
    Vips,
    /// `GET /v1/counters`: a list of [`Counter`].
    Counters,
    /// `GET /v1/events?since=N`: a list of [`Event`] with a number above N.
    Events {
        /// The last number already seen.
        since: u64,
    },
    /// `GET /v1/flows?service=NAME&backend=NAME&client=CIDR&limit=N`: [`Flows`].
    Flows(RecordQuery),
    /// `GET /v1/clients`, with the same questions: [`Clients`].
    Clients(RecordQuery),
    /// `GET /v1/connections`, with the same questions: [`Connections`].
    Connections(RecordQuery),
    /// `POST /v1/close`: [`Closed`].
    Close(Close),
    /// `POST /v1/explain`: [`Explanation`].
    Explain(Explain),
    /// `POST /v1/simulate`: [`Simulation`].
    Simulate(Simulate),
    /// `POST /v1/admin`: [`Change`].
    SetAdmin(SetAdmin),
    /// `POST /v1/weight`: [`Change`].
    SetWeight(SetWeight),
    /// `GET /v1/carp`: a list of [`CarpGroup`].
    Carp,
    /// `GET /v1/certificates`: a list of [`Certificate`].
    Certificates,
    /// `GET /v1/sync`: [`Sync`].
    Sync,
    /// `POST /v1/carp`: [`CarpOrdered`].
    CarpOrder(CarpWish),
    /// `POST /v1/notify-test`: [`NotifyTested`].
    NotifyTest(NotifyTest),
    /// `POST /v1/leave`: [`Left`]. The daemon ends, and leaves the kernel forwarding.
    Leave,
    /// `POST /v1/reload`: [`Changes`].
    Reload(Reload),
}

/// Operator's wish for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// In service.
    Ready,
    /// No new flows.
    Drain,
    /// No packets at all.
    Maint,
}

impl std::fmt::Display for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        })
    }
}

/// What probes say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The service has no check.
    Unchecked,
    /// The first check has not ended.
    Checking,
    /// Up.
    Up,
    /// Down.
    Down,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "unchecked",
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// The node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of pen.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Process of the daemon.
    pub pid: u32,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// What is not as it should be although the node runs.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Number of services.
    pub services: usize,
    /// Number of backends of all services.
    pub backends: usize,
    /// Those that take new flows.
    pub backends_usable: usize,
    /// Names of services of which no backend is usable.
    pub services_down: Vec<String>,
    /// The groups whose virtual addresses other nodes may have instead.
    #[serde(default)]
    pub carp: Vec<CarpRole>,
    /// The nodes that are told of connections.
    #[serde(default)]
    pub peers: Vec<SyncPeer>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// How XDP is attached: `native`, `generic` or `off`.
    pub xdp: String,
    /// How it was wished: `auto`, `native`, `generic` or `off`.
    pub wanted: String,
    /// It exists, is up and has a carrier.
    pub up: bool,
    /// What the operator should know.
    pub note: Option<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Address and port, the first one of several, or `unix:` and a path.
    pub listen: Endpoint,
    /// The last port of several.
    #[serde(default)]
    pub last_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Mode of forwarding.
    pub mode: String,
    /// What keeps to a backend.
    pub affinity: String,
    /// Backends that take new flows.
    pub usable: usize,
    /// All backends.
    pub total: usize,
    /// Slots of its table whose flows all belong to one backend, so that none has to be looked up,
    /// in percent.
    pub settled: f64,
    /// Milliseconds until all slots are settled, as far as that can be known: a record may be used
    /// again. None if they are.
    pub settled_in_ms: Option<u64>,
    /// Frames forwarded since the counters were made.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the proxy has to do with it; only in mode `proxy`.
    #[serde(default)]
    pub proxy: Option<ProxiedService>,
}

/// What the proxy has to do with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxiedService {
    /// Connections now.
    pub connections: u32,
    /// Connections that wait for a place at a backend.
    pub waiting: usize,
    /// Connections so far.
    pub accepted: u64,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub name: String,
    /// Address, or `unix:` and the path of a socket.
    pub address: String,
    /// Port; 0 of a Unix socket.
    pub port: u16,
    /// Weight in force.
    pub weight: u32,
    /// Slots of the service's table that it has, in percent.
    pub share: f64,
    /// Operator's wish.
    pub admin: Admin,
    /// What probes say.
    pub health: Health,
    /// It takes new flows.
    pub usable: bool,
    /// It takes everything while no other backend can, and nothing otherwise.
    #[serde(default)]
    pub emergency: bool,
    /// Why not.
    pub why: Option<String>,
    /// Ethernet address that frames are sent to.
    pub mac: Option<String>,
    /// Interface that frames are sent on.
    pub interface: Option<String>,
    /// Frames forwarded since the counters were made.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What clients' packets told of it since the counters were made; none in mode `proxy`.
    #[serde(default)]
    pub signals: Option<Signals>,
    /// What the proxy has to do with it; only in mode `proxy`.
    #[serde(default)]
    pub proxy: Option<Proxied>,
    /// Milliseconds since `usable` changed.
    pub since_ms: u64,
    /// What is still there; only of one that gets nothing new.
    #[serde(default)]
    pub draining: Option<Draining>,
}

/// What the proxy has to do with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxied {
    /// Connections now, with those that are being made.
    pub connections: u32,
    /// Connections so far.
    pub total: u64,
    /// Those that could not be made.
    pub failures: u64,
    /// It could not be connected to lately, and gets nothing new for a time.
    pub ejected: bool,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Its interface.
    pub interface: String,
    /// `master`; `backup` or `leaving` if its CARP group is; `inactive` while the interface is
    /// missing.
    pub role: String,
    /// CARP group that it belongs to.
    #[serde(default)]
    pub carp: Option<String>,
    /// Ethernet address that neighbours are told.
    pub mac: Option<String>,
    /// Echo requests are answered.
    #[serde(default)]
    pub echo: bool,
    /// Access list that packets have to pass.
    #[serde(default)]
    pub acl: Option<String>,
    /// TCP connections that a source may open in a second.
    #[serde(default)]
    pub syn_rate: Option<u32>,
    /// Names of the services that listen on it.
    pub services: Vec<String>,
}

/// A counter of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Name, e.g. `drop-no-backend`.
    pub name: String,
    /// What it counts, in words.
    pub reason: String,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number, from 1, without gaps.
    pub sequence: u64,
    /// Milliseconds since the daemon started.
    pub at_ms: u64,
    /// Kind, e.g. `backend-down`.
    pub kind: String,
    /// What it is about, e.g. `web/b1`.
    pub subject: String,
    /// The whole story in a sentence.
    pub text: String,
}

/// Asks what would happen to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// A packet of an open connection instead of the SYN that opens one; of no meaning for UDP.
    #[serde(default)]
    pub established: bool,
}

/// What would happen to a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `forward`, `pass` or `drop`.
    pub verdict: String,
    /// The counter that the packet would end in.
    pub counter: String,
    /// The service that it belongs to.
    pub service: Option<String>,
    /// Slot of the service's table.
    pub slot: Option<u32>,
    /// The backend that it would reach.
    pub backend: Option<String>,
    /// Address of that backend.
    pub address: Option<IpAddr>,
    /// What chose the backend: `slot` (settled, or base and current agree), `base` or `current` (of
    /// an unsettled slot), `flow-record`, `client-record`, or `next-slot` (the slot's own is down).
    pub decided_by: Option<String>,
    /// The reasons, in order, for a person.
    pub steps: Vec<String>,
}

/// Sets the operator's wish for a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAdmin {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// The wish.
    pub admin: Admin,
    /// Of a drain: what is left after so many milliseconds is ended.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Sets a backend's weight, until the configuration has another one for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// The weight, 0..=256.
    pub weight: u32,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a change did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about, e.g. `web/b1`.
    pub subject: String,
    /// Value before.
    pub was: String,
    /// Value after.
    pub now: String,
    /// Slots of the table that change their backend, in percent.
    pub moved: f64,
    /// Nothing was done.
    pub dry_run: bool,
}

/// What a daemon leaves behind that was asked to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its process, which ends after this answer.
    pub pid: u32,
    /// Names of the interfaces on which the kernel goes on forwarding.
    pub interfaces: Vec<String>,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Services`].
    Services(Vec<Service>),
    /// To [`Request::Backends`].
    Backends(Vec<Backend>),
    /// To [`Request::Probes`].
    Probes(Probes),
    /// To [`Request::Vips`].
    Vips(Vec<Vip>),
    /// To [`Request::Counters`].
    Counters(Vec<Counter>),
    /// To [`Request::Events`].
    Events(Vec<Event>),
    /// To [`Request::Flows`].
    Flows(Flows),
    /// To [`Request::Clients`].
    Clients(Clients),
    /// To [`Request::Connections`].
    Connections(Connections),
    /// To [`Request::Close`].
    Closed(Closed),
    /// To [`Request::Explain`].
    Explanation(Explanation),
    /// To [`Request::Simulate`].
    Simulation(Simulation),
    /// To [`Request::SetAdmin`] and [`Request::SetWeight`].
    Change(Change),
    /// To [`Request::Carp`].
    Carp(Vec<CarpGroup>),
    /// To [`Request::Certificates`].
    Certificates(Vec<Certificate>),
    /// To [`Request::Sync`].
    Sync(Sync),
    /// To [`Request::CarpOrder`].
    CarpOrdered(CarpOrdered),
    /// To [`Request::NotifyTest`].
    NotifyTested(NotifyTested),
    /// To [`Request::Leave`].
    Left(Left),
    /// To [`Request::Reload`].
    Changes(Changes),
}

/// Why the daemon does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub cure: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.error, self.cure)
    }
}

/// Counts of the data plane, read from the maps when a request needs them.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By [`pen_common::verdict::Counter`].
    pub verdicts: Vec<pen_common::abi::Count>,
    /// By service id.
    pub services: std::collections::BTreeMap<u32, pen_common::abi::Count>,
    /// By backend id.
    pub backends: std::collections::BTreeMap<u32, pen_common::abi::Count>,
    /// What packets have told of backends, by backend id.
    pub signals: std::collections::BTreeMap<u32, pen_common::abi::Signals>,
}
