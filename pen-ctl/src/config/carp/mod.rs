//! Groups of virtual addresses that several nodes share, one of which answers at a time: what of a
//! `[[carp]]` is left when everything about it has been checked. The names of keys follow ucarp,
//! whose settings mean the same here.

mod keys;
mod read;
mod timing;
mod together;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(super) use keys::{key, password};
pub(super) use read::{Groups, groups};
pub(super) use together::{Member, check, check_services};

/// A group of virtual addresses that several nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carp {
    /// Unique name.
    pub name: String,
    /// Interface on which nodes hear each other; its group id is there only once.
    pub interface: String,
    /// Number of the group on this network, from 1.
    pub vhid: u8,
    /// From one advertisement of a master to the next, without the skew: whole seconds up to 255
    /// unless authenticated by [`CarpAuth::Sha256`], then at least 10 ms.
    pub advbase: Duration,
    /// 1/256 s that are added to it: the lower, the better the node. Neither this and `advbase` are
    /// both 0, nor both 255.
    pub advskew: u8,
    /// A master that was not heard for so many intervals is dead.
    pub deadratio: u32,
    /// A better node takes over from a living one.
    pub preempt: bool,
    /// How long it waits before it does.
    pub preempt_delay: Duration,
    /// The `down` hook is not run at the start.
    pub neutral: bool,
    /// How advertisements are authenticated.
    pub auth: CarpAuth,
    /// How they travel.
    pub transport: CarpTransport,
    /// Other nodes: where unicast advertisements go, at least one then. If there are any, nobody
    /// else is listened to.
    pub peers: Vec<IpAddr>,
    /// Addresses that they come from, at most one of each family; without one it is the interface's.
    pub sources: Vec<IpAddr>,
    /// Which MAC the virtual addresses have.
    pub mac: CarpMac,
    /// Who yields when two masters have the same interval.
    pub tie_break: TieBreak,
    /// Loss of the carrier is no reason to give up.
    pub ignore_link: bool,
    /// Groups of one name move together.
    pub sync_group: Option<String>,
    /// How often a master tells the neighbours again; `None` is never.
    pub announce_refresh: Option<Duration>,
    /// Programs that are told.
    pub hooks: Hooks,
    /// Who puts the addresses where they are answered.
    pub addresses: AddressesBy,
    /// What makes this node a worse one.
    pub demotion: Demotion,
}

/// How advertisements are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarpAuth {
    /// HMAC-SHA1 over exactly one IPv4 address, as ucarp does it.
    Ucarp {
        /// 1 to [`UCARP_PASSWORD`] bytes.
        password: Secret,
    },
    /// HMAC-SHA1 over the sorted addresses, as OpenBSD and FreeBSD do it.
    Bsd {
        /// 1 to [`BSD_PASSWORD`] bytes.
        password: Secret,
    },
    /// HMAC-SHA256 over everything, in a trailer that legacy peers do not look at.
    Sha256 {
        /// Of the legacy digest before the trailer, for peers that know no other.
        password: Option<Secret>,
        /// At least one; ids are unique.
        keys: Vec<CarpKey>,
        /// Id of the key that this node signs with; one of `keys`.
        active: u8,
        /// What becomes of advertisements without a trailer.
        accept: Accept,
        /// The only ones who may send without a trailer, if there are any; none with
        /// [`Accept::Enforce`].
        legacy_peers: Vec<IpAddr>,
    },
}

/// Longest password of ucarp, in bytes: its buffer has 20, and it wants a terminating zero.
pub const UCARP_PASSWORD: usize = 19;
/// Longest password of the BSDs, in bytes: `CARP_KEY_LEN`.
pub const BSD_PASSWORD: usize = 20;
/// Bytes of a key of `sha256`.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=64;

impl CarpAuth {
    /// How it is spelled.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ucarp { .. } => AuthWord::Ucarp.name(),
            Self::Bsd { .. } => AuthWord::Bsd.name(),
            Self::Sha256 { .. } => AuthWord::Sha256.name(),
        }
    }
}

/// The word after `auth =`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthWord {
    /// [`CarpAuth::Ucarp`]
    Ucarp,
    /// [`CarpAuth::Bsd`]
    Bsd,
    /// [`CarpAuth::Sha256`]
    Sha256,
}

/// A key of `sha256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarpKey {
    /// By which peers know it, from 1.
    pub id: u8,
    /// [`KEY_BYTES`] of it.
    pub secret: Secret,
}

/// Bytes that nobody shall see in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What becomes of advertisements without a valid trailer, while a network changes to `sha256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// They are refused.
    Enforce,
    /// They count if their old digest is right.
    Permissive,
    /// The same, and this node sends no trailer yet.
    ReceiveOnly,
}

/// How advertisements travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarpTransport {
    /// To a multicast group.
    Multicast {
        /// Of IPv4; the one of IPv6 is `ff02::12`.
        group: Ipv4Addr,
    },
    /// To the group, but in frames that every station of the network takes: for switches that lose
    /// multicast.
    Broadcast {
        /// Of IPv4; the one of IPv6 is `ff02::12`.
        group: Ipv4Addr,
    },
    /// To each peer for itself.
    Unicast {
        /// Least time to live that is taken from a peer; 255 is one of the same network.
        min_ttl: u8,
    },
}

/// The group of CARP and VRRP.
pub const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// The word after `transport =`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportWord {
    /// [`CarpTransport::Multicast`]
    Multicast,
    /// [`CarpTransport::Broadcast`]
    Broadcast,
    /// [`CarpTransport::Unicast`]
    Unicast,
}

/// Which MAC the virtual addresses have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarpMac {
    /// `00:00:5e:00:01:VHID`, which moves with them.
    Virtual,
    /// The interface's, for hypervisors that let no other one pass; neighbours learn a new one at
    /// each move.
    Interface,
    /// The interface's, and advertisements come from `00:00:5e:00:00:VHID`, as ucarp has it.
    Ucarp,
}

/// Who yields when two masters have the same interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieBreak {
    /// The node whose address is higher when its last byte counts most, as ucarp on little-endian
    /// machines has it.
    UcarpLe,
    /// The node whose address is higher.
    Numeric,
}

/// Programs that are told; all paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run when this node becomes master: `UP INTERFACE VIP [XPARAM]`.
    pub up: Option<PathBuf>,
    /// Run when it no longer is.
    pub down: Option<PathBuf>,
    /// A last argument for both.
    pub xparam: Option<String>,
    /// `down` is run at the end as well, if this node is master then.
    pub down_at_exit: bool,
}

/// Who puts the addresses of a group where they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressesBy {
    /// pen: XDP answers for them, or they are added to the interface.
    Pen,
    /// The hooks, as with ucarp: pen itself touches no address.
    Hooks,
}

/// What makes this node a worse one: weights that are added to its skew while something is wrong. 0
/// is no reason; [`MAX_DEMOTION`] puts it behind all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demotion {
    /// A service on an address of the group has no usable backend.
    pub no_backend: u8,
    /// XDP is not attached to an interface of the group.
    pub xdp_detached: u8,
    /// What peers know of connections has not come yet.
    pub sync_incomplete: u8,
    /// Other interfaces that have to have a carrier, and the weight of each.
    pub interfaces: Vec<(String, u8)>,
    /// Services that have to have their quorum, and the weight of each.
    pub services: Vec<(String, u8)>,
}

/// Highest weight: more does not fit beside the skew.
pub const MAX_DEMOTION: u8 = 240;

impl Default for Demotion {
    fn default() -> Self {
        Self {
            no_backend: 0,
            xdp_detached: MAX_DEMOTION,
            sync_incomplete: MAX_DEMOTION,
            interfaces: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// How nodes tell each other of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSync {
    /// Where peers reach this node, over UDP.
    pub listen: SocketAddr,
    /// At least one, of the family of `listen`, each only once.
    pub peers: Vec<SocketAddr>,
    /// [`KEY_BYTES`] of it; the same on all nodes.
    pub key: Secret,
}
