//! Carries bytes between two sides of which at least one speaks TLS. The end of a half is said and
//! understood on both sides; a side that speaks TLS and just goes away is no end, but a fault, of which
//! the other one learns by a reset: it could not tell what is missing.

use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::conn::{Entry, Errand};
use super::super::linger;
use super::super::relay::has_ended;
use super::super::stream::Stream;
use super::super::worker::{BUFFER, Worker};
use super::agree::Session;
use super::records::room;
use crate::engine::proxy::cause::Cause;

/// Rounds of one direction after which others have their turn.
const ROUNDS: u8 = 8;

/// A connection that has its server.
pub(in crate::io::proxy) struct TlsRelay {
    /// The client, and the server.
    ends: [End; 2],
    /// From the one end, and from the other.
    ways: [Way; 2],
    /// Bytes that the server still gets; `u64::MAX` if they are not counted.
    left: u64,
    /// Who ended its half first.
    first: Option<Cause>,
    entry: Entry,
    worker: Rc<Worker>,
}

/// One side.
pub(in crate::io::proxy) struct End {
    stream: Stream,
    /// TLS, if it speaks that.
    session: Option<Session>,
    /// What it has said already, until that is under way.
    said: Option<Vec<u8>>,
}

/// Whose half it is: places in the two arrays.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
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
    /// The source has said something since the sink had ended.
    answers: bool,
}

/// What ended a direction before its end.
enum Fault {
    /// All of the connection ends.
    All(Cause),
    /// The sink takes nothing more.
    Sink,
}

type Moved = Poll<Result<(), Fault>>;

impl Side {
    const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// It has ended its half in order.
    const fn closed(self) -> Cause {
        match self {
            Self::Client => Cause::ClientClosed,
            Self::Server => Cause::ServerClosed,
        }
    }

    const fn reset(self) -> Cause {
        match self {
            Self::Client => Cause::ClientReset,
            Self::Server => Cause::ServerReset,
        }
    }

    const fn truncated(self) -> Cause {
        match self {
            Self::Client => Cause::TlsTruncated,
            Self::Server => Cause::ServerTlsTruncated,
        }
    }

    const fn broken(self) -> Cause {
        match self {
            Self::Client => Cause::TlsBroken,
            Self::Server => Cause::ServerTlsBroken,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl End {
    /// `said` is what it has said already, and the other side gets before anything else.
    pub(in crate::io::proxy) const fn new(
        stream: Stream,
        session: Option<Session>,
        said: Vec<u8>,
    ) -> Self {
        Self { stream, session, said: Some(said) }
    }
}

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

    /// Gives the sink bytes, and keeps what it does not take. `last`: the end follows.
    fn give(&mut self, cx: &mut Context<'_>, sink: &mut Stream, bytes: &[u8], last: bool) {
        if bytes.is_empty() {
            return;
        }
        let written = match last {
            _ if !self.rest.is_empty() => Poll::Pending,
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

    /// The same for plain bytes, which are sealed if the sink speaks TLS; then it is also told the end.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut End,
        bytes: &[u8],
        worker: &Worker,
    ) -> Result<(), rustls::Error> {
        let Some(session) = &mut sink.session else {
            self.give(cx, &mut sink.stream, bytes, self.eof);
            return Ok(());
        };
        let mut sealed = worker.tls.sealed.borrow_mut();
        if sealed.is_empty() {
            sealed.resize(room(BUFFER), 0);
        }
        let (most, end) = bytes.split_at(bytes.len().saturating_sub(1) / BUFFER * BUFFER);
        for piece in most.chunks(BUFFER) {
            let used = session.tls.seal(&mut session.begun, piece, false, &mut sealed)?;
            self.give(cx, &mut sink.stream, &sealed[..used], false);
        }
        let used = session.tls.seal(&mut session.begun, end, self.eof, &mut sealed)?;
        self.give(cx, &mut sink.stream, &sealed[..used], self.eof);
        Ok(())
    }
}

impl TlsRelay {
    /// Between client and server.
    pub(in crate::io::proxy) fn new(
        ends: [End; 2],
        left: u64,
        entry: Entry,
        worker: Rc<Worker>,
    ) -> Self {
        entry.watch();
        let heard = ends[Side::Server as usize].said.as_ref().map_or(0, Vec::len);
        if heard > 0 {
            entry.conn.down.set(heard as u64);
            entry.advance(|progress| progress.server_spoke = true);
        }
        let ways = ends.each_ref().map(|end| Way {
            eof: end.session.as_ref().is_some_and(|session| session.ended),
            ..Way::default()
        });
        Self { ends, ways, left, first: None, entry, worker }
    }

    /// Passes on what a side had said before there was another one.
    fn begin(&mut self, cx: &mut Context<'_>, side: Side) -> Result<(), Fault> {
        let Self { ends, ways, worker, .. } = self;
        let way = &mut ways[side as usize];
        let said = ends[side as usize].said.take().unwrap_or_default();
        if said.is_empty() && !way.eof {
            return Ok(());
        }
        let passed = way.pass(cx, &mut ends[side.other() as usize], &said, worker);
        passed.map_err(|_| Fault::All(side.other().broken()))
    }

    /// The half of a side.
    fn poll_side(&mut self, cx: &mut Context<'_>, side: Side) -> Moved {
        if self.ends[side as usize].said.is_some() {
            self.begin(cx, side)?;
        }
        let mut rounds = ROUNDS;
        loop {
            let Self { ends, ways, entry, .. } = self;
            let sink = &mut ends[side.other() as usize].stream;
            match ways[side as usize].flush(cx, sink, entry) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if ways[side as usize].eof {
                ways[side as usize].done = true;
                // If the other one is done as well, closing says it.
                if !ways[side.other() as usize].done
                    && let Poll::Ready(Err(_)) = Pin::new(sink).poll_shutdown(cx)
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
            match self.read(cx, side) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Takes what a side has sent, and gives it to the other one.
    fn read(&mut self, cx: &mut Context<'_>, side: Side) -> Moved {
        let Self { ends: [client, server], ways: [up, down], left, entry, worker, .. } = self;
        let (source, sink, way, back) = match side {
            Side::Client => (client, server, up, down),
            Side::Server => (server, client, down, up),
        };
        let mut buffer = worker.buffer.borrow_mut();
        let begun = source.session.as_ref().map_or(&[][..], |session| &session.begun);
        let begun = {
            buffer[..begun.len()].copy_from_slice(begun);
            begun.len()
        };
        let mut space = ReadBuf::new(&mut buffer[begun..]);
        match Pin::new(&mut source.stream).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::All(side.reset()))),
            Poll::Pending => return Poll::Pending,
        }
        let count = space.filled().len();
        let mut plain = worker.tls.plain.borrow_mut();
        let bytes = match &mut source.session {
            None => {
                way.eof = count == 0;
                if count > 0 && count < BUFFER && has_ended(cx, &source.stream) {
                    // Its end, or a reset: which of the two, another look tells, and the notice of the
                    // end goes with the last bytes.
                    match Pin::new(&mut source.stream).poll_read(cx, &mut space) {
                        Poll::Ready(Ok(())) => way.eof = space.filled().len() == count,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::All(side.reset()))),
                        Poll::Pending => {}
                    }
                }
                space.filled()
            }
            Some(_) if count == 0 && back.done && matches!(side, Side::Client) => {
                // It has heard the end, and there was nobody to say anything to.
                way.eof = true;
                &[]
            }
            Some(_) if count == 0 => return Poll::Ready(Err(Fault::All(side.truncated()))),
            Some(session) => {
                plain.clear();
                let input = &mut buffer[..begun + count];
                let mut out = Vec::new();
                let Ok(progress) = session.tls.take_in(input, &mut out, &mut plain) else {
                    back.give(cx, &mut source.stream, &out, false);
                    return Poll::Ready(Err(Fault::All(side.broken())));
                };
                // Seldom, and not more of it than little: rustls keeps one answer to all new keys until
                // it has something else to send. It goes behind what is under way.
                if !out.is_empty() {
                    back.give(cx, &mut source.stream, &out, false);
                    cx.waker().wake_by_ref();
                }
                let left = &input[progress.taken..];
                if left.len() != session.begun.len() || progress.taken > 0 {
                    // Made anew: of the right size, and none for the usual case of none.
                    session.begun = left.to_vec();
                }
                way.eof = progress.ended;
                &plain
            }
        };
        way.answers |= back.done && !bytes.is_empty();
        let is_over = matches!(side, Side::Client) && *left == 0;
        let carried = match side {
            Side::Client => &entry.conn.up,
            Side::Server => &entry.conn.down,
        };
        // What is thrown away keeps no connection alive, nor the server's place.
        if !is_over {
            entry.touch();
            let before = carried.get();
            carried.set(before + bytes.len() as u64);
            if before == 0 && !bytes.is_empty() {
                entry.advance(|progress| match side {
                    Side::Client => progress.client_spoke = true,
                    Side::Server => progress.server_spoke = true,
                });
            }
        }
        let bytes = match side {
            Side::Client if *left < u64::MAX => {
                let most = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= most as u64;
                &bytes[..most]
            }
            _ => bytes,
        };
        if (!bytes.is_empty() || way.eof) && way.pass(cx, sink, bytes, worker).is_err() {
            return Poll::Ready(Err(Fault::All(side.other().broken())));
        }
        Poll::Ready(Ok(()))
    }

    fn ended(&mut self, cause: Cause) {
        self.first.get_or_insert(cause);
        self.entry.advance(|progress| progress.half_closed = true);
    }

    /// The other side of a connection that has not ended in order is told so.
    fn cut(&self, cause: Cause) -> Poll<Cause> {
        let ([client, server], [up, down]) = (&self.ends, &self.ways);
        match cause {
            Cause::ServerReset | Cause::ServerTlsBroken | Cause::ServerTlsTruncated => {
                client.stream.reset();
            }
            // Who broke the rules is told by an alert, if it is there.
            _ => server.stream.reset(),
        }
        match cause {
            // Its client had ended before, and many servers then leave without a word. One that waits
            // for an answer gets the reset all the same: it is not to take nothing for all there was.
            Cause::ServerTlsTruncated if up.has_carried_all() && !down.answers => {
                Poll::Ready(Cause::ClientClosed)
            }
            cause => Poll::Ready(cause),
        }
    }

    /// One end is all that is waited for.
    fn is_fast(&self) -> bool {
        self.entry.conn.served.service.proxy.fast_close
    }

    /// How it ended, if it has: by two ends, or by one if that is enough.
    fn end(&self) -> Option<Cause> {
        let [up, down] = &self.ways;
        let both = up.done && down.done;
        let fast = self.is_fast() && (up.has_carried_all() || down.has_carried_all());
        (both || fast).then(|| self.first.unwrap_or(Cause::ClientClosed))
    }

    /// The side that is cut off while it sends or has not got all; the other one is told the end.
    pub(in crate::io::proxy) fn cut_off(&self) -> Option<&Stream> {
        let ([client, server], [up, down]) = (&self.ends, &self.ways);
        let (ended, other) = match (up.has_carried_all(), down.has_carried_all()) {
            (true, false) => (client, server),
            (false, true) => (server, client),
            _ => return None,
        };
        let buffer = &mut self.worker.buffer.borrow_mut();
        if !self.is_fast() || !linger::could_lose(&other.stream, buffer) {
            return None;
        }
        let _ = SockRef::from(&ended.stream).shutdown(Shutdown::Both);
        Some(&other.stream)
    }
}

impl Way {
    /// The source has ended, and the sink has all that it said.
    const fn has_carried_all(&self) -> bool {
        self.eof && self.done
    }
}

impl Future for TlsRelay {
    type Output = Cause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Cause> {
        let this = self.get_mut();
        this.entry.conn.wake_by(cx.waker());
        let [_, server] = &this.ends;
        match this.entry.conn.errand() {
            Some(Errand::End(cause)) => return Poll::Ready(cause),
            Some(Errand::KeepAlive) => server.stream.keep_alive(),
            None => {}
        }
        for side in Side::BOTH {
            if this.ways[side as usize].done {
                continue;
            }
            match this.poll_side(cx, side) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => this.ended(side.closed()),
                Poll::Ready(Err(Fault::All(cause))) => return this.cut(cause),
                // It takes nothing more, but may have said something before: that is on its way.
                Poll::Ready(Err(Fault::Sink)) => {
                    this.ways[side as usize].done = true;
                    this.ended(side.other().reset());
                }
            }
            if let Some(cause) = this.end() {
                return Poll::Ready(cause);
            }
        }
        Poll::Pending
    }
}
