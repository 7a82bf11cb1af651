//! Gives an interface virtual addresses and takes them back, by rtnetlink: for groups whose addresses
//! the machine's own programs serve. No process is started for it, and nothing waits for duplicate
//! address detection: the group's protocol has decided already whose they are.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use tokio::time::timeout;

/// An answer of the kernel that takes longer was lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to the kernel.
#[derive(Clone)]
pub(super) struct Addresses(Handle);

impl Addresses {
    /// Connects; needs a runtime.
    pub(super) fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Adds an address. One that is there already is no error.
    pub(super) async fn add(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut request = self.0.address().add(ifindex, address, length(address)).replace();
        // Without a route to itself as a network; without a scope it is one like all others.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        done(timeout(PATIENCE, request.execute()).await)
    }

    /// Removes an address. One that is gone already, or its interface, is no error.
    pub(super) async fn remove(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = length(address);
        message.header.index = ifindex;
        message.attributes.push(AddressAttribute::Local(address));
        let request = self.0.address().del(message).execute();
        match timeout(PATIENCE, request).await {
            Ok(Err(rtnetlink::Error::NetlinkError(error))) if is_gone(error.raw_code()) => Ok(()),
            result => done(result),
        }
    }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_gone(code: i32) -> bool {
    [Errno::EADDRNOTAVAIL, Errno::ENODEV].contains(&Errno::from_raw(code.abs()))
}

fn done(
    result: Result<Result<(), rtnetlink::Error>, tokio::time::error::Elapsed>,
) -> io::Result<()> {
    result.map_err(io::Error::other)?.map_err(io::Error::other)
}
