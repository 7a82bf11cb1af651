//! What `penctl sync` says.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How this node and its peers keep each other informed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Why it does not listen, if so.
    #[serde(default)]
    pub error: Option<String>,
    /// This node knows what the others know.
    pub complete: bool,
    /// The others.
    pub peers: Vec<SyncPeer>,
    /// Datagrams that were not sealed with the shared key, or came from nobody's address.
    pub refused: u64,
    /// Times that the kernel or a queue had no room for a record; it is told later then.
    pub missed: u64,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPeer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name; empty before it was heard.
    pub name: String,
    /// `never-heard`, `silent`, `joining` (it is telling us everything) or `up`.
    pub state: String,
    /// Milliseconds since it was heard; `None` if it never was.
    pub heard_ms: Option<u64>,
    /// Facts and records that it does not have yet.
    pub behind: u64,
    /// Milliseconds since it last acknowledged something that is under way; 0 if nothing is.
    pub ack_ms: u64,
    /// Records told to it.
    pub told: u64,
    /// Records taken from it.
    pub taken: u64,
    /// Records of it that mean nothing here.
    pub ignored: u64,
    /// Parts that had to be sent again.
    pub resent: u64,
    /// Records that were left out because too many were waiting.
    pub left_out: u64,
    /// Datagrams that were recordings, or doubled.
    pub replayed: u64,
    /// Datagrams that nobody can read, although they bear the key.
    pub malformed: u64,
    /// What it has otherwise than this node.
    pub differs: Vec<String>,
}
