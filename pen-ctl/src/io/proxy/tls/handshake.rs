//! A handshake, from the first byte to where the client may speak. Nothing is asked of a backend
//! before. Whoever has sent what a step needs waits for its turn: a thread takes a few steps and then
//! lets established connections go on, so that a crowd of newcomers is not felt by them.

use std::io::ErrorKind;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{Error, ProtocolVersion};
use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::conn::Conn;
use super::super::stream::Stream;
use super::super::worker::Worker;
use super::records::{Progress, take_in};
use super::store::Terminator;
use crate::config::ProxyVersion;
use crate::config::tls::material;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::fields::{Agreed, Facts};
use crate::engine::proxy::hello::{Hello, Reader, Reject};

/// Bytes that may have come and not be understood yet: a message of the longest kind that rustls takes,
/// in records.
const MOST: usize = 72 * 1024;
/// "unrecognized_name" (RFC 6066 3), fatal, in a record by itself.
const UNKNOWN_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A client that TLS was agreed upon with.
pub(in crate::io::proxy) struct Session {
    pub(super) tls: Box<UnbufferedServerConnection>,
    /// The beginning of a record.
    pub(super) begun: Vec<u8>,
    /// It says nothing more.
    pub(super) ended: bool,
}

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
/// ends here.
pub(in crate::io::proxy) async fn begin(
    worker: &Worker,
    conn: &Conn,
    stream: &mut Stream,
    sent: Vec<u8>,
) -> Result<Opening, Cause> {
    // Its files could not be read: it is said to the operator, and never served in the open.
    let terminator = match &conn.served.service.proxy.tls {
        Some(_) => Some(conn.served.state.terminator().ok_or(Cause::Local)?),
        None => None,
    };
    let limit = conn.served.service.proxy.timeouts.header;
    match timeout(limit, open(worker, conn, terminator, stream, sent)).await {
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
    let (session, said) = agree(worker, &terminator, stream, said).await?;
    let facts = wanted.then(|| Facts { name: hello.name, tls: Some(agreed(&session.tls)) });
    Ok(Opening { session: Some(session), said, facts, barred })
}

/// What was agreed upon.
fn agreed(tls: &UnbufferedServerConnection) -> Agreed {
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

/// Agrees upon TLS. Also returned is what the client has said already.
async fn agree(
    worker: &Worker,
    terminator: &Terminator,
    stream: &mut Stream,
    mut begun: Vec<u8>,
) -> Result<(Session, Vec<u8>), Cause> {
    let tls = UnbufferedServerConnection::new(Arc::clone(&terminator.config));
    let mut tls = Box::new(tls.map_err(|_| Cause::Local)?);
    let (mut out, mut said) = (Vec::new(), Vec::new());
    loop {
        let step = worker.tls.steps.acquire().await;
        let progress = take_in(&mut tls, &mut begun, &mut out, &mut said);
        yield_now().await;
        drop(step);
        let Progress { taken, ended } = match progress {
            Ok(progress) => progress,
            Err(error) => {
                tell(stream, &out).await;
                return Err(cause(&error));
            }
        };
        begun.drain(..taken);
        if !out.is_empty() {
            stream.write_all(&out).await.map_err(|_| Cause::HandshakeAborted)?;
            out.clear();
        }
        if !tls.is_handshaking() {
            // Kept for as long as the connection: not more than what is in it.
            begun.shrink_to_fit();
            return Ok((Session { tls, begun, ended }, said));
        }
        if ended || !read(worker, stream, &mut begun).await? {
            return Err(Cause::HandshakeAborted);
        }
    }
}

/// Reads until the hello is whole. `None` if the client ends before.
async fn hear(
    worker: &Worker,
    stream: &Stream,
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
        if !read(worker, stream, &mut bytes).await? {
            return Ok(None);
        }
    }
}

/// Reads what there is; false at the end.
async fn read(worker: &Worker, stream: &Stream, bytes: &mut Vec<u8>) -> Result<bool, Cause> {
    if bytes.len() >= MOST {
        return Err(Cause::TlsBroken);
    }
    loop {
        stream.readable().await.map_err(|_| Cause::HandshakeAborted)?;
        let mut buffer = worker.buffer.borrow_mut();
        let most = MOST.min(buffer.len());
        match stream.try_read(&mut buffer[..most]) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(Cause::HandshakeAborted),
        }
    }
}

/// Says why it ends, to a client that may not want to hear it.
async fn tell(stream: &mut Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

/// Why a handshake failed, as the operator counts it.
fn cause(error: &Error) -> Cause {
    match error {
        Error::AlertReceived(_) => Cause::CertificateRefused,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Cause::TlsIncompatible,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
            Cause::BadClientCertificate
        }
        _ => Cause::TlsBroken,
    }
}
