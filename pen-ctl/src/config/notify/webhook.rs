//! Reads the address of a server that is told of events.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::config::error::{ErrorKind, NotifyError};
use crate::config::host;
use crate::config::raw::{At, Read, Report, Table};
use crate::config::system::System;
use crate::config::tls::TlsError;

/// A server of HTTP that is told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// It is spoken in TLS, and the certificate has to be right.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Host and port as a request names them.
    pub authority: String,
    /// What is asked for: an absolute path, perhaps with a query.
    pub path: String,
    /// Authorities that sign its certificate; `None` is those of the machine.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for Webhook {
    /// Without the path: there may be a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "webhook {scheme}://{}", self.authority)?;
        self.ca.as_ref().map_or(Ok(()), |ca| write!(f, ", ca {}", ca.display()))
    }
}

impl Webhook {
    /// Reads `http://host:port/path` or the same with `https`.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let (tls, rest) = match url.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, port)
            }
            None => {
                let end = authority.find(':').unwrap_or(authority.len());
                let (host, port) = authority.split_at(end);
                (host::is_valid(host) && !host.starts_with('*')).then_some((host, port))?
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        };
        // A fragment is never sent.
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return None;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, authority) = (host.to_owned(), authority.to_owned());
        Some(Self { tls, host, port, authority, path, ca: None })
    }
}

pub(super) fn read(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Webhook> {
    let At { place, value } =
        table.required_text("webhook", "\"https://alerts.example/pen\"", report)?;
    let Some(webhook) = Webhook::parse(value) else {
        return Err(report.add(place, NotifyError::NoUrl { text: without_secrets(value) }.into()));
    };
    let ca = table.text("ca", report)?;
    if !webhook.tls {
        return match ca {
            Some(At { place, .. }) => {
                let needs = "a webhook with `https`";
                Err(report.add(place, ErrorKind::NoEffect { key: "ca", needs }))
            }
            None => Ok(webhook),
        };
    }
    let path = ca.map(|ca| report.beside(ca.place, ca.value));
    let place = ca.map_or(place, |ca| ca.place);
    match system.server_authorities(path.as_deref()) {
        Ok(()) => Ok(Webhook { ca: path, ..webhook }),
        Err(problem) => Err(report.add(place, ErrorKind::Tls(TlsError::File(problem)))),
    }
}

/// As much of an address as can be shown although it is wrong: neither the path nor a password.
fn without_secrets(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = url.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("...@", host),
        None => ("", authority),
    };
    let path = if path.len() > 1 { format!("{}...", &path[..1]) } else { path.to_owned() };
    format!("{scheme}{user}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (url, tls, host, port, authority, path) in [
            ("http://a.example", false, "a.example", 80, "a.example", "/"),
            ("https://a.example/x?y=1", true, "a.example", 443, "a.example", "/x?y=1"),
            ("http://192.0.2.1:8080?q", false, "192.0.2.1", 8080, "192.0.2.1:8080", "/?q"),
            ("https://[fd00::1]:9/", true, "fd00::1", 9, "[fd00::1]:9", "/"),
        ] {
            let expected = Webhook {
                tls,
                host: host.to_owned(),
                port,
                authority: authority.to_owned(),
                path: path.to_owned(),
                ca: None,
            };
            assert_eq!(Webhook::parse(url), Some(expected), "{url}");
        }
        for url in [
            "",
            "a.example",
            "ftp://a.example",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a:65536",
            "http://user@a",
            "http://[fd00::1",
            "http://[x]/",
            "http://[::1]80",
            "http://*.example",
            "http://a/ b",
            "http://a/#b",
            "http://a/ä",
        ] {
            assert_eq!(Webhook::parse(url), None, "{url}");
        }
    }

    #[test]
    fn of_a_wrong_one_no_secret_is_shown() {
        for (url, shown) in [
            ("a.example", "a.example"),
            ("ftp://a.example/", "ftp://a.example/"),
            ("https://a.example/T0/secret#x", "https://a.example/..."),
            ("https://a.example?token=secret x", "https://a.example?..."),
            ("https://me:secret@a.example/x", "https://...@a.example/..."),
            ("a.example/secret", "a.example/..."),
            ("https://a.example/\u{e4}", "https://a.example/..."),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
