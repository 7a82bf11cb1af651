//! A client's handshake, from the first byte to where it may speak. Nothing is asked of a backend before.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, Error, ProtocolVersion};
use tokio::time::{Instant, timeout_at};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::conn::Conn;
use super::super::stream::Stream;
use super::super::worker::Worker;
use super::agree::{Session, Trouble, agree, read, tell};
use super::store::Terminator;
use crate::config::ProxyVersion;
use crate::config::tls::material;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::fields::{Agreed, Facts};
use crate::engine::proxy::hello::{Hello, Reader, Reject};

/// "unrecognized_name" (RFC 6066 3), fatal, in a record by itself.
const UNKNOWN_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a client has said that begins with TLS.
#[derive(Default)]
pub(in crate::io::proxy) struct Opening {
    /// TLS ends here.
    pub(in crate::io::proxy) session: Option<Session>,
    /// For the server: plain bytes, or all as it came.
    pub(in crate::io::proxy) said: Vec<u8>,
    /// What servers are told of it, if they want to hear more than addresses.
    pub(in crate::io::proxy) facts: Option<Facts>,
    /// Places of the backends that are not for the name that it asked for.
    pub(in crate::io::proxy) barred: Option<Arc<[usize]>>,
}

/// Hears what a client wants, which has sent these bytes already, and agrees with it upon TLS if that
/// ends here. All of it is to be over by the deadline.
pub(in crate::io::proxy) async fn begin(
    worker: &Worker,
    conn: &Conn,
    stream: &mut Stream,
    sent: Vec<u8>,
    deadline: Instant,
) -> Result<Opening, Cause> {
    // Its files could not be read: it is said to the operator, and never served in the open.
    let terminator = match &conn.served.service.proxy.tls {
        Some(_) => Some(conn.served.state.tls.terminator().ok_or(Cause::Local)?),
        None => None,
    };
    match timeout_at(deadline, open(worker, conn, terminator, stream, sent)).await {
        Ok(result) => result,
        Err(_) => Err(Cause::HandshakeTimeout),
    }
}

async fn open(
    worker: &Worker,
    conn: &Conn,
    terminator: Option<Arc<Terminator>>,
    stream: &mut Stream,
    sent: Vec<u8>,
) -> Result<Opening, Cause> {
    let Some((hello, said)) = hear(worker, stream, sent).await? else {
        return Err(Cause::HandshakeAborted);
    };
    let name = hello.name.as_deref();
    let barred = match &conn.served.service.routes {
        None => Some(None),
        Some(routes) => routes.barred(name).cloned().map(Some),
    };
    let known = !terminator.as_ref().is_some_and(|terminator| terminator.refuses(name));
    let Some(barred) = barred.filter(|_| known) else {
        tell(stream, &UNKNOWN_NAME).await;
        return Err(Cause::UnknownName);
    };
    let wanted = conn.served.service.proxy.send_proxy == Some(ProxyVersion::V2);
    let Some(terminator) = terminator else {
        let facts = wanted.then_some(Facts { name: hello.name, tls: None });
        return Ok(Opening { session: None, said, facts, barred });
    };
    let tls = UnbufferedServerConnection::new(Arc::clone(&terminator.config));
    let tls = tls.map_err(|_| Cause::Local)?;
    let agreement = agree(worker, tls, stream, said).await.map_err(cause)?;
    let facts = wanted.then(|| Facts { name: hello.name, tls: Some(agreed(&agreement.tls)) });
    let (session, said) = agreement.into_session();
    Ok(Opening { session: Some(session), said, facts, barred })
}

/// What was agreed upon.
fn agreed(tls: &CommonState) -> Agreed {
    let name = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        material::common_name(&certificate)
    };
    let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    Agreed {
        version: match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        // As IANA has it.
        cipher: suite.unwrap_or_default().replacen("TLS13_", "TLS_", 1),
        alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
        certificate: tls.peer_certificates().and_then(<[_]>::first).map(name),
    }
}

/// Reads until the hello is whole. `None` if the client ends before.
async fn hear(
    worker: &Worker,
    stream: &mut Stream,
    mut bytes: Vec<u8>,
) -> Result<Option<(Hello, Vec<u8>)>, Cause> {
    let (mut reader, mut heard) = (Reader::default(), 0);
    loop {
        match reader.read(&bytes[heard..]) {
            Ok(Some(hello)) => return Ok(Some((hello, bytes))),
            Ok(None) => heard = bytes.len(),
            Err(Reject::NotTls) => return Err(Cause::NotTls),
            Err(Reject::NotHello | Reject::TooLong | Reject::Malformed) => {
                return Err(Cause::TlsBroken);
            }
        }
        if !read(worker, stream, &mut bytes).await.map_err(cause)? {
            return Ok(None);
        }
    }
}

/// Why a handshake failed, as the operator counts it.
fn cause(trouble: Trouble) -> Cause {
    match trouble {
        Trouble::Gone => Cause::HandshakeAborted,
        Trouble::TooLong => Cause::TlsBroken,
        Trouble::Tls(error) => match error {
            Error::AlertReceived(_) => Cause::CertificateRefused,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Cause::TlsIncompatible,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
                Cause::BadClientCertificate
            }
            _ => Cause::TlsBroken,
        },
    }
}
