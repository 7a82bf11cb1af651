//! Reads `backend_tls = { ... }`: TLS that begins at the proxy, towards the servers of a service.

use std::net::IpAddr;

use super::read::{alpn, certificate, ciphers, file, versions};
use super::{BackendTls, CertificateFiles, TlsError};
use crate::config::error::ErrorKind;
use crate::config::host::is_valid;
use crate::config::raw::{At, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::{Backend, Proxy};

const BACKEND_TLS: Spec = Spec {
    name: "backend_tls",
    title: "`backend_tls`",
    keys: &["alpn", "ca", "certificate", "ciphers", "max_version", "min_version", "name", "verify"],
};
const CERTIFICATE: Spec =
    Spec { name: "certificate", title: "`certificate`", keys: &["chain", "key"] };

/// Reads `backend_tls` of a service.
pub(in crate::config) fn read(
    service: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<Box<BackendTls>>> {
    let Some(table) = service.table("backend_tls", &BACKEND_TLS, report)? else { return Ok(None) };
    let twice = match service.has("routes") && !service.has("tls") {
        true => Err(report.add(table.place, ErrorKind::Tls(TlsError::SealedTwice))),
        false => Ok(()),
    };
    let verify = table.boolean("verify", report).map(|verify| verify.unwrap_or(true));
    let ca = authorities(&table, verify, system, report);
    let name = name(&table, report);
    let certificate = shown(&table, system, report);
    let versions = versions(&table, report);
    let ciphers = ciphers(&table, versions, report);
    let alpn = alpn(&table, report);
    twice?;
    let (min_version, max_version) = versions?;
    Ok(Some(Box::new(BackendTls {
        verify: verify?,
        ca: ca?,
        name: name?,
        certificate: certificate?,
        min_version,
        max_version,
        ciphers: ciphers?,
        alpn: alpn?,
    })))
}

/// Reads `certificate` of whoever speaks TLS to servers: what they are shown.
pub(in crate::config) fn shown(
    owner: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<CertificateFiles>> {
    let table = owner.table("certificate", &CERTIFICATE, report)?;
    table.map(|table| certificate(&table, system, report)).transpose()
}

fn authorities(
    table: &Table<'_>,
    verify: Read<bool>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<std::path::PathBuf>> {
    let ca = table.text("ca", report)?;
    if !verify? {
        return match ca {
            Some(At { place, .. }) => {
                let needs = "`verify = true`";
                Err(report.add(place, ErrorKind::NoEffect { key: "ca", needs }))
            }
            None => Ok(None),
        };
    }
    let path = ca.map(|ca| report.beside(ca.place, ca.value));
    let place = ca.map_or(table.place, |ca| ca.place);
    match system.server_authorities(path.as_deref()) {
        Ok(()) => Ok(path),
        Err(problem) => Err(file(place, problem, report)),
    }
}

/// The name or address that a certificate has to be for.
fn name(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<String>> {
    let Some(At { place, value }) = table.text("name", report)? else { return Ok(None) };
    let is_name = is_valid(value) && !value.starts_with('*');
    if !is_name && value.parse::<IpAddr>().is_err() {
        let kind = TlsError::InvalidServerName { found: value.to_owned() };
        return Err(report.add(place, ErrorKind::Tls(kind)));
    }
    Ok(Some(value.to_ascii_lowercase()))
}

/// Reports servers behind a file of which nothing says for whom their certificate has to be.
pub(in crate::config) fn of_sockets(
    table: &Table<'_>,
    proxy: Option<&Proxy>,
    servers: &[Backend],
    report: &mut Report<'_>,
) -> Read<()> {
    let Some(tls) = proxy.and_then(|proxy| proxy.backend_tls.as_deref()) else { return Ok(()) };
    let socket = servers.iter().find_map(|server| server.socket.clone());
    match socket.filter(|_| tls.verify && tls.name.is_none()) {
        Some(socket) => {
            let place = table.get("backend_tls").map_or(table.place, |found| found.place);
            Err(report.add(place, ErrorKind::Tls(TlsError::NamelessSocket { socket })))
        }
        None => Ok(()),
    }
}
