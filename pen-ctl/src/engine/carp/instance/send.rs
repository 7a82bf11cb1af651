//! What a group puts on the wire: advertisements, bow-outs, announcements. Only a master sends; each
//! advertisement renews the lease of its role, and one that could not be sent does not.

use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

use super::{Cause, Context, Instance, Leaving, State, virtual_mac};
use crate::engine::carp::announce;
use crate::engine::carp::event::{Action, Role};
use crate::engine::carp::packet::{Advert, Envelope, GROUP_V6};
use crate::engine::carp::settings::{Auth, Settings, Transport, VipMac};
use crate::engine::carp::trailer::Trailer;

/// Send errors in a row that make a node the last, as in UCarp; so many successes end that.
pub(super) const MAX_ERRORS: u8 = 3;
/// Bow-outs in short succession: one may be lost.
pub(super) const BOW_OUTS: u8 = 3;
const BOW_OUTS_APART: Duration = Duration::from_millis(20);

/// What an advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// This node is master.
    Advert,
    /// It was, and gives way to one that is preferred.
    Farewell,
    /// It leaves.
    BowOut,
    /// It leaves if there is one that is preferred.
    Offer,
}

impl Instance {
    /// Sends what is due: an advertisement, or a bow-out while the VIPs are handed over.
    pub(super) fn advertise(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let interval = self.rank().interval();
        let State::Master { advertise_at, advertised_at, leaving, .. } = &mut self.state else {
            return;
        };
        *advertised_at = now;
        let leaving = match leaving {
            Some(leaving) => {
                let short = leaving.bow_outs > 1;
                leaving.bow_outs = leaving.bow_outs.saturating_sub(1);
                let seldom = interval.min(Duration::from_secs(1));
                *advertise_at = now + if short { BOW_OUTS_APART } else { seldom };
                Some(*leaving)
            }
            None => {
                // From when it was due, so that delays do not add up.
                let next = *advertise_at + interval;
                *advertise_at = if next > now { next } else { now + interval };
                None
            }
        };
        self.count_success(context);
        match leaving {
            None => self.say(context, Word::Advert),
            Some(Leaving { cause: Cause::Demotion, .. }) => self.say(context, Word::Offer),
            Some(_) => self.say(context, Word::BowOut),
        }
        self.renew_lease(context);
    }

    /// Sends one advertisement of each family, to each peer.
    pub(super) fn say(&mut self, context: &mut Context<'_>, word: Word) {
        self.counts.sent += 1;
        let sources = self.wire.sources.clone();
        for source in sources {
            for destination in destinations(&self.settings, source) {
                self.send_advert(context, source, destination, word);
            }
        }
    }

    fn send_advert(
        &mut self,
        context: &mut Context<'_>,
        source: IpAddr,
        destination: IpAddr,
        word: Word,
    ) {
        let rank = self.rank();
        let (demote, promoted, demotion) = (rank.demote_byte(), rank.promoted, rank.demotion);
        let interval_us = u32::try_from(rank.interval().as_micros()).unwrap_or(u32::MAX);
        let leaves = matches!(word, Word::BowOut | Word::Offer);
        let (advbase, advskew) = if leaves { Advert::BOW_OUT } else { rank.wire() };
        let signs = rank.signs();

        let counter = self.counter.next(context.random);
        self.verifier.sent(counter);
        let digest = self.verifier.digest(counter).unwrap_or_else(|| context.random.bytes());
        let advert = Advert { vhid: self.settings.vhid, advskew, demote, advbase, counter, digest };
        let header = advert.encode();
        let mut trailer = None;
        if let Auth::Sha256(strong) = &self.settings.auth
            && signs
        {
            *context.sequence += 1;
            let flags = [
                (leaves, Trailer::BOW_OUT),
                (word == Word::Offer, Trailer::OFFER),
                (promoted, Trailer::PROMOTED),
            ];
            let fields = Trailer {
                key: strong.active,
                flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum(),
                demotion: u16::try_from(demotion).unwrap_or(u16::MAX),
                node: context.node,
                sequence: *context.sequence,
                interval_us,
                vips: self.verifier.vips(),
                config: self.settings.config_hash,
            };
            trailer = self.verifier.keys().sign(&fields, source, destination, &header);
        }
        let [id_high, id_low] = context.random.bytes();
        let envelope = Envelope {
            mac: self.advert_mac(word),
            source,
            destination,
            id: u16::from_be_bytes([id_high, id_low]),
            broadcast: self.settings.transport == Transport::Broadcast,
        };
        let trailer = trailer.as_deref().unwrap_or_default();
        let frame = envelope.frame(&header, trailer);
        context.actions.push_back(Action::Send {
            group: self.settings.group,
            ifindex: self.wire.ifindex,
            frame,
            next_hop: (!destination.is_multicast()).then_some(destination),
        });
    }

    const fn advert_mac(&self, word: Word) -> MacAddr {
        match (self.settings.mac, word) {
            // Switches learn from these where the virtual address is.
            (VipMac::Virtual, Word::Advert) => virtual_mac(self.settings.vhid),
            // From these they must not: the next master may be there already.
            (VipMac::Virtual, Word::Farewell | Word::BowOut | Word::Offer)
            | (VipMac::Interface, _) => self.wire.mac,
            (VipMac::Ucarp, _) => MacAddr([0, 0, 0x5e, 0, 0, self.settings.vhid]),
        }
    }

    fn renew_lease(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let length = self.rank().lease();
        let State::Master { lease, earlier_lease, leaving, .. } = &mut self.state else { return };
        // While the VIPs are offered, others still go by the interval that was announced before.
        if leaving.is_none() {
            self.kept_lease = length;
        }
        *earlier_lease = *lease;
        *lease = now + length.min(self.kept_lease);
        self.write_role(context);
    }

    /// The role as it is in the kernel's map.
    fn write_role(&self, context: &mut Context<'_>) {
        let State::Master { lease, leaving, .. } = self.state else { return };
        let role = match leaving {
            None | Some(Leaving { cause: Cause::Demotion, .. }) => Role::Master,
            Some(_) => Role::Leaving,
        };
        context.set_role(self.settings.group, role, lease);
    }

    /// Tells the neighbours, if it is time.
    pub(super) fn run_announcements(&mut self, context: &mut Context<'_>) {
        if !self.announcer.due(context.now, self.settings.announce_refresh) {
            return;
        }
        self.counts.announced += 1;
        let (group, ifindex, mac) = (self.settings.group, self.wire.ifindex, self.vip_mac());
        for vip in &self.settings.vips {
            let frame = announce::frame(*vip, mac, self.wire.router);
            context.actions.push_back(Action::Send { group, ifindex, frame, next_hop: None });
        }
    }

    // --- errors ---

    /// The last advertisement was sent, or at least nothing else was said of it.
    fn count_success(&mut self, context: &Context<'_>) {
        if !std::mem::take(&mut self.failed) && self.errors > 0 {
            self.successes += 1;
            if self.successes == 1 {
                // While nothing went out, neighbours may have forgotten the VIPs.
                self.announcer.again(context.now);
            }
            if self.successes >= MAX_ERRORS {
                self.errors = 0;
            }
        }
    }

    /// A frame could not be sent: the lease is not renewed.
    pub(in crate::engine::carp) fn send_failed(&mut self, context: &mut Context<'_>, error: &str) {
        self.counts.send_errors += 1;
        let State::Master { lease, earlier_lease, .. } = &mut self.state else { return };
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        *lease = *earlier_lease;
        self.write_role(context);
        self.successes = 0;
        self.errors = self.errors.saturating_add(1);
        let name = &self.settings.name;
        let text = match self.errors {
            1 => format!("{name} could not send: {error}"),
            MAX_ERRORS => format!("{name} is the last to be master while it cannot send: {error}"),
            _ => return,
        };
        self.tell(context, true, "carp-send", text);
    }

    /// Whether the role of master has ended by itself.
    pub(super) fn lease_ran_out(&self, now: Moment) -> bool {
        matches!(self.state, State::Master { lease, .. } if lease <= now)
    }
}

/// Where advertisements go that come from an address.
fn destinations(settings: &Settings, source: IpAddr) -> Vec<IpAddr> {
    match settings.transport {
        Transport::Multicast | Transport::Broadcast if source.is_ipv4() => {
            vec![settings.multicast.into()]
        }
        Transport::Multicast | Transport::Broadcast => vec![GROUP_V6.into()],
        Transport::Unicast { .. } => {
            let peers = settings.peers.iter().copied();
            peers.filter(|peer| peer.is_ipv4() == source.is_ipv4()).collect()
        }
    }
}
