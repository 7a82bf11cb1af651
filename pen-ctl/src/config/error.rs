//! What can be wrong with a configuration. One variant per check, so that tests can name it; its
//! text says what is wrong and how to cure it, because it is read by someone at a terminal who has
//! no source code at hand.

mod check;
mod notify;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

pub use self::check::CheckError;
pub use self::notify::NotifyError;
use crate::config::position::Position;
use crate::config::{Cidr, Listen, Mode, Ports, TlsError, UnixPath};

/// An error and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub at: Position,
    /// What.
    pub kind: ErrorKind,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.kind)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum ErrorKind {
    // The file.
    Unreadable { reason: String },
    NotUtf8,
    Syntax { message: String },
    DuplicateKey { key: String },

    // Tables, keys and the types of values.
    GivenTwice { table: &'static str, first: Position },
    UnknownKey { key: String, table: &'static str, near: Option<String>, valid: Vec<&'static str> },
    NotBuiltIn { what: String, instead: &'static str },
    MissingKey { table: &'static str, key: &'static str, example: &'static str },
    WrongType { expected: String, found: &'static str },
    UnknownWord { key: &'static str, found: String, near: Option<String>, valid: Vec<&'static str> },
    OutOfRange { key: &'static str, found: String, min: String, max: String },
    TooMany { what: &'static str, max: usize },
    UnusableSlots { slots: u32, valid: Vec<u32> },

    // Names and references.
    InvalidName { name: String },
    HostNameUnknown { reason: String },
    Duplicate { what: &'static str, name: String, first: Position },
    ListenOverlap { listen: String, other: String, first: Position },
    VipWithoutXdp { name: String },
    UndeclaredInterface { name: String, near: Option<String> },
    UndeclaredVip { address: IpAddr, declared: Vec<IpAddr> },
    UndeclaredService { name: String, near: Option<String> },
    CheckAndTrack,
    TracksATracker { service: String },
    NoCounterpart { backend: String, service: String },
    UndeclaredPool { name: String, near: Option<String> },
    UndeclaredAcl { name: String, near: Option<String> },
    UndeclaredCarp { name: String, near: Option<String> },
    UndeclaredKey { id: u32, valid: Vec<u8> },

    // The node: its secret, its socket, its interfaces.
    SecretUnreadable { file: PathBuf, reason: String },
    SecretNotRegular { file: PathBuf },
    SecretPermissions { file: PathBuf, mode: u32 },
    SecretMalformed { file: PathBuf },
    SocketNotAbsolute { path: String },
    LogNotAbsolute { path: String },
    SocketTooLong { length: usize, max: usize },
    SocketBlank { path: String },
    SocketNoFile { path: String },
    InvalidFileMode { text: String },
    UnknownOwner { text: String },
    InvalidInterfaceName { name: String },
    InvalidPorts { key: &'static str, text: String },
    PortsOfAnswers { taken: Ports, ports: Ports, address: IpAddr, service: String },
    PortsOfTheMachine { ports: Ports, local: Ports },
    AbsentInterface { name: String, near: Option<String>, existing: Vec<String> },

    // Addresses.
    InvalidAddress { text: String },
    InvalidListen { text: String },
    InvalidBackend { text: String },
    InvalidNetwork { text: String },
    NotFirstAddress { text: String, network: Cidr },
    UnusableAddress { address: IpAddr, why: &'static str },
    InvalidHost { text: String, example: &'static str },
    InvalidResolver { text: String },

    // Groups of virtual addresses.
    NoEffect { key: &'static str, needs: &'static str },
    NoInterval,
    IntervalOfFarewell,
    WouldBeCut { key: &'static str, found: String, kept: u64 },
    FractionOfSecond { found: String, auth: &'static str },
    KeyUnreadable { file: PathBuf, reason: String },
    KeyLength { file: PathBuf, length: usize },
    NoKeys,
    PasswordEmpty { file: PathBuf },
    PasswordTooLong { file: PathBuf, length: usize, max: usize, auth: &'static str },
    UnicastToUcarp,
    NoMulticastGroup { text: String },
    ManySources,
    PeerIsSelf { address: IpAddr },
    NodeIsVip { key: &'static str, address: IpAddr, vip: Position },
    VirtualMacWithoutXdp { name: String, carp: String },
    KeyOfTwoGroups { vhid: u8, other: String },
    VipElsewhere { vip: String, carp: String, interface: String },
    CarpWithoutVip { name: String },
    UcarpIpv6 { name: String, address: IpAddr },
    UcarpManyVips { name: String },
    HookNotAbsolute { path: PathBuf },
    HookUnusable { path: PathBuf, reason: String },
    InvalidEndpoint { text: String },
    SyncFamily { peer: IpAddr, listen: IpAddr },

    // Services and their backends.
    SourceNoVip { address: IpAddr, declared: Vec<IpAddr> },
    SourceFamily { source: IpAddr, vip: IpAddr },
    BackendsAndPool,
    NeitherBackendsNorPool,
    NoBackends,
    AllWeightsZero,
    OneWayToServer,
    NamedAlone { host: String },
    NamesAndTrack,
    SrvPorts { listen: Listen, mode: Mode },
    FamilyMismatch { backend: IpAddr, vip: IpAddr, mode: Mode },
    PortMismatch { port: u16, listen: Listen, mode: Mode },
    PortOfMany { port: u16, listen: Listen },
    BackendIsVip { address: IpAddr, vip: Position },
    OnlyProxied { key: &'static str, mode: Mode },
    ProxiedPorts { listen: Listen },
    SocketOfUdp { socket: UnixPath },
    BackendIsListener { socket: UnixPath },
    BackendWithoutPort { backend: String, example: String },
    TransparentFamily { backend: IpAddr, listen: IpAddr },
    TransparentSocket { socket: UnixPath },
    KnownBelowAll { known: u32, all: Option<u32> },
    Tls(TlsError),

    // Checks.
    InvalidDuration { key: &'static str, found: String },
    DurationWithoutUnit { key: &'static str, found: String },
    Check(CheckError),

    // Who is told of events.
    Notify(NotifyError),
}
