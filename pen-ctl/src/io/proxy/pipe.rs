//! Pipes for what is moved in bulk: splice(2) carries bytes from socket to socket without copying them
//! to userspace. Pipes are pooled in each thread, because making one costs more than a short
//! transfer, and are few, because each is two descriptors and up to a megabyte of the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;

use super::stream::Stream;

/// Bytes that a pipe shall hold. The kernel gives less to who has many, which is slower but works.
const SIZE: i32 = 1024 * 1024;
/// Pipes of a thread, in use or not.
pub(super) const MOST: usize = 48;
/// Pipes that are kept while nobody uses them.
const KEPT: usize = 8;

/// A pipe, and the bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
}

/// The pipes of a thread.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    free: Vec<Pipe>,
    in_use: usize,
}

impl Pipes {
    /// An empty pipe, if there is one to be had.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if self.in_use >= MOST {
            return None;
        }
        let pipe = self.free.pop().or_else(|| Pipe::new().ok())?;
        self.in_use += 1;
        Some(pipe)
    }

    /// Takes a pipe back. One that is not empty, as after an error, is closed.
    pub(super) fn give(&mut self, pipe: Pipe) {
        self.in_use -= 1;
        if pipe.filled == 0 && self.free.len() < KEPT {
            self.free.push(pipe);
        }
    }
}

impl Pipe {
    fn new() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Without the privilege for more, what there is has to do.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE));
        Ok(Self { read, write, filled: 0 })
    }

    /// Bytes in it.
    pub(super) const fn filled(&self) -> usize {
        self.filled
    }

    /// Fills the pipe, which must be empty, from a socket: otherwise nobody could tell whether it is
    /// the socket that has nothing, or the pipe that is full. 0 is the end of the stream.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>, from: &Stream) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.filled, 0);
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || transfer(from, &self.write, SIZE as usize)) {
                Ok(bytes) => {
                    self.filled = bytes;
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Empties the pipe into a socket as far as that takes it.
    pub(super) fn pour(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || transfer(&self.read, to, self.filled)) {
                Ok(bytes) => {
                    self.filled -= bytes;
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn transfer(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(&from, None, &to, None, most, flags) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn pipes_are_few_and_used_again() {
        let mut pipes = Pipes::default();
        let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(taken.len(), MOST);
        for pipe in taken {
            pipes.give(pipe);
        }
        assert_eq!((pipes.in_use, pipes.free.len()), (0, KEPT));
        let mut pipe = pipes.take().expect("a free one");
        assert_eq!(pipes.free.len(), KEPT - 1);
        pipe.filled = 1;
        pipes.give(pipe);
        assert_eq!(pipes.free.len(), KEPT - 1, "what holds bytes of one stream is not another's");
    }

    #[test]
    fn bytes_pass_from_one_unix_socket_to_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (client, near) = UnixStream::pair().expect("two ends");
            let (far, server) = UnixStream::pair().expect("two ends");
            let (near, far) = (Stream::Unix(near), Stream::Unix(far));
            let mut pipe = Pipe::new().expect("a pipe");
            client.try_write(b"all of it").expect("room");
            assert_eq!(poll_fn(|cx| pipe.fill(cx, &near)).await.expect("bytes"), 9);
            assert_eq!(poll_fn(|cx| pipe.pour(cx, &far)).await.expect("room"), 9);
            let mut bytes = [0; 16];
            server.readable().await.expect("open");
            assert_eq!(server.try_read(&mut bytes).expect("bytes"), 9);
            assert_eq!(&bytes[..9], b"all of it");
            drop(client);
            assert_eq!(poll_fn(|cx| pipe.fill(cx, &near)).await.expect("the end"), 0);
        });
    }
}
