//! What is known about the network around: interfaces, routes, neighbours; and the way to each
//! backend that follows from it. Pure: netlink's news come in as events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

use super::event::{Link, Neighbour, Route};

/// How often the kernel is asked to look for a neighbour that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How often a resolved neighbour is confirmed: well below the time after which a host that
/// changed its Ethernet address would be missed.
const REFRESH: Duration = Duration::from_secs(10);

/// The way to a backend on a connected network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Ethernet address of that interface.
    pub source_mac: MacAddr,
    /// Ethernet address of the backend.
    pub mac: MacAddr,
}

/// Why there is no way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoHop {
    /// The kernel has not been heard yet.
    Unknown,
    /// No route.
    NoRoute,
    /// The route leads through a router.
    Routed {
        /// The router.
        gateway: IpAddr,
    },
    /// The interface of the route is not there.
    NoInterface {
        /// Its index.
        ifindex: u32,
    },
    /// The interface of the route is down.
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// The interface has no Ethernet address, e.g. a tunnel.
    NoEthernet {
        /// Its name.
        interface: String,
    },
    /// The interface is not among those of the configuration: without XDP most drivers do not
    /// transmit frames that are redirected to them.
    Undeclared {
        /// Its name.
        interface: String,
    },
    /// Nobody answered ARP or neighbour discovery.
    Unresolved {
        /// Name of the interface that was asked on.
        interface: String,
    },
}

impl std::fmt::Display for NoHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("the way to it is not known yet"),
            Self::NoRoute => f.write_str("no route to it: check the addresses of the interfaces"),
            Self::Routed { gateway } => write!(
                f,
                "behind router {gateway}: mode dsr needs a backend on a connected network"
            ),
            Self::NoInterface { ifindex } => write!(f, "its interface {ifindex} is gone"),
            Self::LinkDown { interface } => write!(f, "interface {interface} is down"),
            Self::NoEthernet { interface } => {
                write!(f, "interface {interface} has no Ethernet addresses")
            }
            Self::Undeclared { interface } => write!(
                f,
                "reached through {interface}: add [[interface]] name = \"{interface}\" to the \
                 configuration"
            ),
            Self::Unresolved { interface } => {
                write!(f, "no answer to ARP or neighbour discovery on {interface}")
            }
        }
    }
}

/// The network around.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), MacAddr>,
    targets: BTreeMap<IpAddr, Target>,
    /// Names of the interfaces that frames may leave by.
    declared: BTreeSet<String>,
}

/// An address whose way is of interest.
#[derive(Debug)]
struct Target {
    /// `None` until the kernel was heard.
    route: Option<Option<Route>>,
    next_resolve: Moment,
}

impl Network {
    /// Watches exactly these addresses; new ones are resolved at once.
    pub fn watch(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Moment) {
        let mut before = std::mem::take(&mut self.targets);
        for address in addresses {
            let target =
                before.remove(&address).unwrap_or(Target { route: None, next_resolve: now });
            self.targets.insert(address, target);
        }
    }

    /// Frames may leave by exactly these interfaces.
    pub fn declare(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.declared = interfaces.into_iter().collect();
    }

    /// Takes over what an earlier controller knew, until the kernel is heard.
    pub fn adopt(&mut self, address: IpAddr, hop: Hop) {
        self.neighbours.insert((hop.ifindex, address), hop.mac);
        if let Some(target) = self.targets.get_mut(&address) {
            target.route = Some(Some(Route { ifindex: hop.ifindex, gateway: None }));
        }
    }

    /// Addresses that are to be resolved now; plans their next time.
    pub fn poll(&mut self, now: Moment) -> Vec<IpAddr> {
        let due: Vec<IpAddr> = self
            .targets
            .iter()
            .filter(|(_, target)| target.next_resolve <= now)
            .map(|(address, _)| *address)
            .collect();
        for address in &due {
            let pause = if self.hop(*address).is_ok() { REFRESH } else { RETRY };
            if let Some(target) = self.targets.get_mut(address) {
                target.next_resolve = now + pause;
            }
        }
        due
    }

    /// When [`Network::poll`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Moment {
        self.targets.values().map(|target| target.next_resolve).min().unwrap_or(Moment::NEVER)
    }

    /// An interface exists, with these properties. Routes may have changed with it.
    pub fn link_changed(&mut self, link: Link, now: Moment) -> bool {
        let changed = self.links.get(&link.ifindex) != Some(&link);
        if changed {
            // A name belongs to one interface; news of the other's end may have been lost.
            self.links.retain(|index, known| *index == link.ifindex || known.name != link.name);
            self.links.insert(link.ifindex, link);
            self.resolve_all(now);
        }
        changed
    }

    /// An interface is gone, with its neighbours.
    pub fn link_removed(&mut self, ifindex: u32, now: Moment) -> Option<Link> {
        self.neighbours.retain(|(index, _), _| *index != ifindex);
        self.resolve_all(now);
        self.links.remove(&ifindex)
    }

    /// Interfaces that are known here, but not among these.
    #[must_use]
    pub fn links_beside(&self, existing: &BTreeSet<u32>) -> Vec<u32> {
        self.links.keys().filter(|ifindex| !existing.contains(ifindex)).copied().collect()
    }

    /// The kernel said how it would reach an address. True if that is news.
    pub fn route_found(&mut self, address: IpAddr, route: Option<Route>) -> bool {
        let Some(target) = self.targets.get_mut(&address) else { return false };
        target.route.replace(route) != Some(route)
    }

    /// The kernel's neighbour table changed. True if that is news about a watched address.
    pub fn neighbour_changed(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        neighbour: Neighbour,
        now: Moment,
    ) -> bool {
        let Some(target) = self.targets.get_mut(&address) else { return false };
        match neighbour {
            Neighbour::Resolved(mac) => {
                self.neighbours.insert((ifindex, address), mac) != Some(mac)
            }
            Neighbour::Failed => {
                target.next_resolve = target.next_resolve.min(now + RETRY);
                self.neighbours.remove(&(ifindex, address)).is_some()
            }
            // The kernel may collect an entry that nobody else uses; ask again, keep what is known.
            Neighbour::Forgotten => {
                target.next_resolve = now;
                false
            }
        }
    }

    /// The way to an address.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn hop(&self, address: IpAddr) -> Result<Hop, NoHop> {
        let route = self.targets.get(&address).and_then(|target| target.route);
        let route = route.ok_or(NoHop::Unknown)?.ok_or(NoHop::NoRoute)?;
        if let Some(gateway) = route.gateway {
            return Err(NoHop::Routed { gateway });
        }
        let ifindex = route.ifindex;
        let link = self.links.get(&ifindex).ok_or(NoHop::NoInterface { ifindex })?;
        let interface = || link.name.clone();
        if !link.up {
            return Err(NoHop::LinkDown { interface: interface() });
        }
        if !self.declared.contains(&link.name) {
            return Err(NoHop::Undeclared { interface: interface() });
        }
        if link.mac == MacAddr::NONE {
            return Err(NoHop::NoEthernet { interface: interface() });
        }
        let mac = self.neighbours.get(&(ifindex, address)).copied();
        let mac = mac.ok_or_else(|| NoHop::Unresolved { interface: interface() })?;
        Ok(Hop { ifindex, source_mac: link.mac, mac })
    }

    /// The interface of this name.
    #[must_use]
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interface of this index.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    fn resolve_all(&mut self, now: Moment) {
        for target in self.targets.values_mut() {
            target.next_resolve = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11));
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 11]);

    fn link(up: bool) -> Link {
        Link { ifindex: 3, name: "eth0".into(), mac: MacAddr([2, 0, 0, 0, 0, 1]), up }
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn empty() -> Network {
        let mut network = Network::default();
        network.declare(["eth0".to_owned()]);
        network
    }

    fn connected() -> Network {
        let mut network = empty();
        network.watch([BACKEND], at(0));
        network.link_changed(link(true), at(0));
        network.route_found(BACKEND, Some(Route { ifindex: 3, gateway: None }));
        network.neighbour_changed(3, BACKEND, Neighbour::Resolved(MAC), at(0));
        network
    }

    #[test]
    fn a_resolved_neighbour_on_a_connected_network_is_a_hop() {
        let hop = connected().hop(BACKEND).expect("a way");
        assert_eq!(hop, Hop { ifindex: 3, source_mac: link(true).mac, mac: MAC });
    }

    #[test]
    fn each_reason_for_no_way_is_told() {
        let mut network = empty();
        network.watch([BACKEND], at(0));
        assert_eq!(network.hop(BACKEND), Err(NoHop::Unknown));
        network.route_found(BACKEND, None);
        assert_eq!(network.hop(BACKEND), Err(NoHop::NoRoute));
        let gateway = "10.9.9.1".parse().expect("literal");
        network.route_found(BACKEND, Some(Route { ifindex: 3, gateway: Some(gateway) }));
        assert_eq!(network.hop(BACKEND), Err(NoHop::Routed { gateway }));
        network.route_found(BACKEND, Some(Route { ifindex: 3, gateway: None }));
        assert_eq!(network.hop(BACKEND), Err(NoHop::NoInterface { ifindex: 3 }));
        network.link_changed(link(false), at(0));
        let interface = || "eth0".to_owned();
        assert_eq!(network.hop(BACKEND), Err(NoHop::LinkDown { interface: interface() }));
        network.link_changed(Link { mac: MacAddr::NONE, ..link(true) }, at(0));
        assert_eq!(network.hop(BACKEND), Err(NoHop::NoEthernet { interface: interface() }));
        network.link_changed(link(true), at(0));
        assert_eq!(network.hop(BACKEND), Err(NoHop::Unresolved { interface: interface() }));
        network.declare([]);
        assert_eq!(network.hop(BACKEND), Err(NoHop::Undeclared { interface: interface() }));
    }

    #[test]
    fn a_neighbour_that_failed_is_no_way_but_a_forgotten_one_still_is() {
        let mut network = connected();
        network.poll(at(0));
        network.neighbour_changed(3, BACKEND, Neighbour::Forgotten, at(1));
        assert!(network.hop(BACKEND).is_ok());
        assert_eq!(network.poll(at(1)), [BACKEND], "asked again at once");
        network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(2));
        assert!(matches!(network.hop(BACKEND), Err(NoHop::Unresolved { .. })));
    }

    #[test]
    fn resolved_neighbours_are_confirmed_less_often_than_missing_ones_are_looked_for() {
        let mut network = connected();
        assert_eq!(network.poll(at(0)), [BACKEND]);
        assert_eq!(network.next_deadline(), at(10));
        network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(5));
        assert_eq!(network.poll(at(6)), [BACKEND]);
        assert_eq!(network.next_deadline(), at(7));
    }

    #[test]
    fn a_lost_interface_takes_its_neighbours_along() {
        let mut network = connected();
        assert_eq!(network.link_removed(3, at(1)).map(|link| link.name), Some("eth0".into()));
        network.link_changed(link(true), at(2));
        assert!(matches!(network.hop(BACKEND), Err(NoHop::Unresolved { .. })));
    }

    #[test]
    fn an_interface_that_took_over_a_name_replaces_the_one_whose_end_was_missed() {
        let mut network = connected();
        network.link_changed(Link { ifindex: 7, ..link(true) }, at(1));
        assert_eq!(network.link_by_name("eth0").map(|link| link.ifindex), Some(7));
        assert!(network.links_beside(&BTreeSet::from([7])).is_empty());
        assert_eq!(network.links_beside(&BTreeSet::new()), [7]);
    }

    #[test]
    fn what_is_known_already_or_concerns_nobody_is_no_news() {
        let mut network = connected();
        let resolved = Neighbour::Resolved(MAC);
        assert!(!network.neighbour_changed(3, BACKEND, resolved, at(1)));
        assert!(!network.route_found(BACKEND, Some(Route { ifindex: 3, gateway: None })));
        let other = "10.0.0.99".parse().expect("literal");
        assert!(!network.neighbour_changed(3, other, resolved, at(1)));
        assert!(!network.route_found(other, None));
        assert!(network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(1)));
        assert!(network.route_found(BACKEND, None));
    }

    #[test]
    fn watching_anew_keeps_what_is_known() {
        let mut network = connected();
        let other = "10.0.0.12".parse().expect("literal");
        network.watch([BACKEND, other], at(1));
        assert!(network.hop(BACKEND).is_ok());
        assert_eq!(network.hop(other), Err(NoHop::Unknown));
        network.watch([other], at(2));
        assert_eq!(network.hop(BACKEND), Err(NoHop::Unknown));
    }

    #[test]
    fn what_an_earlier_controller_knew_holds_until_the_kernel_is_heard() {
        let mut network = empty();
        network.watch([BACKEND], at(0));
        network.adopt(BACKEND, Hop { ifindex: 3, source_mac: link(true).mac, mac: MAC });
        network.link_changed(link(true), at(0));
        assert_eq!(network.hop(BACKEND).map(|hop| hop.mac), Ok(MAC));
    }
}
