//! What `penctl carp` shows: the CARP groups of this node, their timers and what was refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A CARP group of this node: virtual addresses that move together under one vhid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarpGroup {
    /// Its name in the configuration.
    pub name: String,
    /// Index in the kernel's map of groups.
    pub group: u32,
    /// Interface on which it advertises.
    pub interface: String,
    /// Virtual host id.
    pub vhid: u8,
    /// Addresses that move with it.
    pub vips: Vec<IpAddr>,
    /// `ucarp`, `bsd` or `sha256`.
    pub auth: String,
    /// Where the group is now.
    pub state: CarpState,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Why it takes no part; only in [`CarpState::Init`].
    pub faults: Vec<String>,
    /// The VIPs are being handed over: another node may take them, this one goes on serving.
    pub leaving: bool,
    /// What an operator ordered and has not taken back.
    pub order: Option<CarpOrder>,
    /// Another node that is master, as far as was heard.
    pub master: Option<CarpMaster>,
    /// Time between two advertisements of this node, demotion included, in microseconds.
    pub interval_us: u64,
    /// Silence after which this node takes over, in microseconds.
    pub down_us: u64,
    /// Time until the next advertisement, in microseconds; only as master.
    pub advert_in_us: Option<u64>,
    /// Time until this node takes over if it hears nothing, in microseconds; only as backup.
    pub takeover_in_us: Option<u64>,
    /// Time until the role of master ends unless renewed, in microseconds; only as master.
    pub lease_us: Option<u64>,
    /// Sum of the weights of what failed; it is added to advskew, up to 240.
    pub demotion: u32,
    /// What failed, and its weight.
    pub demoted_by: BTreeMap<String, u16>,
    /// Sync group whose members move together.
    pub sync_group: Option<String>,
    /// Advertisements sent.
    pub sent: u64,
    /// Advertisements accepted.
    pub received: u64,
    /// Rounds of gratuitous ARP and unsolicited neighbour advertisements.
    pub announced: u64,
    /// Frames that could not be sent.
    pub send_errors: u64,
    /// Times that a timer was served too late to be obeyed.
    pub late: u64,
    /// Times that this node became master, and that it ceased to be.
    pub transitions: u64,
    /// Refused packets by reason; all reasons are listed.
    pub drops: BTreeMap<String, u64>,
    /// Other nodes of the group, as far as they were heard.
    pub peers: Vec<CarpPeer>,
}

/// State of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarpState {
    /// Takes no part: something is at fault.
    Init,
    /// Another node has the VIPs, or will have.
    Backup,
    /// This node has the VIPs.
    Master,
}

impl std::fmt::Display for CarpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
        })
    }
}

/// An operator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarpOrder {
    /// Be master, before all other nodes.
    Promote,
    /// Be the last that becomes master.
    Demote,
    /// Take back what was ordered.
    Release,
}

impl std::fmt::Display for CarpOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::Release => "release",
        })
    }
}

/// Role of a group, as the data plane has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarpRole {
    /// Name of the group.
    pub name: String,
    /// `master`, `leaving` or `backup`.
    pub role: String,
}

/// Orders something of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarpWish {
    /// Name of the group.
    pub group: String,
    /// The order.
    pub order: CarpOrder,
    /// Only say what is ordered now.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarpOrdered {
    /// Name of the group.
    pub group: String,
    /// The order.
    pub order: CarpOrder,
    /// The one before, unless it was taken back.
    pub was: Option<CarpOrder>,
    /// State of the group when the order came.
    pub state: CarpState,
    /// Nothing was done.
    pub dry_run: bool,
}

/// The other node that is master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarpMaster {
    /// Source address of its advertisements.
    pub address: IpAddr,
    /// Milliseconds since its last one.
    pub seen_ms: u64,
    /// Interval that it announced, in microseconds.
    pub interval_us: u64,
}

/// Another node of a group: one that was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarpPeer {
    /// Source address of its last advertisement.
    pub address: IpAddr,
    /// Number of the node; only of one that signs with sha256.
    pub node: Option<u64>,
    /// Milliseconds since it was heard last.
    pub seen_ms: u64,
    /// Interval that it announced, in microseconds.
    pub interval_us: u64,
    /// Its demotion, as it says.
    pub demotion: u32,
    /// Key that it signs with; only sha256.
    pub key: Option<u8>,
    /// It has the same VIPs; only sha256, for others a difference is a wrong digest.
    pub same_vips: Option<bool>,
    /// It has the same configuration; only sha256.
    pub same_config: Option<bool>,
    /// It has the name of this node, which must not be; only sha256.
    #[serde(default)]
    pub same_name: Option<bool>,
}
