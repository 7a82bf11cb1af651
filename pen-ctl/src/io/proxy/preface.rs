//! What comes before a client's own bytes: the PROXY protocol, read from those who are trusted with it,
//! and written to backends that want it; and the head of a request of HTTP, which is rewritten. One
//! deadline for all of it, which no drip puts off.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use pen_common::net::Addr;
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::linger::linger;
use super::stream::Stream;
use crate::config::ForwardedFor;
use crate::engine::proxy::Service;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::head::{self, Answer};
use crate::engine::proxy::header::{self, LONGEST};

/// By which clients come, as servers are told.
const PROTO: &str = "http";

/// Who the client is, and what it has said already.
pub(super) struct Preface {
    /// None at a Unix socket.
    pub(super) client: Option<SocketAddr>,
    /// The address that it asked, if somebody said so.
    pub(super) asked: Option<SocketAddr>,
    /// Bytes that came already, and are the server's.
    pub(super) said: Vec<u8>,
    /// How many there were of the client's.
    pub(super) heard: u64,
    /// Bytes that the server gets after those; `u64::MAX` for all.
    pub(super) left: u64,
    /// Why it ends here.
    pub(super) refused: Option<Cause>,
    /// Until when all has to be over that comes before a server is looked for, if that has begun.
    pub(super) deadline: Option<Instant>,
}

impl Preface {
    /// Of a client that has said nothing yet.
    pub(super) const fn of(client: Option<SocketAddr>) -> Self {
        Self {
            client,
            asked: None,
            said: Vec::new(),
            heard: 0,
            left: u64::MAX,
            refused: None,
            deadline: None,
        }
    }
}

/// Whether a service wants to know something before it looks for a server.
pub(super) const fn is_expected(service: &Service) -> bool {
    service.trusted.is_some() || service.proxy.forwarded_for.is_some()
}

/// Reads what a service expects.
pub(super) async fn read(service: &Service, stream: &Stream, peer: Option<SocketAddr>) -> Preface {
    let mut preface = Preface::of(peer);
    preface.refused = read_into(&mut preface, service, stream).await.err();
    preface
}

async fn read_into(preface: &mut Preface, service: &Service, stream: &Stream) -> Result<(), Cause> {
    let deadline = Instant::now() + service.proxy.timeouts.header;
    preface.deadline = Some(deadline);
    if let Some(trusted) = &service.trusted {
        // Who may open the file of a Unix socket is trusted.
        let peer = preface.client.map(|peer| Addr::from(peer.ip().to_canonical()));
        if peer.is_some_and(|peer| trusted.denies(&peer)) {
            return Err(Cause::BadHeader);
        }
        let reading = timeout_at(deadline, read_header(preface, stream));
        reading.await.unwrap_or(Err(Cause::BadHeader))?;
    }
    let Some(policy) = service.proxy.forwarded_for else { return Ok(()) };
    let reading = timeout_at(deadline, read_head(preface, policy, stream));
    match reading.await.unwrap_or(Err(Refusal::Answer(Answer::Late))) {
        Ok(()) => Ok(()),
        Err(Refusal::Silent(cause)) => Err(cause),
        Err(Refusal::Answer(answer)) => {
            // Who has said nothing asked nothing.
            if !preface.said.is_empty() {
                tell(stream, answer).await;
            }
            Err(answer.cause())
        }
    }
}

async fn tell(stream: &Stream, answer: Answer) {
    if stream.try_write(&answer.bytes()).is_ok() {
        linger(stream).await;
    }
}

/// Tells a client that no server takes its request, if it made one.
pub(super) async fn see_off(service: &Service, stream: &Stream, cause: Cause) {
    // Who is not to be here learns nothing.
    if service.proxy.forwarded_for.is_some() && cause != Cause::Denied {
        tell(stream, Answer::Unavailable(cause)).await;
    }
}

/// Waits for bytes, and adds them. Their number is 0 at the end.
async fn more(stream: &Stream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        // Not held while it waits.
        let mut piece = [0; 2048];
        match stream.try_read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(length) => {
                bytes.extend(&piece[..length]);
                return Ok(length);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn read_header(preface: &mut Preface, stream: &Stream) -> Result<(), Cause> {
    loop {
        match more(stream, &mut preface.said).await {
            Ok(0) => return Err(Cause::BadHeader),
            Ok(_) => {}
            Err(_) => return Err(Cause::ClientReset),
        }
        match header::parse(&preface.said) {
            Ok(Some(found)) => {
                preface.said.drain(..found.length);
                preface.heard = preface.said.len() as u64;
                if let Some((client, asked)) = found.ends {
                    preface.client = Some(client);
                    preface.asked = Some(asked);
                }
                return Ok(());
            }
            Ok(None) if preface.said.len() < LONGEST => {}
            Ok(None) | Err(_) => return Err(Cause::BadHeader),
        }
    }
}

/// How a client without a request is seen off.
enum Refusal {
    Answer(Answer),
    Silent(Cause),
}

async fn read_head(
    preface: &mut Preface,
    policy: ForwardedFor,
    stream: &Stream,
) -> Result<(), Refusal> {
    let mut reader = head::Reader::default();
    loop {
        let bytes = &mut preface.said;
        match reader.read(bytes) {
            Ok(None) => {}
            Ok(Some(head)) => {
                let client = preface.client.map(|client| client.ip());
                let mut begin = head.rewrite(policy, client, PROTO);
                let (behind, limit) = (&bytes[head.length..], head.body.limit());
                let body = behind.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
                begin.extend(&behind[..body]);
                preface.heard = bytes.len() as u64;
                preface.left = if limit == u64::MAX { limit } else { limit - body as u64 };
                preface.said = begin;
                return Ok(());
            }
            Err(reject) => return Err(Refusal::Answer(reject.answer())),
        }
        match more(stream, bytes).await {
            Ok(0) if bytes.is_empty() => return Err(Refusal::Silent(Cause::ClientClosed)),
            Ok(0) => return Err(Refusal::Answer(Answer::Bad)),
            Ok(_) => {}
            Err(_) => return Err(Refusal::Silent(Cause::ClientReset)),
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
    let listens = service.listen.inet().filter(|listen| !listen.ip().is_unspecified());
    let asked = asked.or(listens).or_else(|| stream.local_addr());
    Some(header::encode(version, conn.client.inet().zip(asked), conn.id))
}
