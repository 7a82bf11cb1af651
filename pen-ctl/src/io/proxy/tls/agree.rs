//! Agreeing upon TLS, whichever side begins. Whoever has sent what a step needs waits for its turn: a
//! thread takes a few steps and then lets established connections go on, so that a crowd of newcomers
//! is not felt by them.

use std::io::ErrorKind;

use rustls::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;

use super::super::stream::Stream;
use super::super::worker::Worker;
use super::records::{Progress, Records, Role, take_in};

/// Bytes that may have come and not be understood yet: a message of the longest kind that rustls takes,
/// in records.
const MOST: usize = 72 * 1024;

/// A peer that TLS was agreed upon with.
pub(in crate::io::proxy) struct Session {
    pub(super) tls: Box<dyn Records>,
    /// The beginning of a record.
    pub(super) begun: Vec<u8>,
    /// It says nothing more.
    pub(super) ended: bool,
}

impl Session {
    /// The protocol above it that was agreed upon.
    pub(in crate::io::proxy) fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn()
    }
}

/// What came of it.
pub(super) struct Agreement<R> {
    pub(super) tls: Box<R>,
    begun: Vec<u8>,
    ended: bool,
    /// What the peer has said already.
    pub(super) said: Vec<u8>,
}

impl<R: Role + 'static> Agreement<R> {
    /// What goes on, and what the peer has said already.
    pub(super) fn into_session(self) -> (Session, Vec<u8>) {
        let Self { tls, begun, ended, said } = self;
        (Session { tls, begun, ended }, said)
    }
}

/// Why nothing came of it.
pub(super) enum Trouble {
    /// The peer is gone.
    Gone,
    /// It says more than anybody has to.
    TooLong,
    /// It is told so, if it is there.
    Tls(Error),
}

/// Agrees upon TLS with a peer that has sent these bytes.
pub(super) async fn agree<R: Role>(
    worker: &Worker,
    tls: R,
    stream: &mut Stream,
    mut begun: Vec<u8>,
) -> Result<Agreement<R>, Trouble> {
    let mut tls = Box::new(tls);
    let (mut out, mut said) = (Vec::new(), Vec::new());
    loop {
        let step = worker.tls.steps.acquire().await;
        let progress = take_in(&mut *tls, &mut begun, &mut out, &mut said);
        yield_now().await;
        drop(step);
        let Progress { taken, ended } = match progress {
            Ok(progress) => progress,
            Err(error) => {
                tell(stream, &out).await;
                return Err(Trouble::Tls(error));
            }
        };
        begun.drain(..taken);
        if !out.is_empty() {
            stream.write_all(&out).await.map_err(|_| Trouble::Gone)?;
            out.clear();
        }
        if !tls.common().is_handshaking() {
            // Kept for as long as the connection: not more than what is in it.
            begun.shrink_to_fit();
            return Ok(Agreement { tls, begun, ended, said });
        }
        if ended || !read(worker, stream, &mut begun).await? {
            return Err(Trouble::Gone);
        }
    }
}

/// Reads what there is; false at the end.
pub(super) async fn read(
    worker: &Worker,
    stream: &Stream,
    bytes: &mut Vec<u8>,
) -> Result<bool, Trouble> {
    if bytes.len() >= MOST {
        return Err(Trouble::TooLong);
    }
    loop {
        stream.readable().await.map_err(|_| Trouble::Gone)?;
        let mut buffer = worker.buffer.borrow_mut();
        let most = MOST.min(buffer.len());
        match stream.try_read(&mut buffer[..most]) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(Trouble::Gone),
        }
    }
}

/// Says why it ends, to a peer that may not want to hear it.
pub(super) async fn tell(stream: &mut Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}
