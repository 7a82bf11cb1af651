//! What the operator sees of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pen_common::abi::ServiceKey;
use pen_common::moment::Moment;
use pen_common::net::protocol;

use super::Node;
use super::item::{Fact, Outline, Part};
use super::peer::Peer;
use crate::api;

impl Node {
    /// How it stands.
    #[must_use]
    pub fn report(&self, now: Moment) -> api::Sync {
        api::Sync {
            error: None,
            complete: self.complete == Some(true),
            peers: self.peers.iter().map(|peer| self.report_peer(peer, now)).collect(),
            refused: self.refused,
            missed: self.scan.losses,
        }
    }

    fn report_peer(&self, peer: &Peer, now: Moment) -> api::SyncPeer {
        let state = match peer.heard_at {
            None => "never-heard",
            Some(_) if !peer.alive => "silent",
            Some(_) if !peer.complete => "joining",
            Some(_) => "up",
        };
        let is_waited_for = peer.outbox.items() > 0;
        api::SyncPeer {
            address: peer.address,
            name: peer.greeting.name.clone(),
            state: state.to_owned(),
            heard_ms: peer.heard_at.map(|heard| millis(now.since(heard))),
            behind: peer.behind() as u64,
            ack_ms: if is_waited_for { millis(now.since(peer.acked_at)) } else { 0 },
            told: peer.stats.told,
            taken: peer.stats.taken,
            ignored: peer.stats.ignored,
            resent: peer.outbox.resent,
            left_out: peer.stats.left_out,
            replayed: peer.stats.replayed,
            malformed: peer.stats.malformed,
            differs: if peer.alive && peer.complete { self.differences(peer) } else { Vec::new() },
        }
    }

    /// What a peer has otherwise than this node, so that a fail-over would move flows.
    fn differences(&self, peer: &Peer) -> Vec<String> {
        let mut differs = Vec::new();
        if peer.greeting.secret != self.greeting.secret {
            differs.push("the secret ([node] secret_file)".to_owned());
        }
        let mut theirs: BTreeMap<ServiceKey, &Outline> = BTreeMap::new();
        for (topic, fact) in &peer.facts {
            if let (Part::Service, Fact::Service(outline)) = (topic.part, fact) {
                theirs.insert(topic.service, outline);
            }
        }
        for service in self.view.shared() {
            let name = &service.name;
            let Some(their) = theirs.remove(&service.key) else {
                differs.push(format!("service {name}: not there"));
                continue;
            };
            let our = &service.outline;
            let parts = [
                (our.mode == their.mode, "mode"),
                (our.slots == their.slots, "slots"),
                (our.backends == their.backends, "backends or their weights"),
                (our.rest == their.rest, "affinity, times or another setting"),
                (our.patience == their.patience, "advbase or deadratio of its [[carp]]"),
            ];
            for (_, what) in parts.iter().filter(|(same, _)| !same) {
                differs.push(format!("service {name}: {what}"));
            }
        }
        differs.extend(theirs.keys().map(|key| {
            let address = SocketAddr::new(key.vip.into(), key.port.value());
            let protocol = if key.protocol == protocol::TCP { "tcp" } else { "udp" };
            format!("service on {address}/{protocol}: only there")
        }));
        differs
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
