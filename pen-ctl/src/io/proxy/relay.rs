//! Carries bytes between client and server, both ways at once, until both have ended.
//!
//! While little goes on, bytes pass through the one buffer that all connections of a thread share,
//! and a quiet connection holds no memory for them. A direction that moves bulk gets a pipe. What the
//! slower side does not take is what the faster one is not asked for: of one direction at most a
//! buffer, or a pipe, is under way.

use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::conn::{Entry, Errand};
use super::linger;
use super::pipe::Pipe;
use super::stream::Stream;
use super::worker::{BUFFER, Worker};
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::relay::Pace;

/// Rounds of one direction after which others have their turn.
const ROUNDS: u8 = 8;

/// A connection that has its server.
pub(super) struct Relay {
    client: Stream,
    server: Stream,
    up: Direction,
    down: Direction,
    /// Bytes that the server still gets; `u64::MAX` if they are not counted.
    left: u64,
    /// Who ended its half first.
    first: Option<Cause>,
    entry: Entry,
    worker: Rc<Worker>,
}

/// One way.
#[derive(Default)]
struct Direction {
    /// What the sink has not taken yet.
    rest: Option<Rest>,
    pipe: Option<Pipe>,
    pace: Pace,
    /// The source has ended.
    eof: bool,
    /// And the sink was told; or nothing more can be done.
    done: bool,
}

struct Rest {
    bytes: Box<[u8]>,
    sent: usize,
}

/// Which end of a direction has failed.
enum Fault {
    Source,
    Sink,
}

/// A direction's ends, and what it needs.
struct Ends<'a> {
    source: &'a mut Stream,
    sink: &'a mut Stream,
    /// The other direction is done, or not waited for: closing says all there is to say.
    last: bool,
    /// Bytes that the source may still say to the sink, if they are counted.
    left: Option<&'a mut u64>,
    worker: &'a Worker,
    moved: &'a dyn Fn(usize),
}

impl Relay {
    /// `begin` is what the server gets before anything else of the client's.
    pub(super) fn new(
        client: Stream,
        server: Stream,
        entry: Entry,
        worker: Rc<Worker>,
        begin: Vec<u8>,
    ) -> Self {
        entry.watch();
        let (mut up, down) = (Direction::default(), Direction::default());
        if !begin.is_empty() {
            up.rest = Some(Rest { bytes: begin.into(), sent: 0 });
        }
        Self { client, server, up, down, left: u64::MAX, first: None, entry, worker }
    }

    /// The server gets so many bytes after the first ones; what else the client says is thrown away.
    pub(super) fn limit(&mut self, left: u64) {
        self.left = left;
    }

    /// What the wheel wants.
    fn run_errand(&self) -> Option<Cause> {
        match self.entry.conn.errand()? {
            Errand::End(cause) => Some(cause),
            Errand::KeepAlive => {
                self.server.keep_alive();
                None
            }
        }
    }

    /// The client's half.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let last = self.down.done || self.is_fast();
        let entry = &self.entry;
        let ends = Ends {
            source: &mut self.client,
            sink: &mut self.server,
            last,
            left: Some(&mut self.left).filter(|left| **left < u64::MAX),
            worker: &self.worker,
            moved: &|bytes| {
                let up = &entry.conn.up;
                if up.replace(up.get() + bytes as u64) == 0 {
                    entry.advance(|progress| progress.client_spoke = true);
                }
                entry.touch();
            },
        };
        self.up.poll(cx, ends)
    }

    /// The server's half.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let last = self.up.done || self.is_fast();
        let entry = &self.entry;
        let ends = Ends {
            source: &mut self.server,
            sink: &mut self.client,
            last,
            left: None,
            worker: &self.worker,
            moved: &|bytes| {
                let down = &entry.conn.down;
                if down.replace(down.get() + bytes as u64) == 0 {
                    entry.advance(|progress| progress.server_spoke = true);
                }
                entry.touch();
            },
        };
        self.down.poll(cx, ends)
    }

    fn ended(&mut self, cause: Cause) {
        self.first.get_or_insert(cause);
        self.entry.advance(|progress| progress.half_closed = true);
    }

    /// One end is all that is waited for.
    fn is_fast(&self) -> bool {
        self.entry.conn.served.service.proxy.fast_close
    }

    /// How it ended, if it has: by two ends, or by one if that is enough.
    fn end(&self) -> Option<Cause> {
        let both = self.up.done && self.down.done;
        let cut = self.is_fast() && (self.up.has_carried_all() || self.down.has_carried_all());
        (both || cut).then(|| self.first.unwrap_or(Cause::ClientClosed))
    }

    /// The side that is cut off while it sends or has not got all; the other one is told the end.
    pub(super) fn cut_off(&self) -> Option<&Stream> {
        let (ended, other) = match (self.up.has_carried_all(), self.down.has_carried_all()) {
            (true, false) => (&self.client, &self.server),
            (false, true) => (&self.server, &self.client),
            _ => return None,
        };
        let buffer = &mut self.worker.buffer.borrow_mut();
        if !self.is_fast() || !linger::could_lose(other, buffer) {
            return None;
        }
        let _ = SockRef::from(ended).shutdown(Shutdown::Both);
        Some(other)
    }
}

impl Future for Relay {
    type Output = Cause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Cause> {
        let this = self.get_mut();
        this.entry.conn.wake_by(cx.waker());
        if let Some(cause) = this.run_errand() {
            return Poll::Ready(cause);
        }
        if !this.up.done {
            match this.poll_up(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => this.ended(Cause::ClientClosed),
                Poll::Ready(Err(Fault::Source)) => {
                    this.server.reset();
                    return Poll::Ready(Cause::ClientReset);
                }
                // It takes nothing more, but may have said something before: that is on its way.
                Poll::Ready(Err(Fault::Sink)) => {
                    this.up.done = true;
                    this.ended(Cause::ServerReset);
                }
            }
        }
        if let Some(cause) = this.end() {
            return Poll::Ready(cause);
        }
        if !this.down.done {
            match this.poll_down(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => this.ended(Cause::ServerClosed),
                Poll::Ready(Err(Fault::Source)) => {
                    this.client.reset();
                    return Poll::Ready(Cause::ServerReset);
                }
                Poll::Ready(Err(Fault::Sink)) => {
                    this.down.done = true;
                    this.ended(Cause::ClientReset);
                }
            }
        }
        this.end().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for direction in [&mut self.up, &mut self.down] {
            if let Some(pipe) = direction.pipe.take() {
                self.worker.pipes.borrow_mut().give(pipe);
            }
        }
    }
}

// === Direction ===

impl Direction {
    /// The source has ended, and the sink has all that it said.
    const fn has_carried_all(&self) -> bool {
        self.eof && self.done
    }

    /// Moves what can be moved. Ready when all has been said, or when an end has failed.
    fn poll(&mut self, cx: &mut Context<'_>, mut ends: Ends<'_>) -> Poll<Result<(), Fault>> {
        let mut rounds = ROUNDS;
        loop {
            match self.flush(cx, &mut ends) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Sink)),
                Poll::Pending => return Poll::Pending,
            }
            if self.eof {
                self.done = true;
                if !ends.last {
                    match Pin::new(&mut *ends.sink).poll_shutdown(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Sink)),
                        // It never waits: shutdown(2) is immediate.
                        Poll::Pending => {}
                    }
                }
                return Poll::Ready(Ok(()));
            }
            if rounds == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rounds -= 1;
            let is_over = ends.left.as_deref() == Some(&0);
            match self.read(cx, &mut ends) {
                Poll::Ready(Ok(0)) => self.eof = true,
                // What is thrown away keeps no connection alive, nor the server's place.
                Poll::Ready(Ok(_)) if is_over => {}
                Poll::Ready(Ok(bytes)) => (ends.moved)(bytes),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Source)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Gives the sink what is under way.
    fn flush(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = &mut self.rest {
            let left = &rest.bytes[rest.sent..];
            match Pin::new(&mut *ends.sink).poll_write(cx, left) {
                Poll::Ready(Ok(bytes)) => rest.sent += bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            (ends.moved)(0);
            if rest.sent == rest.bytes.len() {
                self.rest = None;
            }
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.filled() > 0) {
            match pipe.pour(cx, ends.sink) {
                Poll::Ready(Ok(_)) => (ends.moved)(0),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the source has. Nothing is under way before.
    fn read(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_>) -> Poll<io::Result<usize>> {
        // A pipe takes what there is, and does not count.
        if self.pace.is_bulk() && ends.left.is_none() {
            if self.pipe.is_none() {
                self.pipe = ends.worker.pipes.borrow_mut().take();
            }
            if let Some(pipe) = &mut self.pipe {
                match pipe.fill(cx, ends.source) {
                    Poll::Ready(Ok(bytes)) => {
                        self.pace.note(bytes);
                        return Poll::Ready(Ok(bytes));
                    }
                    // What cannot be spliced can be copied.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.pace.forget();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.give_back(ends.worker);
                        return Poll::Pending;
                    }
                }
            }
        }
        self.give_back(ends.worker);
        self.copy(cx, ends)
    }

    fn give_back(&mut self, worker: &Worker) {
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.filled() == 0) {
            worker.pipes.borrow_mut().give(pipe);
        }
    }

    /// Reads into the shared buffer, and writes at once; only what the sink does not take is kept.
    fn copy(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_>) -> Poll<io::Result<usize>> {
        let worker = ends.worker;
        let mut buffer = worker.buffer.borrow_mut();
        let mut space = ReadBuf::new(&mut buffer);
        match Pin::new(&mut *ends.source).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let bytes = space.filled();
        if bytes.is_empty() {
            // The end: there is nothing to write, and writing nothing is a system call as well.
            return Poll::Ready(Ok(0));
        }
        self.pace.note(bytes.len());
        let read = bytes.len();
        let bytes = ends.cut(bytes);
        if bytes.is_empty() {
            return Poll::Ready(Ok(read));
        }
        let whole = read < BUFFER;
        let written = match whole && has_ended(cx, ends.source) {
            true => ends.sink.write_last(bytes).map_or(Poll::Pending, |sent| Poll::Ready(Ok(sent))),
            false => Pin::new(&mut *ends.sink).poll_write(cx, bytes),
        };
        let sent = match written {
            Poll::Ready(Ok(sent)) => sent,
            // `flush` meets the error again, and knows whose it is.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        if sent < bytes.len() {
            self.rest = Some(Rest { bytes: bytes[sent..].into(), sent: 0 });
        }
        Poll::Ready(Ok(read))
    }
}

impl Ends<'_> {
    /// Those of these bytes that the sink gets.
    fn cut<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(left) = &mut self.left else { return bytes };
        let most = usize::try_from(**left).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(most)];
        **left -= bytes.len() as u64;
        bytes
    }
}

/// Whether the source is known to have ended, which the kernel may tell together with its last bytes.
pub(super) fn has_ended(cx: &mut Context<'_>, source: &Stream) -> bool {
    // Nearly always there is nothing more, which this tells for less.
    if source.poll_read_ready(cx).is_pending() {
        return false;
    }
    let state =
        pin!(source.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(state, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    /// Reads `words` and says whether the end came with them.
    async fn ends_with(stream: &mut Stream, words: &[u8]) -> bool {
        poll_fn(|cx| {
            let mut bytes = [0; 64];
            let mut space = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut space) {
                Poll::Ready(result) => {
                    result.expect("a stream without errors");
                    assert_eq!(space.filled(), words);
                    Poll::Ready(has_ended(cx, stream))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// What happens at `near` when `far` says more, and then its last.
    async fn hears_the_end(mut near: Stream, mut far: impl Read + Write, end: impl FnOnce()) {
        far.write_all(b"more follows").expect("room");
        assert!(!ends_with(&mut near, b"more follows").await);
        far.write_all(b"the last").expect("room");
        end();
        assert!(ends_with(&mut near, b"the last").await);
        // The other way still takes what is written as the last, and sends it with the end.
        near.ready(Interest::WRITABLE).await.expect("open");
        assert_eq!(near.write_last(b"bye").expect("room"), 3);
        drop(near);
        let mut rest = String::new();
        far.read_to_string(&mut rest).expect("an orderly end");
        assert_eq!(rest, "bye");
    }

    #[test]
    fn an_end_that_came_with_the_last_bytes_is_known_and_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let near = TcpStream::connect(address).await.expect("somebody listens");
            let (far, _) = listener.accept().await.expect("somebody connects");
            let far = far.into_std().expect("a socket");
            far.set_nonblocking(false).expect("a socket");
            let half = far.try_clone().expect("a descriptor");
            let end = || half.shutdown(Shutdown::Write).expect("it is open");
            hears_the_end(Stream::Tcp(near), &far, end).await;

            let (near, far) = UnixStream::pair().expect("two ends");
            let far = far.into_std().expect("a socket");
            far.set_nonblocking(false).expect("a socket");
            let half = far.try_clone().expect("a descriptor");
            let end = || half.shutdown(Shutdown::Write).expect("it is open");
            hears_the_end(Stream::Unix(near), &far, end).await;
        });
    }
}
