//! A stream of bodies over datagrams that get lost, doubled and out of order: what is put into the
//! [`Outbox`] of one end comes out of the [`Inbox`] of the other in order, each once. What was not
//! acknowledged in time is sent again; memory is bounded by the window.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pen_common::moment::Moment;

/// Parts that may be under way, and that are kept if they come too early.
const WINDOW: usize = 256;
/// A part that was not acknowledged in this time is sent again; then after twice the time, and so
/// on up to [`SLOWEST`].
const PATIENCE: Duration = Duration::from_millis(60);
const SLOWEST: Duration = Duration::from_secs(1);
/// A part is taken for lost if one that was sent so many parts later has come.
const OVERTAKEN: usize = 3;

/// The sending end.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Number of the first part in `parts`.
    first: u64,
    parts: VecDeque<Part>,
    /// Parts that were sent again.
    pub(super) resent: u64,
}

#[derive(Debug)]
struct Part {
    body: Vec<u8>,
    /// Items in it, for those who ask how far the peer is behind.
    items: usize,
    sent_at: Moment,
    due: Moment,
    tries: u32,
    arrived: bool,
}

impl Outbox {
    /// Whether one more part may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.parts.len() < WINDOW
    }

    /// Items that were not acknowledged yet.
    pub(super) fn items(&self) -> usize {
        self.parts.iter().filter(|part| !part.arrived).map(|part| part.items).sum()
    }

    /// Sends a part; returns its number.
    pub(super) fn push(&mut self, now: Moment, body: Vec<u8>, items: usize) -> u64 {
        let due = now + PATIENCE;
        let part = Part { body, items, sent_at: now, due, tries: 0, arrived: false };
        self.parts.push_back(part);
        self.first + self.parts.len() as u64 - 1
    }

    /// The peer has all parts before `next`, and `next + 1 + n` for each bit `n` of `beyond`.
    pub(super) fn acknowledge(&mut self, now: Moment, next: u64, beyond: u64) {
        while self.first < next && self.parts.pop_front().is_some() {
            self.first += 1;
        }
        if next != self.first {
            // An old word, or one about another stream.
            return;
        }
        let mut latest = 0;
        for (at, part) in self.parts.iter_mut().enumerate().skip(1).take(64) {
            if beyond & 1 << (at - 1) != 0 {
                part.arrived = true;
                latest = at;
            }
        }
        for part in self.parts.iter_mut().take((latest + 1).saturating_sub(OVERTAKEN)) {
            // Once: whether the second one gets lost as well, only time can tell.
            if !part.arrived && part.tries == 0 && now.since(part.sent_at) >= PATIENCE / 10 {
                part.due = now;
            }
        }
    }

    /// A part that is to be sent again now.
    pub(super) fn overdue(&mut self, now: Moment) -> Option<(u64, &[u8])> {
        let mut parts = (self.first..).zip(self.parts.iter_mut());
        let (number, part) = parts.find(|(_, part)| !part.arrived && part.due <= now)?;
        part.tries += 1;
        part.due = now + (PATIENCE * (1 << part.tries.min(5))).min(SLOWEST);
        self.resent += 1;
        Some((number, &part.body))
    }

    /// When [`Outbox::overdue`] has something to say.
    pub(super) fn deadline(&self) -> Moment {
        let waiting = self.parts.iter().filter(|part| !part.arrived).map(|part| part.due);
        waiting.min().unwrap_or(Moment::NEVER)
    }
}

/// The receiving end.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The part that is expected next.
    next: u64,
    /// Parts that came too early.
    early: BTreeMap<u64, Vec<u8>>,
}

impl Inbox {
    /// A part came; returns those that are in order by now.
    pub(super) fn take(&mut self, number: u64, body: &[u8]) -> Vec<Vec<u8>> {
        if number >= self.next && number - self.next < WINDOW as u64 {
            self.early.entry(number).or_insert_with(|| body.to_vec());
        }
        let mut ready = Vec::new();
        while let Some(body) = self.early.remove(&self.next) {
            self.next += 1;
            ready.push(body);
        }
        ready
    }

    /// What has come: for [`Outbox::acknowledge`].
    pub(super) fn received(&self) -> (u64, u64) {
        let bits = self.early.keys().map(|number| number - self.next - 1);
        (self.next, bits.filter(|bit| *bit < 64).fold(0, |beyond, bit| beyond | 1 << bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn a_part_that_was_overtaken_is_sent_again_before_its_time() {
        let mut outbox = Outbox::default();
        let mut inbox = Inbox::default();
        for number in 0..6 {
            assert_eq!(outbox.push(Moment(0), vec![number], 1), u64::from(number));
        }
        assert_eq!(inbox.take(0, &[0]), [[0]]);
        for number in 2..5 {
            assert!(inbox.take(number.into(), &[number]).is_empty());
        }
        let now = Moment(0) + PATIENCE / 2;
        let (next, beyond) = inbox.received();
        assert_eq!((next, beyond), (1, 0b111));
        outbox.acknowledge(now, next, beyond);
        assert_eq!(outbox.items(), 2);
        assert_eq!(outbox.overdue(now), Some((1, &[1][..])));
        assert_eq!(outbox.overdue(now), None, "the last one was not overtaken");
        assert_eq!(outbox.deadline(), Moment(0) + PATIENCE);
    }

    #[test]
    fn the_window_is_bounded_at_both_ends() {
        let mut outbox = Outbox::default();
        while outbox.has_room() {
            outbox.push(Moment(0), Vec::new(), 1);
        }
        assert_eq!(outbox.items(), WINDOW);
        let mut inbox = Inbox::default();
        assert!(inbox.take(WINDOW as u64, &[1]).is_empty());
        assert_eq!(inbox.received(), (0, 0), "nobody may send so far ahead");
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
        let mut outbox = Outbox::default();
        outbox.push(Moment(0), vec![1], 1);
        outbox.acknowledge(Moment(0), 900, u64::MAX);
        assert_eq!(outbox.items(), 0);
        assert_eq!(outbox.push(Moment(0), vec![2], 1), 1, "numbers go on");
    }

    proptest! {
        #[test]
        fn parts_come_out_in_order_each_once_whatever_the_network_does(
            fates in prop::collection::vec((0_u8..10, 0_usize..6), 4000),
        ) {
            let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
            let (mut came, mut sent, mut fate) = (Vec::new(), 0_u16, fates.into_iter().cycle());
            let mut now = Moment(0);
            // What is under way: parts, and acknowledgements back.
            let (mut parts, mut acks) = (Vec::<(u64, Vec<u8>)>::new(), Vec::<(u64, u64)>::new());
            for round in 0..3000 {
                now = now + STEP;
                let lossy = round < 1000;
                if sent < 600 && outbox.has_room() {
                    let number = outbox.push(now, sent.to_be_bytes().to_vec(), 1);
                    parts.push((number, sent.to_be_bytes().to_vec()));
                    sent += 1;
                }
                while let Some((number, body)) = outbox.overdue(now) {
                    parts.push((number, body.to_vec()));
                }
                for _ in 0..parts.len().min(4) {
                    let (kind, at) = fate.next().expect("endless");
                    let part = parts.remove(at % parts.len());
                    match kind {
                        0..=2 if lossy => {}
                        3 if lossy => parts.push(part),
                        4 if lossy => {
                            parts.push(part.clone());
                            came.extend(inbox.take(part.0, &part.1));
                        }
                        _ => came.extend(inbox.take(part.0, &part.1)),
                    }
                    acks.push(inbox.received());
                }
                for _ in 0..acks.len().min(5) {
                    let (kind, at) = fate.next().expect("endless");
                    let (next, beyond) = acks.remove(at % acks.len());
                    if !(lossy && kind < 3) {
                        outbox.acknowledge(now, next, beyond);
                    }
                }
            }
            let expected: Vec<Vec<u8>> = (0..sent).map(|n| n.to_be_bytes().to_vec()).collect();
            prop_assert_eq!(sent, 600);
            prop_assert_eq!(came, expected);
            prop_assert_eq!(outbox.items(), 0);
        }
    }
}
