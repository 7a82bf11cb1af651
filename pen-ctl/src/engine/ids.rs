//! Gives small numbers to things that live in arrays of the kernel: the lowest free one, kept as
//! long as the thing lives and across restarts of the controller.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers `first..limit` for keys.
#[derive(Debug)]
pub struct Ids<K> {
    first: u32,
    limit: u32,
    of: BTreeMap<K, u32>,
    used: BTreeSet<u32>,
    /// No number below is free: to look for one from the start each time would take long.
    lowest: u32,
}

impl<K: Ord + Clone> Ids<K> {
    /// No number given yet.
    #[must_use]
    pub const fn new(first: u32, limit: u32) -> Self {
        Self { first, limit, of: BTreeMap::new(), used: BTreeSet::new(), lowest: first }
    }

    /// Notes a number that was given before this controller started. A number that is out of range
    /// or taken is ignored: the key gets a new one when it is asked for.
    pub fn adopt(&mut self, key: K, id: u32) {
        if (self.first..self.limit).contains(&id)
            && !self.of.contains_key(&key)
            && self.used.insert(id)
        {
            self.of.insert(key, id);
        }
    }

    /// The number of a key that has one.
    #[must_use]
    pub fn number(&self, key: &K) -> Option<u32> {
        self.of.get(key).copied()
    }

    /// The number of a key, and whether it is new; `None` if all are taken.
    pub fn assign(&mut self, key: &K) -> Option<(u32, bool)> {
        if let Some(id) = self.of.get(key) {
            return Some((*id, false));
        }
        let id = (self.lowest..self.limit).find(|id| !self.used.contains(id))?;
        self.lowest = id + 1;
        self.used.insert(id);
        self.of.insert(key.clone(), id);
        Some((id, true))
    }

    /// Frees the numbers of all keys but these if there would not be enough for them otherwise.
    /// Elsewhere numbers are freed only after new ones were given, so that no number changes its
    /// meaning within one batch of writes.
    pub fn make_room(&mut self, keep: &BTreeSet<K>) {
        let capacity = (self.limit - self.first) as usize;
        if self.used.len() + keep.len() > capacity {
            self.retain(keep);
        }
    }

    /// Frees the numbers of all keys but these.
    pub fn retain(&mut self, keep: &BTreeSet<K>) {
        self.lowest = self.first;
        let used = &mut self.used;
        self.of.retain(|key, id| {
            let kept = keep.contains(key);
            if !kept {
                used.remove(id);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_number_and_a_freed_one_is_used_again() {
        let mut ids = Ids::new(1, 4);
        assert_eq!(ids.assign(&"a"), Some((1, true)));
        assert_eq!(ids.assign(&"b"), Some((2, true)));
        assert_eq!(ids.assign(&"a"), Some((1, false)));
        ids.retain(&BTreeSet::from(["b"]));
        assert_eq!(ids.assign(&"c"), Some((1, true)));
        assert_eq!(ids.assign(&"d"), Some((3, true)));
        assert_eq!(ids.assign(&"e"), None, "all are taken");
    }

    #[test]
    fn room_is_made_only_when_it_is_needed() {
        let mut ids = Ids::new(1, 4);
        for key in ["a", "b"] {
            ids.assign(&key);
        }
        ids.make_room(&BTreeSet::from(["b"]));
        assert_eq!(ids.assign(&"a"), Some((1, false)), "there was room for one more");
        ids.make_room(&BTreeSet::from(["b", "c"]));
        assert_eq!(ids.assign(&"c"), Some((1, true)));
    }

    #[test]
    fn numbers_of_an_earlier_run_are_kept_unless_they_make_no_sense() {
        let mut ids = Ids::new(1, 4);
        ids.adopt("a", 2);
        ids.adopt("b", 2);
        ids.adopt("c", 9);
        ids.adopt("d", 0);
        assert_eq!(ids.assign(&"a"), Some((2, false)));
        assert_eq!(ids.assign(&"b"), Some((1, true)));
        assert_eq!(ids.assign(&"c"), Some((3, true)));
    }
}
