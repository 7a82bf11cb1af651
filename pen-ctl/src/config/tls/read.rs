//! Reads `tls = { ... }`.

use std::path::PathBuf;

use super::{
    CertificateFiles, Cipher, ClientAuth, FileProblem, Tls, TlsError, TlsVersion, UnknownName,
};
use crate::config::error::ErrorKind;
use crate::config::raw::{self, At, Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::words::Word;

const TLS: Spec = Spec {
    name: "tls",
    title: "`tls`",
    keys: &[
        "alpn",
        "certificates",
        "ciphers",
        "client_auth",
        "client_ca",
        "client_crl",
        "max_version",
        "min_version",
        "resumption",
        "unknown_name",
    ],
};
const CERTIFICATE: Spec =
    Spec { name: "certificates", title: "a certificate", keys: &["chain", "key", "ocsp"] };

/// Certificates of one service.
const MOST: usize = 10_000;

/// Reads `tls` of a service.
pub(in crate::config) fn read(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<Box<Tls>>> {
    let Some(table) = table.table("tls", &TLS, report)? else { return Ok(None) };
    let certificates = certificates(&table, system, report);
    let unknown_name = table.word("unknown_name", report);
    let versions = versions(&table, report);
    let ciphers = ciphers(&table, versions, report);
    let alpn = alpn(&table, report);
    let clients = clients(&table, system, report);
    let resumption = table.boolean("resumption", report);
    let (min_version, max_version) = versions?;
    let (client_auth, client_ca, client_crl) = clients?;
    Ok(Some(Box::new(Tls {
        certificates: certificates?,
        unknown_name: unknown_name?.unwrap_or(UnknownName::Default),
        min_version,
        max_version,
        ciphers: ciphers?,
        alpn: alpn?,
        client_auth,
        client_ca,
        client_crl,
        resumption: resumption?.unwrap_or(true),
    })))
}

pub(super) fn file(place: Place, problem: FileProblem, report: &mut Report<'_>) -> raw::Reported {
    report.add(place, ErrorKind::Tls(TlsError::File(problem)))
}

fn certificates(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Vec<CertificateFiles>> {
    const EXAMPLE: &str = "a certificate, written `{ chain = \"...\", key = \"...\" }`";
    let Some(At { place, value: list }) = table.array("certificates", report)? else {
        let missing = || report.add(table.place, ErrorKind::Tls(TlsError::NoCertificates));
        return Err(table.misspelt("certificates").unwrap_or_else(missing));
    };
    if list.is_empty() {
        return Err(report.add(place, ErrorKind::Tls(TlsError::NoCertificates)));
    }
    if list.len() > MOST {
        let kind = ErrorKind::TooMany { what: "certificates of one service", max: MOST };
        return Err(report.add(place, kind));
    }
    let read: Vec<_> = list
        .into_iter()
        .map(|found| {
            let table = raw::element(found, &CERTIFICATE, EXAMPLE, report)?;
            certificate(&table, system, report)
        })
        .collect();
    read.into_iter().collect()
}

/// The files of a certificate, if they are good.
pub(super) fn certificate(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<CertificateFiles> {
    let chain = table.required_text("chain", "\"/etc/pen/site.pem\"", report);
    let key = table.text("key", report);
    let ocsp = table.text("ocsp", report);
    let (chain, key, ocsp) = (chain?, key?, ocsp?);
    let path = |at: At<&str>, report: &Report<'_>| report.beside(at.place, at.value);
    let files = CertificateFiles {
        chain: path(chain, report),
        key: path(key.unwrap_or(chain), report),
        ocsp: ocsp.map(|ocsp| path(ocsp, report)),
    };
    system.certificate(&files).map_err(|problem| {
        let of_ocsp = ocsp.filter(|_| files.ocsp.as_ref() == Some(&problem.file));
        let of_key = key.filter(|_| problem.file == files.key);
        let place = of_ocsp.or(of_key).unwrap_or(chain).place;
        file(place, problem, report)
    })?;
    Ok(files)
}

pub(super) fn versions(
    table: &Table<'_>,
    report: &mut Report<'_>,
) -> Read<(TlsVersion, TlsVersion)> {
    let (min, max) = (table.word("min_version", report), table.word("max_version", report));
    let (min, max) = (min?.unwrap_or(TlsVersion::V12), max?.unwrap_or(TlsVersion::V13));
    if min > max {
        let place = table.get("max_version").map_or(table.place, |found| found.place);
        return Err(report.add(place, ErrorKind::Tls(TlsError::VersionsCrossed { min, max })));
    }
    Ok((min, max))
}

pub(super) fn ciphers(
    table: &Table<'_>,
    versions: Read<(TlsVersion, TlsVersion)>,
    report: &mut Report<'_>,
) -> Read<Vec<Cipher>> {
    let Some(At { place, value }) = raw::texts(table, "ciphers", report)? else {
        return Ok(Vec::new());
    };
    let (min, max) = versions?;
    let read: Vec<_> = value
        .into_iter()
        .map(|At { place, value }| {
            let Some(cipher) = Cipher::find(value) else {
                let names = Cipher::names();
                return Err(report.add(
                    place,
                    ErrorKind::UnknownWord {
                        key: "cipher",
                        found: value.to_owned(),
                        near: raw::nearest(value, &names),
                        valid: names,
                    },
                ));
            };
            if !(min..=max).contains(&cipher.version()) {
                let kind = TlsError::CipherOfNoVersion { cipher };
                return Err(report.add(place, ErrorKind::Tls(kind)));
            }
            Ok(cipher)
        })
        .collect();
    let ciphers = read.into_iter().collect::<Read<Vec<_>>>()?;
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let spoken = (min..=max).contains(&version);
        if spoken && !ciphers.iter().any(|cipher| cipher.version() == version) {
            let kind = TlsError::VersionWithoutCipher { version };
            return Err(report.add(place, ErrorKind::Tls(kind)));
        }
    }
    Ok(ciphers)
}

pub(super) fn alpn(table: &Table<'_>, report: &mut Report<'_>) -> Read<Vec<String>> {
    let Some(At { value, .. }) = raw::texts(table, "alpn", report)? else { return Ok(Vec::new()) };
    let read: Vec<_> = value
        .into_iter()
        .map(|At { place, value }| {
            let valid = value.bytes().all(|byte| byte.is_ascii_graphic());
            if value.is_empty() || value.len() > 255 || !valid {
                let kind = TlsError::InvalidAlpn { found: value.to_owned() };
                return Err(report.add(place, ErrorKind::Tls(kind)));
            }
            Ok(value.to_owned())
        })
        .collect();
    read.into_iter().collect()
}

type Clients = (ClientAuth, Option<PathBuf>, Option<PathBuf>);

fn clients(table: &Table<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Clients> {
    let auth = table.word("client_auth", report);
    let ca = table.text("client_ca", report);
    let crl = table.text("client_crl", report);
    let (auth, ca, crl) = (auth?.unwrap_or(ClientAuth::None), ca?, crl?);
    if auth == ClientAuth::None {
        for (key, found) in [("client_ca", ca), ("client_crl", crl)] {
            if let Some(At { place, .. }) = found {
                let needs = "`client_auth = \"required\"` or \"optional\"";
                return Err(report.add(place, ErrorKind::NoEffect { key, needs }));
            }
        }
        return Ok((auth, None, None));
    }
    let Some(ca) = ca else {
        let place = table.get("client_auth").map_or(table.place, |found| found.place);
        let kind = ErrorKind::Tls(TlsError::AuthWithoutCa);
        return Err(table.misspelt("client_ca").unwrap_or_else(|| report.add(place, kind)));
    };
    let ca_file = report.beside(ca.place, ca.value);
    let crl_file = crl.map(|crl| report.beside(crl.place, crl.value));
    system.authorities(&ca_file, crl_file.as_deref()).map_err(|problem| {
        let of_crl = crl.filter(|_| crl_file.as_ref() == Some(&problem.file));
        file(of_crl.unwrap_or(ca).place, problem, report)
    })?;
    Ok((auth, Some(ca_file), crl_file))
}
