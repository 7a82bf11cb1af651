//! The slots of one service on their way to rest. A change of the table sets `current` of the slots
//! that move; their `base` follows after the settle time, when all active flows of the slot are
//! recorded; and a slot is settled again when no live record disagrees with it, which a census of the
//! kernel's records tells. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::Slot;
use pen_common::affinity;
use pen_common::moment::Moment;

/// After a base followed, packets that were decided with the old table may still be making records.
const GRACE: Duration = Duration::from_secs(1);

/// The slots of a service.
#[derive(Debug)]
pub struct Table {
    slots: Arc<[Slot]>,
    /// Slots whose base is to follow: since when their flows are looked up.
    moving: BTreeMap<u32, Moment>,
    /// The earliest of these times.
    first_move: Moment,
    /// When the next census is due: some slot waits for its records.
    census_at: Moment,
    /// When somebody else wants one.
    wanted_at: Moment,
    /// Since when each census may expect the last records to be gone, as the last one saw it.
    settles_at: Moment,
}

impl Table {
    /// No slot yet.
    #[must_use]
    pub fn empty() -> Self {
        Self::adopt(Arc::from([]), Moment(0))
    }

    /// Takes over what an earlier controller left; how long its slots have been moving is not
    /// known, so that they start anew.
    #[must_use]
    pub fn adopt(slots: Arc<[Slot]>, now: Moment) -> Self {
        let mut table = Self {
            slots,
            moving: BTreeMap::new(),
            first_move: Moment::NEVER,
            census_at: Moment::NEVER,
            wanted_at: Moment::NEVER,
            settles_at: Moment(0),
        };
        table.note_changes(now);
        table
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> &Arc<[Slot]> {
        &self.slots
    }

    /// New flows go to `targets` from now on; `is_dead` tells which backends hold no flows any more.
    pub fn retarget(&mut self, targets: &[u16], is_dead: impl Fn(u16) -> bool, now: Moment) {
        if self.slots.len() != targets.len() {
            // Another number of slots: nothing can be said of flows that are there.
            self.slots = targets.iter().map(|target| Slot::settled(*target)).collect();
        } else {
            let pairs = self.slots.iter().zip(targets);
            let slots: Arc<[Slot]> =
                pairs.map(|(slot, target)| affinity::moved(*slot, *target, &is_dead)).collect();
            if slots != self.slots {
                self.slots = slots;
            }
        }
        self.note_changes(now);
    }

    /// As [`Table::retarget`], but from the slots as another node has them, which holds the flows: bases
    /// are where those belong.
    pub fn inherit(
        &mut self,
        slots: &[Slot],
        targets: &[u16],
        is_dead: impl Fn(u16) -> bool,
        now: Moment,
    ) {
        let pairs = slots.iter().zip(targets);
        let slots: Arc<[Slot]> =
            pairs.map(|(slot, target)| affinity::moved(*slot, *target, &is_dead)).collect();
        if slots != self.slots {
            self.slots = slots;
        }
        self.note_changes(now);
    }

    /// What was inherited is this node's own from now on; as with what an earlier controller left, how
    /// long slots have been moving does not count.
    pub fn go_on(&mut self, now: Moment) {
        self.moving.clear();
        self.census_at = Moment::NEVER;
        self.note_changes(now);
    }

    /// As [`Table::retarget`], but for a service that has no flows yet: its table is at rest at once.
    pub fn start(&mut self, targets: &[u16]) {
        self.slots = targets.iter().map(|target| Slot::settled(*target)).collect();
        self.note_changes(Moment(0));
    }

    /// When [`Table::follow`] has something to do.
    #[must_use]
    pub fn next_move(&self, settle: Duration) -> Moment {
        self.first_move + settle
    }

    /// When the next census is due.
    #[must_use]
    pub fn census_at(&self) -> Moment {
        self.census_at.min(self.wanted_at)
    }

    /// Somebody else wants a census as well, at this time.
    pub fn expect_census(&mut self, at: Moment) {
        self.wanted_at = self.wanted_at.min(at);
    }

    /// Lets the bases follow whose settle time is over; true if there were any.
    pub fn follow(&mut self, now: Moment, settle: Duration) -> bool {
        if self.first_move + settle > now {
            return false;
        }
        let due: BTreeSet<u32> = self
            .moving
            .iter()
            .filter(|(_, moved)| **moved + settle <= now)
            .map(|(slot, _)| *slot)
            .collect();
        let slots = (0_u32..).zip(self.slots.iter());
        self.slots = slots
            .map(|(index, slot)| match due.contains(&index) {
                true => Slot::new(slot.current(), slot.current(), true),
                false => *slot,
            })
            .collect();
        self.note_changes(now);
        true
    }

    /// A census was taken of exactly these slots: those that no live record disagrees with are
    /// settled. True if there were any.
    pub fn judge(&mut self, taken_of: &Arc<[Slot]>, found: &Found, now: Moment) -> bool {
        self.wanted_at = Moment::NEVER;
        if !Arc::ptr_eq(taken_of, &self.slots) {
            // They changed meanwhile; the next census will tell.
            self.census_at = self.census_at.min(now + GRACE);
            return false;
        }
        let waits = |index: u32, slot: &Slot| {
            slot.is_unsettled() && slot.base() == slot.current() && found.slots.contains(&index)
        };
        let slots: Vec<Slot> = (0_u32..)
            .zip(self.slots.iter())
            .map(|(index, slot)| {
                let moving = slot.base() != slot.current();
                Slot::new(slot.base(), slot.current(), moving || waits(index, slot))
            })
            .collect();
        let changed = slots[..] != self.slots[..];
        if changed {
            self.slots = Arc::from(slots);
        }
        self.settles_at = found.until;
        let left = (0_u32..).zip(self.slots.iter()).any(|(index, slot)| waits(index, slot));
        self.census_at = if left { now + found.pause } else { Moment::NEVER };
        changed
    }

    /// Number of settled slots.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.is_unsettled()).count()
    }

    /// When all slots will be settled, as far as that can be known: records may be used again.
    /// `None` if they are.
    #[must_use]
    pub fn settles_at(&self, settle: Duration) -> Option<Moment> {
        let last = self.moving.values().max().map(|moved| *moved + settle + GRACE);
        let waiting =
            (self.census_at != Moment::NEVER).then(|| self.settles_at.max(self.census_at));
        last.into_iter().chain(waiting).max()
    }

    /// Whether some slot names this backend.
    #[must_use]
    pub fn names(&self, backend: u16) -> bool {
        self.slots.iter().any(|slot| slot.base() == backend || slot.current() == backend)
    }

    /// Brings `moving` and `census_at` in line with the slots.
    fn note_changes(&mut self, now: Moment) {
        let before = std::mem::take(&mut self.moving);
        let mut waiting = false;
        for (index, slot) in (0_u32..).zip(self.slots.iter()) {
            if slot.base() != slot.current() {
                // While it moves on, its base's flows are looked up as before.
                self.moving.insert(index, before.get(&index).copied().unwrap_or(now));
            } else {
                waiting |= slot.is_unsettled();
            }
        }
        self.first_move = self.moving.values().min().copied().unwrap_or(Moment::NEVER);
        self.census_at = if waiting { self.census_at.min(now + GRACE) } else { Moment::NEVER };
    }
}

/// What a census found of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Slots that a live record disagrees with.
    pub slots: BTreeSet<u32>,
    /// When the last of these records expires, unless it is used again.
    pub until: Moment,
    /// Time until the next census, if one is needed.
    pub pause: Duration,
    /// Backends that live records name, and how many do.
    pub in_use: BTreeMap<u32, Uses>,
}

/// What live records say that a backend has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Flows.
    pub flows: u64,
    /// Clients that are remembered.
    pub clients: u64,
    /// The last packet of one of the flows, within a second.
    pub last_seen: Moment,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn table(targets: &[u16]) -> Table {
        let mut table = Table::empty();
        table.start(targets);
        table
    }

    fn shown(table: &Table) -> Vec<(u16, u16, bool)> {
        let slots = table.slots().iter();
        slots.map(|slot| (slot.base(), slot.current(), slot.is_unsettled())).collect()
    }

    fn nothing() -> Found {
        Found { pause: Duration::from_secs(10), ..Found::default() }
    }

    #[test]
    fn a_slot_that_moves_rests_again_after_the_settle_time_and_a_census() {
        let mut table = table(&[1, 1, 2]);
        assert_eq!(table.next_move(SETTLE), Moment::NEVER);
        table.retarget(&[1, 2, 2], |_| false, at(100));
        assert_eq!(shown(&table), [(1, 1, false), (1, 2, true), (2, 2, false)]);
        assert_eq!(table.next_move(SETTLE), at(160));
        assert_eq!(table.settles_at(SETTLE), Some(at(161)));
        assert!(!table.follow(at(159), SETTLE));
        assert!(table.follow(at(160), SETTLE));
        assert_eq!(shown(&table)[1], (2, 2, true));
        assert_eq!(table.census_at(), at(161), "packets may still be on their way");
        let slots = Arc::clone(table.slots());
        assert!(table.judge(&slots, &nothing(), at(161)));
        assert_eq!(shown(&table), [(1, 1, false), (2, 2, false), (2, 2, false)]);
        assert_eq!(table.census_at(), Moment::NEVER);
        assert_eq!(table.settles_at(SETTLE), None);
    }

    #[test]
    fn a_record_that_disagrees_keeps_its_slot_unsettled() {
        let mut table = table(&[1, 1]);
        table.retarget(&[2, 2], |_| false, at(0));
        table.follow(at(60), SETTLE);
        let slots = Arc::clone(table.slots());
        let found = Found { slots: BTreeSet::from([1]), until: at(100), ..nothing() };
        assert!(table.judge(&slots, &found, at(61)));
        assert_eq!(shown(&table), [(2, 2, false), (2, 2, true)]);
        assert_eq!(table.census_at(), at(71), "the next one");
        assert_eq!(table.settles_at(SETTLE), Some(at(100)));
    }

    #[test]
    fn a_census_of_slots_that_changed_meanwhile_settles_nothing() {
        let mut table = table(&[1, 1]);
        table.retarget(&[2, 1], |_| false, at(0));
        table.follow(at(60), SETTLE);
        let slots = Arc::clone(table.slots());
        table.retarget(&[2, 2], |_| false, at(61));
        assert!(!table.judge(&slots, &nothing(), at(61)));
        assert!(table.slots().iter().all(|slot| slot.is_unsettled()));
    }

    #[test]
    fn a_dead_backend_is_replaced_at_once_and_leaves_settled_slots_settled() {
        let mut table = table(&[1, 2]);
        table.retarget(&[2, 2], |backend| backend == 1, at(0));
        assert_eq!(shown(&table), [(2, 2, false), (2, 2, false)]);
    }

    #[test]
    fn a_slot_that_moves_twice_follows_when_its_base_has_settled() {
        let mut table = table(&[1]);
        table.retarget(&[2], |_| false, at(0));
        table.retarget(&[3], |_| false, at(30));
        assert_eq!(shown(&table), [(1, 3, true)]);
        assert!(table.follow(at(60), SETTLE));
        assert_eq!(shown(&table), [(3, 3, true)]);
    }

    #[test]
    fn a_slot_that_moves_back_waits_only_for_its_records() {
        let mut table = table(&[1]);
        table.retarget(&[2], |_| false, at(0));
        table.retarget(&[1], |_| false, at(5));
        assert_eq!(shown(&table), [(1, 1, true)]);
        assert_eq!(table.census_at(), at(6));
    }

    #[test]
    fn an_adopted_table_starts_its_settle_time_anew() {
        let slots = [Slot::new(1, 2, true), Slot::new(2, 2, true), Slot::settled(1)];
        let table = Table::adopt(Arc::from(slots), at(500));
        assert_eq!((table.census_at(), table.next_move(SETTLE)), (at(501), at(560)));
        assert_eq!(table.settles_at(SETTLE), Some(at(561)));
    }

    #[test]
    fn another_number_of_slots_starts_over() {
        let mut table = table(&[1, 2]);
        table.retarget(&[1, 2, 3], |_| false, at(0));
        assert_eq!(table.settled(), 3);
    }
}
