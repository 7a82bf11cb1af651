//! The servers of a service: those that the configuration knows, and those that the DNS names.

use std::net::{IpAddr, SocketAddr};

use crate::config::{Endpoint, UnixPath};

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name without `/`; the address or path as it was written if the operator gave none.
    pub name: String,
    /// Address, of the same family as the VIP unless the service encapsulates; of a Unix socket the
    /// one that stands for its path.
    pub address: IpAddr,
    /// Port; that of the service unless it translates. If the service has many: 0, for that of the
    /// packet.
    pub port: u16,
    /// The Unix socket that it is, instead of an address; only in mode `proxy`.
    pub socket: Option<UnixPath>,
    /// Share of new flows relative to the other backends, 0..=[`MAX_WEIGHT`](crate::config::MAX_WEIGHT); 0 takes none.
    pub weight: u32,
    /// What a proxy grants it.
    pub limits: Limits,
}

impl Backend {
    /// Where connections to it lead.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match &self.socket {
            Some(path) => Endpoint::Unix(path.clone()),
            None => SocketAddr::new(self.address, self.port).into(),
        }
    }
}

/// What a proxy grants a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: Option<u32>,
    /// Connections at a time up to which clients are taken that are remembered here; not below
    /// [`Limits::max_connections`].
    pub max_known: Option<u32>,
    /// Of the scheduler `prio`: the lowest number is preferred.
    pub prio: u32,
}

/// Servers that the DNS names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What names of its backends begin with; unique like those of other backends.
    pub name: String,
    /// What is asked for, in lower case and without a dot at the end.
    pub host: String,
    /// Asked for are records SRV, which say port, weight and priority; otherwise addresses.
    pub srv: bool,
    /// As [`Backend::port`]; 0 if records say it.
    pub port: u16,
    /// As [`Backend::weight`]; 1 if records say it.
    pub weight: u32,
    /// What a proxy grants each of them.
    pub limits: Limits,
}
