//! What follows from an advertisement of another node: UCarp's rules, in its order, and the waits
//! that keep several nodes from doing the same at once.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;

use super::report::PeerId;
use super::send::Word;
use super::{Context, Instance, State};
use crate::engine::carp::event::Order;
use crate::engine::carp::packet::Packet;
use crate::engine::carp::rank::{Announced, compare_addresses};
use crate::engine::carp::reject::RejectReason;
use crate::engine::carp::settings::Auth;
use crate::engine::carp::verify::Heard;

/// One node may be told of this often.
const TOLD_ONCE_IN: Duration = Duration::from_secs(60);

impl Instance {
    /// A packet with the group's vhid came in on its interface.
    pub(in crate::engine::carp) fn received(
        &mut self,
        context: &mut Context<'_>,
        packet: &Packet<'_>,
    ) {
        let heard = match self.verifier.check(&self.settings, &self.wire.own, packet) {
            Ok(heard) => heard,
            Err(reason) => return self.refused(context, reason, packet),
        };
        self.counts.received += 1;
        self.counter.hear(heard.counter);
        self.remember(context, &heard);
        match &self.state {
            State::Init | State::Gone => {}
            State::Backup { .. } => self.heard_as_backup(context, &heard),
            State::Taking { .. } => self.heard_while_taking(context, &heard),
            State::Master { leaving: None, .. } => self.heard_as_master(context, &heard),
            State::Master { leaving: Some(_), .. } => self.heard_while_leaving(context, &heard),
        }
    }

    fn refused(&mut self, context: &mut Context<'_>, reason: RejectReason, packet: &Packet<'_>) {
        use RejectReason as R;
        self.drops.count(reason);
        let what = match reason {
            R::BadDigest => "another password or other addresses",
            R::Repeated => "repeats what was sent before",
            R::NoTrailer => "is not signed",
            R::BadTrailer => "has a signature of an unknown kind",
            R::UnknownKey => "is signed with a key that this node does not have",
            R::BadTag => "is signed with another key, or was changed",
            R::OtherVips => "is of a group that has none of its addresses",
            R::Replayed => "repeats what was signed before",
            R::OwnSource => "claims to come from this node",
            R::UnknownPeer => "comes from a node that is no peer",
            R::Truncated
            | R::BadIpHeader
            | R::BadIpChecksum
            | R::Fragment
            | R::BadTtl
            | R::Foreign
            | R::BadVersion
            | R::BadType
            | R::BadAuthLen
            | R::BadChecksum
            | R::OtherVhid
            | R::OtherFamily
            | R::OtherDestination
            | R::BadSource
            | R::Late => return,
        };
        let quiet_until = self.counts.told.get(&reason).copied().unwrap_or(Moment(0));
        if context.now < quiet_until {
            return;
        }
        self.counts.told.insert(reason, context.now + TOLD_ONCE_IN);
        let name = &self.settings.name;
        let text = format!("{name}: refused an advertisement from {}: it {what}", packet.source);
        self.tell(context, true, "carp-refused", text);
    }

    /// Whether this node goes before the sender. `None`: neither does.
    fn preferred(&self, heard: &Heard) -> Option<bool> {
        match self.rank().compare(&heard.announced) {
            Ordering::Less => Some(true),
            Ordering::Greater => Some(false),
            Ordering::Equal => None,
        }
    }

    fn heard_as_backup(&mut self, context: &mut Context<'_>, heard: &Heard) {
        let now = context.now;
        if heard.bow_out {
            self.heard_bow_out(now, heard);
            return;
        }
        let before = self.master.replace((heard.source, heard.announced, now));
        // Two masters, of which both will give way: all backups have heard them last.
        if matches!(self.settings.auth, Auth::Bsd { .. })
            && before.is_some_and(|(source, announced, at)| {
                source != heard.source && now.since(at) < announced.interval() / 2
            })
        {
            self.step_aside(context);
        }
        let down = self.down();
        // UCarp: "going to time out". With trailers the down time follows the master instead.
        if !matches!(self.settings.auth, Auth::Sha256(_)) && down < heard.announced.interval() {
            self.take(context, "the master advertises too seldom");
            return;
        }
        let preferred = self.preferred(heard) == Some(true);
        // One that gives way to a better one still says a last word, which is not to be heeded.
        let id = PeerId::of(heard);
        if !preferred {
            self.better = Some((id, now + heard.announced.interval() * 2));
        }
        let beside = self.better.is_some_and(|(better, until)| better != id && now < until);
        let preempts = self.preempts(heard).filter(|_| !beside);
        if now > self.jitter_until {
            self.jitter = Duration::ZERO;
        }
        let down = down + self.jitter;
        let State::Backup { down_at, take_at, preempt_at } = &mut self.state else { return };
        // Of two masters one gives way; the other one's role may last longer than is waited for this one.
        let two = before.is_some_and(|(source, ..)| source != heard.source);
        *down_at = if two { (*down_at).max(now + down) } else { now + down };
        *take_at = Moment::NEVER;
        match preempts {
            None => *preempt_at = Moment::NEVER,
            Some(delay) if *preempt_at == Moment::NEVER => *preempt_at = now + delay,
            Some(_) => {}
        }
    }

    /// Whether this node takes over from the master that was heard, and after how long. Also without
    /// an order or a preference if it has the other members of the sync group, which are to be where
    /// this one is: of the two nodes the one that goes first, after the time that they may need to come
    /// together by themselves.
    fn preempts(&self, heard: &Heard) -> Option<Duration> {
        let preferred = self.preferred(heard);
        if self.order == Some(Order::Promote) && preferred == Some(true) {
            return Some(Duration::ZERO);
        }
        if self.settings.preempt && preferred == Some(true) {
            return Some(self.settings.preempt_delay);
        }
        let goes_first = || preferred.or_else(|| self.wins_tie(heard)) == Some(true);
        (self.holds_others && goes_first()).then(|| self.down())
    }

    /// The VIPs are to be had: the nodes that are preferred go first. Unless another node is master:
    /// then it is the farewell of one that has been away, or that repeats itself.
    fn heard_bow_out(&mut self, now: Moment, heard: &Heard) {
        let has_them = |(source, announced, at): &(IpAddr, Announced, Moment)| {
            let interval = announced.interval();
            *source != heard.source
                && source.is_ipv4() == heard.source.is_ipv4()
                && now.since(*at) < interval + interval / 2
        };
        if self.master.as_ref().is_some_and(has_them) {
            return;
        }
        let (down, wait) = (self.down(), self.rank().rank_wait());
        let better_off = self.rank().interval() < heard.announced.interval();
        let State::Backup { down_at, take_at, .. } = &mut self.state else { return };
        if heard.offer && !better_off {
            *down_at = now + down;
        } else if *take_at == Moment::NEVER {
            *take_at = now + wait;
        }
    }

    /// Another node may have been faster.
    fn heard_while_taking(&mut self, context: &mut Context<'_>, heard: &Heard) {
        if heard.bow_out {
            return;
        }
        if self.preempts(heard).is_some() {
            return;
        }
        self.master = Some((heard.source, heard.announced, context.now));
        self.give_way(context, false, &format!("{} is master", heard.source));
    }

    fn heard_as_master(&mut self, context: &mut Context<'_>, heard: &Heard) {
        if heard.bow_out {
            self.announcer.answer(context.now);
            return;
        }
        let rank = self.preferred(heard);
        let stays = match rank {
            Some(preferred) => preferred,
            None => match self.stays_with_equal(context, heard) {
                Some(stays) => stays,
                None => return,
            },
        };
        if stays {
            self.resist(context);
            return;
        }
        self.master = Some((heard.source, heard.announced, context.now));
        self.yielded = true;
        // As in UCarp, one last advertisement: the other learns that there were two, and tells the
        // neighbours. A BSD would give way as well if the intervals are equal.
        if rank.is_some() || !matches!(self.settings.auth, Auth::Bsd { .. }) {
            self.say(context, Word::Farewell);
        }
        self.give_way(context, false, &format!("{} is preferred", heard.source));
    }

    /// Who stays of two with the same interval. `None`: a packet of IPv4 decides, if both hear any.
    fn stays_with_equal(&mut self, context: &mut Context<'_>, heard: &Heard) -> Option<bool> {
        if matches!(self.settings.auth, Auth::Bsd { .. }) {
            // Both BSDs give way, and so will a node like this one.
            self.step_aside(context);
            return Some(false);
        }
        self.wins_tie(heard)
    }

    /// The same by addresses alone.
    fn wins_tie(&self, heard: &Heard) -> Option<bool> {
        let sources = &self.wire.sources;
        let own = sources.iter().find(|own| own.is_ipv4() == heard.source.is_ipv4())?;
        let waits_for_v4 = heard.source.is_ipv6() && sources.iter().any(IpAddr::is_ipv4);
        if waits_for_v4 && !self.is_heard_in_v6_only(heard) {
            return None;
        }
        Some(compare_addresses(self.settings.tie_break, *own, heard.source) == Ordering::Less)
    }

    /// Nodes that did the same at one moment are not to do it again at one moment.
    fn step_aside(&mut self, context: &mut Context<'_>) {
        let part = u32::try_from(context.random.next() % 256).unwrap_or(0);
        self.jitter = self.settings.advbase * part / 512;
        self.jitter_until = context.now + self.rank().interval() / 2;
    }

    /// A master that is less preferred is to know soon, and so are the neighbours.
    fn resist(&mut self, context: &mut Context<'_>) {
        self.announcer.again(context.now);
        let interval = self.rank().interval();
        let State::Master { advertise_at, advertised_at, .. } = &mut self.state else { return };
        let soonest = *advertised_at + interval / 4;
        *advertise_at = (*advertise_at).min(context.now.max(soonest));
    }

    /// The node that was waited for.
    fn heard_while_leaving(&mut self, context: &mut Context<'_>, heard: &Heard) {
        if heard.bow_out {
            // Two masters that wait for each other: rank decides, if it is not the end of this one.
            if matches!(self.state, State::Master { leaving: Some(leaving), .. } if !leaving.is_final())
            {
                self.stay(context, "another node leaves as well");
            }
            return;
        }
        self.master = Some((heard.source, heard.announced, context.now));
        self.give_way(context, false, &format!("{} took it", heard.source));
    }
}
