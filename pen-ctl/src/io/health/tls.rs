//! Agrees with a backend upon TLS, and looks at its certificate.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Limit, Stream, Way, converse, failure};
use crate::config::tls::material;
use crate::config::{CertificateFiles, Endpoint, ProbeTls, Verify};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe::tls::{Validity, judge};
use crate::io::anyone::Anyone;
use crate::io::clock;

/// Settings that are kept; more have seldom been in use at a time.
const MOST: usize = 256;

pub(super) async fn ask(tls: &ProbeTls, way: &Way, limit: &Limit, known: &Contexts) -> Outcome {
    let stream = converse(way, limit).await?;
    let agreeing = async {
        let mut stream = known.agree(tls, &[], &host_of(&way.target), stream).await?;
        // A farewell keeps the server's log clean.
        let _ = stream.shutdown().await;
        Ok(())
    };
    limit.wait(agreeing, ProbeError::Silent).await
}

/// Who is asked for if there is nothing else to ask for.
pub(super) fn host_of(target: &Endpoint) -> String {
    match target {
        Endpoint::Inet(at) => at.ip().to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}

// === Contexts ===

/// Tells one state of a file from another: device, number, length, and when it was changed.
type Stamp = (u64, u64, u64, i64, i64);
type Kept = (Vec<Stamp>, Arc<ClientConfig>);
/// Authorities, what servers are shown, and protocols.
type Key = (Option<PathBuf>, Option<CertificateFiles>, &'static [&'static [u8]]);

/// Settings of clients, which are not made anew for each probe: authorities fill long files.
#[derive(Default)]
pub(super) struct Contexts(Mutex<HashMap<Key, Kept>>);

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

impl Contexts {
    /// Agrees upon TLS, and if `protocols` are named upon one of them; looks at the certificate.
    pub(super) async fn agree(
        &self,
        tls: &ProbeTls,
        protocols: &'static [&'static [u8]],
        host: &str,
        stream: Box<dyn Stream>,
    ) -> Result<TlsStream<Box<dyn Stream>>, ProbeError> {
        let config = self.config(tls, protocols)?;
        let name = tls.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| ProbeError::Local(format!("{name:?}: {error}")))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = connecting.await.map_err(|error| broken(&error, tls))?;
        let agreed = stream.get_ref().1;
        if protocols.contains(&&b"h2"[..]) && agreed.alpn_protocol() != Some(b"h2") {
            return Err(ProbeError::Answered {
                found: "TLS without HTTP/2".to_owned(),
                expected: "HTTP/2".to_owned(),
            });
        }
        let chain = agreed.peer_certificates();
        if let Some(leaf) = chain.and_then(<[_]>::first)
            && tls.verify != Verify::None
        {
            let now = i64::try_from(clock::wall_seconds()).unwrap_or(i64::MAX);
            judge(validity(leaf)?, now, tls.expires_in)?;
        }
        Ok(stream)
    }

    /// How a client is set up; a file that has changed is read again.
    fn config(
        &self,
        tls: &ProbeTls,
        protocols: &'static [&'static [u8]],
    ) -> Result<Arc<ClientConfig>, ProbeError> {
        let shown = tls.certificate.iter().flat_map(|files| [&files.chain, &files.key]);
        let stamps = tls.ca.iter().chain(shown).map(|file| stamp(file));
        let stamps = stamps.collect::<Result<Vec<_>, _>>()?;
        let key = (tls.ca.clone(), tls.certificate.clone(), protocols);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = kept.get(&key)
            && *of == stamps
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(client(tls, protocols)?);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(key, (stamps, Arc::clone(&config)));
        Ok(config)
    }
}

fn stamp(file: &Path) -> Result<Stamp, ProbeError> {
    let metadata = std::fs::metadata(file);
    let found = metadata
        .map_err(|error| ProbeError::Local(format!("cannot read {}: {error}", file.display())))?;
    Ok((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn client(tls: &ProbeTls, protocols: &[&[u8]]) -> Result<ClientConfig, ProbeError> {
    let provider = Arc::new(material::provider());
    let local = |error: &dyn std::fmt::Display| ProbeError::Local(error.to_string());
    let verifier: Arc<dyn ServerCertVerifier> = match &tls.ca {
        Some(file) => {
            let roots = material::roots(file).map_err(|problem| local(&problem))?;
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
            builder.build().map_err(|error| local(&error))?
        }
        None => Arc::new(Anyone::new(Arc::clone(&provider))),
    };
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(|error| local(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &tls.certificate {
        Some(files) => {
            let own = material::certificate(files).map_err(|problem| local(&problem))?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // A server that knows a client again shows no certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

// === Words ===

fn validity(leaf: &CertificateDer<'_>) -> Result<Validity, ProbeError> {
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|error| ProbeError::Tls(format!("its certificate is none ({error})")))?;
    let validity = leaf.validity();
    let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Validity { begin, end })
}

/// What went wrong, in the words of a probe.
fn broken(error: &io::Error, tls: &ProbeTls) -> ProbeError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(inner) = inner else { return failure(error) };
    let words = match inner {
        Error::InvalidMessage(_) => {
            return ProbeError::Answered {
                found: "something else".to_owned(),
                expected: "TLS".to_owned(),
            };
        }
        Error::InvalidCertificate(error) => return of_certificate(error, tls),
        Error::AlertReceived(alert) => format!("refused TLS: {}", of_alert(*alert)),
        Error::PeerIncompatible(why) => {
            format!("has no version or cipher of TLS in common with pen ({why:?})")
        }
        other => format!("failed at TLS: {other}"),
    };
    ProbeError::Tls(words)
}

fn of_certificate(error: &CertificateError, tls: &ProbeTls) -> ProbeError {
    let seconds = |time: &UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let at = |begin, end, time| judge(Validity { begin, end }, time, tls.expires_in).err();
    let of_time = match error {
        CertificateError::ExpiredContext { time, not_after } => {
            at(i64::MIN, seconds(not_after), seconds(time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            at(seconds(not_before), i64::MAX, seconds(time))
        }
        _ => None,
    };
    if let Some(error) = of_time {
        return error;
    }
    ProbeError::Tls(match error {
        // The latter if one of them has the name of the issuer, but another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let ca = tls.ca.as_deref().unwrap_or_else(|| Path::new("")).display();
            format!("its certificate is signed by none of the authorities in {ca}")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let wanted = expected.to_str();
            match presented.as_slice() {
                [] => format!("its certificate is for no name, and not for {wanted}"),
                names => format!("its certificate is for {}, and not for {wanted}", shown(names)),
            }
        }
        other => format!("its certificate is not right: {other}"),
    })
}

/// Names of a certificate, as short as a line should be.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let first: Vec<&str> = names.iter().take(SHOWN).map(|name| bare(name)).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", first.join(", "))
}

/// rustls writes `DnsName("a.example")` and `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// `HandshakeFailure` becomes "handshake failure".
fn of_alert(alert: AlertDescription) -> String {
    let name = format!("{alert:?}");
    let mut words = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
#[path = "tls_tests.rs"]
pub(super) mod tests;
