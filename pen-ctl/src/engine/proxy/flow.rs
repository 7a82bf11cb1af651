//! Flows of UDP: what a client's address and port have in common with a service, for as long as
//! something comes. A table of those that there are, which knows who has been silent for longest, and
//! what becomes of a flow when its service changes. Pure: the tick that it is comes in as an argument.
//!
//! All flows of a table have the same patience, so that the list by age is also the list by deadline:
//! what has expired stands at its end, and who gives way to a new one as well. Nothing is done per
//! datagram but for the first one of a flow in a tick.

use std::collections::HashMap;
use std::hash::Hash;

use pen_common::abi;

use super::Backend;
use super::wheel::Tick;

/// Nobody.
const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Entry<T> {
    flow: T,
    seen: Tick,
    newer: usize,
    older: usize,
}

/// Flows by what they are known by.
#[derive(Debug)]
pub struct Flows<K, T> {
    by_key: HashMap<K, usize>,
    entries: Vec<Option<Entry<T>>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
}

impl<K, T> Default for Flows<K, T> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }
}

impl<K: Copy + Eq + Hash, T> Flows<K, T> {
    /// A flow that somebody spoke on at this tick.
    pub fn touch(&mut self, key: &K, now: Tick) -> Option<&T> {
        let at = *self.by_key.get(key)?;
        if self.entry(at).seen != now {
            self.unlink(at);
            self.link(at, now);
        }
        Some(&self.entry(at).flow)
    }

    /// A new flow; the one that was there before under this key, if any.
    pub fn insert(&mut self, key: K, flow: T, now: Tick) -> Option<T> {
        let before = self.remove(&key);
        let entry = Entry { flow, seen: now, newer: NONE, older: NONE };
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[at] = Some(entry);
        self.by_key.insert(key, at);
        self.link(at, now);
        before
    }

    /// A flow that has ended.
    pub fn remove(&mut self, key: &K) -> Option<T> {
        let at = self.by_key.remove(key)?;
        self.unlink(at);
        self.free.push(at);
        self.entries[at].take().map(|entry| entry.flow)
    }

    /// The flow that has been silent for longest, if that is at least since this tick.
    #[must_use]
    pub fn oldest(&self, since: Tick) -> Option<&T> {
        let entry = self.entries.get(self.oldest)?.as_ref()?;
        (entry.seen <= since).then_some(&entry.flow)
    }

    /// From the one that has been silent for longest to the one that spoke last, each with the tick when
    /// something came last.
    pub fn oldest_first(&self) -> impl Iterator<Item = (&T, Tick)> {
        let entry = |at: usize| self.entries.get(at).and_then(Option::as_ref);
        std::iter::successors(entry(self.oldest), move |before| entry(before.newer))
            .map(|entry| (&entry.flow, entry.seen))
    }

    /// All of them in no order, each with the tick when something came last.
    pub fn iter(&self) -> impl Iterator<Item = (&T, Tick)> {
        self.entries.iter().flatten().map(|entry| (&entry.flow, entry.seen))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn entry(&self, at: usize) -> &Entry<T> {
        self.entries[at].as_ref().expect("what is linked or keyed is there")
    }

    fn entry_mut(&mut self, at: usize) -> &mut Entry<T> {
        self.entries[at].as_mut().expect("what is linked or keyed is there")
    }

    fn link(&mut self, at: usize, now: Tick) {
        let older = self.newest;
        let entry = self.entry_mut(at);
        (entry.seen, entry.newer, entry.older) = (now, NONE, older);
        match older {
            NONE => self.oldest = at,
            older => self.entry_mut(older).newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: usize) {
        let Entry { newer, older, .. } = *self.entry(at);
        match newer {
            NONE => self.newest = older,
            newer => self.entry_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
    }
}

/// What becomes of a flow when its service changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays with its backend, which has this place now.
    Stays(usize),
    /// Its backend has died or is gone: what comes next goes to another one.
    Moves,
    /// The operator wants it to end.
    Ends,
}

/// What becomes of a flow to the backend `was`, now that its service has these, or is no more.
#[must_use]
pub fn fate(was: &Backend, backends: Option<&[Backend]>) -> Fate {
    // Without a service there is no socket that its answers could come from.
    let Some(backends) = backends else { return Fate::Ends };
    let same = |now: &Backend| (now.id, now.generation) == (was.id, was.generation);
    let Some(place) = backends.iter().position(same) else { return Fate::Moves };
    let now = &backends[place];
    if now.maintenance {
        return Fate::Ends;
    }
    // One that died and came back meanwhile does not know the flow any more.
    if now.state == abi::Backend::DOWN || now.incarnation != was.incarnation {
        return Fate::Moves;
    }
    Fate::Stays(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Limits;

    fn backend(id: u32) -> Backend {
        Backend {
            id,
            generation: 1,
            ejected: false,
            incarnation: 1,
            name: format!("b{id}"),
            address: std::net::SocketAddr::from(([10, 0, 0, 1], 53)).into(),
            weight: 1,
            state: abi::Backend::UP,
            wanted: true,
            maintenance: false,
            emergency: false,
            limits: Limits::default(),
        }
    }

    #[test]
    fn who_has_been_silent_for_longest_is_found_and_who_speaks_is_young_again() {
        let mut flows = Flows::default();
        for (key, tick) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(flows.insert(key, key, tick), None);
        }
        assert_eq!(flows.oldest(0), None);
        assert_eq!(flows.oldest(1), Some(&"a"));
        assert_eq!(flows.touch(&"a", 4), Some(&"a"));
        assert_eq!((flows.oldest(1), flows.oldest(2)), (None, Some(&"b")));
        assert_eq!(flows.remove(&"b"), Some("b"));
        assert_eq!((flows.remove(&"b"), flows.touch(&"b", 5)), (None, None));
        assert_eq!((flows.oldest(9), flows.len()), (Some(&"c"), 2));
        assert_eq!(flows.insert("c", "new", 6), Some("c"));
        let mut all: Vec<_> = flows.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(&"a", 4), (&"new", 6)]);
    }

    #[test]
    fn a_flow_ends_with_its_service_or_by_maintenance_moves_from_the_dead_and_stays_else() {
        use abi::Backend as B;
        let was = backend(7);
        assert_eq!(fate(&was, None), Fate::Ends);
        let with = |change: &dyn Fn(&mut Backend)| {
            let mut now = was.clone();
            change(&mut now);
            fate(&was, Some(&[backend(1), now]))
        };
        assert_eq!(with(&|_| ()), Fate::Stays(1));
        assert_eq!(with(&|now| now.weight = 0), Fate::Stays(1));
        assert_eq!(with(&|now| now.wanted = false), Fate::Stays(1));
        for (state, fate) in
            [(B::DOWN, Fate::Moves), (B::DRAINED, Fate::Stays(1)), (B::DRAIN, Fate::Stays(1))]
        {
            assert_eq!(with(&|now| now.state = state), fate, "{state}");
        }
        assert_eq!(with(&|now| now.incarnation += 1), Fate::Moves, "died and came back");
        assert_eq!(with(&|now| now.generation += 1), Fate::Moves, "another one of this id");
        assert_eq!(with(&|now| now.id = 8), Fate::Moves);
        assert_eq!(with(&|now| (now.maintenance, now.state) = (true, B::DOWN)), Fate::Ends);
    }

    proptest! {
        #[test]
        fn it_is_a_list_of_those_that_spoke_last(
            steps in prop::collection::vec((0..8_u8, 0..3_u8), 0..80),
        ) {
            let mut flows = Flows::default();
            let mut model: Vec<(u8, Tick)> = Vec::new();
            for (now, (key, what)) in (1..).zip(steps) {
                let known = model.iter().any(|(found, _)| *found == key);
                match what {
                    0 => {
                        prop_assert_eq!(flows.insert(key, key, now).is_some(), known);
                        model.retain(|(found, _)| *found != key);
                        model.push((key, now));
                    }
                    1 => {
                        prop_assert_eq!(flows.touch(&key, now).is_some(), known);
                        model.retain(|(found, _)| *found != key);
                        model.extend(known.then_some((key, now)));
                    }
                    _ => {
                        prop_assert_eq!(flows.remove(&key).is_some(), known);
                        model.retain(|(found, _)| *found != key);
                    }
                }
                prop_assert_eq!(flows.oldest(now).copied(), model.first().map(|(key, _)| *key));
                let in_order: Vec<_> = flows.oldest_first().map(|(key, seen)| (*key, seen)).collect();
                prop_assert_eq!(&in_order, &model);
                prop_assert_eq!((flows.len(), flows.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
