//! What a CARP group is told by the configuration. `config` makes these values and has checked them:
//! everything here is taken as it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The group that UCarp and the BSDs use, shared with VRRP.
pub const CARP_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Settings of one group (one vhid on one interface).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Index in the kernel's map `CARP` and in `AddrEntry.group`: 1 or more, and the same as long as
    /// the group lives. It names the group in events and actions.
    pub group: u32,
    /// Name, for people.
    pub name: String,
    /// Name of the interface.
    pub interface: String,
    /// Virtual host id, 1..=255; unique on its interface.
    pub vhid: u8,
    /// Addresses that move; one IPv4 address with [`Auth::Ucarp`], at least one otherwise.
    pub vips: Vec<IpAddr>,
    /// All virtual addresses of this node, also those of other groups: any of them may move away, so
    /// that none is an address of the node itself.
    pub all_vips: Vec<IpAddr>,
    /// Time between two advertisements before the skew is added. Whole seconds up to 255 with
    /// [`Auth::Ucarp`] and [`Auth::Bsd`]; 10 ms to 255 s with [`Auth::Sha256`].
    pub advbase: Duration,
    /// What is added to `advbase`, in 1/256 s; in 1/256 of `advbase` where that is below a second.
    /// The node with the least is preferred.
    pub advskew: u8,
    /// After how many missed advertisements the master is taken for dead; 1 or more.
    pub deadratio: u32,
    /// Takes over from a master that is less preferred.
    pub preempt: bool,
    /// For how long the master must have been less preferred before it is preempted.
    pub preempt_delay: Duration,
    /// No [`super::Hook::Down`] at the start.
    pub neutral: bool,
    /// How advertisements are signed.
    pub auth: Auth,
    /// Other nodes: destinations with [`Transport::Unicast`]; if there are any, packets of others
    /// are refused.
    pub peers: Vec<IpAddr>,
    /// How advertisements travel.
    pub transport: Transport,
    /// IPv4 destination unless unicast; [`CARP_GROUP`] by default. Of IPv6 it is always `ff02::12`.
    pub multicast: Ipv4Addr,
    /// Sources of advertisements, at most one of each family; without, the first of the interface's
    /// addresses (of IPv6 a link-local one).
    pub sources: Vec<IpAddr>,
    /// Ethernet address of the VIPs.
    pub mac: VipMac,
    /// Who stays if two masters have the same interval.
    pub tie_break: TieBreak,
    /// Takes part although the interface has no carrier (UCarp's `-S`).
    pub ignore_link: bool,
    /// Groups with the same name here move together.
    pub sync_group: Option<String>,
    /// As master, neighbours are told again after this time; `None`: only at a take-over.
    pub announce_refresh: Option<Duration>,
    /// For how long a planned handover waits for another node; see [`Auth::handover_limit`].
    pub handover_limit: Duration,
    /// [`super::Hook::Down`] at the end of the daemon too (UCarp's `-z`).
    pub down_at_exit: bool,
    /// Hash of the configuration that peers should share; told to them, shown if it differs.
    pub config_hash: u64,
}

/// How advertisements are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// As UCarp does: HMAC-SHA1 over version, vhid, one IPv4 address and the counter.
    Ucarp {
        /// At most 19 bytes if a real ucarp is to read it.
        password: Secret,
    },
    /// As the BSDs' kernels do: the same over all addresses in ascending order.
    Bsd {
        /// At most 20 bytes if a BSD is to read it.
        password: Secret,
    },
    /// HMAC-SHA256 over everything, in a trailer that others ignore.
    Sha256(Strong),
}

impl Auth {
    /// Name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ucarp { .. } => "ucarp",
            Self::Bsd { .. } => "bsd",
            Self::Sha256(_) => "sha256",
        }
    }

    /// What [`Settings::handover_limit`] is by default. A ucarp reads packets up to a second late
    /// (measured), and may need a second advertisement; our own nodes answer at once.
    #[must_use]
    pub fn handover_limit(&self, advbase: Duration) -> Duration {
        match self {
            Self::Ucarp { .. } | Self::Bsd { .. } => Duration::from_secs(4),
            Self::Sha256(_) => (advbase * 3).max(Duration::from_millis(200)),
        }
    }
}

/// Settings of [`Auth::Sha256`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strong {
    /// All keys that are valid now; at least the active one. Their ids are unique.
    pub keys: Vec<Key>,
    /// Id of the key that this node signs with.
    pub active: u8,
    /// What is done with packets without trailer.
    pub accept: Accept,
    /// What packets without trailer are checked with, and what fills the old digest of our own;
    /// `None`: such packets are refused, and the old digest is random.
    pub legacy: Option<Legacy>,
}

/// A key with the id that peers know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Written in each trailer.
    pub id: u8,
    /// 32 to 64 bytes.
    pub secret: Secret,
}

/// Peers that do not sign with sha256 (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// Password of their digests.
    pub password: Secret,
    /// Only these addresses may send without trailer; empty: anyone who knows the password.
    pub peers: Vec<IpAddr>,
}

/// Steps of going from passwords to [`Auth::Sha256`] without interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Third: only what has a valid trailer.
    Enforce,
    /// Second: sends trailers; without one, the old digest is enough.
    Permissive,
    /// First: sends no trailers, and takes both.
    ReceiveOnly,
}

/// How advertisements travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// To the multicast group.
    Multicast,
    /// IP multicast in Ethernet broadcast frames (UCarp's `-M`).
    Broadcast,
    /// To each of [`Settings::peers`].
    Unicast {
        /// Least TTL that is taken from a peer; 255 is one on the same link.
        min_ttl: u8,
    },
}

/// Ethernet address of the VIPs, and source of advertisements and announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipMac {
    /// `00:00:5e:00:01:VHID`: moves with the VIPs, so that no neighbour has to learn.
    Virtual,
    /// The interface's own, for networks that filter others.
    Interface,
    /// As UCarp does: the interface's own, and advertisements come from `00:00:5e:00:00:VHID`.
    Ucarp,
}

/// Which of two masters with the same interval stays. With [`Auth::Bsd`] neither is asked: both BSDs
/// give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieBreak {
    /// The lower address, compared as UCarp does on little-endian machines: last octet first.
    UcarpLe,
    /// The lower address.
    Numeric,
}

/// Bytes of a password or key; they never show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("love")), "Secret(4 bytes)");
    }

    #[test]
    fn a_handover_waits_long_enough_for_the_peers_of_its_profile() {
        let ucarp = Auth::Ucarp { password: Secret::new("love") };
        assert_eq!(ucarp.handover_limit(Duration::from_secs(1)), Duration::from_secs(4));
        let strong = Strong { keys: vec![], active: 1, accept: Accept::Enforce, legacy: None };
        let strong = Auth::Sha256(strong);
        assert_eq!(strong.handover_limit(Duration::from_secs(1)), Duration::from_secs(3));
        assert_eq!(strong.handover_limit(Duration::from_millis(10)), Duration::from_millis(200));
    }
}
