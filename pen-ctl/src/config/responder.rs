//! Reads `[responder]`: who asks for a site in the open is sent to where it has TLS, and authorities find
//! what proves to them that a name is ours.

use std::net::SocketAddr;

use crate::config::Responder;
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::raw::{self, At, Names, Read, Report, Spec};
use crate::config::vip::socket_address;

const RESPONDER: Spec =
    Spec { name: "responder", title: "[responder]", keys: &["listen", "https_port", "webroot"] };

/// The port of HTTP over TLS (RFC 9110 4.2.2).
const HTTPS: u16 = 443;

/// `[responder]`.
pub(super) fn responder(roots: &Roots<'_>, report: &mut Report<'_>) -> Read<Option<Responder>> {
    let Some(table) = roots.one(&RESPONDER, report)? else { return Ok(None) };
    let listen = raw::texts(&table, "listen", report);
    let https_port = table.integer("https_port", 1..=u32::from(u16::MAX), report);
    let webroot = table.text("webroot", report).and_then(|found| match found {
        Some(At { place, value: path }) if !path.starts_with('/') => {
            Err(report.add(place, ErrorKind::LogNotAbsolute { path: path.to_owned() }))
        }
        found => Ok(found.map(|found| found.value.into())),
    });
    let listen = match listen? {
        Some(At { value: texts, .. }) if !texts.is_empty() => texts,
        _ => return Err(table.lacks("listen", "[\"0.0.0.0:80\", \"[::]:80\"]", report)),
    };
    let mut taken = Names::new("address");
    let listen: Vec<_> = listen
        .into_iter()
        .map(|text| {
            let address = endpoint(text, report);
            taken.claim(address, report).map(|found| found.value)
        })
        .collect();
    let https_port = https_port?.and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS);
    let listen = listen.into_iter().collect::<Read<_>>()?;
    Ok(Some(Responder { listen, https_port, webroot: webroot? }))
}

/// Unlike a service it may listen on all addresses of the machine.
fn endpoint(At { place, value: text }: At<&str>, report: &mut Report<'_>) -> Read<At<SocketAddr>> {
    match socket_address(text).filter(|found| found.port() != 0) {
        Some(value) => Ok(At { place, value }),
        None => Err(report.add(place, ErrorKind::InvalidEndpoint { text: text.to_owned() })),
    }
}
