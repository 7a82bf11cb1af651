//! The addresses of a group as its peers compare them. A hash of all of them says whether they are
//! the same; of a few, each has a hash of its own, so that a group that has nothing in common with
//! ours is told from one whose configuration is a step ahead.

use std::net::IpAddr;

use pen_common::net::Addr;
use sha2::{Digest, Sha256};

/// Addresses that are told one by one: those with the lowest hashes.
const MOST: usize = 16;
/// Bytes that each of them takes in a trailer.
const EACH: usize = 4;

/// A set of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VipSet {
    /// Of all.
    pub(super) hash: u64,
    count: usize,
    few: [u32; MOST],
}

// === impl VipSet ===

impl VipSet {
    pub(super) fn of(vips: &[IpAddr]) -> Self {
        let mut sorted = vips.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let all = sorted
            .iter()
            .fold(Sha256::new(), |hash, vip| hash.chain_update(Addr::from(*vip).bytes()));
        let mut each: Vec<u32> = sorted
            .iter()
            .map(|vip| first_of(&Sha256::digest(Addr::from(*vip).bytes()).into()))
            .map(|hash: u64| u32::try_from(hash >> 32).expect("the upper half of 64 bits"))
            .collect();
        each.sort_unstable();
        each.truncate(MOST);
        Self { hash: first_of(&all.finalize().into()), ..Self::told(&each) }
    }

    fn told(each: &[u32]) -> Self {
        let mut set = Self { count: each.len(), ..Self::default() };
        for (to, from) in set.few.iter_mut().zip(each) {
            *to = *from;
        }
        set
    }

    fn few(&self) -> &[u32] {
        self.few.get(..self.count).unwrap_or(&self.few)
    }

    /// What stands in a trailer beside the hash.
    pub(super) fn encode(&self) -> impl Iterator<Item = u8> {
        self.few().iter().flat_map(|hash| hash.to_be_bytes())
    }

    /// `None` if these are no bytes of ours.
    pub(super) fn decode(hash: u64, bytes: &[u8]) -> Option<Self> {
        let (each, rest) = bytes.as_chunks::<EACH>();
        if !rest.is_empty() || each.len() > MOST {
            return None;
        }
        let each: Vec<u32> = each.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
        Some(Self { hash, ..Self::told(&each) })
    }

    /// Whether two sets are known to have nothing in common. Of two large ones the lowest hashes have
    /// to tell; a small one may lie beyond what is told of a large one.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        if self.few().iter().any(|hash| other.few().contains(hash)) {
            return false;
        }
        let is_cut = |set: &Self| set.count == MOST;
        match (is_cut(self), is_cut(other)) {
            (false, false) | (true, true) => true,
            (true, false) => other.few().last() <= self.few().last(),
            (false, true) => self.few().last() <= other.few().last(),
        }
    }
}

fn first_of(hash: &[u8; 32]) -> u64 {
    u64::from_be_bytes(*hash.first_chunk().expect("32 bytes are more than 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(hosts: std::ops::Range<u8>) -> VipSet {
        VipSet::of(&hosts.map(|host| IpAddr::from([10, 0, 0, host])).collect::<Vec<_>>())
    }

    #[test]
    fn a_set_is_the_same_in_any_order() {
        let vips = |list: &[&str]| -> Vec<IpAddr> {
            list.iter().map(|vip| vip.parse().unwrap()).collect()
        };
        let all = VipSet::of(&vips(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]));
        let again = vips(&["2001:db8::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(all, VipSet::of(&again));
        assert_ne!(all, VipSet::of(&vips(&["10.0.0.1", "10.0.0.2"])));
    }

    #[test]
    fn one_common_address_is_enough_to_be_the_same_group() {
        for (ours, theirs, disjoint) in [
            (1..2, 1..2, false),
            (1..2, 2..3, true),
            (1..5, 4..9, false),
            (1..5, 5..9, true),
            (1..16, 1..2, false),
            (1..16, 16..31, true),
            (1..100, 2..101, false),
            (1..100, 100..200, true),
        ] {
            let (ours, theirs) = (set(ours), set(theirs));
            assert_eq!(ours.is_disjoint(&theirs), disjoint);
            assert_eq!(theirs.is_disjoint(&ours), disjoint);
        }
        for host in 1..100 {
            let (one, all) = (set(host..host + 1), set(1..100));
            assert!(!one.is_disjoint(&all) && !all.is_disjoint(&one), "{host}");
        }
    }

    #[test]
    fn bytes_that_are_no_hashes_are_no_set() {
        let told: Vec<u8> = set(1..4).encode().collect();
        assert_eq!(VipSet::decode(set(1..4).hash, &told), Some(set(1..4)));
        assert_eq!(VipSet::decode(0, &told[1..]), None);
        assert_eq!(VipSet::decode(0, &[0; (MOST + 1) * EACH]), None);
    }
}
