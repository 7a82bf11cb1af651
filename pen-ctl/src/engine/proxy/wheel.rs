//! A timer wheel with coarse ticks for things that are almost always put off: a connection is entered
//! once, and looked at only when the tick comes that was the deadline then. Whoever owns it says
//! then whether the deadline has moved, and enters it again. No work per byte or per activity.

/// A tick, counted from any start.
pub type Tick = u64;

/// Ticks ahead that the wheel tells apart; what is due later comes round earlier, and is put off.
const SLOTS: u64 = 512;

/// The wheel.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<(Tick, K)>>,
    /// All ticks before this one have been served.
    next: Tick,
}

impl<K> Wheel<K> {
    /// An empty wheel at this tick.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: now }
    }

    /// Lets `key` come up at `due`, or the next time that the wheel turns if that is over.
    pub fn enter(&mut self, due: Tick, key: K) {
        let due = due.max(self.next);
        let last = self.next + SLOTS - 1;
        self.slots[slot(due.min(last))].push((due, key));
    }

    /// All that is due by now.
    pub fn turn(&mut self, now: Tick) -> Vec<K> {
        let mut due = Vec::new();
        let mut later = Vec::new();
        // After a long sleep one round is enough.
        let from = self.next.max((now + 1).saturating_sub(SLOTS));
        for tick in from..=now {
            // Taken whole, so that a slot that was full once does not keep its memory.
            for (at, key) in std::mem::take(&mut self.slots[slot(tick)]) {
                if at <= now { due.push(key) } else { later.push((at, key)) }
            }
        }
        self.next = self.next.max(now + 1);
        for (at, key) in later {
            self.enter(at, key);
        }
        due
    }
}

fn slot(tick: Tick) -> usize {
    usize::try_from(tick % SLOTS).expect("below the number of slots")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_due_comes_up_once_and_at_its_tick() {
        let mut wheel = Wheel::new(10);
        wheel.enter(12, "a");
        wheel.enter(3, "over already");
        wheel.enter(10 + 3 * SLOTS, "much later");
        assert_eq!(wheel.turn(10), ["over already"]);
        assert_eq!(wheel.turn(11), [""; 0]);
        assert_eq!(wheel.turn(12), ["a"]);
        let before = (13..10 + 3 * SLOTS).flat_map(|tick| wheel.turn(tick));
        assert_eq!(before.count(), 0);
        assert_eq!(wheel.turn(10 + 3 * SLOTS), ["much later"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_late_or_early(
            dues in prop::collection::vec(0..3000_u64, 0..40),
            steps in prop::collection::vec(1..700_u64, 1..40),
        ) {
            let mut wheel = Wheel::new(0);
            for due in &dues {
                wheel.enter(*due, *due);
            }
            let (mut now, mut seen) = (0, Vec::new());
            for step in steps {
                let before = now;
                now += step;
                let found = wheel.turn(now);
                prop_assert!(found.iter().all(|due| *due <= now && (before == 0 || *due > before)));
                seen.extend(found);
            }
            seen.sort_unstable();
            let mut expected: Vec<_> = dues.into_iter().filter(|due| *due <= now).collect();
            expected.sort_unstable();
            prop_assert_eq!(seen, expected);
        }
    }
}
