//! Access lists as the map has them. A list's number is made of its contents, so that a list that
//! changes is another one: it is written beside the old one, the addresses are switched over, one
//! write each, and the old one goes. No packet meets half of a list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pen_common::abi::{ACL_ALLOW, ACL_DENY};
use pen_common::hash;
use pen_common::net::Addr;

use super::tables::Prefix;
use crate::config::{Access, Acl, Vip};

/// The lists that virtual addresses refer to.
#[derive(Debug, Default)]
pub struct Lists {
    numbers: BTreeMap<String, u32>,
    prefixes: Arc<BTreeMap<Prefix, u32>>,
}

impl Lists {
    /// The lists of a configuration.
    #[must_use]
    pub fn new(acls: &[Acl], vips: &[Vip]) -> Self {
        let used: BTreeSet<&str> = vips.iter().filter_map(|vip| vip.acl.as_deref()).collect();
        let mut numbers = BTreeMap::new();
        let mut contents: BTreeMap<u32, Vec<(Addr, u8, u32)>> = BTreeMap::new();
        for acl in acls.iter().filter(|acl| used.contains(acl.name.as_str())) {
            let content = content(acl);
            let mut number = number(&content);
            // Two lists that say the same are one; two that only hash alike are not.
            while contents.get(&number).is_some_and(|other| *other != content) {
                number = number.wrapping_add(1).max(1);
            }
            contents.insert(number, content);
            numbers.insert(acl.name.clone(), number);
        }
        let prefixes = contents.into_iter().flat_map(|(list, content)| {
            let prefixes = content.into_iter();
            prefixes.map(move |(addr, bits, verdict)| (Prefix { list, addr, bits }, verdict))
        });
        Self { numbers, prefixes: Arc::new(prefixes.collect()) }
    }

    /// Number of the list of this name; 0 if there is none.
    #[must_use]
    pub fn number(&self, name: &str) -> u32 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// All prefixes of all lists.
    #[must_use]
    pub fn prefixes(&self) -> &Arc<BTreeMap<Prefix, u32>> {
        &self.prefixes
    }
}

/// Address, length and verdict of each prefix, in order.
fn content(acl: &Acl) -> Vec<(Addr, u8, u32)> {
    /// Bits of a mapped address before the IPv4 address.
    const MAPPED: u8 = 96;
    let mut prefixes = BTreeMap::new();
    // IPv4 has a default of its own, so that an IPv6 network as wide as `::/0` has no IPv4 address.
    for (addr, bits) in [(Addr::v6([0; 16]), 0), (Addr::v4([0; 4]), MAPPED)] {
        prefixes.insert((addr, bits), verdict(acl.default));
    }
    for (network, access) in &acl.networks {
        let bits = if network.address.is_ipv4() { MAPPED + network.bits } else { network.bits };
        prefixes.insert((Addr::from(network.address), bits), verdict(*access));
    }
    prefixes.into_iter().map(|((addr, bits), verdict)| (addr, bits, verdict)).collect()
}

const fn verdict(access: Access) -> u32 {
    match access {
        Access::Allow => ACL_ALLOW,
        Access::Deny => ACL_DENY,
    }
}

/// A number that is the same for the same contents, also on another node; not 0, which is no list.
fn number(content: &[(Addr, u8, u32)]) -> u32 {
    let mut sum = 0;
    for (addr, bits, verdict) in content {
        let (high, low) = addr.halves();
        sum = hash::siphash([0, sum], [high, low, u64::from(*bits) << 32 | u64::from(*verdict)]);
    }
    let low = u32::try_from(sum & u64::from(u32::MAX)).expect("masked to 32 bits");
    low.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cidr;

    fn acl(name: &str, networks: &[(&str, u8, Access)], default: Access) -> Acl {
        let network = |(address, bits, access): &(&str, u8, Access)| {
            (Cidr { address: address.parse().expect("literal"), bits: *bits }, *access)
        };
        Acl { name: name.into(), networks: networks.iter().map(network).collect(), default }
    }

    fn vip(acl: Option<&str>) -> Vip {
        Vip {
            address: [192, 0, 2, 10].into(),
            interface: "eth0".into(),
            carp: None,
            echo: false,
            acl: acl.map(Into::into),
            syn_rate: None,
        }
    }

    #[test]
    fn a_list_has_a_default_for_each_family_and_its_networks() {
        let office = acl("office", &[("10.0.0.0", 8, Access::Allow)], Access::Deny);
        let lists = Lists::new(&[office], &[vip(Some("office"))]);
        let list = lists.number("office");
        assert_ne!(list, 0);
        let prefix = |addr, bits| Prefix { list, addr, bits };
        let expected = [
            (prefix(Addr::v6([0; 16]), 0), ACL_DENY),
            (prefix(Addr::v4([0; 4]), 96), ACL_DENY),
            (prefix(Addr::v4([10, 0, 0, 0]), 104), ACL_ALLOW),
        ];
        assert_eq!(**lists.prefixes(), BTreeMap::from(expected));
    }

    #[test]
    fn a_network_as_wide_as_a_family_replaces_that_familys_default_only() {
        let list = acl("a", &[("::", 0, Access::Deny)], Access::Allow);
        let lists = Lists::new(&[list], &[vip(Some("a"))]);
        let verdicts: Vec<_> =
            lists.prefixes().iter().map(|(prefix, verdict)| (prefix.bits, *verdict)).collect();
        assert_eq!(verdicts, [(0, ACL_DENY), (96, ACL_ALLOW)]);
    }

    #[test]
    fn the_number_follows_from_what_a_list_says_and_from_nothing_else() {
        let networks = [("10.0.0.0", 8, Access::Deny), ("2001:db8::", 32, Access::Allow)];
        let mut swapped = networks;
        swapped.reverse();
        let all = [
            acl("a", &networks, Access::Allow),
            acl("b", &swapped, Access::Allow),
            acl("c", &networks, Access::Deny),
            acl("d", &networks[..1], Access::Allow),
            acl("unused", &[], Access::Deny),
        ];
        let vips = ["a", "b", "c", "d"].map(|name| vip(Some(name)));
        let lists = Lists::new(&all, &vips);
        assert_eq!(lists.number("a"), lists.number("b"));
        let numbers: BTreeSet<_> = ["a", "c", "d"].map(|name| lists.number(name)).into();
        assert_eq!(numbers.len(), 3);
        assert_eq!(lists.number("unused"), 0);
        assert_eq!(lists.prefixes().len(), 4 + 4 + 3);
        let alone = Lists::new(&all[3..], &[vip(Some("d"))]);
        assert_eq!(alone.number("d"), lists.number("d"));
    }
}
