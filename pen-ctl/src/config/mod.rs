//! What the operator wrote. [`Config`] can only hold values that make sense: everything that reads
//! it may rely on the rules checked by [`load()`] (every service listens on a VIP, names are unique,
//! families match, ...), and nobody after it sees text.

mod access_log;
mod acl;
mod backend;
mod carp;
mod check;
mod cidr;
mod endpoint;
mod error;
mod host;
mod judgement;
mod listen;
mod load;
mod memory;
mod node;
mod not_built;
mod notify;
mod ports;
mod position;
mod probe;
mod proxy;
mod raw;
mod resolvers;
mod responder;
mod server;
mod service;
mod sync;
mod system;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod ucarp;
mod unix;
mod vip;
pub(crate) mod words;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pen_common::abi;

pub use carp::{
    Accept, AddressesBy, AuthWord, BSD_PASSWORD, Carp, CarpAuth, CarpKey, CarpMac, CarpTransport,
    DEFAULT_GROUP, Demotion, Hooks, KEY_BYTES, MAX_DEMOTION, Secret, StateSync, TieBreak,
    TransportWord, UCARP_PASSWORD,
};
pub use check::{
    Agent, Check, CheckKind, Codes, Dns, Exchange, Exec, Grpc, Http, HttpVersion, Init, Pattern,
    ProbeTls, Verify,
};
pub use cidr::Cidr;
pub use endpoint::{Endpoint, UnixPath};
pub use error::{CheckError, ConfigError, ErrorKind};
pub use host::{LONGEST_NAME, is_valid as is_host_name};
pub use judgement::{Judgement, PanicPolicy};
pub use load::{Source, load, parse};
pub use memory::SLOT_COUNTS;
#[cfg(test)]
pub(crate) use notify::EVENTS;
pub use notify::{Notify, NotifyError, To, Webhook};
pub use ports::Ports;
pub use position::Position;
pub use server::{Backend, Limits, Named};
#[cfg(feature = "io")]
pub use system::RealSystem;
pub use system::{SecretFile, System};
pub use tls::{
    BackendTls, CertificateFiles, Cipher, ClientAuth, FileFault, FileProblem, Route, Tls, TlsError,
    TlsVersion, UnknownName,
};
pub use words::UnknownWord;

/// Highest weight of a backend.
pub const MAX_WEIGHT: u32 = 256;

/// Highest limit of connections that a source may open in a second.
pub const MAX_SYN_RATE: u32 = 1_000_000;

/// A whole valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Interfaces that XDP is attached to.
    pub interfaces: Vec<Interface>,
    /// How `penctl` reaches the daemon.
    pub control: Control,
    /// Where the proxies write what became of connections.
    pub access_log: Option<AccessLog>,
    /// What clients get that come without TLS.
    pub responder: Option<Responder>,
    /// Access lists; names are unique.
    pub acls: Vec<Acl>,
    /// Groups of virtual addresses that several nodes share; names are unique, and at least one
    /// of the addresses belongs to each.
    pub carp: Vec<Carp>,
    /// How nodes tell each other of connections.
    pub sync: Option<StateSync>,
    /// Virtual addresses.
    pub vips: Vec<Vip>,
    /// Services.
    pub services: Vec<Service>,
    /// Who is told of events; names are unique.
    pub notify: Vec<Notify>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Key of the flow hash; `None` if the configuration names no secret file: the daemon then
    /// makes one at random.
    pub secret: Option<[u64; 2]>,
    /// Ports that masqueraded flows get; none of them is one that the machine gives its own
    /// connections if some service masquerades.
    pub masquerade_ports: Ports,
    /// How much the kernel remembers.
    pub sizes: Sizes,
    /// For so long connections of proxies may go on after the daemon was told to end; `None` if the
    /// configuration does not say: not at all then, and [`DRAIN_FOR_HEIR`] if another daemon takes
    /// its place.
    pub drain_at_exit: Option<Duration>,
    /// Servers of the DNS that names are asked of; those of the machine if there are none.
    pub resolvers: Vec<SocketAddr>,
}

/// For so long connections of proxies go on in a daemon whose place another one has taken.
pub const DRAIN_FOR_HEIR: Duration = Duration::from_secs(600);

/// Entries of the kernel's tables that forget what was not used for longest when they are full.
/// Memory for them is taken at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flows of slots that have moved; about 100 bytes each.
    pub flows: u32,
    /// Clients of services with affinity by client; about 100 bytes each.
    pub clients: u32,
    /// Translations; a flow of mode `nat` has one, of mode `masquerade` two. About 150 bytes each.
    pub translations: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: abi::DEFAULT_FLOWS,
            clients: abi::DEFAULT_CLIENTS,
            translations: abi::DEFAULT_TRANSLATIONS,
        }
    }
}

/// An interface that XDP is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, as `ip link` shows it.
    pub name: String,
    /// How to attach.
    pub xdp: XdpMode,
}

/// How to attach to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native if the driver can, otherwise generic with a warning.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack: works everywhere, slower.
    Generic,
    /// Not at all.
    Off,
}

/// How `penctl` reaches the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Unix socket.
    pub socket: PathBuf,
}

/// Where the proxies write what became of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// The file.
    pub file: PathBuf,
    /// Lines of JSON; otherwise text.
    pub json: bool,
}

/// What clients get that come without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responder {
    /// Where it listens; at least one.
    pub listen: Vec<SocketAddr>,
    /// Where there is TLS.
    pub https_port: u16,
    /// Folder below which challenges of authorities are.
    pub webroot: Option<PathBuf>,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Name of the interface on whose network it lives; one of [`Config::interfaces`].
    pub interface: String,
    /// Group that decides which node owns it, one of [`Config::carp`]; without it this node does.
    pub carp: Option<String>,
    /// Echo requests are answered for it.
    pub echo: bool,
    /// Access list that its packets have to pass; one of [`Config::acls`].
    pub acl: Option<String>,
    /// TCP connections that a source may open in a second, 1..=[`MAX_SYN_RATE`].
    pub syn_rate: Option<u32>,
}

/// An access list. Of the networks that hold a source the smallest decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Unique name.
    pub name: String,
    /// Networks, each only once.
    pub networks: Vec<(Cidr, Access)>,
    /// What holds for all others.
    pub default: Access,
}

/// What an access list says of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its packets go on.
    Allow,
    /// They are dropped.
    Deny,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Where it listens; the address is one of [`Config::vips`], except that a proxy may listen on
    /// others, of which one stands for the path of its Unix socket ([`Proxy::socket`]).
    pub listen: Listen,
    /// Protocol.
    pub protocol: Protocol,
    /// How packets reach the backend.
    pub mode: Mode,
    /// Address that masqueraded packets come from, one of [`Config::vips`]; `None` is this node's.
    /// Only in mode `masquerade`.
    pub source: Option<IpAddr>,
    /// What keeps to one backend.
    pub affinity: Affinity,
    /// How long, and in which table.
    pub memory: Memory,
    /// At least one, unless there are [`Service::names`]; names and (address, port) are unique within
    /// the service, in a mode that keeps the port even addresses; not all weights are 0; none is a VIP.
    pub backends: Vec<Backend>,
    /// More of them, which the DNS names.
    pub names: Vec<Named>,
    /// Takes everything while no other backend can; not among [`Service::backends`], but under the
    /// same rules.
    pub emergency: Option<Backend>,
    /// Flows wait for their backend while it is down, instead of going to another one.
    pub stubborn: bool,
    /// How backends are probed; with [`Judgement::track`] as those of that service.
    pub check: Check,
    /// How they are judged together.
    pub judgement: Judgement,
    /// What else there is to say of it; `Some` in mode `proxy` and no other.
    pub proxy: Option<Box<Proxy>>,
}

/// What only a service of mode `proxy` has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The Unix socket that it listens on instead of an address.
    pub socket: Option<SocketFile>,
    /// How the backend of a new connection is chosen.
    pub scheduler: Scheduler,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// A backend that could not be connected to gets nothing new for this time, and twice as long
    /// each time that it fails again after its return.
    pub eject: Duration,
    /// But never for longer than this.
    pub eject_max: Duration,
    /// So many connections in a row that a backend resets before it has sent anything are as bad as
    /// one that it refuses; 0 is never.
    pub eject_resets: u32,
    /// Connections at a time; more wait to be accepted. Of UDP flows, and more are dropped.
    pub max_connections: Option<u32>,
    /// Connections at a time of one source, or flows; more are closed.
    pub max_per_source: Option<u32>,
    /// Connections that may wait while all backends have as many as they may have.
    pub queue: u32,
    /// Access list that clients have to pass; one of [`Config::acls`].
    pub acl: Option<String>,
    /// Access list of those that say with the PROXY protocol who the client is; all others are turned
    /// away.
    pub accept_proxy: Option<String>,
    /// How backends are told who the client is.
    pub send_proxy: Option<ProxyVersion>,
    /// Connections carry one request of HTTP/1 each, which tells backends so who the client is.
    pub forwarded_for: Option<ForwardedFor>,
    /// When one side ends its half, the other one is closed as well.
    pub fast_close: bool,
    /// Backends see the address of the client as that of their peer.
    pub transparent: bool,
    /// Gets the clients that the access list denies, which are turned away otherwise.
    pub abuse: Option<Backend>,
    /// TLS ends here.
    pub tls: Option<Box<Tls>>,
    /// TLS begins here, towards servers.
    pub backend_tls: Option<Box<BackendTls>>,
    /// Which backends are for clients that ask for which names; no name is in two of them.
    pub routes: Vec<Route>,
}

/// A Unix socket that a service listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// Where it is; absolute.
    pub path: UnixPath,
    /// Permission bits.
    pub mode: u32,
    /// Its user, by name or number; pend's without it.
    pub owner: Option<String>,
    /// Its group, likewise.
    pub group: Option<String>,
}

/// What becomes of the addresses that a request brings in `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedFor {
    /// They are dropped: anybody can write some.
    Replace,
    /// The client's follows them, for servers that know how many proxies are to be believed.
    Append,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with more fields.
    V2,
}

/// How long a proxied connection may take for what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For each backend that is tried: until it has accepted.
    pub connect: Duration,
    /// Silence of both sides while the client has sent nothing yet.
    pub client: Duration,
    /// Silence of both sides while the server has sent nothing yet.
    pub server: Duration,
    /// Silence of both sides after that.
    pub tunnel: Duration,
    /// Silence after one side has ended its half.
    pub half_closed: Duration,
    /// In the queue.
    pub queue: Duration,
    /// All together, for a header of the PROXY protocol.
    pub header: Duration,
    /// Silence of a flow of UDP.
    pub udp: Duration,
}

/// How the backend of a new connection is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// By the service's table, as the kernel does: the same client gets the same backend.
    Maglev,
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The one with the fewest connections for its weight.
    LeastConn,
    /// Of two that are drawn by weight, the one with fewer connections for its weight.
    Random,
    /// As pen does: the fewest connections for its weight, of equals always the first.
    Weight,
    /// The lowest number `prio`.
    Prio,
    /// By a hash of the client's address; with affinity by flow also of its port.
    Hash,
}

/// Where a service listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Virtual address.
    pub address: IpAddr,
    /// Ports, of which no other service of the same protocol has one.
    pub ports: Ports,
}

impl Service {
    /// All backends, the one for emergencies last.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().chain(&self.emergency)
    }

    /// Whether a backend is there because the DNS says so.
    #[must_use]
    pub fn is_named(&self, backend: &Backend) -> bool {
        let mut names =
            self.names.iter().filter_map(|named| backend.name.strip_prefix(&named.name));
        names.any(|rest| rest.starts_with('/'))
    }

    /// The backend of this service that is the same server as one of another service: the one at the
    /// same port if it is there.
    #[must_use]
    pub fn counterpart(&self, other: &Backend) -> Option<&Backend> {
        let same = |backend: &&Backend| {
            (backend.address, &backend.socket) == (other.address, &other.socket)
        };
        let exact = self.all_backends().filter(same).find(|found| found.port == other.port);
        exact.or_else(|| self.all_backends().find(same))
    }

    /// Where it listens; of several ports the first.
    #[must_use]
    pub fn listens(&self) -> Endpoint {
        match self.proxy.as_ref().and_then(|proxy| proxy.socket.as_ref()) {
            Some(socket) => Endpoint::Unix(socket.path.clone()),
            None => SocketAddr::new(self.listen.address, self.listen.ports.first).into(),
        }
    }
}

/// A type of records of DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as everybody calls them")]
pub enum Record {
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Txt,
}

/// The code of an answer of DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as `dig` calls them")]
pub enum Rcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
}

/// A transport protocol.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How packets reach the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Destination MAC rewritten; the answer goes straight to the client.
    Dsr,
    /// IP in IP; the answer goes straight to the client.
    Ipip,
    /// IP in UDP (generic UDP encapsulation); the answer goes straight to the client.
    Gue,
    /// Destination rewritten; the answer comes back through this node.
    Nat,
    /// Source and destination rewritten; the answer comes back to this node.
    Masquerade,
    /// Connections end here, and others lead to the backends.
    Proxy,
}

impl Mode {
    /// Addresses and ports are rewritten, so that a backend may have another port, and its answers
    /// have to come back.
    #[must_use]
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::Masquerade)
    }

    /// A backend may have a port of its own.
    #[must_use]
    pub const fn takes_ports(self) -> bool {
        self.translates() || matches!(self, Self::Proxy)
    }

    /// A backend may be of the other family than the virtual address.
    #[must_use]
    pub const fn takes_families(self) -> bool {
        self.encapsulates() || matches!(self, Self::Proxy)
    }

    /// The packet travels within another one, whose addresses may be of the other family.
    #[must_use]
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Packets to the backend bear an address of this node as their source.
    #[must_use]
    pub const fn sends_from_own_address(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue | Self::Masquerade)
    }
}

/// What keeps to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// All flows of a client's address.
    Client,
    /// Each flow for itself.
    Flow,
}

/// How long a service remembers, and in which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Slots of its table, one of [`SLOT_COUNTS`].
    pub slots: u32,
    /// After this time in a slot whose backend changed, all active flows are known; a flow that was
    /// silent for longer may change its backend.
    pub settle: Duration,
    /// A client that opened no connection for this time is forgotten.
    pub affinity_ttl: Duration,
    /// Bits of an IPv4 address that make a client, 1..=32.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a client, 1..=128.
    pub prefix_v6: u8,
}
