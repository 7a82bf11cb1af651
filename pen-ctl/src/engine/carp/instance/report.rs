//! What operators see of a group, and what is remembered of its peers for them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;

use super::{Context, Fault, Instance, State};
use crate::api::carp::{CarpGroup, CarpMaster, CarpPeer, CarpState};
use crate::engine::carp::RejectReason;
use crate::engine::carp::event::Action;
use crate::engine::carp::settings::Auth;
use crate::engine::carp::verify::Heard;

/// Peers that are remembered. Without trailers, sources can be forged.
const PEERS: usize = 32;
/// An operator is warned of another node with the name of this one until it was silent for so long.
const TWIN_LASTS: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) announced: u64,
    pub(super) send_errors: u64,
    pub(super) late: u64,
    pub(super) transitions: u64,
    /// When an operator may be told of a reason again.
    pub(super) told: BTreeMap<RejectReason, Moment>,
}

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerId {
    Node(u64),
    Address(IpAddr),
}

impl PeerId {
    pub(super) fn of(heard: &Heard) -> Self {
        match heard.trailer {
            Some(trailer) if !heard.is_twin => Self::Node(trailer.node),
            _ => Self::Address(heard.source),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    heard: Heard,
    at: Moment,
    same_vips: Option<bool>,
    same_config: Option<bool>,
    /// Advertisements over IPv6 since the last one over IPv4.
    in_v6_only: u8,
}

/// Other nodes that were heard.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<PeerId, Peer>);

impl Instance {
    /// Takes note of a peer, and tells what is new about it.
    pub(super) fn remember(&mut self, context: &mut Context<'_>, heard: &Heard) {
        let trailer = heard.trailer;
        let id = PeerId::of(heard);
        let same_vips = trailer.map(|trailer| trailer.vips == self.verifier.vips());
        let same_config = trailer.map(|trailer| trailer.config == self.settings.config_hash);
        let before = self.peers.0.get(&id).copied();
        let in_v6_only = match heard.source {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => before.map_or(0, |peer| peer.in_v6_only).saturating_add(1),
        };
        let peer = Peer { heard: *heard, at: context.now, same_vips, same_config, in_v6_only };
        self.peers.0.insert(id, peer);
        if self.peers.0.len() > PEERS {
            let oldest = self.peers.0.iter().min_by_key(|(_, peer)| peer.at);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.peers.0.remove(&oldest);
            }
        }
        let (name, source) = (self.settings.name.clone(), heard.source);
        let mut news = Vec::new();
        if heard.is_twin {
            if self.twin.is_none() {
                let text = format!(
                    "{name}: {source} has the name of this node, as if it were this one: give each \
                     node another `node.name`"
                );
                news.push((true, "carp-twin", text));
                let (group, address) = (self.settings.group, Some(source));
                context.actions.push_back(Action::Twin { group, address });
            }
            self.twin = Some(context.now + TWIN_LASTS);
        }
        if same_vips == Some(false) && before.is_none_or(|peer| peer.same_vips != Some(false)) {
            news.push((true, "carp-peer-vips", format!("{name}: {source} has other addresses")));
        }
        if same_config == Some(false) && before.is_none_or(|peer| peer.same_config != Some(false)) {
            let text = format!("{name}: {source} has another configuration");
            news.push((true, "carp-peer-config", text));
        }
        let key = trailer.map(|trailer| trailer.key);
        let known = before.and_then(|peer| peer.heard.trailer).map(|trailer| trailer.key);
        if let Some(key) = key
            && before.is_some()
            && known != Some(key)
        {
            let text = format!("{name}: {source} signs with key {key} now");
            news.push((false, "carp-peer-key", text));
        }
        for (warning, kind, text) in news {
            self.tell(context, warning, kind, text);
        }
    }

    /// A peer is heard over IPv6, and not over IPv4: once may be a packet that was overtaken.
    pub(super) fn is_heard_in_v6_only(&self, heard: &Heard) -> bool {
        self.peers.0.get(&PeerId::of(heard)).is_some_and(|peer| peer.in_v6_only > 1)
    }

    /// No other node was heard for a while that has the name of this one; or this one listens no more.
    pub(super) fn forget_twin(&mut self, context: &mut Context<'_>) {
        let gone = self.is_gone();
        if self.twin.take_if(|until| gone || *until <= context.now).is_some() {
            let group = self.settings.group;
            context.actions.push_back(Action::Twin { group, address: None });
        }
    }

    /// Why the group takes no part, as sentences.
    pub(in crate::engine::carp) fn fault_texts(&self) -> Vec<String> {
        let interface = &self.settings.interface;
        let text = |fault: &Fault| match fault {
            Fault::NoInterface => format!("there is no interface {interface}"),
            Fault::InterfaceDown => format!("{interface} is down"),
            Fault::NoCarrier => format!("{interface} has no carrier"),
            Fault::NoSource => format!("{interface} has no address to advertise from"),
            Fault::Addresses => {
                let error = self.address_error.as_ref().map_or("", |(error, _)| error);
                format!("its addresses cannot be used: {error}")
            }
            Fault::SyncGroup => "another member of its sync group is at fault".to_owned(),
        };
        self.faults.iter().map(text).collect()
    }

    pub(super) fn fault_text(&self) -> String {
        self.fault_texts().join(", ")
    }

    /// The group as it is now.
    pub(in crate::engine::carp) fn snapshot(&self, now: Moment) -> CarpGroup {
        let (settings, rank) = (&self.settings, self.rank());
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let until = |at: Moment| micros(at.since(now));
        let ago = |at: Moment| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let (state, advert_in_us, takeover_in_us, lease_us, leaving) = match &self.state {
            State::Init | State::Gone => (CarpState::Init, None, None, None, false),
            State::Backup { down_at, take_at, .. } => {
                (CarpState::Backup, None, Some(until((*down_at).min(*take_at))), None, false)
            }
            State::Taking { .. } => (CarpState::Backup, None, Some(0), None, false),
            State::Master { advertise_at, lease, leaving, .. } => (
                CarpState::Master,
                Some(until(*advertise_at)),
                None,
                Some(until(*lease)),
                leaving.is_some(),
            ),
        };
        CarpGroup {
            name: settings.name.clone(),
            group: settings.group,
            interface: settings.interface.clone(),
            vhid: settings.vhid,
            vips: settings.vips.clone(),
            auth: settings.auth.name().to_owned(),
            state,
            since_ms: ago(self.since),
            faults: if state == CarpState::Init { self.fault_texts() } else { Vec::new() },
            leaving,
            order: self.order,
            master: self.master.map(|(address, announced, at)| CarpMaster {
                address,
                seen_ms: ago(at),
                interval_us: micros(announced.interval()),
            }),
            interval_us: micros(rank.interval()),
            down_us: micros(self.down()),
            advert_in_us,
            takeover_in_us,
            lease_us,
            demotion: rank.demotion,
            demoted_by: self.demotion.clone(),
            sync_group: settings.sync_group.clone(),
            sent: self.counts.sent,
            received: self.counts.received,
            announced: self.counts.announced,
            send_errors: self.counts.send_errors,
            late: self.counts.late,
            transitions: self.counts.transitions,
            drops: self.drops.iter().map(|(why, count)| (why.name().to_owned(), count)).collect(),
            peers: self.peers.0.values().map(|peer| self.report_peer(peer, now)).collect(),
        }
    }

    fn report_peer(&self, peer: &Peer, now: Moment) -> CarpPeer {
        let heard = &peer.heard;
        let demotion = match self.settings.auth {
            // The byte means nothing there.
            Auth::Ucarp { .. } => 0,
            Auth::Bsd { .. } | Auth::Sha256(_) => heard.announced.demotion,
        };
        CarpPeer {
            address: heard.source,
            node: heard.trailer.map(|trailer| trailer.node),
            seen_ms: u64::try_from(now.since(peer.at).as_millis()).unwrap_or(u64::MAX),
            interval_us: u64::try_from(heard.announced.interval().as_micros()).unwrap_or(u64::MAX),
            demotion,
            key: heard.trailer.map(|trailer| trailer.key),
            same_vips: peer.same_vips,
            same_config: peer.same_config,
            same_name: heard.trailer.map(|_| heard.is_twin),
        }
    }
}
