//! Nodes on a virtual wire and clock. What the kernel does with roles, leases and addresses is played
//! here too: a node whose daemon is dead goes on serving until its lease runs out.

mod duels;
mod faults;
mod groups;
mod random;
mod stories;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;

use self::wire::{Frame, Wire};
use super::event::{Action, Event, Hook, Link, Role};
use super::fixtures;
use super::{Carp, Settings, Start};
use crate::api::carp::CarpState;

/// One node.
struct Node {
    carp: Carp,
    /// Unlike its peers', as it should be.
    number: u64,
    /// Its clock is this much ahead of the simulation's.
    clock: Duration,
    settings: Vec<Settings>,
    /// Addresses of its interfaces, if not the usual ones.
    addresses: Option<Vec<IpAddr>>,
    alive: bool,
    /// The end was ordered.
    ending: bool,
    /// Stopped as by SIGSTOP: what arrives waits.
    paused: bool,
    waiting: VecDeque<Event>,
    /// Answers of the system that are to come.
    answers: Vec<(Moment, Event)>,
    /// How long it takes to make addresses usable.
    take_time: Duration,
    /// The kernel's map, by group: leases by this node's clock.
    roles: BTreeMap<u32, (Role, Moment)>,
    holds_addresses: BTreeMap<u32, bool>,
    hooks: Vec<(Moment, u32, Hook)>,
    told: Vec<String>,
    twins: BTreeMap<u32, Option<IpAddr>>,
    stopped: bool,
    starts: u64,
}

/// All of it.
struct Sim {
    seed: u64,
    /// Steps since time went on.
    still: u32,
    now: Moment,
    nodes: Vec<Node>,
    wire: Wire,
    sent: Vec<Sent>,
}

/// A frame that a node sent.
#[derive(Clone, Debug)]
struct Sent {
    at: Moment,
    node: usize,
    group: u32,
    frame: Vec<u8>,
}

impl Sent {
    fn is_announcement(&self) -> bool {
        self.frame[12..14] == [0x08, 0x06] || (self.frame[12] == 0x86 && self.frame[20] == 58)
    }

    fn is_advert(&self) -> bool {
        !self.is_announcement()
    }

    /// advbase and advskew of an IPv4 advertisement.
    fn base_and_skew(&self) -> (u8, u8) {
        (self.frame[39], self.frame[36])
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn link_of(host: usize, ifindex: u32) -> Link {
    let host = u8::try_from(host + 1).unwrap();
    let name = format!("eth{}", ifindex - fixtures::IFINDEX);
    let mut link = Link { ifindex, name, ..fixtures::link(host) };
    if ifindex != fixtures::IFINDEX {
        link.addresses = vec![[10, 78, 0, host].into()];
    }
    link
}

impl Sim {
    /// Nodes 0, 1, ... with addresses 10.77.0.1, 10.77.0.2, ..., all with the same seed of the wire.
    fn new(seed: u64, nodes: Vec<Vec<Settings>>) -> Self {
        let wire = Wire::new(seed, nodes.len());
        let mut sim =
            Self { seed, still: 0, now: Moment(0), nodes: Vec::new(), wire, sent: Vec::new() };
        for settings in nodes {
            let number = sim.nodes.len() as u64 + 1;
            let clock = ms(1_000_000 * number);
            sim.nodes.push(Node {
                carp: Carp::new(Start { node: 0, random: 0, sequence: 0 }, Moment(0)),
                number,
                clock,
                settings,
                addresses: None,
                alive: false,
                ending: false,
                paused: false,
                waiting: VecDeque::new(),
                answers: Vec::new(),
                take_time: Duration::ZERO,
                roles: BTreeMap::new(),
                holds_addresses: BTreeMap::new(),
                hooks: Vec::new(),
                told: Vec::new(),
                twins: BTreeMap::new(),
                stopped: false,
                starts: 0,
            });
        }
        sim
    }

    /// The same, started, with these settings of one group.
    fn started(settings: Vec<Settings>) -> Self {
        let mut sim = Self::new(1, settings.into_iter().map(|settings| vec![settings]).collect());
        for node in 0..sim.nodes.len() {
            sim.start(node);
        }
        sim
    }

    // --- what happens to nodes ---

    fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.starts += 1;
        let start = Start {
            node: node.number,
            random: self.seed << 40 | (index as u64) << 20 | node.starts,
            sequence: node.starts << 32,
        };
        let now = self.now + node.clock;
        node.carp = Carp::new(start, now);
        (node.alive, node.paused, node.stopped, node.ending) = (true, false, false, false);
        node.waiting.clear();
        node.answers.clear();
        let settings = node.settings.clone();
        node.carp.configure(now, settings.clone());
        self.carry_out(index);
        let interfaces: std::collections::BTreeSet<_> =
            settings.iter().map(|settings| settings.interface.clone()).collect();
        for interface in interfaces {
            let number: u32 = interface.trim_start_matches("eth").parse().unwrap();
            let mut link = link_of(index, fixtures::IFINDEX + number);
            if let Some(addresses) = &self.nodes[index].addresses {
                link.addresses.clone_from(addresses);
            }
            self.tell(index, Event::LinkChanged(link));
        }
    }

    /// SIGKILL.
    fn crash(&mut self, index: usize) {
        self.nodes[index].alive = false;
    }

    /// SIGSTOP.
    fn pause(&mut self, index: usize) {
        self.nodes[index].paused = true;
    }

    /// SIGCONT.
    fn resume(&mut self, index: usize) {
        if !std::mem::take(&mut self.nodes[index].paused) {
            return;
        }
        while let Some(event) = self.nodes[index].waiting.pop_front() {
            self.tell(index, event);
        }
    }

    /// Something happens on a node; if it is stopped, it hears of it later.
    fn tell(&mut self, index: usize, event: Event) {
        let node = &mut self.nodes[index];
        if !node.alive {
            return;
        }
        if node.paused {
            // A socket's buffer is not endless.
            if node.waiting.len() < 256 {
                node.waiting.push_back(event);
            }
            return;
        }
        node.ending |= event == Event::Stop;
        let now = self.now + node.clock;
        node.carp.handle(now, event);
        self.carry_out(index);
    }

    fn set_link(&mut self, index: usize, ifindex: u32, up: bool) {
        let link = Link { carrier: up, ..link_of(index, ifindex) };
        self.tell(index, Event::LinkChanged(link));
        self.wire.cut(index, ifindex, !up);
    }

    fn carry_out(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].carp.poll_action() {
            self.carry_out_one(index, action);
        }
    }

    fn carry_out_one(&mut self, index: usize, action: Action) {
        let (now, node) = (self.now, &mut self.nodes[index]);
        match action {
            Action::Send { group, ifindex, frame, next_hop: _ } => {
                if frame[12..14] != [0x08, 0x06] {
                    self.wire.send(now, index, ifindex, &frame);
                }
                self.sent.push(Sent { at: now, node: index, group, frame });
            }
            Action::SetRole { group, role, lease } => {
                if role != Role::Backup {
                    assert_eq!(node.holds_addresses.get(&group), Some(&true), "role before VIPs");
                }
                node.roles.insert(group, (role, lease));
            }
            Action::TakeAddresses { group } => {
                node.holds_addresses.insert(group, true);
                let answer = Event::AddressesReady { group, result: Ok(()) };
                let at = now + node.take_time;
                node.answers.push((at, answer));
            }
            Action::DropAddresses { group } => {
                node.holds_addresses.insert(group, false);
            }
            Action::RunHook { group, hook } => node.hooks.push((now, group, hook)),
            Action::Tell { text, .. } => node.told.push(text),
            Action::Twin { group, address } => {
                node.twins.insert(group, address);
            }
            Action::Stopped => (node.stopped, node.alive) = (true, false),
            Action::Listen { .. } | Action::Unlisten { .. } => {}
        }
    }

    // --- time ---

    /// Goes to the next thing that happens, at most to `limit`.
    fn step(&mut self, limit: Moment) {
        let mut next = limit.min(self.wire.next());
        // Ends of leases are seen by whoever asks for roles.
        for node in &self.nodes {
            for (_, lease) in node.roles.values() {
                let end = Moment(0) + lease.since(Moment(0) + node.clock);
                next = if end > self.now { next.min(end) } else { next };
            }
        }
        for node in self.nodes.iter().filter(|node| node.alive && !node.paused) {
            next = next.min(self.local_deadline(node));
            next = node.answers.iter().fold(next, |next, (at, _)| next.min(*at));
        }
        // What is due and is not done would be due for ever.
        self.still = if next > self.now { 0 } else { self.still + 1 };
        assert!(self.still < 10_000, "time stands still: {:?}", self.roles());
        self.now = self.now.max(next);
        while let Some(Frame { to, ifindex, family, packet }) = self.wire.receive(self.now) {
            self.tell(to, Event::Received { ifindex, family, packet });
        }
        for index in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[index];
            if !node.alive || node.paused {
                continue;
            }
            let (due, later) = node.answers.drain(..).partition(|(at, _)| *at <= now);
            node.answers = later;
            let due: Vec<(Moment, Event)> = due;
            for (_, answer) in due {
                self.tell(index, answer);
            }
            let node = &self.nodes[index];
            if node.alive && self.local_deadline(node) <= self.now {
                self.tell(index, Event::TimePassed);
            }
        }
    }

    fn local_deadline(&self, node: &Node) -> Moment {
        let deadline = node.carp.next_deadline();
        if deadline == Moment::NEVER {
            return deadline;
        }
        Moment(0) + deadline.since(Moment(0) + node.clock)
    }

    fn run_for(&mut self, duration: Duration) -> &mut Self {
        let limit = self.now + duration;
        while self.now < limit {
            self.step(limit);
        }
        self
    }

    /// Until something is so, at most for this time.
    fn run_until(&mut self, limit: Duration, test: impl Fn(&Self) -> bool) -> Duration {
        let (start, limit) = (self.now, self.now + limit);
        while !test(self) {
            assert!(self.now < limit, "not within {:?}: {:?}", limit.since(start), self.roles());
            self.step(limit);
        }
        self.now.since(start)
    }

    // --- what is ---

    /// Whether the kernel of a node forwards for a group, and answers who asks for its VIPs.
    fn role(&self, index: usize, group: u32) -> Role {
        let node = &self.nodes[index];
        match node.roles.get(&group) {
            Some((role, lease)) if *lease > self.now + node.clock => *role,
            _ => Role::Backup,
        }
    }

    fn is_master(&self, index: usize, group: u32) -> bool {
        self.role(index, group) == Role::Master
    }

    /// Nodes that are master of group 1.
    fn masters(&self) -> Vec<usize> {
        self.masters_of(1)
    }

    fn masters_of(&self, group: u32) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.is_master(*index, group)).collect()
    }

    fn roles(&self) -> Vec<Role> {
        self.roles_of(1)
    }

    fn roles_of(&self, group: u32) -> Vec<Role> {
        (0..self.nodes.len()).map(|index| self.role(index, group)).collect()
    }

    fn state(&self, index: usize) -> CarpState {
        self.group(index, 1).state
    }

    fn group(&self, index: usize, group: u32) -> crate::api::CarpGroup {
        let node = &self.nodes[index];
        let groups = node.carp.snapshot(self.now + node.clock);
        groups.into_iter().find(|found| found.group == group).unwrap()
    }

    fn drops(&self, index: usize, reason: &str) -> u64 {
        self.group(index, 1).drops[reason]
    }

    /// Advertisements that a node sent since some time.
    fn adverts(&self, index: usize, since: Moment) -> Vec<&Sent> {
        let sent = self.sent.iter().filter(|sent| sent.at >= since && sent.node == index);
        sent.filter(|sent| sent.is_advert()).collect()
    }

    fn announcements(&self, index: usize, since: Moment) -> Vec<&Sent> {
        let sent = self.sent.iter().filter(|sent| sent.at >= since && sent.node == index);
        sent.filter(|sent| sent.is_announcement()).collect()
    }
}
