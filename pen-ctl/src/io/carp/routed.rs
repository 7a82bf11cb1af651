//! Sends packets to unicast peers, whose Ethernet address, or whose router's, the kernel knows or
//! finds out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW`: packets come with their IP header.
const WITH_HEADER: i32 = 255;

/// Sockets by interface and family.
#[derive(Debug, Default)]
pub(super) struct Routed(BTreeMap<(u32, bool), Socket>);

impl Routed {
    /// Sends a whole IP packet by this interface, at once or not at all.
    pub(super) fn send(
        &mut self,
        (ifindex, name): (u32, &str),
        to: IpAddr,
        packet: &[u8],
    ) -> io::Result<()> {
        let key = (ifindex, to.is_ipv4());
        let socket = match self.0.entry(key) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => place.insert(open(name, to)?),
        };
        let to = match to {
            IpAddr::V4(to) => SocketAddr::new(to.into(), 0),
            // A link-local address means nothing without its interface.
            IpAddr::V6(to) => {
                let scope = if to.is_unicast_link_local() { ifindex } else { 0 };
                SocketAddrV6::new(to, 0, 0, scope).into()
            }
        };
        let result = socket.send_to(packet, &to.into()).map(drop);
        if result.is_err() {
            // The interface may be another one of this name by now.
            self.0.remove(&key);
        }
        result
    }
}

fn open(name: &str, to: IpAddr) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::from(WITH_HEADER)))?;
    socket.bind_device(Some(name.as_bytes()))?;
    Ok(socket)
}
