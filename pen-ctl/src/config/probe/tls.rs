//! Reads what a check wants of TLS.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use crate::config::error::{CheckError, ErrorKind};
use crate::config::raw::{At, Read, Report, Table};
use crate::config::system::System;
use crate::config::tls::backend::shown;
use crate::config::{ProbeTls, TlsError, Verify, is_host_name};

/// Keys of the type `tls`.
pub(super) const KEYS: [&str; 5] = ["ca", "certificate", "expires_in", "server_name", "verify"];
/// Those of types that speak TLS if they are told to.
pub(super) const SWITCH: [&str; 1] = ["tls"];

/// Authorities that the machine trusts, where Debian and its like keep them.
const OF_SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Of a type that speaks TLS only with `tls = true`.
pub(super) fn optional(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<ProbeTls>> {
    if table.boolean("tls", report)? == Some(true) {
        return read(table, system, report).map(Some);
    }
    for key in KEYS {
        if let Some(At { place, .. }) = table.get(key) {
            return Err(report.add(place, ErrorKind::NoEffect { key, needs: "`tls = true`" }));
        }
    }
    Ok(None)
}

pub(super) fn read(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<ProbeTls> {
    let server_name = server_name(table, report);
    let certificate = shown(table, system, report);
    let verify = table.word("verify", report);
    let ca = table.text("ca", report);
    let expires_in = duration(table, "expires_in", Duration::from_secs(1), 10 * YEAR, report);
    let (ca, expires_in) = (ca?, expires_in?);
    let usual = if ca.is_some() { Verify::Full } else { Verify::Dates };
    let verify = verify?.unwrap_or(usual);
    match (verify, ca, expires_in) {
        (Verify::None | Verify::Dates, Some(ca), _) => {
            let kind = ErrorKind::NoEffect { key: "ca", needs: "`verify = \"full\"`" };
            return Err(report.add(ca.place, kind));
        }
        (Verify::None, None, Some(expires_in)) => {
            let needs = "`verify = \"dates\"` or \"full\"";
            let kind = ErrorKind::NoEffect { key: "expires_in", needs };
            return Err(report.add(expires_in.place, kind));
        }
        _ => {}
    }
    let ca = match ca {
        Some(At { place, value }) => Some((place, report.beside(place, value))),
        None if verify == Verify::Full => {
            let place = table.get("verify").map_or(table.place, |at| at.place);
            Some((place, PathBuf::from(OF_SYSTEM)))
        }
        None => None,
    };
    if let Some((place, file)) = &ca {
        system
            .authorities(file, None)
            .map_err(|problem| report.add(*place, ErrorKind::Tls(TlsError::File(problem))))?;
    }
    Ok(ProbeTls {
        server_name: server_name?,
        verify,
        expires_in: expires_in.map_or(Duration::ZERO, |at| at.value),
        ca: ca.map(|(_, file)| file),
        certificate: certificate?,
    })
}

fn server_name(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<String>> {
    match table.text("server_name", report)? {
        Some(At { place, value }) if !is_host_name(value) || value.contains('*') => {
            Err(report.add(place, CheckError::NoDnsName { text: value.to_owned() }.into()))
        }
        found => Ok(found.map(|at| at.value.to_owned())),
    }
}
