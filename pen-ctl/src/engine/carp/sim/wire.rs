//! The virtual wire: one segment per interface index, which loses, delays, duplicates and reorders,
//! in one direction or both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pen_common::moment::Moment;

use crate::engine::carp::event::Family;
use crate::engine::random::Random;

/// A packet that arrives.
pub(super) struct Frame {
    pub(super) to: usize,
    pub(super) ifindex: u32,
    pub(super) family: Family,
    pub(super) packet: Vec<u8>,
}

pub(super) struct Wire {
    random: Random,
    nodes: usize,
    on_the_way: BTreeMap<(Moment, u64), Frame>,
    serial: u64,
    /// Of a thousand packets.
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) delay: (Duration, Duration),
    /// What one node sends does not reach another.
    pub(super) blocked: BTreeSet<(usize, usize)>,
    /// Nothing of this family passes.
    pub(super) without: Option<Family>,
    /// Interfaces of nodes without link.
    cut: BTreeSet<(usize, u32)>,
    /// When a packet was lost last.
    pub(super) lost_at: Moment,
}

impl Wire {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        Self {
            random: Random(seed),
            nodes,
            on_the_way: BTreeMap::new(),
            serial: 0,
            loss: 0,
            duplication: 0,
            delay: (Duration::from_micros(100), Duration::from_micros(100)),
            blocked: BTreeSet::new(),
            without: None,
            cut: BTreeSet::new(),
            lost_at: Moment(0),
        }
    }

    pub(super) fn cut(&mut self, node: usize, ifindex: u32, cut: bool) {
        if cut {
            self.cut.insert((node, ifindex));
        } else {
            self.cut.remove(&(node, ifindex));
        }
    }

    /// Nothing passes between a node and all others.
    pub(super) fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.blocked.insert((node, other));
            self.blocked.insert((other, node));
        }
    }

    /// Something that is sent now may not arrive.
    pub(super) fn is_disturbed(&self) -> bool {
        !self.blocked.is_empty() || !self.cut.is_empty()
    }

    pub(super) fn heal(&mut self) {
        self.blocked.clear();
    }

    pub(super) fn send(&mut self, now: Moment, from: usize, ifindex: u32, frame: &[u8]) {
        let family = match frame[12..14] {
            [0x08, 0x00] => Family::V4,
            [0x86, 0xdd] => Family::V6,
            _ => return,
        };
        if self.without == Some(family) {
            return;
        }
        for to in (0..self.nodes).filter(|to| *to != from) {
            let cut = self.cut.contains(&(from, ifindex)) || self.cut.contains(&(to, ifindex));
            if cut || self.blocked.contains(&(from, to)) {
                continue;
            }
            if self.random.below(1000) < self.loss {
                self.lost_at = now;
                continue;
            }
            let copies = if self.random.below(1000) < self.duplication { 2 } else { 1 };
            for _ in 0..copies {
                self.inject(now, to, ifindex, family, frame[14..].to_vec());
            }
        }
    }

    /// A packet from anywhere.
    pub(super) fn inject(
        &mut self,
        now: Moment,
        to: usize,
        ifindex: u32,
        family: Family,
        packet: Vec<u8>,
    ) {
        let (least, most) = self.delay;
        let spread = u64::try_from((most - least).as_nanos()).unwrap();
        let delay = least + Duration::from_nanos(self.random.below(spread + 1));
        self.serial += 1;
        let frame = Frame { to, ifindex, family, packet };
        self.on_the_way.insert((now + delay, self.serial), frame);
    }

    pub(super) fn next(&self) -> Moment {
        self.on_the_way.first_key_value().map_or(Moment::NEVER, |((at, _), _)| *at)
    }

    pub(super) fn receive(&mut self, now: Moment) -> Option<Frame> {
        let first = self.on_the_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
