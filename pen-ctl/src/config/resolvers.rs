//! Reads `resolvers` of `[node]`: servers of the DNS, instead of those of the machine.

use std::net::{IpAddr, SocketAddr};

use crate::config::error::ErrorKind;
use crate::config::raw::{self, At, Names, Read, Report, Table};
use crate::config::vip::socket_address;

/// Port of servers of the DNS.
const PORT: u16 = 53;

/// `resolvers`.
pub(super) fn resolvers(table: &Table<'_>, report: &mut Report<'_>) -> Read<Vec<SocketAddr>> {
    let Some(list) = raw::texts(table, "resolvers", report)? else { return Ok(Vec::new()) };
    let mut taken = Names::new("resolver");
    let read: Vec<_> = list
        .value
        .into_iter()
        .map(|At { place, value: text }| {
            let Some(found) = resolver(text) else {
                let kind = ErrorKind::InvalidResolver { text: text.to_owned() };
                return Err(report.add(place, kind));
            };
            taken.claim(Ok(At { place, value: found }), report).map(|found| found.value)
        })
        .collect();
    read.into_iter().collect()
}

/// Loopback addresses are fine: many machines have a resolver of their own.
fn resolver(text: &str) -> Option<SocketAddr> {
    let address =
        text.parse::<IpAddr>().map(|address| SocketAddr::new(address.to_canonical(), PORT));
    let found = address.ok().or_else(|| socket_address(text))?;
    (found.port() != 0 && !found.ip().is_unspecified() && !found.ip().is_multicast())
        .then_some(found)
}
