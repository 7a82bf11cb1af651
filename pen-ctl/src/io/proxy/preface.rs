//! What comes before a client's own bytes: the PROXY protocol, read from those who are trusted with it,
//! and written to backends that want it. One deadline for all of it, which no drip puts off.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use pen_common::net::Addr;
use tokio::time::timeout;

use super::conn::Conn;
use super::shared::Served;
use super::stream::Stream;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::header::{self, LONGEST};

/// Who the client is, and what it has said already.
pub(super) struct Preface {
    pub(super) client: SocketAddr,
    /// The address that it asked, if somebody said so.
    pub(super) asked: Option<SocketAddr>,
    /// Bytes that came with the header, and are the server's.
    pub(super) said: Vec<u8>,
}

/// Reads the header of a connection, if its service expects one.
pub(super) async fn read(
    served: &Arc<Served>,
    stream: &Stream,
    peer: SocketAddr,
) -> Result<Preface, Cause> {
    let plain = Preface { client: peer, asked: None, said: Vec::new() };
    let Some(trusted) = &served.service.trusted else { return Ok(plain) };
    if trusted.denies(&Addr::from(peer.ip().to_canonical())) {
        return Err(Cause::BadHeader);
    }
    let deadline = served.service.proxy.timeouts.header;
    match timeout(deadline, read_header(stream, peer)).await {
        Ok(result) => result,
        Err(_) => Err(Cause::BadHeader),
    }
}

async fn read_header(stream: &Stream, peer: SocketAddr) -> Result<Preface, Cause> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        let mut piece = [0; 512];
        let read = match stream.readable().await {
            Ok(()) => stream.try_read(&mut piece),
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => return Err(Cause::BadHeader),
            Ok(length) => bytes.extend(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Cause::ClientReset),
        }
        match header::parse(&bytes) {
            Ok(Some(found)) => {
                let said = bytes.split_off(found.length);
                let (client, asked) = match found.ends {
                    Some((client, asked)) => (client, Some(asked)),
                    None => (peer, None),
                };
                return Ok(Preface { client, asked, said });
            }
            Ok(None) if bytes.len() < LONGEST => {}
            Ok(None) | Err(_) => return Err(Cause::BadHeader),
        }
    }
}

/// What the server is told before anything else.
pub(super) fn introduction(
    conn: &Conn,
    stream: &Stream,
    asked: Option<SocketAddr>,
) -> Option<Vec<u8>> {
    let service = &conn.served.service;
    let version = service.proxy.send_proxy?;
    let listens = Some(service.listen).filter(|listen| !listen.ip().is_unspecified());
    let asked = asked.or(listens).or_else(|| stream.local_addr())?;
    Some(header::encode(version, conn.client, asked, conn.id))
}
