//! What makes other machines treat this one as a member of CARP's groups, and keeps its own kernel
//! quiet about a protocol that it does not know. None of these sockets ever reads or sends a packet:
//! `socket.rs` does.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::filter;

/// CARP, and VRRP (IANA protocol numbers).
const CARP: i32 = 112;

/// Memberships of one interface: switches that snoop IGMP or MLD send a group's frames only to
/// those who have said that they want them.
#[derive(Debug)]
pub(super) struct Groups {
    ifindex: u32,
    v4: Socket,
    /// None on a machine without IPv6.
    v6: Option<Socket>,
    wanted: BTreeSet<IpAddr>,
    joined: BTreeSet<IpAddr>,
}

impl Groups {
    pub(super) fn new(ifindex: u32) -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        let v6 = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), Some(Protocol::UDP)).ok();
        Ok(Self { ifindex, v4, v6, wanted: BTreeSet::new(), joined: BTreeSet::new() })
    }

    /// Is a member of these groups and no others.
    pub(super) fn join_only(&mut self, wanted: &BTreeSet<IpAddr>) {
        for group in self.joined.difference(wanted) {
            // With the interface's last address the membership may have gone by itself.
            let _ = self.change(*group, false);
        }
        self.joined.retain(|group| wanted.contains(group));
        self.wanted.clone_from(wanted);
        self.retry();
    }

    /// Joins what could not be joined before, as on an interface that was down.
    pub(super) fn retry(&mut self) {
        for group in &self.wanted {
            // Frames of the group are heard in any case, unless a switch keeps them back.
            if !self.joined.contains(group) && self.change(*group, true).is_ok() {
                self.joined.insert(*group);
            }
        }
    }

    fn change(&self, group: IpAddr, join: bool) -> io::Result<()> {
        let interface = InterfaceIndexOrAddress::Index(self.ifindex);
        match (group, &self.v6, join) {
            (IpAddr::V4(group), _, true) => self.v4.join_multicast_v4_n(&group, &interface),
            (IpAddr::V4(group), _, false) => self.v4.leave_multicast_v4_n(&group, &interface),
            (IpAddr::V6(group), Some(v6), true) => v6.join_multicast_v6(&group, self.ifindex),
            (IpAddr::V6(group), Some(v6), false) => v6.leave_multicast_v6(&group, self.ifindex),
            (IpAddr::V6(_), None, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// While it lives, the kernel does not answer CARP packets to one of its own addresses, those of a
/// unicast peer, with "protocol unreachable": somebody seems to listen.
#[derive(Debug)]
pub(super) struct Hush(#[expect(dead_code, reason = "held, not used")] Vec<Socket>);

impl Hush {
    pub(super) fn new() -> io::Result<Self> {
        let protocol = Some(Protocol::from(CARP));
        let deaf = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW.cloexec(), protocol)?;
            socket.attach_filter(&filter::nothing())?;
            Ok(socket)
        };
        let mut sockets = vec![deaf(Domain::IPV4)?];
        match deaf(Domain::IPV6) {
            Ok(socket) => sockets.push(socket),
            // A machine without IPv6 has nothing to be quiet about.
            Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {}
            Err(error) => return Err(error),
        }
        Ok(Self(sockets))
    }
}
