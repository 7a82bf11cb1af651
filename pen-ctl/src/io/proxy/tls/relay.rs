//! Carries bytes between a client that speaks TLS and a server that does not. The end of a half is
//! said and understood on both sides; a client that just goes away is no end, but a fault, of which
//! the server learns by a reset: it could not tell what is missing.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::conn::{Entry, Errand};
use super::super::relay::has_ended;
use super::super::stream::Stream;
use super::super::worker::{BUFFER, Worker};
use super::handshake::Session;
use super::records::{room, seal, take_in};
use crate::engine::proxy::cause::Cause;

/// Rounds of one direction after which others have their turn.
const ROUNDS: u8 = 8;

/// A connection that has its server.
pub(in crate::io::proxy) struct TlsRelay {
    client: Stream,
    server: Stream,
    tls: Box<UnbufferedServerConnection>,
    /// The beginning of a record of the client's.
    begun: Vec<u8>,
    up: Way,
    down: Way,
    /// Who ended its half first.
    first: Option<Cause>,
    entry: Entry,
    worker: Rc<Worker>,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What the sink has not taken yet.
    rest: Vec<u8>,
    sent: usize,
    /// The source has ended.
    eof: bool,
    /// And the sink was told; or nothing more can be done.
    done: bool,
}

/// What ended a direction before its end.
enum Fault {
    /// All of the connection ends.
    All(Cause),
    /// The sink takes nothing more.
    Sink,
}

type Moved = Poll<Result<(), Fault>>;

impl Way {
    /// Gives the sink what it has not taken yet.
    fn flush(&mut self, cx: &mut Context<'_>, sink: &mut Stream, entry: &Entry) -> Moved {
        while self.sent < self.rest.len() {
            match Pin::new(&mut *sink).poll_write(cx, &self.rest[self.sent..]) {
                Poll::Ready(Ok(bytes)) => self.sent += bytes,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Sink)),
                Poll::Pending => return Poll::Pending,
            }
            entry.touch();
        }
        (self.rest, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Gives the sink bytes, and keeps what it does not take. Nothing is under way before.
    fn give(&mut self, cx: &mut Context<'_>, sink: &mut Stream, bytes: &[u8], last: bool) {
        if bytes.is_empty() {
            return;
        }
        let written = match last {
            true => sink.write_last(bytes).map_or(Poll::Pending, |sent| Poll::Ready(Ok(sent))),
            false => Pin::new(sink).poll_write(cx, bytes),
        };
        let sent = match written {
            Poll::Ready(Ok(sent)) => sent,
            // `flush` meets the error again.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.rest.extend_from_slice(&bytes[sent..]);
    }
}

impl TlsRelay {
    /// `begin` is what the server gets before anything else of the client's.
    pub(in crate::io::proxy) fn new(
        client: Stream,
        server: Stream,
        session: Session,
        entry: Entry,
        worker: Rc<Worker>,
        begin: Vec<u8>,
    ) -> Self {
        entry.watch();
        let Session { tls, begun, ended, .. } = session;
        let up = Way { rest: begin, eof: ended, ..Way::default() };
        let (down, first) = (Way::default(), None);
        Self { client, server, tls, begun, up, down, first, entry, worker }
    }

    /// The client's half.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Moved {
        let mut rounds = ROUNDS;
        loop {
            match self.up.flush(cx, &mut self.server, &self.entry) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if self.up.eof {
                self.up.done = true;
                if !self.down.done
                    && let Poll::Ready(Err(_)) = Pin::new(&mut self.server).poll_shutdown(cx)
                {
                    return Poll::Ready(Err(Fault::Sink));
                }
                return Poll::Ready(Ok(()));
            }
            if rounds == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rounds -= 1;
            match self.read_client(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Takes what the client has sent, deciphers it, and gives it to the server.
    fn read_client(&mut self, cx: &mut Context<'_>) -> Moved {
        let mut buffer = self.worker.buffer.borrow_mut();
        let begun = self.begun.len();
        buffer[..begun].copy_from_slice(&self.begun);
        let mut space = ReadBuf::new(&mut buffer[begun..]);
        match Pin::new(&mut self.client).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::All(Cause::ClientReset))),
            Poll::Pending => return Poll::Pending,
        }
        let count = space.filled().len();
        if count == 0 && self.down.done {
            // It has heard the end, and there was nobody to say anything to.
            self.up.eof = true;
            return Poll::Ready(Ok(()));
        }
        if count == 0 {
            return Poll::Ready(Err(Fault::All(Cause::TlsTruncated)));
        }
        let mut plain = self.worker.tls.plain.borrow_mut();
        plain.clear();
        let input = &mut buffer[..begun + count];
        let mut out = Vec::new();
        let Ok(progress) = take_in(&mut self.tls, input, &mut out, &mut plain) else {
            if self.down.rest.is_empty() {
                self.down.give(cx, &mut self.client, &out, false);
            }
            return Poll::Ready(Err(Fault::All(Cause::TlsBroken)));
        };
        // Seldom: new keys. It goes behind what is under way.
        self.down.rest.extend(out);
        let left = &input[progress.taken..];
        if left.len() != self.begun.len() || progress.taken > 0 {
            // Made anew: of the right size, and none for the usual case of none.
            self.begun = left.to_vec();
        }
        self.up.eof |= progress.ended;
        let up = &self.entry.conn.up;
        if !plain.is_empty() && up.replace(up.get() + plain.len() as u64) == 0 {
            self.entry.advance(|progress| progress.client_spoke = true);
        }
        self.entry.touch();
        self.up.give(cx, &mut self.server, &plain, false);
        Poll::Ready(Ok(()))
    }

    /// The server's half.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Moved {
        let mut rounds = ROUNDS;
        loop {
            match self.down.flush(cx, &mut self.client, &self.entry) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if self.down.eof {
                self.down.done = true;
                if let Poll::Ready(Err(_)) = Pin::new(&mut self.client).poll_shutdown(cx) {
                    return Poll::Ready(Err(Fault::Sink));
                }
                return Poll::Ready(Ok(()));
            }
            if rounds == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rounds -= 1;
            match self.read_server(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Takes what the server has sent, enciphers it, and gives it to the client.
    fn read_server(&mut self, cx: &mut Context<'_>) -> Moved {
        let mut buffer = self.worker.buffer.borrow_mut();
        let mut space = ReadBuf::new(&mut buffer);
        match Pin::new(&mut self.server).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::All(Cause::ServerReset))),
            Poll::Pending => return Poll::Pending,
        }
        let count = space.filled().len();
        self.down.eof = count == 0;
        if count > 0 && count < BUFFER && has_ended(cx, &self.server) {
            // Its end, or a reset: which of the two, another look tells, and the notice of the end
            // goes with the last bytes.
            match Pin::new(&mut self.server).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) => self.down.eof = space.filled().len() == count,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::All(Cause::ServerReset))),
                Poll::Pending => {}
            }
        }
        let bytes = space.filled();
        let mut sealed = self.worker.tls.sealed.borrow_mut();
        if sealed.is_empty() {
            sealed.resize(room(BUFFER), 0);
        }
        let last = self.down.eof;
        let Ok(used) = seal(&mut self.tls, &mut self.begun, bytes, last, &mut sealed) else {
            return Poll::Ready(Err(Fault::All(Cause::TlsBroken)));
        };
        let down = &self.entry.conn.down;
        if !bytes.is_empty() && down.replace(down.get() + bytes.len() as u64) == 0 {
            self.entry.advance(|progress| progress.server_spoke = true);
        }
        self.entry.touch();
        self.down.give(cx, &mut self.client, &sealed[..used], last);
        Poll::Ready(Ok(()))
    }

    fn ended(&mut self, cause: Cause) {
        self.first.get_or_insert(cause);
        self.entry.advance(|progress| progress.half_closed = true);
    }

    /// Both sides of a connection that has not ended in order are told so.
    fn cut(&self, cause: Cause) -> Poll<Cause> {
        match cause {
            Cause::ServerReset => self.client.reset(),
            // The client is told by an alert, if it is there.
            _ => self.server.reset(),
        }
        Poll::Ready(cause)
    }
}

impl Future for TlsRelay {
    type Output = Cause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Cause> {
        let this = self.get_mut();
        this.entry.conn.wake_by(cx.waker());
        match this.entry.conn.errand() {
            Some(Errand::End(cause)) => return Poll::Ready(cause),
            Some(Errand::KeepAlive) => this.server.keep_alive(),
            None => {}
        }
        if !this.up.done {
            match this.poll_up(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => this.ended(Cause::ClientClosed),
                Poll::Ready(Err(Fault::All(cause))) => return this.cut(cause),
                // It may have said something before: that is on its way.
                Poll::Ready(Err(Fault::Sink)) => {
                    this.up.done = true;
                    this.ended(Cause::ServerReset);
                }
            }
        }
        if !this.down.done {
            match this.poll_down(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => this.ended(Cause::ServerClosed),
                Poll::Ready(Err(Fault::All(cause))) => return this.cut(cause),
                Poll::Ready(Err(Fault::Sink)) => {
                    this.down.done = true;
                    this.ended(Cause::ClientReset);
                }
            }
        }
        let fast = this.entry.conn.served.service.proxy.fast_close;
        if (this.up.done && this.down.done) || (fast && this.first.is_some()) {
            return Poll::Ready(this.first.unwrap_or(Cause::ClientClosed));
        }
        Poll::Pending
    }
}
