//! Decides which of several nodes has a virtual address: CARP, wire-compatible with UCarp and the
//! BSDs' kernels, and with a profile of its own that signs everything. Synchronous and pure like all
//! of the engine: [`Carp::handle`] takes the time and what happened, [`Carp::poll_action`] gives what
//! is to be done, [`Carp::next_deadline`] says when to call again. `io::carp` owns this object in a
//! thread of its own, so that no load delays an advertisement.
//!
//! [`settings`] is what the configuration says, [`event`] what happens and is to be done, [`reject`]
//! why packets are refused. `packet`, `digest`, `trailer` and `vips` are the wire format, `verify` and
//! `replay` what is believed, `rank` who is preferred, `instance` one group, `announce` what the
//! neighbours are told; here they meet: groups of one interface, and of one sync group.

mod announce;
mod digest;
pub mod event;
#[cfg(test)]
mod fixtures;
pub mod from_config;
mod instance;
mod packet;
mod rank;
pub mod reject;
mod replay;
pub mod settings;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod trailer;
mod verify;
mod vips;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

pub use self::event::{Action, Event, Family, Hook, Link, Order, Role};
use self::instance::{Context, Instance};
use self::packet::{GROUP_V6, Packet};
pub use self::reject::RejectReason;
pub use self::settings::{
    Accept, Auth, CARP_GROUP, Key, Legacy, Secret, Settings, Strong, TieBreak, Transport, VipMac,
};
use super::random::Random;
use crate::api::CarpGroup;

/// Steps that may follow from each other at one moment.
const STEPS: usize = 8;

/// What a node starts with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Number of the node, unlike its peers' and the same after a restart.
    pub node: u64,
    /// From the system's source of randomness.
    pub random: u64,
    /// First sequence number of trailers: the seconds of the wall clock in the upper half, and not
    /// below any [`Carp::sequence`] of an earlier run.
    pub sequence: u64,
}

/// Why an order cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such group.
    NoSuchGroup,
    /// The group takes no part, for these reasons.
    AtFault(Vec<String>),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchGroup => f.write_str("there is no such group"),
            Self::AtFault(faults) => write!(f, "it takes no part: {}", faults.join(", ")),
        }
    }
}

/// What is received on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Listening {
    groups: BTreeSet<IpAddr>,
    macs: BTreeSet<MacAddr>,
}

/// All groups of this node. See the module's documentation.
pub struct Carp {
    node: u64,
    random: Random,
    sequence: u64,
    instances: BTreeMap<u32, Instance>,
    links: BTreeMap<u32, Link>,
    listening: BTreeMap<u32, Listening>,
    /// What is received may have to be something else.
    listening_changed: bool,
    /// There are sync groups, or there were.
    synced: bool,
    /// What failed for all groups, also for those that are yet to come.
    demotion: BTreeMap<String, u16>,
    actions: VecDeque<Action>,
    now: Moment,
    stopping: bool,
    stopped: bool,
}

// === impl Carp ===

impl Carp {
    /// Without groups.
    #[must_use]
    pub const fn new(start: Start, now: Moment) -> Self {
        Self {
            node: start.node,
            random: Random(start.random),
            sequence: start.sequence,
            instances: BTreeMap::new(),
            links: BTreeMap::new(),
            listening: BTreeMap::new(),
            listening_changed: false,
            synced: false,
            demotion: BTreeMap::new(),
            actions: VecDeque::new(),
            now,
            stopping: false,
            stopped: false,
        }
    }

    /// Takes the groups of the configuration, at the start and at each reload. A group that keeps
    /// its index, interface and vhid keeps its role.
    pub fn configure(&mut self, now: Moment, settings: Vec<Settings>) {
        // What is handed over stays as it was.
        if self.stopping {
            return;
        }
        (self.now, self.listening_changed) = (now, true);
        // Also after the last sync group was dissolved: what it did to its members has to end.
        self.synced |= settings.iter().any(|settings| settings.sync_group.is_some());
        let mut wanted: BTreeMap<u32, Settings> =
            settings.into_iter().map(|settings| (settings.group, settings)).collect();
        let old: Vec<u32> = self.instances.keys().copied().collect();
        for group in old {
            let kept = self.instances.get(&group).map(|instance| &instance.settings);
            let same = kept
                .zip(wanted.get(&group))
                .is_some_and(|(old, new)| (&old.interface, old.vhid) == (&new.interface, new.vhid));
            if same {
                let Some(new) = wanted.remove(&group) else { continue };
                self.step(group, |instance, context| instance.configure(context, new));
            } else {
                self.step(group, |instance, context| instance.remove(context));
                self.instances.remove(&group);
            }
        }
        for (group, settings) in wanted {
            let link = self.links.values().find(|link| link.name == settings.interface).cloned();
            self.instances.insert(group, Instance::new(self.node, settings, now));
            let failed = self.demotion.clone();
            self.step(group, |instance, context| {
                instance.start(context);
                for (reason, weight) in failed {
                    instance.set_demotion(context, &reason, weight);
                }
                instance.link_changed(context, link.as_ref());
            });
        }
        self.settle(true);
    }

    /// Takes note of an event; actions follow from [`Carp::poll_action`]. Timers are served with
    /// every event but [`Event::Received`]: packets that wait are to be heard first.
    pub fn handle(&mut self, now: Moment, event: Event) {
        self.now = now;
        self.step_all(|instance, context| instance.wake(context));
        let received = matches!(event, Event::Received { .. });
        self.note(event);
        self.settle(!received);
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Carp::handle`] with [`Event::TimePassed`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        let deadlines = self.instances.iter().map(|(group, instance)| {
            let ready = !self.synced || self.is_ready(*group);
            instance.next_deadline(self.now, ready)
        });
        deadlines.min().unwrap_or(Moment::NEVER)
    }

    /// Sequence number of the last trailer, to be kept for [`Start::sequence`].
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All groups as they are now, for `penctl carp`.
    #[must_use]
    pub fn snapshot(&self, now: Moment) -> Vec<CarpGroup> {
        self.instances.values().map(|instance| instance.snapshot(now)).collect()
    }

    /// Whether an order would be obeyed.
    ///
    /// # Errors
    /// Says why not.
    pub fn may(&self, group: u32, order: Order) -> Result<(), Refusal> {
        let instance = self.instances.get(&group).ok_or(Refusal::NoSuchGroup)?;
        match order {
            Order::Promote if instance.takes_no_part() => {
                Err(Refusal::AtFault(instance.fault_texts()))
            }
            Order::Promote | Order::Demote | Order::Release => Ok(()),
        }
    }

    // --- events ---

    fn note(&mut self, event: Event) {
        match event {
            Event::TimePassed => {}
            Event::Received { ifindex, family, packet } => self.received(ifindex, family, &packet),
            Event::LinkChanged(link) => self.link_changed(link),
            Event::LinkGone { ifindex } => self.link_gone(ifindex),
            Event::SendFailed { group, error } => {
                self.step(group, |instance, context| instance.send_failed(context, &error));
            }
            Event::AddressesReady { group, result } => {
                self.step(group, |instance, context| instance.addresses_ready(context, result));
            }
            Event::LeaseFound { group, until } => {
                self.step(group, |instance, context| instance.lease_found(context, until));
            }
            Event::Demotion { group: None, reason, weight } => {
                self.step_all(|instance, context| instance.set_demotion(context, &reason, weight));
                if weight == 0 {
                    self.demotion.remove(&reason);
                } else {
                    self.demotion.insert(reason, weight);
                }
            }
            Event::Demotion { group: Some(group), reason, weight } => {
                for member in self.members(group) {
                    self.step(member, |instance, context| {
                        instance.set_demotion(context, &reason, weight);
                    });
                }
            }
            Event::Order { group, order } => {
                for member in self.members(group) {
                    self.step(member, |instance, context| instance.order(context, order));
                }
            }
            Event::Stop => {
                self.stopping = true;
                self.step_all(|instance, context| instance.stop(context));
            }
        }
    }

    fn received(&mut self, ifindex: u32, family: Family, packet: &[u8]) {
        let here = |instance: &&mut Instance| instance.ifindex() == Some(ifindex);
        let packet = Packet::parse(family, packet);
        let vhid = packet.as_ref().map(|packet| packet.advert.vhid);
        let group = self.instances.values_mut().filter(here).find_map(|instance| {
            (Ok(instance.settings.vhid) == vhid).then_some(instance.settings.group)
        });
        match (packet, group) {
            (Ok(packet), Some(group)) => {
                self.step(group, |instance, context| instance.received(context, &packet));
            }
            (packet, _) => {
                let reason = packet.err().unwrap_or(RejectReason::OtherVhid);
                for instance in self.instances.values_mut().filter(here) {
                    instance.drops.count(reason);
                }
            }
        }
    }

    fn link_changed(&mut self, link: Link) {
        // A name that moved to another index, or an index that changed its name.
        self.links.retain(|ifindex, old| *ifindex == link.ifindex || old.name != link.name);
        self.links.insert(link.ifindex, link);
        self.refresh_links();
    }

    fn link_gone(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.refresh_links();
    }

    fn refresh_links(&mut self) {
        self.listening_changed = true;
        let links: BTreeMap<String, Link> =
            self.links.values().map(|link| (link.name.clone(), link.clone())).collect();
        self.step_all(|instance, context| {
            let link = links.get(&instance.settings.interface);
            instance.link_changed(context, link);
        });
    }

    // --- what follows ---

    /// The members of a group's sync group, itself among them.
    fn members(&self, group: u32) -> Vec<u32> {
        let sync_group =
            self.instances.get(&group).and_then(|instance| instance.settings.sync_group.as_ref());
        let Some(name) = sync_group else { return vec![group] };
        let members = self.instances.iter().filter(|(_, instance)| {
            instance.settings.sync_group.as_ref() == Some(name) && !instance.is_gone()
        });
        members.map(|(group, _)| *group).collect()
    }

    fn settle(&mut self, timers: bool) {
        self.refresh_sync_groups();
        for _ in 0..STEPS {
            if !timers || self.next_deadline() > self.now {
                break;
            }
            let groups: Vec<u32> = self.instances.keys().copied().collect();
            for group in groups {
                let ready = !self.synced || self.is_ready(group);
                self.step(group, |instance, context| instance.run_timers(context, ready));
            }
            self.refresh_sync_groups();
        }
        self.refresh_listening();
        if self.stopping && !self.stopped && self.instances.values().all(Instance::is_gone) {
            self.stopped = true;
            self.actions.push_back(Action::Stopped);
        }
    }

    /// Whether all members of the sync group would preempt, or have nothing to.
    fn is_ready(&self, group: u32) -> bool {
        let members = self.members(group);
        let members = members.iter().filter_map(|member| self.instances.get(member));
        members.into_iter().all(|member| member.is_ahead(self.now))
    }

    fn refresh_sync_groups(&mut self) {
        if !self.synced {
            return;
        }
        let groups: Vec<u32> = self.instances.keys().copied().collect();
        for group in groups {
            let members = self.members(group);
            let others = members.iter().filter(|member| **member != group);
            let others: Vec<_> = others.filter_map(|member| self.instances.get(member)).collect();
            let fault = others.iter().any(|other| other.has_fault());
            let held = others.iter().any(|other| other.is_master());
            self.step(group, |instance, context| {
                instance.holds_others = held;
                instance.sync_fault(context, fault);
            });
            let yielded = self
                .instances
                .get_mut(&group)
                .is_some_and(|instance| std::mem::take(&mut instance.yielded));
            if yielded {
                for member in members.into_iter().filter(|member| *member != group) {
                    self.step(member, |instance, context| instance.follow(context));
                }
            }
        }
    }

    fn refresh_listening(&mut self) {
        // While the daemon ends, groups go one by one.
        if !self.listening_changed && !self.stopping {
            return;
        }
        self.listening_changed = false;
        let mut wanted = BTreeMap::<u32, Listening>::new();
        for instance in self.instances.values().filter(|instance| !instance.is_gone()) {
            let Some(ifindex) = instance.ifindex() else { continue };
            let settings = &instance.settings;
            let listening = wanted.entry(ifindex).or_default();
            if settings.mac == VipMac::Virtual {
                listening.macs.insert(instance.vip_mac());
            }
            if matches!(settings.transport, Transport::Unicast { .. }) {
                continue;
            }
            if settings.vips.iter().any(IpAddr::is_ipv4) {
                listening.groups.insert(settings.multicast.into());
            }
            if settings.vips.iter().any(IpAddr::is_ipv6) {
                listening.groups.insert(GROUP_V6.into());
            }
        }
        if wanted == self.listening {
            return;
        }
        for ifindex in self.listening.keys().filter(|ifindex| !wanted.contains_key(*ifindex)) {
            self.actions.push_back(Action::Unlisten { ifindex: *ifindex });
        }
        for (ifindex, listening) in &wanted {
            if self.listening.get(ifindex) != Some(listening) {
                let Listening { groups, macs } = listening.clone();
                self.actions.push_back(Action::Listen { ifindex: *ifindex, groups, macs });
            }
        }
        self.listening = wanted;
    }

    // --- steps ---

    fn step(&mut self, group: u32, step: impl FnOnce(&mut Instance, &mut Context<'_>)) {
        let Some(instance) = self.instances.get_mut(&group) else { return };
        let mut context = Context {
            now: self.now,
            actions: &mut self.actions,
            random: &mut self.random,
            sequence: &mut self.sequence,
            node: self.node,
        };
        step(instance, &mut context);
    }

    fn step_all(&mut self, step: impl Fn(&mut Instance, &mut Context<'_>)) {
        let mut context = Context {
            now: self.now,
            actions: &mut self.actions,
            random: &mut self.random,
            sequence: &mut self.sequence,
            node: self.node,
        };
        for instance in self.instances.values_mut() {
            step(instance, &mut context);
        }
    }
}
