//! Ends a connection whose other side may still be sending. A socket that is closed with unread bytes,
//! or that gets more, answers with a reset, and with it goes what the other side was told before and has
//! not yet. So it is told the end first, and what it sends is thrown away until it ends as well, or has
//! all and is quiet.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::timeout;

use super::stream::Stream;
use crate::io::sys;

/// Whoever neither ends nor takes anything for so long loses what it has not got yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// So often this is waited for at most: a minute.
const ROUNDS: u8 = 12;

/// Who has got all, and says nothing for so long, is not sending.
const QUIET: Duration = Duration::from_millis(200);

/// Whether this side could lose what it was told if the connection were closed now: it is sending, as
/// far as can be known, or has not got all. What it sent is thrown away.
pub(super) fn could_lose(stream: &Stream, buffer: &mut [u8]) -> bool {
    // Not through tokio, which does not know of what came since it was last asked.
    let sends = (&*SockRef::from(stream)).read(buffer).is_ok_and(|bytes| bytes > 0);
    sends || waiting(stream) > 0
}

/// Says the end, and waits until nothing can be lost any more.
pub(super) async fn linger(stream: &Stream) {
    if SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut left = waiting(stream);
    // Who takes what it was told, if slowly, is waited for; but a byte now and then holds no place for
    // ever. The kernel goes on to deliver what is left, unless more comes from there.
    for _ in 0..ROUNDS {
        if timeout(PATIENCE, discard(stream)).await.is_ok() {
            return;
        }
        let was = std::mem::replace(&mut left, waiting(stream));
        if left == 0 || left >= was {
            return;
        }
    }
}

/// Throws away what comes, until the end, or until it is quiet and has all.
async fn discard(stream: &Stream) {
    loop {
        match timeout(QUIET, stream.readable()).await {
            Err(_) if waiting(stream) == 0 => return,
            Err(_) => continue,
            Ok(Err(_)) => return,
            Ok(Ok(())) => {}
        }
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Bytes, its end included, that this side has not got yet.
fn waiting(stream: &Stream) -> usize {
    sys::unacknowledged(stream.as_fd()).unwrap_or(0)
}
