//! What is known of the network around: interfaces, routes, neighbours; and the way to each
//! backend that follows from it. Pure: netlink's news come in as events.

mod hop;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

pub use self::hop::{Hop, NoHop};
use super::event::{Link, Neighbour, Route};
use crate::config::Mode;

/// How often the kernel is asked to look for a neighbour that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How often a resolved neighbour is confirmed: well below the time after which a host that
/// changed its Ethernet address would be missed.
const REFRESH: Duration = Duration::from_secs(10);
/// How long a way that works is kept while the next hop of the new one does not answer. The kernel
/// gives up after three questions a second apart.
const GRACE: Duration = Duration::from_secs(4);

/// The network around.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), MacAddr>,
    targets: BTreeMap<IpAddr, Target>,
    /// Routers that targets are behind, and their interfaces.
    gateways: BTreeSet<(u32, IpAddr)>,
    /// New routes of targets whose next hop is being looked for, and since when.
    awaited: BTreeMap<IpAddr, (Route, Moment)>,
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

impl Route {
    /// The neighbour that frames to `address` are sent to.
    fn next(&self, address: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(address)
    }
}

impl Network {
    /// Watches exactly these addresses; new ones are resolved at once.
    pub fn watch(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Moment) {
        let mut before = std::mem::take(&mut self.targets);
        for address in addresses {
            if self.targets.contains_key(&address) {
                continue;
            }
            let target =
                before.remove(&address).unwrap_or(Target { route: None, next_resolve: now });
            self.targets.insert(address, target);
        }
        self.awaited.retain(|address, _| self.targets.contains_key(address));
        let routes = self.targets.values().filter_map(|target| target.route.flatten());
        let routes = routes.chain(self.awaited.values().map(|(route, _)| *route));
        self.gateways = routes.filter_map(|route| Some((route.ifindex, route.gateway?))).collect();
    }

    /// Frames may leave by exactly these interfaces.
    pub fn declare(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.declared = interfaces.into_iter().collect();
    }

    /// Takes over what an earlier controller knew, until the kernel is heard.
    pub fn adopt(&mut self, address: IpAddr, hop: Hop) {
        self.neighbours.insert((hop.ifindex, hop.next), hop.mac);
        if let Some(target) = self.targets.get_mut(&address) {
            let gateway = Some(hop.next).filter(|next| *next != address);
            target.route = Some(Some(Route { ifindex: hop.ifindex, gateway, source: hop.source }));
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
            // An address of this node that is missing may be added any time.
            let found = self.hop(*address, Mode::Masquerade).is_ok();
            let found = found && !self.awaited.contains_key(address);
            let pause = if found { REFRESH } else { RETRY };
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

    /// The kernel said how it would reach an address, and the Ethernet address of the next hop if
    /// it knows that. True if that is news.
    ///
    /// A new way whose next hop is still to be found does not replace one that works: the backend
    /// would be down meanwhile, and its flows lost.
    pub fn route_found(
        &mut self,
        address: IpAddr,
        route: Option<Route>,
        mac: Option<MacAddr>,
        now: Moment,
    ) -> bool {
        let leads = self.leads(address);
        let Some(target) = self.targets.get_mut(&address) else { return false };
        let mut news = false;
        if let (Some(route), Some(mac)) = (route, mac) {
            let next = (route.ifindex, route.next(address));
            news = self.neighbours.insert(next, mac) != Some(mac);
        }
        if target.route == Some(route) {
            self.awaited.remove(&address);
            return news;
        }
        if let Some(gateway) = route.and_then(|route| Some((route.ifindex, route.gateway?))) {
            self.gateways.insert(gateway);
        }
        if let Some(route) = route
            && leads
            && self.links.get(&route.ifindex).is_some_and(|link| link.up)
            && !self.neighbours.contains_key(&(route.ifindex, route.next(address)))
        {
            let since = match self.awaited.get(&address) {
                Some((awaited, since)) if *awaited == route => *since,
                _ => now,
            };
            if now.since(since) < GRACE {
                self.awaited.insert(address, (route, since));
                target.next_resolve = target.next_resolve.min(now + RETRY);
                return news;
            }
        }
        target.route = Some(route);
        self.awaited.remove(&address);
        true
    }

    /// The kernel's neighbour table changed. True if that is news about the way to a watched
    /// address.
    pub fn neighbour_changed(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        neighbour: Neighbour,
        now: Moment,
    ) -> bool {
        let next = (ifindex, address);
        if !self.targets.contains_key(&address) && !self.gateways.contains(&next) {
            return false;
        }
        match neighbour {
            Neighbour::Resolved(mac) => {
                let news = self.neighbours.insert(next, mac) != Some(mac);
                self.take_awaited(next) || news
            }
            Neighbour::Failed => {
                self.hurry(next, now + RETRY);
                let news = self.neighbours.remove(&next).is_some();
                self.take_awaited(next) || news
            }
            // The kernel may collect an entry that nobody else uses; ask again, keep what is known.
            Neighbour::Forgotten => {
                self.hurry(next, now);
                false
            }
        }
    }

    /// What was to be known of a next hop is known: new routes through it hold.
    fn take_awaited(&mut self, next: (u32, IpAddr)) -> bool {
        let through = |address: IpAddr, route: &Route| (route.ifindex, route.next(address)) == next;
        let taken: Vec<_> =
            self.awaited.extract_if(.., |address, (route, _)| through(*address, route)).collect();
        for (address, (route, _)) in &taken {
            if let Some(target) = self.targets.get_mut(address) {
                target.route = Some(Some(*route));
            }
        }
        !taken.is_empty()
    }

    /// Lets a neighbour be looked for at `due` at the latest: by one of the addresses behind it,
    /// which may be thousands.
    fn hurry(&mut self, (ifindex, address): (u32, IpAddr), due: Moment) {
        let target = match self.targets.get_mut(&address) {
            Some(target) => Some(target),
            None => self.targets.values_mut().find(|target| {
                let route = target.route.flatten();
                route
                    .is_some_and(|route| (route.ifindex, route.gateway) == (ifindex, Some(address)))
            }),
        };
        if let Some(target) = target {
            target.next_resolve = target.next_resolve.min(due);
        }
    }

    /// Whether frames to an address would arrive, whatever the mode needs besides.
    fn leads(&self, address: IpAddr) -> bool {
        self.hop(address, Mode::Nat).is_ok()
    }

    /// The way to an address for a service of this mode.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn hop(&self, address: IpAddr, mode: Mode) -> Result<Hop, NoHop> {
        let route = self.targets.get(&address).and_then(|target| target.route);
        let route = route.ok_or(NoHop::Unknown)?.ok_or(NoHop::NoRoute)?;
        let Route { ifindex, gateway, source } = route;
        // The router would route by the address of the packet, which is ours.
        if let (Some(gateway), Mode::Dsr) = (gateway, mode) {
            return Err(NoHop::Routed { gateway });
        }
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
        let next = route.next(address);
        let mac = self.neighbours.get(&(ifindex, next)).copied();
        let mac = mac.ok_or_else(|| NoHop::Unresolved { interface: interface(), gateway })?;
        if source.is_none() && mode.sends_from_own_address() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(NoHop::NoSource { interface: interface(), family });
        }
        Ok(Hop { ifindex, source_mac: link.mac, next, mac, source, mtu: link.mtu })
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
