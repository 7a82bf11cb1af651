//! Servers that the DNS names, in words.

use super::{Field, Id, Item, field, maybe};
use crate::config::{Named, Node, Service};
use crate::engine::merge::service_key;

pub(super) fn resolvers(node: &Node) -> Field {
    let values = node.resolvers.iter().map(ToString::to_string).collect();
    Field { key: "resolvers", values, moves_flows: false }
}

pub(super) fn named(service: &Service, named: &Named) -> Item {
    let Named { name, host, srv, port, weight, limits } = named;
    let summary = match srv {
        true => format!("records SRV of {host}"),
        false => format!("addresses of {host}, port {port}, weight {weight}"),
    };
    Item {
        id: Id::Named(service_key(service), host.clone(), *srv, *port),
        subject: format!("backends {}/{name}", service.name),
        summary,
        fields: vec![
            field("name", name),
            field("weight", weight),
            field("max_connections", maybe(limits.max_connections)),
            field("max_known", maybe(limits.max_known)),
            field("prio", limits.prio),
        ],
    }
}
