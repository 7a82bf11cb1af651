//! One end of a proxied connection, whatever kind of socket it is: relay, pipes and prefaces see bytes
//! and readiness, and ask here for what differs. An enum rather than a trait object: a connection
//! costs no box for it, and the branch is the same one all its life.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::libc::MSG_MORE;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::listen::keepalive;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// Over a network.
    Tcp(TcpStream),
    /// Within this machine.
    Unix(UnixStream),
}

/// Does the same with whichever socket it is.
macro_rules! either {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($socket) => $call,
            Stream::Unix($socket) => $call,
        }
    };
}

impl Stream {
    /// Waits until there is something to read, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        either!(self, socket => socket.readable().await)
    }

    /// Reads what there is.
    pub(super) fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        either!(self, socket => socket.try_read(space))
    }

    /// Writes what it takes at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, socket => socket.try_write(bytes))
    }

    /// Waits until it is ready for something of this.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, socket => socket.ready(interest).await)
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_read_ready(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_write_ready(cx))
    }

    /// Does something with its descriptor that may find it not ready after all.
    pub(super) fn try_io<T>(
        &self,
        interest: Interest,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        either!(self, socket => socket.try_io(interest, act))
    }

    /// Writes what is followed by the end at once: TCP puts the two into one segment, and the other
    /// side is woken once. If something else should follow, the kernel waits for it no longer than
    /// 200 ms (tcp(7), `TCP_CORK`). A Unix socket has no segments to save.
    pub(super) fn write_last(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_io(Interest::WRITABLE, || {
                SockRef::from(socket).send_with_flags(bytes, MSG_MORE)
            }),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    /// Has it end without order when it is closed: the peer of TCP gets a reset. A Unix socket knows
    /// no such order: its peer sees a close, and `ECONNRESET` only where bytes were left unread.
    pub(super) fn reset(&self) {
        if let Self::Tcp(socket) = self {
            // If it is gone already, its peer knows.
            let _ = socket.set_zero_linger();
        }
    }

    /// Has the peer watched for a silent death. Within one machine nobody dies in silence: the
    /// kernel closes what a process leaves behind.
    pub(super) fn keep_alive(&self) {
        if let Self::Tcp(socket) = self {
            // Without it the timeouts still hold.
            let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive());
        }
    }

    /// The address that was connected to, if it has one.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// A socket that listens, before a thread has it.
#[derive(Debug)]
pub(super) enum Ear {
    /// On an address.
    Tcp(StdTcpListener),
    /// On a path.
    Unix(StdUnixListener),
}

/// The same in a thread.
#[derive(Debug)]
pub(super) enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On a path.
    Unix(UnixListener),
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(ear) => ear.as_fd(),
            Self::Unix(ear) => ear.as_fd(),
        }
    }
}

impl Ear {
    /// Takes it, or its like, into the runtime of this thread.
    pub(super) fn listen(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(ear) => TcpListener::from_std(ear.try_clone()?).map(Listener::Tcp),
            Self::Unix(ear) => UnixListener::from_std(ear.try_clone()?).map(Listener::Unix),
        }
    }
}

impl Listener {
    /// The next connection, with the client's address if it has one.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, space))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }
}
