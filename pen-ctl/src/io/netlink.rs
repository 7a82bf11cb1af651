//! The kernel's news about interfaces, routes and neighbours, by rtnetlink; and the request to look
//! for a neighbour. Says what it hears, decides nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use nix::errno::Errno;
use pen_common::net::MacAddr;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage,
    State as OperState,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::engine::event::{Event, Link, Neighbour, Route};

/// The whole state is read again this often, because the kernel drops news when a burst of them
/// overruns the socket's buffer.
const RESYNC: Duration = Duration::from_secs(30);

/// An answer of the kernel that takes longer was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Marks routes and rules as ours. Of the protocols that rtnetlink(7) leaves to others; 112 is CARP's
/// number.
pub(super) const PEN: RouteProtocol = RouteProtocol::Other(112);
/// Interface `lo` has this index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// A connection to the kernel.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    events: mpsc::Sender<Event>,
}

impl Netlink {
    /// Connects, and from now on sends all news to `events`. The task that is returned ends only if
    /// the kernel's side does.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a socket.
    pub fn connect(events: mpsc::Sender<Event>) -> io::Result<(Self, JoinHandle<()>)> {
        let (connection, listening, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Neigh])?;
        tokio::spawn(connection);
        // Requests have a socket of their own: a burst of news must not push answers out of the
        // buffer.
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let netlink = Self { handle, events };
        let news = tokio::spawn(netlink.clone().watch(listening, messages));
        Ok((netlink, news))
    }

    /// Passes news on, in one task with the reading of the whole state, so that what is read is
    /// never older than news that were passed on before.
    async fn watch(self, _listening: Handle, mut messages: impl Stream<Item = Message> + Unpin) {
        let mut resync = tokio::time::interval(RESYNC);
        resync.tick().await;
        loop {
            let events = tokio::select! {
                message = messages.next() => match message {
                    Some((message, _)) => match message.payload {
                        NetlinkPayload::InnerMessage(message) => news(message).into_iter().collect(),
                        // The kernel dropped news.
                        NetlinkPayload::Overrun(_) => self.dump().await.unwrap_or_default(),
                        _ => Vec::new(),
                    },
                    None => return,
                },
                // An error here is transient (interrupted dump); the next round repeats it.
                _ = resync.tick() => self.dump().await.unwrap_or_default(),
            };
            for event in events {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// All interfaces and neighbours, as events.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub async fn dump(&self) -> io::Result<Vec<Event>> {
        timeout(PATIENCE, self.dump_all())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }

    async fn dump_all(&self) -> Result<Vec<Event>, rtnetlink::Error> {
        let mut events = Vec::new();
        let mut existing = BTreeSet::new();
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            existing.insert(message.header.index);
            events.extend(link(&message).map(Event::LinkChanged));
        }
        events.push(Event::LinksKnown(existing));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut neighbours =
                self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) = neighbours.try_next().await? {
                events.extend(neighbour(&message));
            }
        }
        Ok(events)
    }

    /// Asks for the route to an address and lets the kernel look for the neighbour that is the next
    /// hop (or confirm it), as if it had a packet for it.
    pub fn resolve(&self, address: IpAddr) {
        let netlink = self.clone();
        tokio::spawn(async move {
            // Without an answer nothing is known; the engine asks again.
            let _ = timeout(PATIENCE, netlink.find(address)).await;
        });
    }

    async fn find(&self, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let route = self.route(address).await?;
        let Some(Route { ifindex, gateway, .. }) = route else {
            let _ = self.events.send(Event::RouteFound { address, route, mac: None }).await;
            return Ok(());
        };
        let next = gateway.unwrap_or(address);
        let known = self.neighbour(ifindex, next).await;
        let told = known.as_ref().and_then(neighbour);
        let mac = match told {
            Some(Event::NeighbourChanged { neighbour: Neighbour::Resolved(mac), .. }) => Some(mac),
            _ => None,
        };
        let _ = self.events.send(Event::RouteFound { address, route, mac }).await;
        if let Some(event) = told {
            let _ = self.events.send(event).await;
        }
        // An entry that the operator set by hand would lose its permanence.
        let fixed = [NeighbourState::Permanent, NeighbourState::Noarp];
        if known.is_some_and(|known| fixed.contains(&known.header.state)) {
            return Ok(());
        }
        // NTF_USE without a state starts the resolution, and for a known neighbour the confirmation
        // (neighbour.c, neigh_add).
        self.handle
            .neighbours()
            .add(ifindex, next)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
    }

    /// Lets the kernel ask a neighbour at once whether it is still there: three questions a second
    /// apart to the known Ethernet address, then the entry fails.
    pub fn confirm(&self, ifindex: u32, address: IpAddr) {
        let netlink = self.clone();
        tokio::spawn(async move {
            // What is set by hand, or under question already, is not to be touched.
            let asked = [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay];
            let Some(known) = netlink.neighbour(ifindex, address).await else { return };
            let (true, Some(mac)) = (asked.contains(&known.header.state), ethernet(&known)) else {
                return;
            };
            // An error means that entry or interface just vanished, which is news of its own.
            let _ = netlink
                .handle
                .neighbours()
                .add(ifindex, address)
                .link_layer_address(&mac.0)
                .state(NeighbourState::Probe)
                .replace()
                .execute()
                .await;
        });
    }

    /// The kernel's entry of one neighbour.
    async fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = ifindex;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        // rtnetlink only knows how to ask for all of them.
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).ok()?;
        match answers.next().await?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                Some(message)
            }
            _ => None,
        }
    }

    /// Lets an interface receive the neighbour solicitations for an address: joins the
    /// solicited-node group (RFC 4291 section 2.7.1) by an address of the interface, not by a
    /// socket, so that the membership outlives the daemon like the XDP program does.
    ///
    /// # Errors
    ///
    /// What the kernel said. A membership that exists already is none.
    pub async fn join_solicited(&self, ifindex: u32, address: Ipv6Addr) -> io::Result<()> {
        let group = IpAddr::V6(solicited_node(address));
        let mut request = self.handle.address().add(ifindex, group, 128).replace();
        let flags = AddressFlags::Mcautojoin | AddressFlags::Nodad | AddressFlags::Noprefixroute;
        // rtnetlink takes a multicast address for something else than the interface's own.
        request.message_mut().attributes =
            vec![AddressAttribute::Address(group), AddressAttribute::Flags(flags)];
        request.execute().await.map_err(io::Error::other)
    }

    /// Ends what [`Netlink::join_solicited`] began.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn leave_solicited(&self, ifindex: u32, address: Ipv6Addr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = 128;
        message.header.index = ifindex;
        let group = IpAddr::V6(solicited_node(address));
        message.attributes.push(AddressAttribute::Address(group));
        self.handle.address().del(message).execute().await.map_err(io::Error::other)
    }

    /// Lets the machine's own stack take packets for an address, by a route and not by an address of
    /// an interface: nothing is sent from it of its own accord. A route that is there already stays.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn hold(&self, address: IpAddr) -> io::Result<()> {
        match self.handle.route().add(local_route(address)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -(Errno::EEXIST as i32) =>
            {
                Ok(())
            }
            result => result.map_err(io::Error::other),
        }
    }

    /// Ends what [`Netlink::hold`] began. A route that somebody else made stays.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn release(&self, address: IpAddr) -> io::Result<()> {
        self.handle.route().del(local_route(address)).execute().await.map_err(io::Error::other)
    }

    /// The route to an address; `None` if the kernel says that there is none.
    async fn route(&self, address: IpAddr) -> Result<Option<Route>, rtnetlink::Error> {
        const NO_ROUTE: [Errno; 5] =
            [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL, Errno::ENODEV];
        let message = match address {
            IpAddr::V4(v4) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
            }
        };
        let mut answers = Box::pin(self.handle.route().get(message).execute());
        let found = match answers.try_next().await {
            Ok(answer) => answer.as_ref().and_then(route),
            Err(rtnetlink::Error::NetlinkError(error))
                if NO_ROUTE.contains(&Errno::from_raw(error.raw_code().abs())) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let Some(mut route) = found else { return Ok(None) };
        route.source = match route.source.filter(|source| reaches(*source, address)) {
            None => self.first_address(route.ifindex, address).await?,
            source => source,
        };
        Ok(Some(route))
    }

    /// The first address of an interface from which packets to `destination` may come.
    async fn first_address(
        &self,
        ifindex: u32,
        destination: IpAddr,
    ) -> Result<Option<IpAddr>, rtnetlink::Error> {
        let mut addresses = self.handle.address().get().set_link_index_filter(ifindex).execute();
        let mut first = None;
        // To the end: the connection would keep what is not read.
        while let Some(message) = addresses.try_next().await? {
            let own = own_address(&message).filter(|own| reaches(*own, destination));
            first = first.or(own);
        }
        Ok(first)
    }
}

/// A route to this machine, marked as ours.
fn local_route(address: IpAddr) -> RouteMessage {
    /// Local routes are looked up here first (rtnetlink.h, `RT_TABLE_LOCAL`).
    const TABLE: u8 = 255;
    let mut message = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .output_interface(LOOPBACK)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .output_interface(LOOPBACK)
            .build(),
    };
    message.header.table = TABLE;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.header.protocol = PEN;
    message
}

/// Whether an address of this node can be the source of packets to `destination`.
fn reaches(own: IpAddr, destination: IpAddr) -> bool {
    match (own, destination) {
        (IpAddr::V4(own), IpAddr::V4(_)) => !own.is_unspecified() && !own.is_loopback(),
        // RFC 4291 section 2.5.6: routers do not forward link-local addresses.
        (IpAddr::V6(own), IpAddr::V6(destination)) => {
            !own.is_unspecified()
                && !own.is_loopback()
                && !own.is_multicast()
                && (!own.is_unicast_link_local() || destination.is_unicast_link_local())
        }
        _ => false,
    }
}

/// The address itself: on a link from point to point, `Address` is the peer's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    address
}

fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

fn news(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        // A bridge tells of its ports in its own family: a port that leaves is not gone.
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::NewLink(message) => link(&message).map(Event::LinkChanged),
        RouteNetlinkMessage::DelLink(message) => {
            Some(Event::LinkRemoved { ifindex: message.header.index })
        }
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
        RouteNetlinkMessage::DelNeighbour(message) => Some(Event::NeighbourChanged {
            ifindex: message.header.ifindex,
            address: destination(&message)?,
            neighbour: Neighbour::Forgotten,
        }),
        _ => None,
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut mac = MacAddr::NONE;
    let mut mtu = 0;
    let (mut forwards_v4, mut forwards_v6) = (false, false);
    // Drivers without an operational state report "unknown" (kernel doc operstates).
    let mut operational = true;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Address(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).map_or(MacAddr::NONE, MacAddr);
            }
            LinkAttribute::Mtu(found) => mtu = *found,
            LinkAttribute::AfSpecUnspec(families) => {
                (forwards_v4, forwards_v6) = forwards(families);
            }
            LinkAttribute::OperState(state) => {
                operational = matches!(state, OperState::Up | OperState::Unknown);
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up) && operational;
    let (ifindex, name) = (message.header.index, name?);
    Some(Link { ifindex, name, mac, up, mtu, forwards_v4, forwards_v6 })
}

/// Whether IPv4 and IPv6 packets that come in on an interface are forwarded.
pub(super) fn forwards(families: &[AfSpecUnspec]) -> (bool, bool) {
    let v4 = families.iter().any(|family| match family {
        AfSpecUnspec::Inet(settings) => settings.iter().any(|setting| match setting {
            AfSpecInet::DevConf(conf) => conf.forwarding != 0,
            _ => false,
        }),
        _ => false,
    });
    let v6 = families.iter().any(|family| match family {
        AfSpecUnspec::Inet6(settings) => settings.iter().any(|setting| match setting {
            AfSpecInet6::DevConf(conf) => conf.forwarding != 0,
            _ => false,
        }),
        _ => false,
    });
    (v4, v6)
}

fn neighbour(message: &NeighbourMessage) -> Option<Event> {
    let neighbour = match (message.header.state, ethernet(message)) {
        (NeighbourState::Failed, _) => Neighbour::Failed,
        // Incomplete says nothing yet; a state without an address belongs to no Ethernet.
        (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => return None,
        (_, Some(mac)) => Neighbour::Resolved(mac),
    };
    let address = destination(message)?;
    Some(Event::NeighbourChanged { ifindex: message.header.ifindex, address, neighbour })
}

fn ethernet(message: &NeighbourMessage) -> Option<MacAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr)
        }
        _ => None,
    })
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let mut ifindex = None;
    let mut gateway = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            // An IPv4 route through an IPv6 router (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
            _ => {}
        }
    }
    Some(Route { ifindex: ifindex?, gateway, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_solicited_node_group_takes_the_last_24_bits() {
        // The example of RFC 4291 section 2.7.1.
        let address = "4037::01:800:200e:8c6c".parse().expect("literal");
        assert_eq!(solicited_node(address).to_string(), "ff02::1:ff0e:8c6c");
    }

    #[test]
    fn the_kernel_tells_the_loopback_interface_and_the_route_to_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (sender, _receiver) = mpsc::channel(16);
            let (netlink, _news) =
                Netlink::connect(sender).expect("rtnetlink needs no privilege to read");
            let events = netlink.dump().await.expect("dump");
            let loopback = events.iter().find_map(|event| match event {
                Event::LinkChanged(link) if link.name == "lo" => Some(link.ifindex),
                _ => None,
            });
            let route = netlink.route("127.0.0.1".parse().expect("literal")).await;
            let route = route.expect("an answer").expect("a route");
            assert_eq!((Some(route.ifindex), route.gateway), (loopback, None));
            let nowhere = netlink.route("255.255.255.255".parse().expect("literal")).await;
            assert!(nowhere.is_ok(), "no route is no error: {nowhere:?}");
        });
    }
}
