//! Ends a connection whose other side may still be sending. A socket that is closed with unread bytes,
//! or that gets more, answers with a reset, and of a reset the other side may lose what it was told
//! before. So it is told the end first, and what it sends is thrown away until it ends as well.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::timeout;

use super::stream::Stream;

/// Whoever has not ended after this time loses what it has not read yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this side is sending, as far as it can be known now. What it sent is thrown away.
pub(super) fn is_sending(stream: &Stream, buffer: &mut [u8]) -> bool {
    // Not through tokio, which does not know of what came since it was last asked.
    (&*SockRef::from(stream)).read(buffer).is_ok_and(|bytes| bytes > 0)
}

/// Says the end, and waits for the other side's.
pub(super) async fn linger(stream: &Stream) {
    if SockRef::from(stream).shutdown(Shutdown::Write).is_ok() {
        let _ = timeout(PATIENCE, discard(stream)).await;
    }
}

async fn discard(stream: &Stream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}
