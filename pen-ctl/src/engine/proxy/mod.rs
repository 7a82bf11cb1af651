//! What the proxies decide by, and how: a [`View`] of all proxied services, as plain data that the
//! engine makes anew whenever something changes, and the rules of selection over it.
//!
//! Pure like the rest of the engine. `io::proxy` holds a view in each of its threads and asks
//! [`choose`] for each connection; that a place at a backend is really free, it makes sure itself.

mod access;
pub mod cause;
pub mod choose;
pub mod clients;
pub mod expiry;
pub mod fields;
pub mod flow;
pub mod head;
pub mod header;
pub mod hello;
pub mod names;
pub mod redirect;
pub mod relay;
pub mod routes;
pub mod transparent;
pub mod turns;
pub mod wheel;

use std::sync::Arc;

use pen_common::abi::{ServiceKey, Slot};
use pen_common::hash::Secret;
use pen_common::net::{Addr, protocol};

pub use self::access::AccessList;
pub use self::routes::Routes;
use crate::config::{self, Affinity, Endpoint, Limits};

/// All proxied services as things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Key of all hashes.
    pub secret: Secret,
    /// Clients that a service may remember.
    pub clients: usize,
    /// Where it is written what became of connections.
    pub access_log: Option<config::AccessLog>,
    /// What clients get that come without TLS.
    pub responder: Option<config::Responder>,
    /// The services.
    pub services: Vec<Arc<Service>>,
}

/// A proxied service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is known by.
    pub key: ServiceKey,
    /// Name.
    pub name: String,
    /// Where it listens.
    pub listen: Endpoint,
    /// The address is a virtual one, which the machine need not have.
    pub virtual_address: bool,
    /// What keeps to a backend.
    pub affinity: Affinity,
    /// How clients are remembered.
    pub memory: config::Memory,
    /// A client whose backend cannot take it is turned away.
    pub stubborn: bool,
    /// So many percent of its backends may be ejected at a time.
    pub max_ejected: u32,
    /// Too few of its backends are usable: those that are ejected are used all the same.
    pub uses_all: bool,
    /// The rest of its configuration.
    pub proxy: config::Proxy,
    /// Access list of the virtual address: clients that it denies are turned away.
    pub vip_access: Option<Arc<AccessList>>,
    /// Access list of the service: clients that it denies go to the server for abuse.
    pub access: Option<Arc<AccessList>>,
    /// Access list of those that say who the client is.
    pub trusted: Option<Arc<AccessList>>,
    /// Which backends are for clients that ask for which names.
    pub routes: Option<Routes>,
    /// Its first checks have not ended: clients wait to be accepted.
    pub starting: bool,
    /// Table of the scheduler `maglev`, the kernel's.
    pub slots: Arc<[Slot]>,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A backend of a proxied service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Id, as in slots.
    pub id: u32,
    /// Tells it from an earlier backend of the same id.
    pub generation: u32,
    /// Tells memories of it from those before its last death.
    pub incarnation: u32,
    /// Clients could not reach it lately: it gets no new ones.
    pub ejected: bool,
    /// Name.
    pub name: String,
    /// Where connections go.
    pub address: Endpoint,
    /// Weight in force.
    pub weight: u32,
    /// [`pen_common::abi::Backend::DOWN`], ...
    pub state: u32,
    /// The operator wants it to take new clients, whether or not it can.
    pub wanted: bool,
    /// The operator wants it to have no connections at all.
    pub maintenance: bool,
    /// It takes new clients only when no other backend can.
    pub emergency: bool,
    /// What it may have.
    pub limits: Limits,
}

impl Backend {
    /// Connections that it may have, for a client that is remembered here or for others.
    #[must_use]
    pub fn limit(&self, known: bool) -> Option<u32> {
        let Limits { max_connections, max_known, .. } = self.limits;
        if known { max_known.or(max_connections) } else { max_connections }
    }
}

impl Service {
    /// It carries datagrams.
    #[must_use]
    pub const fn is_udp(&self) -> bool {
        self.key.protocol == protocol::UDP
    }

    /// What a client is to this service: its address, or the network that stands for it.
    #[must_use]
    pub fn client(&self, source: &Addr) -> Addr {
        // IPv4 addresses are mapped.
        let (v4, v6) = (96 + self.memory.prefix_v4, self.memory.prefix_v6);
        pen_common::hash::masked(source, if source.is_v4() { v4 } else { v6 })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use pen_common::abi;

    use super::*;

    /// A backend that is well.
    pub(crate) fn backend(place: usize) -> Backend {
        let number = u8::try_from(place + 1).expect("few");
        Backend {
            id: u32::from(number),
            generation: 1,
            incarnation: 1,
            ejected: false,
            name: format!("b{number}"),
            address: SocketAddr::from(([10, 0, 0, number], 80)).into(),
            weight: 1,
            state: abi::Backend::UP,
            wanted: true,
            maintenance: false,
            emergency: false,
            limits: Limits::default(),
        }
    }
}
