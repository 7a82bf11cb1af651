//! Gives an interface virtual addresses and takes them back, by rtnetlink: for groups whose addresses
//! the machine's own programs serve. No process is started for it, and nothing waits for duplicate
//! address detection: the group's protocol has decided already whose they are.
//!
//! A task of its own carries changes out one after the other, so that the thread goes on with its
//! advertisements meanwhile, and an address that is taken and given back at once ends up given back.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// An answer of the kernel that takes longer was lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// `INFINITY_LIFE_TIME` (net/addrconf.h).
const FOREVER: u32 = u32::MAX;

/// Changes that may wait.
const QUEUE: usize = 1024;

/// A change of an interface's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// For which group.
    pub(super) group: u32,
    pub(super) ifindex: u32,
    /// They are added, or else removed.
    pub(super) add: bool,
    pub(super) addresses: Vec<IpAddr>,
}

/// What came of addresses that were to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) group: u32,
    pub(super) result: Result<(), String>,
}

/// The task. It ends when this is dropped, or by [`Addresses::finish`].
#[derive(Debug)]
pub(super) struct Addresses {
    changes: mpsc::Sender<Change>,
    task: JoinHandle<()>,
}

impl Addresses {
    /// Connects to the kernel; needs a runtime. Results go to `added`; addresses get the mark, unless it
    /// is 0.
    pub(super) fn connect(added: mpsc::Sender<Added>, mark: u8) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (changes, mut wanted) = mpsc::channel::<Change>(QUEUE);
        let task = tokio::spawn(async move {
            let kernel = Kernel(handle, mark);
            while let Some(change) = wanted.recv().await {
                let result = kernel.carry_out(&change).await;
                if change.add {
                    let _ = added.try_send(Added { group: change.group, result });
                }
            }
        });
        Ok(Self { changes, task })
    }

    /// Has a change carried out after those before it. False if too many wait.
    pub(super) fn change(&self, change: Change) -> bool {
        self.changes.try_send(change).is_ok()
    }

    /// Waits until all changes are carried out, but not for ever.
    pub(super) async fn finish(self) {
        drop(self.changes);
        let _ = timeout(PATIENCE, self.task).await;
    }
}

/// With the mark of addresses.
struct Kernel(Handle, u8);

impl Kernel {
    /// Goes on after an error, and yields the first.
    async fn carry_out(&self, change: &Change) -> Result<(), String> {
        let mut result = Ok(());
        for address in &change.addresses {
            let done = if change.add {
                self.add(change.ifindex, *address).await
            } else {
                self.remove(change.ifindex, *address).await
            };
            if let (Ok(()), Err(error)) = (&result, done) {
                result = Err(format!("{address}: {error}"));
            }
        }
        result
    }

    /// Adds an address. One that is there already is no error.
    async fn add(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut request = self.0.address().add(ifindex, address, length(address)).replace();
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::Flags(flags));
        if address.is_ipv6() {
            // No connection of the machine itself comes from it, if another address will do: it is
            // "deprecated" (RFC 6724, rule 3). IPv4 prefers the interface's first one anyway.
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, FOREVER);
            attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        if self.1 != 0 {
            attributes.push(AddressAttribute::Protocol(self.1.into()));
        }
        done(timeout(PATIENCE, request.execute()).await)
    }

    /// Removes an address. One that is gone already, or its interface, is no error.
    async fn remove(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
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
