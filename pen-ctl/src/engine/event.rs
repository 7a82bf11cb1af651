//! The vocabulary of the engine: what comes in (events, in the past tense) and what goes out
//! (actions, imperative). All of it is plain data, so that a test, a dry run and a replay cost
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use pen_common::abi::Signals;
use pen_common::net::MacAddr;

use super::carp;
use super::census::Census;
use super::draining::Kept;
use super::names::{Answer, Query};
use super::notify::Delivery;
use super::probe::agent::Said;
use super::proxy::View;
use super::proxy::transparent::Answers;
use super::tables::Write;
use crate::config::{CheckKind, Endpoint, Hooks, Sizes, XdpMode};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The network is known as far as the kernel could tell at once; from now on tables may be
    /// written.
    Started,
    /// A deadline passed.
    TimePassed,
    /// An interface exists, with these properties.
    LinkChanged(Link),
    /// An interface is gone.
    LinkRemoved {
        /// Its index.
        ifindex: u32,
    },
    /// These interfaces exist and no others: the end of others was missed.
    LinksKnown(BTreeSet<u32>),
    /// The kernel said how it would reach an address; `None` if it has no route.
    RouteFound {
        /// The address.
        address: IpAddr,
        /// The route.
        route: Option<Route>,
        /// Ethernet address of the next hop, if the kernel knows it.
        mac: Option<MacAddr>,
    },
    /// The kernel's neighbour table changed.
    NeighbourChanged {
        /// Interface of the neighbour.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
        /// What is known now.
        neighbour: Neighbour,
    },
    /// A probe ended.
    ProbeDone {
        /// Which one.
        probe: ProbeId,
        /// How long it took.
        took: Duration,
        /// Its result.
        outcome: Outcome,
    },
    /// An agent was asked.
    AgentAnswered {
        /// By which question.
        probe: ProbeId,
        /// What it said.
        answer: Result<Said, ProbeError>,
    },
    /// The DNS was asked for servers.
    NameAnswered {
        /// What was asked.
        query: Query,
        /// What it said, or why that is not known.
        result: Result<Answer, String>,
    },
    /// A client of a proxy could not be served by a backend.
    BackendFailed {
        /// Id of the backend.
        backend: u32,
        /// Generation of that id.
        generation: u32,
        /// How.
        failure: Failure,
    },
    /// An attempt to attach XDP ended.
    AttachDone {
        /// Name of the interface.
        interface: String,
        /// What was obtained, or why nothing was.
        result: Result<Attachment, String>,
    },
    /// The records were counted.
    CensusTaken(Box<Census>),
    /// The records could not be read.
    CensusFailed {
        /// What the system said.
        error: String,
    },
    /// Packets have told more of backends.
    SignalsRead(SignalsRead),
    /// The proxies have so many connections, by id of the backend; none of those that are left out.
    ConnectionsCounted(BTreeMap<u32, u32>),
    /// A controller before this one kept these deadlines of drains.
    DeadlinesKept(Vec<Kept>),
    /// The proxies serve what they were told to, as far as they can.
    ProxiesServed {
        /// Names of the services whose sockets could not be had, and why not.
        failures: Vec<(String, String)>,
    },
    /// Something happened to the certificates of the proxies.
    CertificateNews {
        /// What.
        news: Vec<News>,
        /// What is wrong now.
        problems: BTreeSet<String>,
    },
    /// What could be done so that answers to clients are taken in has been done.
    AnswersRouted {
        /// What is missing, in words.
        problems: BTreeSet<String>,
        /// Some are taken in.
        any: bool,
    },
    /// A group of virtual addresses has another role.
    CarpRole {
        /// Index of the group.
        group: u32,
        /// The role.
        role: carp::Role,
    },
    /// CARP has something to tell.
    CarpTold {
        /// Needs attention.
        warning: bool,
        /// Kind of the journal's entry.
        kind: &'static str,
        /// What it is about.
        subject: String,
        /// A sentence.
        text: String,
    },
    /// Another node has the name of this one, or none has any more.
    CarpTwin {
        /// Index of a group in which it is heard.
        group: u32,
        /// Its address there.
        address: Option<IpAddr>,
    },
    /// What keeps CARP from being as quick as it could be, if anything.
    CarpHindered(Vec<String>),
    /// The holder of a service's address says how that stands.
    PeerState(Box<super::sync::Adopted>),
    /// Whether this node knows what its peers know.
    SyncComplete(bool),
    /// How this node and its peers keep each other informed.
    SyncReport(crate::api::Sync),
    /// The maps were opened, and have room for this much.
    MapsOpened(Sizes),
    /// An attempt to tell somebody of an event ended.
    Notified {
        /// Name of the receiver.
        receiver: String,
        /// Which attempt.
        serial: u64,
        /// Or why it could not be told.
        result: Result<(), String>,
    },
    /// Writes to the maps failed; this is what the maps hold in fact.
    WriteFailed {
        /// What the system said.
        error: String,
        /// The maps, read back.
        actual: Box<super::tables::Tables>,
    },
}

/// A group of virtual addresses that nodes share, with what is needed to carry out what is decided
/// about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What decides.
    pub settings: carp::Settings,
    /// Those of its addresses that its interface gets while this node is master; the others are
    /// answered for by XDP alone, or given by hooks.
    pub local: Vec<IpAddr>,
    /// Programs that are told.
    pub hooks: Hooks,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Ethernet address.
    pub mac: MacAddr,
    /// Up, with a carrier.
    pub up: bool,
    /// Longest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// The kernel forwards IPv4 packets that come in here.
    pub forwards_v4: bool,
    /// The same for IPv6.
    pub forwards_v6: bool,
}

/// How the kernel reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface.
    pub ifindex: u32,
    /// Router in between; `None` on a connected network.
    pub gateway: Option<IpAddr>,
    /// This node's own address on the way, if it has one.
    pub source: Option<IpAddr>,
}

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its Ethernet address.
    Resolved(MacAddr),
    /// It did not answer.
    Failed,
    /// The kernel dropped the entry; says nothing about the neighbour.
    Forgotten,
}

/// A probe: of which backend, and which one of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    /// Id of the backend.
    pub backend: u32,
    /// Generation of that id.
    pub generation: u32,
    /// Serial number.
    pub serial: u64,
}

/// A question to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which one.
    pub probe: ProbeId,
    /// Where the agent is.
    pub target: SocketAddr,
    /// What is said to it first.
    pub send: Arc<str>,
    /// When to give up.
    pub timeout: Duration,
}

/// The tunnel to a backend, for a probe that goes the way of its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// In UDP, rather than IP in IP.
    pub gue: bool,
    /// The virtual address, which the backend holds.
    pub vip: IpAddr,
}

/// A probe's result.
pub type Outcome = Result<(), ProbeError>;

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// No answer in this time.
    Timeout(Duration),
    /// It accepted the connection, but no answer came in this time.
    Silent(Duration),
    /// The program that asks did not end in this time.
    Killed(Duration),
    /// It closed the connection before it had answered.
    Closed,
    /// It answered something else.
    Answered {
        /// What it answered.
        found: String,
        /// What would have been right.
        expected: String,
    },
    /// TLS was not agreed upon, or its certificate is not right; in words.
    Tls(String),
    /// No answer in time to what came through the tunnel.
    NoTunnelAnswer,
    /// The backend said no.
    Refused,
    /// No way to it, or any other error of the system, in its words.
    System(String),
    /// This machine could not probe (out of descriptors, ports or memory), in the system's words:
    /// says nothing about the backend.
    Local(String),
}

impl std::fmt::Display for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {}", format_duration(*limit)),
            Self::Silent(limit) => write!(
                f,
                "accepted the connection, but did not answer within {}",
                format_duration(*limit)
            ),
            Self::Killed(limit) => {
                write!(f, "did not end within {}, and was killed", format_duration(*limit))
            }
            Self::Closed => f.write_str("closed the connection without an answer"),
            Self::Answered { found, expected } => {
                write!(f, "answered {found}, expected {expected}")
            }
            Self::NoTunnelAnswer => f.write_str(
                "no answer through the tunnel: attach pen-decap there (`penctl decap attach`), and \
                 let it hold the virtual address",
            ),
            Self::Refused => f.write_str("connection refused"),
            Self::System(error) | Self::Tls(error) => f.write_str(error),
            Self::Local(error) => write!(f, "not probed: {error}"),
        }
    }
}

/// How a backend failed a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It refused the connection, or said that it cannot be reached.
    Refused,
    /// It did not answer in time.
    Silent,
    /// It reset several connections in a row before it had sent anything.
    Reset,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "a connection was refused",
            Self::Silent => "a connection was not answered in time",
            Self::Reset => "several connections in a row were reset before it had sent anything",
        })
    }
}

/// What packets have told of backends since the maps were made, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalsRead {
    /// Of all together; answers are not in it.
    pub total: Signals,
    /// By backend id.
    pub of: BTreeMap<u32, Signals>,
}

/// How XDP is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// In the driver; otherwise in the network stack.
    pub native: bool,
    /// Frames may come in fragments, as long ones do.
    pub frags: bool,
    /// What the operator should know, e.g. why it is not native.
    pub warning: Option<String>,
}

/// Something is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Change the maps, in this order.
    WriteTables(Vec<Write>),
    /// Read what packets have told of backends, unless it is what is known already; answered by
    /// `SignalsRead`, or not at all.
    ReadSignals {
        /// The total that was read last.
        known: Option<Signals>,
    },
    /// Show all records of flows and clients to the census; answered by `CensusTaken` or
    /// `CensusFailed`. There may be a million: it must not hold up anything else.
    TakeCensus(Box<Census>),
    /// Count the connections of the proxies; answered by `ConnectionsCounted`.
    CountConnections,
    /// Keep these deadlines of drains for the next daemon.
    KeepDeadlines(Vec<Kept>),
    /// Ask the kernel for the route to an address, and to look for the neighbour that is the next
    /// hop; answered by `RouteFound` and `NeighbourChanged`.
    ResolveNeighbour(IpAddr),
    /// Let the kernel verify at once that a neighbour still has the Ethernet address it believes;
    /// until the neighbour has failed to answer, the address holds.
    ConfirmNeighbour {
        /// Index of the interface.
        ifindex: u32,
        /// The neighbour.
        address: IpAddr,
    },
    /// Let the interface receive neighbour solicitations for an address that the kernel does not
    /// have: they are sent to a multicast group, which a real NIC and a snooping switch filter.
    JoinSolicited {
        /// Index of the interface.
        ifindex: u32,
        /// The virtual address.
        address: Ipv6Addr,
    },
    /// The opposite.
    LeaveSolicited {
        /// Index of the interface.
        ifindex: u32,
        /// The virtual address.
        address: Ipv6Addr,
    },
    /// Probe a backend; answered by `ProbeDone`.
    StartProbe {
        /// Which probe.
        probe: ProbeId,
        /// What is asked, and which answer is right.
        kind: CheckKind,
        /// Who is asked.
        target: Endpoint,
        /// Ask through this tunnel.
        through: Option<Tunnel>,
        /// When to give up.
        timeout: Duration,
    },
    /// Ask the agent on a backend for its words; answered by `AgentAnswered`.
    AskAgent(Question),
    /// Ask the DNS for servers; answered by `NameAnswered`.
    AskName {
        /// What.
        query: Query,
        /// Whom; the servers that the machine asks if there are none.
        resolvers: Vec<SocketAddr>,
    },
    /// Keep these answers of the DNS for the next daemon.
    KeepNames(Vec<(Query, Answer)>),
    /// Attach XDP to an interface, or replace the program that is pinned for it; answered by
    /// `AttachDone`.
    AttachXdp {
        /// Name of the interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// Its MTU: longer frames need another build of the program.
        mtu: u32,
        /// How.
        mode: XdpMode,
    },
    /// Let the proxies serve these services and no others; answered by `ProxiesServed`.
    ServeProxies(Arc<View>),
    /// Let the machine's own stack take in these answers and no others, but for those to connections
    /// that exist; answered by `AnswersRouted`.
    RouteAnswers(BTreeSet<Answers>),
    /// See whether that is still so.
    CheckAnswers,
    /// Let the machine's own stack take packets for a virtual address.
    HoldAddress(IpAddr),
    /// The opposite.
    ReleaseAddress(IpAddr),
    /// Detach XDP from all interfaces but these: an earlier configuration had them, or they are gone.
    DetachOthers(BTreeSet<u32>),
    /// These are the groups of virtual addresses from now on.
    ConfigureCarp(Vec<Group>),
    /// Whether this node can serve the addresses of a group changed.
    CarpUsable {
        /// Index of the group.
        group: u32,
        /// Or why not.
        result: Result<(), String>,
    },
    /// Something that a group depends on failed or works again.
    DemoteCarp {
        /// Index of the group.
        group: u32,
        /// What it is, for people.
        reason: String,
        /// Its weight; 0: it works again.
        weight: u16,
    },
    /// Peers shall know this.
    ShareState {
        /// What is known of services.
        view: Arc<super::sync::view::View>,
        /// Key of the flow hash.
        secret: pen_common::hash::Secret,
    },
    /// Tell somebody of an event; answered by `Notified`.
    Notify(Box<Delivery>),
    /// Tell the operator's log.
    Log {
        /// Needs attention.
        warning: bool,
        /// What happened.
        text: String,
    },
}

/// Something that an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// It is to be looked after.
    pub warning: bool,
    /// What kind, in words joined by `-`.
    pub kind: &'static str,
    /// What it is about.
    pub subject: String,
    /// The whole story in a sentence.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_as_a_person_would() {
        let limit = Duration::from_millis(500);
        for (error, text) in [
            (ProbeError::Timeout(limit), "no answer within 500ms"),
            (ProbeError::Silent(limit), "accepted the connection, but did not answer within 500ms"),
            (ProbeError::Killed(limit), "did not end within 500ms, and was killed"),
            (ProbeError::Closed, "closed the connection without an answer"),
            (ProbeError::Refused, "connection refused"),
            (ProbeError::Local("out of files".to_owned()), "not probed: out of files"),
            (ProbeError::System("no route".to_owned()), "no route"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
