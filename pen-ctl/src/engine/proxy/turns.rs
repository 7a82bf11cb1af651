//! Whose turn it is: round robin that honours weights and spreads them (the smooth way of nginx,
//! 2012). A backend that comes or goes does not disturb the order of the others.

use std::collections::HashMap;

/// Whose turn it is in one service.
#[derive(Debug, Default)]
pub struct Turns {
    credit: HashMap<u32, i64>,
}

impl Turns {
    /// The next one of these backends, each with its id and weight; its place among them.
    pub fn next(&mut self, candidates: &[(u32, u32)]) -> Option<usize> {
        let total: i64 = candidates.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let mut best: Option<(usize, i64)> = None;
        for (place, (id, weight)) in candidates.iter().enumerate() {
            let credit = self.credit.entry(*id).or_default();
            // One that was away must not come back with old credit or debt.
            *credit = (*credit + i64::from(*weight)).clamp(-total, total);
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((place, *credit));
            }
        }
        let (place, _) = best?;
        *self.credit.entry(candidates[place].0).or_default() -= total;
        Some(place)
    }

    /// Forgets the backends that are no more.
    pub fn retain(&mut self, exists: impl Fn(u32) -> bool) {
        self.credit.retain(|id, _| exists(*id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(turns: &mut Turns, candidates: &[(u32, u32)], times: usize) -> Vec<u32> {
        let next = |_| candidates[turns.next(candidates).expect("somebody")].0;
        (0..times).map(next).collect()
    }

    #[test]
    fn equals_come_one_after_the_other() {
        let three = [(7, 1), (8, 1), (9, 1)];
        assert_eq!(order(&mut Turns::default(), &three, 7), [7, 8, 9, 7, 8, 9, 7]);
    }

    #[test]
    fn a_heavier_one_comes_more_often_but_not_in_one_go() {
        let weights = [(1, 3), (2, 1), (3, 1)];
        assert_eq!(order(&mut Turns::default(), &weights, 5), [1, 2, 1, 3, 1]);
    }

    #[test]
    fn who_was_away_does_not_catch_up() {
        let mut turns = Turns::default();
        order(&mut turns, &[(1, 1), (2, 1)], 1);
        order(&mut turns, &[(1, 1)], 100);
        let after = order(&mut turns, &[(1, 1), (2, 1)], 10);
        assert!(after.iter().filter(|id| **id == 2).count() <= 6, "{after:?}");
    }

    #[test]
    fn nobody_has_a_turn_among_nobody_and_those_that_are_gone_are_forgotten() {
        let mut turns = Turns::default();
        assert_eq!(turns.next(&[]), None);
        order(&mut turns, &[(1, 1), (2, 1)], 1);
        turns.retain(|id| id == 1);
        assert_eq!(turns.credit.len(), 1);
    }

    proptest! {
        #[test]
        fn shares_are_exact_after_each_round(weights in prop::collection::vec(1..20_u32, 1..6)) {
            let candidates: Vec<_> = (1..).zip(weights.iter().copied()).collect();
            let total: u32 = weights.iter().sum();
            let order = order(&mut Turns::default(), &candidates, total as usize);
            for (id, weight) in candidates {
                prop_assert_eq!(order.iter().filter(|found| **found == id).count(), weight as usize);
            }
        }
    }
}
