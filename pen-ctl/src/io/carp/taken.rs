//! The addresses that a group has on an interface: which of them have to go and to come when it is
//! to have others, and which somebody else removed.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Of a group that has taken its addresses.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) ifindex: u32,
    /// Those that the interface is to have; XDP answers for the others.
    pub(super) addresses: Vec<IpAddr>,
    /// Changes that add some of them and are not carried out yet.
    waiting: usize,
    /// Those that the interface was seen to have since.
    seen: BTreeSet<IpAddr>,
}

impl Taken {
    pub(super) const fn new(ifindex: u32, addresses: Vec<IpAddr>) -> Self {
        Self { ifindex, addresses, waiting: 0, seen: BTreeSet::new() }
    }

    /// A change that adds addresses is under way.
    pub(super) fn add(&mut self) {
        self.waiting += 1;
        self.seen.clear();
    }

    /// Such a change was carried out.
    pub(super) const fn added(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// It is to have these from now on; yields those that have to go, and those that are new.
    pub(super) fn change_to(&mut self, wanted: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let old = std::mem::replace(&mut self.addresses, wanted.to_vec());
        self.seen.retain(|address| wanted.contains(address));
        let gone = old.iter().filter(|address| !wanted.contains(address)).copied().collect();
        let new = wanted.iter().filter(|address| !old.contains(address)).copied().collect();
        (gone, new)
    }

    /// The interface has these addresses now. Yields one of the group's that it had before, and lacks:
    /// somebody else removed it. What this daemon itself does to them is no loss.
    pub(super) fn lost(&mut self, present: &[IpAddr]) -> Option<IpAddr> {
        if self.waiting > 0 {
            return None;
        }
        let lost = self.seen.iter().find(|address| !present.contains(address)).copied();
        let there = self.addresses.iter().filter(|address| present.contains(address));
        self.seen = there.copied().collect();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(last: [u8; N]) -> Vec<IpAddr> {
        last.map(|last| IpAddr::from([192, 0, 2, last])).to_vec()
    }

    #[test]
    fn what_is_no_longer_wanted_goes_and_what_is_new_comes() {
        let mut taken = Taken::new(2, addresses([1, 2]));
        assert_eq!(taken.change_to(&addresses([2, 3])), (addresses([1]), addresses([3])));
        assert_eq!(taken.addresses, addresses([2, 3]));
        assert_eq!(taken.change_to(&[]), (addresses([2, 3]), Vec::new()));
    }

    #[test]
    fn an_address_is_lost_that_was_there_after_it_was_added() {
        let mut taken = Taken::new(2, addresses([1]));
        taken.add();
        // Left from before, then removed and added by this daemon itself.
        assert_eq!(taken.lost(&addresses([1])), None);
        assert_eq!(taken.lost(&[]), None);
        taken.added();
        assert_eq!(taken.lost(&[]), None, "news from before it was added");
        assert_eq!(taken.lost(&addresses([1])), None);
        assert_eq!(taken.lost(&[]), Some(addresses([1])[0]));
        assert_eq!(taken.lost(&[]), None, "it is said once");
    }

    #[test]
    fn an_address_that_the_group_gave_up_is_not_lost() {
        let mut taken = Taken::new(2, addresses([1, 2]));
        assert_eq!(taken.lost(&addresses([1, 2])), None);
        taken.change_to(&addresses([2]));
        assert_eq!(taken.lost(&addresses([2])), None);
    }
}
