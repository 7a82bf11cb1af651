//! Agreeing upon TLS, whichever side begins. Whoever has sent what a step needs waits for its turn: a
//! thread takes a few steps and then lets established connections go on, so that a crowd of newcomers
//! is not felt by them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Error;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};

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
        let turn = worker.tls.turn().await;
        let progress = take_in(&mut *tls, &mut begun, &mut out, &mut said);
        turn.end().await;
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
    stream: &mut Stream,
    bytes: &mut Vec<u8>,
) -> Result<bool, Trouble> {
    if bytes.len() >= MOST {
        return Err(Trouble::TooLong);
    }
    poll_fn(|cx| poll_read(worker, stream, bytes, cx)).await
}

/// As `poll_read` of the stream, which after a short read knows that there is nothing more for now, and
/// does not ask the kernel: `try_read` would once for each message.
fn poll_read(
    worker: &Worker,
    stream: &mut Stream,
    bytes: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, Trouble>> {
    let mut buffer = worker.buffer.borrow_mut();
    let most = MOST.min(buffer.len());
    let mut space = ReadBuf::new(&mut buffer[..most]);
    let result = ready!(Pin::new(stream).poll_read(cx, &mut space));
    result.map_err(|_| Trouble::Gone)?;
    bytes.extend_from_slice(space.filled());
    Poll::Ready(Ok(!space.filled().is_empty()))
}

/// Says why it ends, to a peer that may not want to hear it.
pub(super) async fn tell(stream: &mut Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}
