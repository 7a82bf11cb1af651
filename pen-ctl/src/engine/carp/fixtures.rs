//! Settings, links and frames for the tests of this folder.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pen_common::net::MacAddr;

use super::settings::{Accept, Auth, Key, Legacy, Secret, Settings, Strong};
use super::{CARP_GROUP, Link, TieBreak, Transport, VipMac};

pub(super) const IFINDEX: u32 = 2;

/// What is said of a group with one VIP, password `love`, vhid 42, and a second between adverts.
pub(super) fn ucarp(group: u32) -> Settings {
    Settings {
        group,
        name: format!("g{group}"),
        interface: "eth0".to_owned(),
        vhid: 42,
        vips: vec![IpAddr::from([10, 77, 0, 100])],
        all_vips: Vec::new(),
        advbase: Duration::from_secs(1),
        advskew: 0,
        deadratio: 3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        neutral: false,
        auth: Auth::Ucarp { password: Secret::new("love") },
        peers: Vec::new(),
        transport: Transport::Multicast,
        multicast: CARP_GROUP,
        sources: Vec::new(),
        mac: VipMac::Virtual,
        tie_break: TieBreak::UcarpLe,
        ignore_link: false,
        sync_group: None,
        announce_refresh: None,
        handover_limit: Duration::from_secs(4),
        down_at_exit: false,
        config_hash: 0,
    }
}

pub(super) fn bsd(group: u32) -> Settings {
    Settings { auth: Auth::Bsd { password: Secret::new("love") }, ..ucarp(group) }
}

pub(super) fn key(id: u8) -> Key {
    Key { id, secret: Secret::new(vec![id; 32]) }
}

pub(super) fn strong(group: u32) -> Settings {
    strong_with(group, Accept::Enforce, None)
}

pub(super) fn strong_with(group: u32, accept: Accept, legacy: Option<&[&str]>) -> Settings {
    let legacy = legacy.map(|peers| Legacy {
        password: Secret::new("love"),
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
    });
    let auth = Auth::Sha256(Strong { keys: vec![key(1)], active: 1, accept, legacy });
    let handover_limit = auth.handover_limit(Duration::from_secs(1));
    Settings {
        auth,
        handover_limit,
        tie_break: TieBreak::Numeric,
        announce_refresh: Some(Duration::from_secs(60)),
        ..ucarp(group)
    }
}

/// eth0 of the node with this last octet.
pub(super) fn link(host: u8) -> Link {
    Link {
        ifindex: IFINDEX,
        name: "eth0".to_owned(),
        up: true,
        carrier: true,
        mac: MacAddr([2, 0, 0, 0, 0, host]),
        router: false,
        addresses: vec![
            Ipv4Addr::new(10, 77, 0, host).into(),
            format!("fe80::{host:x}").parse().unwrap(),
        ],
    }
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}
