//! The vocabulary between CARP's decisions and `io::carp`: what happened, and what is to be done.
//! Groups are named by [`super::Settings::group`], interfaces by index.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

pub use crate::api::carp::CarpOrder as Order;

/// Something that happened. Packets that wait in the socket are to be handed in before
/// [`Event::TimePassed`], so that a daemon that was stopped does not take its master for dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time: [`super::Carp::next_deadline`] has come.
    TimePassed,
    /// A packet of protocol 112 came in, untagged, and not one that this node sent.
    Received {
        /// Index of the interface.
        ifindex: u32,
        /// Family by the frame's ethertype.
        family: Family,
        /// What follows the Ethernet header; it may end with the frame's padding.
        packet: Vec<u8>,
    },
    /// An interface exists, or changed.
    LinkChanged(Link),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        ifindex: u32,
    },
    /// A frame of a group could not be sent: see [`Action::Send`].
    SendFailed {
        /// The group.
        group: u32,
        /// Why.
        error: String,
    },
    /// Answer to [`Action::TakeAddresses`]; an error may also come later, when an address was lost.
    AddressesReady {
        /// The group.
        group: u32,
        /// Whether the node can serve the VIPs now.
        result: Result<(), String>,
    },
    /// At the start: a daemon before this one was master, and its lease has not run out.
    LeaseFound {
        /// The group.
        group: u32,
        /// End of the lease.
        until: Moment,
    },
    /// Something that a group depends on failed or works again.
    Demotion {
        /// The group; `None` is all.
        group: Option<u32>,
        /// What it is, for people: each reason counts once.
        reason: String,
        /// Its weight; 0: it works again.
        weight: u16,
    },
    /// An operator orders something.
    Order {
        /// The group.
        group: u32,
        /// What.
        order: Order,
    },
    /// The daemon is to end: everything is handed over, then [`Action::Stopped`] comes.
    Stop,
}

/// Family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Ethertype 0x0800.
    V4,
    /// Ethertype 0x86dd.
    V6,
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// It is up.
    pub up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// Its own Ethernet address.
    pub mac: MacAddr,
    /// IPv6 is forwarded on it.
    pub router: bool,
    /// Its addresses, in the kernel's order. VIPs may be among them, they are told apart.
    pub addresses: Vec<IpAddr>,
}

/// A group's role, as the kernel's map is to hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not ours: nothing is forwarded, nothing answered.
    Backup,
    /// Ours.
    Master,
    /// Ours until another node takes it: packets are served, but no one who asks for the VIPs'
    /// Ethernet address is answered.
    Leaving,
}

/// Something to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a frame. [`Event::SendFailed`] if that fails; nothing if it works.
    Send {
        /// The group.
        group: u32,
        /// Interface.
        ifindex: u32,
        /// The whole Ethernet frame.
        frame: Vec<u8>,
        /// A unicast peer: the frame's destination (its first six bytes, zero) is to be filled in
        /// with the peer's Ethernet address, or its router's.
        next_hop: Option<IpAddr>,
    },
    /// Write the role to the kernel's map.
    SetRole {
        /// The group.
        group: u32,
        /// The role.
        role: Role,
        /// When it ends by itself; zero for [`Role::Backup`].
        lease: Moment,
    },
    /// Make the VIPs usable on this node; answered with [`Event::AddressesReady`]. It may come again
    /// while the node is master, if the VIPs changed.
    TakeAddresses {
        /// The group.
        group: u32,
    },
    /// Remove the VIPs from this node, as far as they were added.
    DropAddresses {
        /// The group.
        group: u32,
    },
    /// Receive on an interface. Comes again with the full lists if they change.
    Listen {
        /// Interface.
        ifindex: u32,
        /// Multicast groups to join.
        groups: BTreeSet<IpAddr>,
        /// Ethernet addresses, beside its own, for which the interface has to take frames.
        macs: BTreeSet<MacAddr>,
    },
    /// Receive no longer on an interface, if it still exists.
    Unlisten {
        /// Interface.
        ifindex: u32,
    },
    /// Start an operator's program, detached.
    RunHook {
        /// The group.
        group: u32,
        /// Which.
        hook: Hook,
    },
    /// For the log and the journal.
    Tell {
        /// An operator should look after it.
        warning: bool,
        /// Kind of the journal's entry.
        kind: &'static str,
        /// What it is about: name of the group.
        subject: String,
        /// A sentence.
        text: String,
    },
    /// Another node has the name of this one, or none has any more.
    Twin {
        /// The group.
        group: u32,
        /// Address of the other node.
        address: Option<IpAddr>,
    },
    /// [`Event::Stop`] is carried out; nothing follows.
    Stopped,
}

/// An operator's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// This node became master.
    Up,
    /// This node ceased to be master, or starts.
    Down,
}
