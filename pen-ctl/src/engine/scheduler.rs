//! Fills the slot table of a service by weighted Maglev hashing (Eisenbud et al., NSDI 2016,
//! section 3.4): nearly even shares, and few slots move when a backend comes or goes. The result
//! depends only on the set of backends, their weights and the secret, so that all nodes of a CARP
//! group compute the same table.

use pen_common::hash::{self, Secret};
use pen_common::net::{Addr, Be16};

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Address; with the port it is what decides, the id is only what is written into the slots.
    pub addr: Addr,
    /// Port.
    pub port: Be16,
    /// Weight, above 0.
    pub weight: u32,
    /// Id in the map `BACKENDS`.
    pub id: u16,
}

/// The backend of each of `slots` slots; 0 everywhere without members.
#[must_use]
pub fn maglev(members: &[Member], secret: Secret, slots: u32) -> Vec<u16> {
    let size = slots as usize;
    let mut table = vec![0_u16; size];
    let mut members = members.to_vec();
    // By the address as a number, so that machines of both byte orders agree.
    members.sort_unstable_by_key(|member| (member.addr.halves(), member.port));
    members.retain(|member| member.weight > 0);
    let heaviest = members.iter().map(|member| u64::from(member.weight)).max().unwrap_or(1);
    let mut walks: Vec<Walk> =
        members.iter().map(|member| Walk::new(member, secret, slots)).collect();
    let mut filled = 0;
    // In each round a member takes a slot when its weight, summed up over the rounds, reaches that
    // of the heaviest member: weights 1 and 2 give every other round to the first.
    while filled < size && !walks.is_empty() {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            let slot = walk.next_free(&table, slots);
            table[slot] = walk.id;
            filled += 1;
            if filled == size {
                break;
            }
        }
    }
    table
}

/// A member's own order of all slots.
struct Walk {
    position: u32,
    step: u32,
    weight: u64,
    credit: u64,
    id: u16,
}

impl Walk {
    fn new(member: &Member, secret: Secret, slots: u32) -> Self {
        let (high, low) = member.addr.halves();
        // The set bit 63 keeps these inputs apart from those of flows and clients.
        let hash = hash::siphash(secret, [high, low, 1 << 63 | u64::from(member.port.value())]);
        Self {
            position: hash::slot_index(hash, slots),
            step: 1 + hash::slot_index(hash << 32, slots - 1),
            weight: u64::from(member.weight),
            credit: 0,
            id: member.id,
        }
    }

    fn next_free(&mut self, table: &[u16], slots: u32) -> usize {
        loop {
            let slot = self.position as usize;
            self.position = (self.position + self.step) % slots;
            if table[slot] == 0 {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SLOTS: u32 = 16381;
    const SECRET: Secret = [0x0123_4567_89ab_cdef, 42];

    fn members(weights: &[u32]) -> Vec<Member> {
        weights
            .iter()
            .zip(1_u16..)
            .map(|(weight, id)| {
                let [high, low] = id.to_be_bytes();
                Member {
                    addr: Addr::v4([10, 0, high, low]),
                    port: Be16::new(80),
                    weight: *weight,
                    id,
                }
            })
            .collect()
    }

    fn shares(table: &[u16]) -> BTreeMap<u16, u32> {
        let mut shares = BTreeMap::new();
        for slot in table {
            *shares.entry(*slot).or_default() += 1;
        }
        shares
    }

    /// Slots of backends in both tables that changed their backend, of all such slots, in percent.
    fn moved(before: &[u16], after: &[u16], gone: u16) -> f64 {
        let kept: Vec<_> = before.iter().zip(after).filter(|(slot, _)| **slot != gone).collect();
        let moved = kept.iter().filter(|(old, new)| old != new).count();
        100.0 * moved as f64 / kept.len() as f64
    }

    #[test]
    fn ten_equal_backends_share_within_one_percent() {
        let shares = shares(&maglev(&members(&[1; 10]), SECRET, SLOTS));
        assert_eq!(shares.len(), 10);
        for (id, share) in shares {
            let percent = 100.0 * f64::from(share) / (f64::from(SLOTS) / 10.0);
            assert!(
                (99.0..=101.0).contains(&percent),
                "backend {id} has {percent:.2} % of its share"
            );
        }
    }

    #[test]
    fn weights_one_two_three_share_within_one_percent() {
        let shares = shares(&maglev(&members(&[1, 2, 3]), SECRET, SLOTS));
        for (id, share) in shares {
            let percent = 100.0 * f64::from(share) / (f64::from(SLOTS) * f64::from(id) / 6.0);
            assert!(
                (99.0..=101.0).contains(&percent),
                "backend {id} has {percent:.2} % of its share"
            );
        }
    }

    #[test]
    fn one_of_ten_removed_moves_few_slots_of_the_others_and_comes_back_exactly() {
        let all = members(&[1; 10]);
        let before = maglev(&all, SECRET, SLOTS);
        for gone in &all {
            let rest: Vec<_> = all.iter().copied().filter(|member| member != gone).collect();
            let percent = moved(&before, &maglev(&rest, SECRET, SLOTS), gone.id);
            assert!(percent < 1.5, "without {}: {percent:.2} % moved", gone.id);
        }
        assert_eq!(maglev(&all, SECRET, SLOTS), before);
    }

    #[test]
    fn ids_and_order_do_not_matter_to_where_a_backend_stands() {
        let here = members(&[1, 2, 1, 4]);
        let mut there: Vec<_> =
            here.iter().map(|member| Member { id: member.id + 100, ..*member }).collect();
        there.reverse();
        let here = maglev(&here, SECRET, SLOTS);
        let there = maglev(&there, SECRET, SLOTS);
        assert!(here.iter().zip(&there).all(|(one, two)| one + 100 == *two));
    }

    #[test]
    fn another_secret_gives_another_table() {
        let members = members(&[1; 10]);
        let one = maglev(&members, [1, 1], SLOTS);
        let two = maglev(&members, [1, 2], SLOTS);
        let same = one.iter().zip(&two).filter(|(one, two)| one == two).count();
        assert!(same < SLOTS as usize / 5, "{same} slots agree");
    }

    #[test]
    fn without_members_every_slot_is_empty() {
        assert!(maglev(&[], SECRET, 7).iter().all(|slot| *slot == 0));
        assert!(maglev(&members(&[0]), SECRET, 7).iter().all(|slot| *slot == 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_slot_names_a_member_and_shares_follow_weights(
            weights in prop::collection::vec(1_u32..=256, 1..40),
            secret: [u64; 2],
        ) {
            let table = maglev(&members(&weights), secret, 4093);
            let total: u32 = weights.iter().sum();
            let shares = shares(&table);
            for (weight, id) in weights.iter().zip(1_u16..) {
                let expected = f64::from(*weight) * 4093.0 / f64::from(total);
                let share = f64::from(shares.get(&id).copied().unwrap_or(0));
                // The last round may be cut short, and credits start at zero: two slots off.
                prop_assert!((share - expected).abs() <= 2.0 + expected * 0.01,
                    "weight {weight} of {total}: {share} slots, expected {expected:.1}");
            }
        }
    }
}
