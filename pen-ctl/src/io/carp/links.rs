//! The interfaces and their addresses, as CARP has to know them: an own connection to rtnetlink, so
//! that a daemon that is busy with ten thousand backends does not hear of a lost carrier later.
//!
//! Each news is only a reason to look: what is there is read as a whole, so that news that the kernel
//! dropped are no loss, and several at once cost one look.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};
use pen_common::net::MacAddr;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::io::netlink::forwards;

/// What is there is read again this often in any case.
const RESYNC: Duration = Duration::from_secs(30);
/// An answer of the kernel that takes longer was lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// After an answer that was lost the next one is asked for so much later.
const PAUSE: Duration = Duration::from_millis(100);

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) mac: MacAddr,
    /// It was set up.
    pub(super) up: bool,
    pub(super) carrier: bool,
    /// It forwards IPv6.
    pub(super) router: bool,
    /// Its usable addresses, in the kernel's order.
    pub(super) addresses: Vec<IpAddr>,
    /// Those that have a mark, with it.
    pub(super) marked: Vec<(IpAddr, u8)>,
}

/// All interfaces, by index.
pub(super) type Nics = BTreeMap<u32, Nic>;

/// Reads what is there, and from now on tells each change. Ends when nobody listens.
pub(super) async fn watch() -> io::Result<watch::Receiver<Nics>> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, listening, mut news) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    // Requests have a socket of their own: a burst of news must not push answers out of the buffer.
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(look(&handle).await.map_err(io::Error::other)?);
    tokio::spawn(async move {
        // As long as it lives, the connection goes on.
        let _listening = listening;
        let mut due = RESYNC;
        loop {
            tokio::select! {
                message = timeout(due, news.next()) => if let Ok(None) = message { return },
                () = sender.closed() => return,
            }
            while let Some(Some(_)) = news.next().now_or_never() {}
            due = match look(&handle).await {
                Ok(nics) => {
                    sender.send_if_modified(|known| {
                        let changed = *known != nics;
                        *known = nics;
                        changed
                    });
                    RESYNC
                }
                // A dump that was interrupted by a change is repeated soon.
                Err(_) => PAUSE,
            };
        }
    });
    Ok(receiver)
}

async fn look(handle: &Handle) -> Result<Nics, String> {
    let all = timeout(PATIENCE, read(handle)).await.map_err(|error| error.to_string())?;
    all.map_err(|error| error.to_string())
}

async fn read(handle: &Handle) -> Result<Nics, rtnetlink::Error> {
    let mut nics = Nics::new();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        nics.extend(nic(&message).map(|nic| (message.header.index, nic)));
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        if let Some(nic) = nics.get_mut(&message.header.index) {
            nic.addresses.extend(usable(&message));
            nic.marked.extend(usable(&message).zip(mark(&message)));
        }
    }
    Ok(nics)
}

fn nic(message: &LinkMessage) -> Option<Nic> {
    let (mut name, mut mac, mut router) = (None, MacAddr::NONE, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Address(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).map_or(MacAddr::NONE, MacAddr);
            }
            LinkAttribute::AfSpecUnspec(families) => (_, router) = forwards(families),
            _ => {}
        }
    }
    let flags = message.header.flags;
    let up = flags.contains(LinkFlags::Up);
    // Running is what the operational state says, lower-up the carrier itself.
    let carrier = flags.contains(LinkFlags::Running | LinkFlags::LowerUp);
    Some(Nic { name: name?, mac, up, carrier, router, addresses: Vec::new(), marked: Vec::new() })
}

/// Who added the address, if that is said.
fn mark(message: &AddressMessage) -> Option<u8> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(mark) => Some(u8::from(*mark)),
        _ => None,
    })
}

/// The address, unless it is still to be seen whether another host has it.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let (mut address, mut local, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            // On a link from point to point the peer's.
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    local.or(address).filter(|own| !flags.intersects(unusable) && !own.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_with_its_address() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let nics = watch().await.expect("rtnetlink needs no privilege to read");
            let nics = nics.borrow();
            let (_, lo) = nics.iter().find(|(_, nic)| nic.name == "lo").expect("everybody has it");
            assert!(lo.up && lo.carrier);
            assert_eq!(lo.addresses.first(), Some(&"127.0.0.1".parse().expect("literal")));
        });
    }
}
