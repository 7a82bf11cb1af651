//! Reads `routes` of a service: which backends a client is for that asks for a name. The name is in the
//! first message of TLS, whether that ends here or is passed on as it is.

use super::TlsError;
use crate::config::Route;
use crate::config::error::ErrorKind;
use crate::config::host::is_valid;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};

const ROUTE: Spec = Spec { name: "routes", title: "a route", keys: &["backends", "names"] };

/// Routes as written.
pub(in crate::config) struct RawRoutes(Vec<RawRoute>);

struct RawRoute {
    names: Vec<String>,
    backends: Vec<(Place, String)>,
}

/// Reads `routes`.
pub(in crate::config) fn read(table: &Table<'_>, report: &mut Report<'_>) -> Read<RawRoutes> {
    const EXAMPLE: &str = "a route, written `{ names = [\"a.example\"], backends = [\"b1\"] }`";
    let Some(At { value: list, .. }) = table.array("routes", report)? else {
        return Ok(RawRoutes(Vec::new()));
    };
    let mut taken = Names::new("name of a route");
    let read: Vec<_> = list
        .into_iter()
        .map(|found| {
            let table = raw::element(found, &ROUTE, EXAMPLE, report)?;
            let names = names(&table, &mut taken, report);
            let backends = raw::texts(&table, "backends", report)?;
            let Some(backends) = backends.filter(|list| !list.value.is_empty()) else {
                return Err(table.lacks("backends", "[\"b1\"]", report));
            };
            let backends = backends.value.iter().map(|at| (at.place, at.value.to_owned()));
            Ok(RawRoute { names: names?, backends: backends.collect() })
        })
        .collect();
    read.into_iter().collect::<Read<_>>().map(RawRoutes)
}

fn names(
    table: &Table<'_>,
    taken: &mut Names<String>,
    report: &mut Report<'_>,
) -> Read<Vec<String>> {
    let names = raw::texts(table, "names", report)?;
    let Some(names) = names.filter(|list| !list.value.is_empty()) else {
        return Err(table.lacks("names", "[\"a.example\"]", report));
    };
    let read: Vec<_> = names
        .value
        .into_iter()
        .map(|At { place, value }| {
            let name = value.to_ascii_lowercase();
            if !is_valid(&name) {
                let kind = TlsError::InvalidHostName { found: value.to_owned() };
                return Err(report.add(place, ErrorKind::Tls(kind)));
            }
            taken.claim(Ok(At { place, value: name }), report).map(|name| name.value)
        })
        .collect();
    read.into_iter().collect()
}

/// The routes, once the backends are known that they name.
pub(in crate::config) fn bind(
    RawRoutes(routes): RawRoutes,
    known: &[&str],
    report: &mut Report<'_>,
) -> Read<Vec<Route>> {
    let bound: Vec<_> = routes
        .into_iter()
        .map(|RawRoute { names, backends }| {
            let mut found = Ok(());
            for (place, name) in &backends {
                if !known.contains(&name.as_str()) {
                    let near = raw::nearest(name, known);
                    let kind = TlsError::UnknownBackend { name: name.clone(), near };
                    found = Err(report.add(*place, ErrorKind::Tls(kind)));
                }
            }
            let backends = backends.into_iter().map(|(_, name)| name).collect();
            found.map(|()| Route { names, backends })
        })
        .collect();
    bound.into_iter().collect()
}
