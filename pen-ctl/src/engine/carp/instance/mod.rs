//! One group on this node: its state, and how it changes. UCarp's rules with exact timers, and what
//! UCarp lacks: faults instead of an end, roles with a lease, handover before the end.
//!
//! `receive` is what follows from advertisements of others, `timers` what follows from time, `send`
//! what goes on the wire, `report` what operators see.

mod receive;
mod report;
mod send;
mod timers;
mod transitions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

use self::report::{Counts, PeerId, Peers};
use super::announce::Announcer;
use super::event::{Action, Hook, Link, Order, Role};
use super::rank::{Announced, MAX_DEMOTED_SKEW, Rank};
use super::reject::Drops;
use super::replay::Counter;
use super::settings::{Auth, Settings, Transport, VipMac};
use super::verify::Verifier;
use crate::engine::random::Random;

/// Taking the VIPs may last this long.
const TAKE_LIMIT: Duration = Duration::from_secs(1);
/// After VIPs could not be taken, the group takes part again after this time.
const TAKE_AGAIN: Duration = Duration::from_secs(1);
/// Weight of an operator's order to be the last.
const DEMOTED: u32 = MAX_DEMOTED_SKEW;

/// What a step needs from outside.
pub(super) struct Context<'a> {
    pub(super) now: Moment,
    pub(super) actions: &'a mut VecDeque<Action>,
    pub(super) random: &'a mut Random,
    /// Of the last trailer of this node.
    pub(super) sequence: &'a mut u64,
    pub(super) node: u64,
}

/// Where a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Takes no part: see [`Instance::faults`].
    Init,
    /// Another node has the VIPs, or will have.
    Backup {
        /// Silence until then makes it master.
        down_at: Moment,
        /// Another node left: it becomes master then.
        take_at: Moment,
        /// The master is less preferred: it is preempted then.
        preempt_at: Moment,
    },
    /// Becomes master when the VIPs are usable.
    Taking {
        /// Until then.
        until: Moment,
    },
    /// Has the VIPs.
    Master {
        advertise_at: Moment,
        /// When the last one was.
        advertised_at: Moment,
        /// End of the role unless renewed.
        lease: Moment,
        /// What the lease was before the last advertisement, if that turns out not to be sent.
        earlier_lease: Moment,
        leaving: Option<Leaving>,
    },
    /// Gave everything up for the end of the daemon.
    Gone,
}

/// A handover that waits for another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    cause: Cause,
    /// Bow-outs that are still sent in short succession.
    bow_outs: u8,
    until: Moment,
}

impl Leaving {
    const fn is_final(self) -> bool {
        self.cause.is_final()
    }
}

/// Why a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The daemon ends.
    Stop,
    /// An operator ordered it.
    Order,
    /// Something failed that makes the node less preferred, if others are better off.
    Demotion,
    /// A member of the sync group is at fault.
    SyncFault,
    /// A member of the sync group has given way to another node.
    Follow,
}

impl Cause {
    /// Without a taker the node gives the VIPs up all the same.
    const fn is_final(self) -> bool {
        match self {
            Self::Stop | Self::SyncFault => true,
            Self::Order | Self::Demotion | Self::Follow => false,
        }
    }
}

/// Why a group takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// There is no such interface.
    NoInterface,
    /// It is down.
    InterfaceDown,
    /// It has no carrier.
    NoCarrier,
    /// It has no address to advertise from.
    NoSource,
    /// The VIPs could not be made usable.
    Addresses,
    /// Another member of the sync group is at fault.
    SyncGroup,
}

/// What of an interface matters.
#[derive(Clone, Debug, Default)]
struct Wire {
    ifindex: u32,
    mac: MacAddr,
    router: bool,
    /// Addresses, without VIPs.
    own: Vec<IpAddr>,
    /// Where advertisements come from, at most one of each family.
    sources: Vec<IpAddr>,
}

/// One group.
pub(super) struct Instance {
    pub(super) settings: Settings,
    state: State,
    since: Moment,
    faults: BTreeSet<Fault>,
    /// Why the VIPs could not be taken, and when to try again.
    address_error: Option<(String, Moment)>,
    link: Option<Link>,
    wire: Wire,
    order: Option<Order>,
    demotion: BTreeMap<String, u16>,
    /// Send errors in a row, and advertisements in a row without.
    errors: u8,
    successes: u8,
    /// The last advertisement could not be sent.
    failed: bool,
    /// How long the lease was with the last advertisement that was no offer.
    kept_lease: Duration,
    /// Hooks, role and addresses are said for the first time.
    started: bool,
    /// It gave way to a node that is preferred; for the sync group, which takes it.
    pub(super) yielded: bool,
    /// The node is master of another member of the sync group.
    pub(super) holds_others: bool,
    /// The other node that is master: its address, what it said, and when.
    master: Option<(IpAddr, Announced, Moment)>,
    /// Who goes before this node, and until when that is news.
    better: Option<(PeerId, Moment)>,
    /// What is added to the next down time, so that two nodes do not do the same again and again.
    jitter: Duration,
    /// What is heard until then was sent before the other gave way as well.
    jitter_until: Moment,
    verifier: Verifier,
    /// Until when another node counts as having the name of this one.
    twin: Option<Moment>,
    counter: Counter,
    announcer: Announcer,
    pub(super) drops: Drops,
    counts: Counts,
    peers: Peers,
}

impl Instance {
    pub(super) fn new(node: u64, settings: Settings, now: Moment) -> Self {
        Self {
            verifier: Verifier::new(node, &settings),
            settings,
            state: State::Init,
            since: now,
            faults: BTreeSet::from([Fault::NoInterface]),
            address_error: None,
            link: None,
            wire: Wire::default(),
            order: None,
            demotion: BTreeMap::new(),
            errors: 0,
            successes: 0,
            failed: false,
            kept_lease: Duration::MAX,
            started: false,
            yielded: false,
            holds_others: false,
            master: None,
            better: None,
            jitter: Duration::ZERO,
            jitter_until: Moment(0),
            twin: None,
            counter: Counter::default(),
            announcer: Announcer::new(),
            drops: Drops::default(),
            counts: Counts::default(),
            peers: Peers::default(),
        }
    }

    pub(super) const fn ifindex(&self) -> Option<u32> {
        match &self.link {
            Some(link) => Some(link.ifindex),
            None => None,
        }
    }

    pub(super) const fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Something is at fault.
    pub(super) const fn takes_no_part(&self) -> bool {
        matches!(self.state, State::Init | State::Gone)
    }

    /// At fault by itself, not because of its sync group.
    pub(super) fn has_fault(&self) -> bool {
        self.faults.iter().any(|fault| *fault != Fault::SyncGroup)
    }

    /// It has the VIPs, and keeps them.
    pub(super) const fn is_master(&self) -> bool {
        matches!(self.state, State::Master { leaving: None, .. })
    }

    /// Where it does not hold its sync group's members back: it has the VIPs, or is about to preempt.
    pub(super) fn is_ahead(&self, now: Moment) -> bool {
        match self.state {
            State::Master { leaving: None, .. } | State::Taking { .. } => true,
            State::Backup { preempt_at, .. } => preempt_at <= now,
            State::Master { .. } | State::Init | State::Gone => false,
        }
    }

    /// The Ethernet address of the VIPs, and the source of announcements.
    pub(super) const fn vip_mac(&self) -> MacAddr {
        match self.settings.mac {
            VipMac::Virtual => virtual_mac(self.settings.vhid),
            VipMac::Interface | VipMac::Ucarp => self.wire.mac,
        }
    }

    fn rank(&self) -> Rank<'_> {
        let failed: u32 = self.demotion.values().map(|weight| u32::from(*weight)).sum();
        let ordered = if self.order == Some(Order::Demote) { DEMOTED } else { 0 };
        let sending = if self.errors >= send::MAX_ERRORS { DEMOTED } else { 0 };
        Rank {
            settings: &self.settings,
            demotion: failed + ordered + sending,
            promoted: self.order == Some(Order::Promote),
        }
    }

    fn down(&self) -> Duration {
        self.rank().down(self.master.as_ref().map(|(_, announced, _)| announced))
    }

    // --- from outside ---

    /// The first steps: no VIP is ours, whatever was before.
    pub(super) fn start(&mut self, context: &mut Context<'_>) {
        if self.started {
            return;
        }
        self.started = true;
        let group = self.settings.group;
        context.set_role(group, Role::Backup, Moment(0));
        context.actions.push_back(Action::DropAddresses { group });
        if !self.settings.neutral {
            context.actions.push_back(Action::RunHook { group, hook: Hook::Down });
        }
    }

    /// Takes other settings of the same group on the same interface.
    pub(super) fn configure(&mut self, context: &mut Context<'_>, settings: Settings) {
        let group = settings.group;
        let vips_changed = settings.vips != self.settings.vips;
        let mac = self.vip_mac();
        self.settings = settings;
        self.verifier.configure(&self.settings);
        let link = self.link.take();
        self.link_changed(context, link.as_ref());
        if !matches!(self.state, State::Master { .. }) {
            return;
        }
        if vips_changed {
            context.actions.push_back(Action::TakeAddresses { group });
        }
        // Neighbours have to learn what they know otherwise.
        if vips_changed || mac != self.vip_mac() {
            self.announcer.again(context.now);
        }
    }

    /// The interface is like this now, or is gone.
    pub(super) fn link_changed(&mut self, context: &mut Context<'_>, link: Option<&Link>) {
        let replaced = self.link.as_ref().map(|old| old.ifindex) != link.map(|new| new.ifindex);
        self.link = link.cloned();
        let carrier = link.is_some_and(|link| link.carrier || self.settings.ignore_link);
        self.wire = link.map(|link| self.wire_of(link)).unwrap_or_default();
        let faults = [
            (Fault::NoInterface, link.is_none()),
            (Fault::InterfaceDown, link.is_some_and(|link| !link.up)),
            (Fault::NoCarrier, link.is_some_and(|link| link.up) && !carrier),
            (Fault::NoSource, link.is_some() && self.wire.sources.is_empty()),
        ];
        for (fault, present) in faults {
            self.set_fault(fault, present);
        }
        self.obey_faults(context);
        // An interface that came anew under the same name has forgotten all addresses.
        if replaced && link.is_some() && matches!(self.state, State::Master { .. }) {
            let group = self.settings.group;
            context.actions.push_back(Action::TakeAddresses { group });
            self.announcer.again(context.now);
        }
    }

    fn wire_of(&self, link: &Link) -> Wire {
        let vips = &self.settings.vips;
        let mut own = self.settings.sources.clone();
        let all_vips = &self.settings.all_vips;
        let moves = |address: &IpAddr| vips.contains(address) || all_vips.contains(address);
        own.extend(link.addresses.iter().filter(|address| !moves(address)));
        let v4 = own.iter().copied().find(IpAddr::is_ipv4);
        let configured = self.settings.sources.iter().copied().find(IpAddr::is_ipv6);
        let link_local = |address: &&IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        let v6 = configured.or_else(|| own.iter().find(link_local).copied());
        // Each family of VIPs has its advertisements, as the BSDs do it; or each of the peers that
        // they go to.
        let told = match self.settings.transport {
            Transport::Unicast { .. } => &self.settings.peers,
            Transport::Multicast | Transport::Broadcast => vips,
        };
        let has = |test: fn(&IpAddr) -> bool| told.iter().any(test);
        let v4 = v4.filter(|_| has(IpAddr::is_ipv4));
        let v6 = v6.filter(|_| has(IpAddr::is_ipv6) && !self.is_ucarp());
        let sources = v4.into_iter().chain(v6).collect();
        Wire { ifindex: link.ifindex, mac: link.mac, router: link.router, own, sources }
    }

    const fn is_ucarp(&self) -> bool {
        matches!(self.settings.auth, Auth::Ucarp { .. })
    }

    /// A member of the sync group is at fault, or none any more.
    pub(super) fn sync_fault(&mut self, context: &mut Context<'_>, present: bool) {
        if present && !self.faults.contains(&Fault::SyncGroup) {
            self.faults.insert(Fault::SyncGroup);
            if matches!(self.state, State::Master { .. }) && !self.has_fault() {
                self.leave(context, Cause::SyncFault);
                return;
            }
        } else if !present {
            self.faults.remove(&Fault::SyncGroup);
            if matches!(
                self.state,
                State::Master { leaving: Some(Leaving { cause: Cause::SyncFault, .. }), .. }
            ) {
                self.stay(context, "its sync group is well again");
            }
        }
        self.obey_faults(context);
    }

    /// A member of the sync group gave way.
    pub(super) fn follow(&mut self, context: &mut Context<'_>) {
        if let State::Master { leaving: None, .. } = self.state {
            self.leave(context, Cause::Follow);
        }
    }

    /// Answer to [`Action::TakeAddresses`].
    pub(super) fn addresses_ready(
        &mut self,
        context: &mut Context<'_>,
        result: Result<(), String>,
    ) {
        match (result, &self.state) {
            (Ok(()), State::Taking { until }) if *until <= context.now => {
                self.addresses_failed(context, "the answer came too late".to_owned());
            }
            (Ok(()), State::Taking { .. }) => self.become_master(context),
            (Ok(()), _) => {}
            (Err(error), State::Taking { .. } | State::Master { .. }) => {
                self.addresses_failed(context, error);
            }
            (Err(_), State::Init | State::Backup { .. } | State::Gone) => {}
        }
    }

    fn addresses_failed(&mut self, context: &mut Context<'_>, error: String) {
        let text = format!("{} cannot have its addresses: {error}", self.settings.name);
        self.tell(context, true, "carp-addresses", text);
        self.address_error = Some((error, context.now + TAKE_AGAIN));
        self.faults.insert(Fault::Addresses);
        self.obey_faults(context);
    }

    /// A daemon before this one was master, and no one can have taken over yet.
    pub(super) fn lease_found(&mut self, context: &mut Context<'_>, until: Moment) {
        if context.now < until && matches!(self.state, State::Backup { .. }) {
            self.take(context, "its lease has not run out");
        }
    }

    pub(super) fn set_demotion(&mut self, context: &mut Context<'_>, reason: &str, weight: u16) {
        let before = self.rank().skew();
        let known = self.demotion.get(reason).copied().unwrap_or(0);
        if known == weight {
            return;
        }
        if weight == 0 {
            self.demotion.remove(reason);
        } else {
            self.demotion.insert(reason.to_owned(), weight);
        }
        let text = format!("{}: {reason} counts {weight} now", self.settings.name);
        self.tell(context, weight > known, "carp-demotion", text);
        if self.rank().skew() > before && matches!(self.state, State::Master { leaving: None, .. })
        {
            self.leave(context, Cause::Demotion);
        }
    }

    pub(super) fn order(&mut self, context: &mut Context<'_>, order: Order) {
        self.order = (order != Order::Release).then_some(order);
        let text = format!("{}: an operator ordered it to {order}", self.settings.name);
        self.tell(context, false, "carp-order", text);
        match (order, &mut self.state) {
            (Order::Promote, State::Master { leaving: Some(_), .. }) => {
                self.stay(context, "an operator ordered it");
            }
            (Order::Promote, State::Backup { .. }) => self.take(context, "an operator ordered it"),
            // At once, for others to know.
            (Order::Promote, State::Master { advertise_at, .. }) => *advertise_at = context.now,
            (Order::Demote, State::Master { leaving: None, .. }) => {
                self.leave(context, Cause::Order);
            }
            (Order::Release, State::Master { leaving: Some(leaving), .. })
                if leaving.cause == Cause::Order =>
            {
                self.stay(context, "the order was taken back");
            }
            (
                Order::Promote | Order::Demote | Order::Release,
                State::Init
                | State::Backup { .. }
                | State::Taking { .. }
                | State::Master { .. }
                | State::Gone,
            ) => {}
        }
    }

    /// The daemon ends.
    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        match self.state {
            State::Master { .. } => self.leave(context, Cause::Stop),
            State::Init | State::Backup { .. } | State::Taking { .. } => self.end(context, false),
            State::Gone => {}
        }
    }

    /// The group is no longer configured, or is another one now: others may take over at once.
    pub(super) fn remove(&mut self, context: &mut Context<'_>) {
        if matches!(self.state, State::Master { .. }) {
            self.say(context, send::Word::BowOut);
        }
        self.end(context, true);
    }
}

impl Context<'_> {
    fn set_role(&mut self, group: u32, role: Role, lease: Moment) {
        self.actions.push_back(Action::SetRole { group, role, lease });
    }
}

/// The MAC that moves with the VIPs, as OpenBSD, FreeBSD and VRRP have it.
const fn virtual_mac(vhid: u8) -> MacAddr {
    MacAddr([0, 0, 0x5e, 0, 1, vhid])
}
