//! Reads access lists: which networks may use the virtual addresses that refer to them. The longest
//! prefix decides, so that the order in which networks are written does not matter.

use pen_common::abi::MAX_PREFIXES;

use crate::config::cidr::{Cidr, cidr};
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::raw::{self, Names, Read, Report, Spec, Table};
use crate::config::{Access, Acl};

const ACL: Spec =
    Spec { name: "acl", title: "[[acl]]", keys: &["name", "allow", "deny", "default"] };

/// `[[acl]]`, and the names that VIPs may refer to.
pub(super) fn acls(roots: &Roots<'_>, report: &mut Report<'_>) -> (Read<Vec<Acl>>, Names<String>) {
    let mut names = Names::new("access list");
    let mut prefixes = 0;
    let mut acls = Vec::new();
    for table in roots.all(&ACL, report) {
        let acl = acl(table, &mut names, report);
        if let (Ok(acl), Ok(table)) = (&acl, table) {
            let before = prefixes;
            // One more for each family: what holds for all others.
            prefixes += acl.networks.len() + 2;
            let max = MAX_PREFIXES as usize;
            if before <= max && prefixes > max {
                let kind = ErrorKind::TooMany { what: "networks in all access lists", max };
                report.add(table.place, kind);
            }
        }
        acls.push(acl);
    }
    (acls.into_iter().collect(), names)
}

fn acl(table: Read<Table<'_>>, names: &mut Names<String>, report: &mut Report<'_>) -> Read<Acl> {
    let name = table
        .and_then(|table| table.required_text("name", "\"office\"", report))
        .and_then(|name| raw::name(name, report));
    let name = names.claim(name, report);
    let table = table?;
    let default = table.word("default", report);
    // One network has one verdict, so that the two keys share their names.
    let mut taken = Names::new("network");
    let mut networks = Vec::new();
    let mut failed = None;
    for (key, access) in [("allow", Access::Allow), ("deny", Access::Deny)] {
        match list(&table, key, &mut taken, report) {
            Ok(list) => networks.extend(list.into_iter().map(|network| (network, access))),
            Err(reported) => failed = Some(reported),
        }
    }
    match failed {
        Some(reported) => Err(reported),
        None => {
            let default = default?.unwrap_or(Access::Allow);
            Ok(Acl { name: name?.value, networks, default })
        }
    }
}

fn list(
    table: &Table<'_>,
    key: &str,
    taken: &mut Names<Cidr>,
    report: &mut Report<'_>,
) -> Read<Vec<Cidr>> {
    let Some(elements) = table.array(key, report)? else { return Ok(Vec::new()) };
    let networks: Vec<_> = elements
        .value
        .into_iter()
        .map(|element| {
            let text = raw::text(element, "a network such as \"192.0.2.0/24\"", report)?;
            let network = cidr(text, report);
            Ok(taken.claim(network, report)?.value)
        })
        .collect();
    networks.into_iter().collect()
}
