//! Whether a well-formed advertisement is for a group and from who it says: addresses, TTL, digest or
//! trailer, and that it was not heard before. What passes is [`Heard`]; nothing else moves a timer.

use std::net::IpAddr;

use super::digest::Digests;
use super::packet::{Advert, GROUP_V6, Packet, TTL};
use super::rank::{Announced, wire_ticks};
use super::reject::RejectReason;
use super::replay::{Seen, Sequences};
use super::settings::{Accept, Auth, Settings, Strong, Transport};
use super::trailer::{Keys, Trailer};
use super::vips::VipSet;

/// A genuine advertisement of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) source: IpAddr,
    pub(super) announced: Announced,
    /// The sender leaves.
    pub(super) bow_out: bool,
    /// It stays if no one takes over who is preferred.
    pub(super) offer: bool,
    pub(super) counter: u64,
    pub(super) trailer: Option<Trailer>,
    /// The sender has the number of this node, and an address of its own.
    pub(super) is_twin: bool,
}

/// What a group checks packets with.
pub(super) struct Verifier {
    node: u64,
    digests: Option<Digests>,
    keys: Keys,
    vips: VipSet,
    sequences: Sequences,
    seen: Seen,
}

impl Verifier {
    pub(super) fn new(node: u64, settings: &Settings) -> Self {
        let mut verifier = Self {
            node,
            digests: None,
            keys: Keys::new(&[]),
            vips: VipSet::default(),
            sequences: Sequences::default(),
            seen: Seen::default(),
        };
        verifier.configure(settings);
        verifier
    }

    /// Takes other keys or addresses. What was heard stays known.
    pub(super) fn configure(&mut self, settings: &Settings) {
        let digests = |password| Digests::new(password, settings.vhid, &settings.vips);
        self.vips = VipSet::of(&settings.vips);
        (self.digests, self.keys) = match &settings.auth {
            Auth::Ucarp { password } | Auth::Bsd { password } => {
                (Some(digests(password)), Keys::new(&[]))
            }
            Auth::Sha256(strong) => {
                let legacy = strong.legacy.as_ref().map(|legacy| digests(&legacy.password));
                (legacy, Keys::new(&strong.keys))
            }
        };
    }

    /// Digest of a packet of our own, if there is a password.
    pub(super) fn digest(&self, counter: u64) -> Option<[u8; 20]> {
        self.digests.as_ref().map(|digests| digests.sign(counter))
    }

    /// Keys to sign with.
    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The group's VIPs.
    pub(super) const fn vips(&self) -> VipSet {
        self.vips
    }

    /// A packet of our own had this counter: from anyone else it is a replay.
    pub(super) fn sent(&mut self, counter: u64) {
        self.seen.insert(counter);
    }

    /// Checks a packet. `own` are this node's addresses on the interface, VIPs not among them.
    pub(super) fn check(
        &mut self,
        settings: &Settings,
        own: &[IpAddr],
        packet: &Packet<'_>,
    ) -> Result<Heard, RejectReason> {
        let source = packet.source;
        let min_ttl = match settings.transport {
            Transport::Multicast | Transport::Broadcast => TTL,
            Transport::Unicast { min_ttl } => min_ttl,
        };
        if packet.ttl < min_ttl {
            return Err(RejectReason::BadTtl);
        }
        if source.is_ipv6() && matches!(settings.auth, Auth::Ucarp { .. }) {
            return Err(RejectReason::OtherFamily);
        }
        let for_us = match (settings.transport, packet.destination) {
            (Transport::Unicast { .. }, destination) => own.contains(&destination),
            (_, IpAddr::V4(group)) => group == settings.multicast,
            (_, IpAddr::V6(group)) => group == GROUP_V6,
        };
        if !for_us {
            return Err(RejectReason::OtherDestination);
        }
        if own.contains(&source) {
            return Err(RejectReason::OwnSource);
        }
        if settings.vips.contains(&source) || source.is_unspecified() || source.is_multicast() {
            return Err(RejectReason::BadSource);
        }
        if !settings.peers.is_empty() && !settings.peers.contains(&source) {
            return Err(RejectReason::UnknownPeer);
        }
        match &settings.auth {
            Auth::Ucarp { .. } => {
                let heard = self.check_digest(packet)?;
                if !self.seen.insert(heard.counter) {
                    return Err(RejectReason::Repeated);
                }
                Ok(heard)
            }
            // OpenBSD sends the same counter until its next start.
            Auth::Bsd { .. } => self.check_digest(packet),
            Auth::Sha256(strong) => self.check_trailer(strong, packet),
        }
    }

    fn check_digest(&self, packet: &Packet<'_>) -> Result<Heard, RejectReason> {
        let advert = &packet.advert;
        let genuine = self
            .digests
            .as_ref()
            .is_some_and(|digests| digests.verify(advert.counter, &advert.digest));
        if !genuine {
            return Err(RejectReason::BadDigest);
        }
        Ok(Heard {
            source: packet.source,
            announced: Announced {
                ticks: wire_ticks(advert),
                exact_us: None,
                promoted: false,
                demotion: u32::from(advert.demote),
            },
            bow_out: (advert.advbase, advert.advskew) == Advert::BOW_OUT,
            offer: false,
            counter: advert.counter,
            trailer: None,
            is_twin: false,
        })
    }

    fn check_trailer(
        &mut self,
        strong: &Strong,
        packet: &Packet<'_>,
    ) -> Result<Heard, RejectReason> {
        let trailer = match self.keys.verify(packet) {
            Ok(trailer) => trailer,
            Err(RejectReason::NoTrailer) if strong.accept != Accept::Enforce => {
                let Some(legacy) = &strong.legacy else { return Err(RejectReason::NoTrailer) };
                if !legacy.peers.is_empty() && !legacy.peers.contains(&packet.source) {
                    return Err(RejectReason::NoTrailer);
                }
                return self.check_digest(packet);
            }
            Err(reason) => return Err(reason),
        };
        // Another group with the same key, perhaps of another network. It is not to use up numbers that
        // its node needs for this one.
        if trailer.vips.is_disjoint(&self.vips) {
            return Err(RejectReason::OtherVips);
        }
        self.sequences.accept((trailer.node, packet.source), trailer.sequence)?;
        Ok(Heard {
            source: packet.source,
            announced: Announced {
                ticks: wire_ticks(&packet.advert),
                exact_us: Some(trailer.interval_us),
                promoted: trailer.has(Trailer::PROMOTED),
                demotion: u32::from(trailer.demotion),
            },
            bow_out: trailer.has(Trailer::BOW_OUT),
            offer: trailer.has(Trailer::OFFER),
            counter: packet.advert.counter,
            trailer: Some(trailer),
            is_twin: trailer.node == self.node,
        })
    }
}
