//! What `penctl decap` says. No daemon has a part in it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An interface on which packets are taken out of pen's tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decap {
    /// Its name.
    pub interface: String,
    /// `native`, `generic`, or `gone` if the interface is no more.
    pub xdp: String,
    /// Addresses to which tunnels may lead.
    pub addresses: BTreeSet<IpAddr>,
    /// Virtual addresses for which packets may be in them.
    pub vips: BTreeSet<IpAddr>,
    /// The ends of all frames.
    pub counters: Vec<DecapCounter>,
}

/// A counter: frames with one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapCounter {
    /// Name of the end.
    pub name: String,
    /// Frames.
    pub packets: u64,
    /// Their bytes, as they came.
    pub bytes: u64,
}
