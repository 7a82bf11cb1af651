//! Memories against packets that are sent again: sequence numbers of signed packets by sender, and
//! counters that were seen in the profile `ucarp`, which a genuine ucarp never repeats.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;

use super::reject::RejectReason;
use crate::engine::random::Random;

/// A node by its number, and which of its addresses: those of two nodes that were given one name by
/// mistake have nothing to do with each other.
type Sender = (u64, IpAddr);

/// Senders that are remembered. Only who has a key gets into this memory.
const SENDERS: usize = 128;
/// Counters that are remembered: an hour of two masters at one advertisement per second.
const COUNTERS: usize = 8192;
/// Numbers below the highest one for which it is known whether they came.
const WINDOW: u64 = 64;

/// Highest sequence number of each sender, and which of the ones before it came.
#[derive(Debug, Default)]
pub(super) struct Sequences(BTreeMap<Sender, (u64, u64)>);

impl Sequences {
    /// Takes a number whose packet is genuine; only one higher than all before is accepted. One that
    /// was merely overtaken tells old news: it is refused too, but is no attack.
    pub(super) fn accept(&mut self, sender: Sender, sequence: u64) -> Result<(), RejectReason> {
        if self.0.len() >= SENDERS && !self.0.contains_key(&sender) {
            // The one with the oldest start. That it could be replayed then takes a key to cause.
            let oldest = self.0.iter().min_by_key(|(_, (highest, _))| *highest);
            if let Some(oldest) = oldest.map(|(sender, _)| *sender) {
                self.0.remove(&oldest);
            }
        }
        let Some((highest, seen)) = self.0.get_mut(&sender) else {
            self.0.insert(sender, (sequence, 1));
            return Ok(());
        };
        if sequence > *highest {
            let step = sequence - *highest;
            *seen = if step < WINDOW { *seen << step | 1 } else { 1 };
            *highest = sequence;
            return Ok(());
        }
        let back = *highest - sequence;
        if back < WINDOW && *seen & (1 << back) == 0 {
            *seen |= 1 << back;
            return Err(RejectReason::Late);
        }
        Err(RejectReason::Replayed)
    }
}

/// Counters that were seen in the profile `ucarp`, our own ones among them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<u64>,
    set: HashSet<u64>,
}

impl Seen {
    /// Takes note of a counter; false if it was seen already.
    pub(super) fn insert(&mut self, counter: u64) -> bool {
        if !self.set.insert(counter) {
            return false;
        }
        self.order.push_back(counter);
        if self.order.len() > COUNTERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

/// The counter of our own packets. UCarp's is random until a peer was heard, then it is one more than
/// what was heard. Two masters that heard the same one then count alike, and each would take the
/// other's packets for repeated ones of its own: ours goes on from what was heard in steps that are
/// random, and never back. No receiver minds.
#[derive(Debug, Default)]
pub(super) struct Counter {
    last: u64,
    heard: bool,
}

impl Counter {
    pub(super) fn next(&mut self, random: &mut Random) -> u64 {
        // More than a ucarp counts in any time that matters.
        let step = 1 << 20 | random.next() >> 32;
        self.last = if self.heard { self.last.wrapping_add(step) } else { random.next() };
        self.last
    }

    /// A genuine packet of a peer had this counter.
    pub(super) const fn hear(&mut self, counter: u64) {
        let ahead = counter.wrapping_sub(self.last);
        if !self.heard || ahead < 1 << 63 {
            self.last = counter;
        }
        self.heard = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u64) -> Sender {
        (number, IpAddr::from([10, 77, 0, 1]))
    }

    #[test]
    fn only_what_is_newer_than_everything_before_is_accepted() {
        let mut sequences = Sequences::default();
        let cases = [
            (100, Ok(())),
            (100, Err(RejectReason::Replayed)),
            (103, Ok(())),
            (102, Err(RejectReason::Late)),
            (102, Err(RejectReason::Replayed)),
            (101, Err(RejectReason::Late)),
            (100, Err(RejectReason::Replayed)),
            (99, Err(RejectReason::Late)),
            (39, Err(RejectReason::Replayed)),
            (u64::MAX, Ok(())),
            (u64::MAX - 1, Err(RejectReason::Late)),
            (103, Err(RejectReason::Replayed)),
        ];
        for (sequence, expected) in cases {
            assert_eq!(sequences.accept(sender(7), sequence), expected, "{sequence}");
        }
        assert_eq!(sequences.accept(sender(8), 5), Ok(()), "each sender has its own");
        let elsewhere = (7, IpAddr::from([10, 77, 0, 2]));
        assert_eq!(sequences.accept(elsewhere, 5), Ok(()), "so has each of its addresses");
    }

    #[test]
    fn the_memory_of_senders_is_bounded() {
        let mut sequences = Sequences::default();
        for number in 0..1000 {
            assert_eq!(sequences.accept(sender(number), number), Ok(()));
        }
        assert_eq!(sequences.0.len(), SENDERS);
        assert_eq!(sequences.accept(sender(999), 999), Err(RejectReason::Replayed));
    }

    #[test]
    fn a_counter_is_known_until_thousands_followed() {
        let mut seen = Seen::default();
        assert!(seen.insert(1));
        assert!(!seen.insert(1));
        for counter in 2..=COUNTERS as u64 {
            assert!(seen.insert(counter));
        }
        assert!(!seen.insert(1));
        assert!(seen.insert(u64::MAX));
        assert!(seen.insert(1), "forgotten at last");
        assert_eq!(seen.order.len(), COUNTERS);
    }

    #[test]
    fn our_counter_is_random_until_a_peer_was_heard_and_goes_on_from_there() {
        let (mut counter, mut random) = (Counter::default(), Random(1));
        let (one, two) = (counter.next(&mut random), counter.next(&mut random));
        assert!(one.abs_diff(two) > 1 << 34);
        let mut last = 500;
        counter.hear(last);
        for _ in 0..100 {
            let step = counter.next(&mut random).wrapping_sub(last);
            assert!((1 << 20..1 << 33).contains(&step));
            last = last.wrapping_add(step);
            counter.hear(last - 1000);
        }
        counter.hear(u64::MAX - 1);
        assert!(counter.next(&mut random) < 1 << 40, "behind us: a packet from before");
        counter.hear(1 << 60);
        assert!(counter.next(&mut random) > 1 << 60);
    }

    #[test]
    fn our_counter_wraps() {
        let (mut counter, mut random) = (Counter::default(), Random(1));
        counter.hear(u64::MAX);
        assert!(counter.next(&mut random) < 1 << 33);
    }

    #[test]
    fn two_nodes_that_heard_the_same_do_not_count_alike() {
        let (mut one, mut other) = (Counter::default(), Counter::default());
        let (mut first, mut second) = (Random(1), Random(2));
        one.hear(7);
        other.hear(7);
        let ours: HashSet<_> = (0..1000).map(|_| one.next(&mut first)).collect();
        assert!((0..1000).all(|_| !ours.contains(&other.next(&mut second))));
        assert!((8..2000).all(|counter| !ours.contains(&counter)), "nor as a ucarp does");
    }
}
