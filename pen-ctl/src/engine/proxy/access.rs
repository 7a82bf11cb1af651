//! An access list as the proxies ask it: of the networks that hold an address the smallest decides,
//! as in the kernel's trie. IPv4 addresses are the same whichever way they are written.

use std::collections::{BTreeSet, HashMap};

use pen_common::hash::masked;
use pen_common::net::Addr;

use crate::config::{Access, Acl};

/// An access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    /// Lengths of its networks, longest first, for IPv4 counted in the mapped address.
    lengths: [Vec<u8>; 2],
    networks: HashMap<(Addr, u8), Access>,
    default: Access,
}

impl AccessList {
    /// The list of a configuration.
    #[must_use]
    pub fn new(acl: &Acl) -> Self {
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        let mut networks = HashMap::new();
        for (network, access) in &acl.networks {
            let v4 = network.address.is_ipv4();
            let bits = if v4 { 96 + network.bits } else { network.bits };
            lengths[usize::from(v4)].insert(bits);
            networks.insert((Addr::from(network.address), bits), *access);
        }
        let lengths = lengths.map(|lengths| lengths.into_iter().rev().collect());
        Self { lengths, networks, default: acl.default }
    }

    /// Whether this source is kept out.
    #[must_use]
    pub fn denies(&self, source: &Addr) -> bool {
        // An IPv6 network as wide as `::/0` holds no IPv4 address.
        let lengths = &self.lengths[usize::from(source.is_v4())];
        let found =
            lengths.iter().find_map(|bits| self.networks.get(&(masked(source, *bits), *bits)));
        *found.unwrap_or(&self.default) == Access::Deny
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Cidr;

    fn list(default: Access, networks: &[(&str, u8, Access)]) -> AccessList {
        let networks = networks
            .iter()
            .map(|(address, bits, access)| {
                (Cidr { address: address.parse().expect("literal"), bits: *bits }, *access)
            })
            .collect();
        AccessList::new(&Acl { name: "a".into(), networks, default })
    }

    #[test]
    fn the_smallest_network_that_holds_an_address_decides() {
        use Access::{Allow, Deny};
        let acl = list(
            Deny,
            &[
                ("10.0.0.0", 8, Allow),
                ("10.9.0.0", 16, Deny),
                ("10.9.9.9", 32, Allow),
                ("::", 0, Allow),
            ],
        );
        for (source, denied) in [
            ("10.1.2.3", false),
            ("10.9.1.1", true),
            ("10.9.9.9", false),
            ("::ffff:10.9.1.1", true),
            // The IPv6 network of all addresses has none of IPv4.
            ("192.0.2.1", true),
            ("2001:db8::1", false),
        ] {
            let address: IpAddr = source.parse().expect("literal");
            assert_eq!(acl.denies(&Addr::from(address.to_canonical())), denied, "{source}");
        }
    }

    #[test]
    fn a_list_without_networks_is_its_default() {
        for (default, denied) in [(Access::Allow, false), (Access::Deny, true)] {
            assert_eq!(list(default, &[]).denies(&Addr::v4([192, 0, 2, 1])), denied);
        }
    }
}
