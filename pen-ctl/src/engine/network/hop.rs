//! The way to a backend, or why there is none: what the operator reads in `penctl backends`.

use std::net::IpAddr;

use pen_common::net::MacAddr;

/// The way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Ethernet address of that interface.
    pub source_mac: MacAddr,
    /// Neighbour that gets the frames: the backend, or a router.
    pub next: IpAddr,
    /// Ethernet address of that neighbour.
    pub mac: MacAddr,
    /// This node's own address on the way. There is one if the mode sends from it.
    pub source: Option<IpAddr>,
    /// Longest IP packet that the interface takes, in bytes.
    pub mtu: u32,
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
        /// The router that was asked for; `None` if it was the backend itself.
        gateway: Option<IpAddr>,
    },
    /// The mode sends packets from an address of this node, which has none.
    NoSource {
        /// Name of the interface that needs one.
        interface: String,
        /// `IPv4` or `IPv6`, as the backend's address.
        family: &'static str,
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
            Self::Unresolved { interface, gateway: None } => {
                write!(f, "no answer to ARP or neighbour discovery on {interface}")
            }
            Self::Unresolved { interface, gateway: Some(gateway) } => write!(
                f,
                "router {gateway} does not answer ARP or neighbour discovery on {interface}"
            ),
            Self::NoSource { interface, family } => {
                write!(f, "{interface} has no {family} address to send from: add one")
            }
        }
    }
}
