//! From an accepted connection to one that has its server: access, limits, the choice, TLS if it begins
//! here, and the next choice if that cannot be reached. What is decided here is decided by `engine::proxy`.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::assume::assume;
use super::conn::Conn;
use super::shared::{Place, Served, Source};
use super::stream::Stream;
use super::tls::{self, NotAgreed, Session};
use super::unix;
use super::worker::Worker;
use crate::config::{Endpoint, UnixPath};
use crate::engine::event::Failure;
use crate::engine::proxy::AccessList;
use crate::engine::proxy::cause::{Cause, ServerFault};
use crate::engine::proxy::choose::{Choice, Client, choose};
use crate::io::clock;

/// A connection to a server, and what it holds.
pub(super) struct Established {
    pub(super) server: Reached,
    /// `None` for the server for abuse, which has no limit.
    pub(super) place: Option<Place>,
    pub(super) source: Option<Source>,
}

/// A server that can be spoken to.
pub(super) struct Reached {
    pub(super) stream: Stream,
    /// TLS begins here: it knows who the client is, and this is what it has said already.
    pub(super) session: Option<(Session, Vec<u8>)>,
}

/// A client that wants a server.
pub(super) struct Asker<'a> {
    pub(super) worker: &'a Worker,
    pub(super) conn: &'a Conn,
    /// Places of backends that are not for what it asked for.
    pub(super) barred: &'a [usize],
    /// What a server is told before TLS begins.
    pub(super) greeting: &'a [u8],
    /// The protocol above TLS that was agreed upon with it.
    pub(super) alpn: Option<&'a [u8]>,
}

/// Who waits for a place looks for one after this time, even if nobody has called.
const LOOK: Duration = Duration::from_millis(100);

/// How an attempt failed.
enum Failed {
    /// The backend's fault.
    Backend,
    /// The same, by saying nothing until the time was over.
    Silent,
    /// This machine's: it says nothing about the backend, and the next one would fare no better.
    Local,
}

/// Whether a client gets nothing, whatever it says: then nothing need be agreed upon with it.
pub(super) fn is_shut_out(conn: &Conn) -> bool {
    let service = &conn.served.service;
    let denied = |list: &Option<Arc<AccessList>>| {
        conn.address().zip(list.as_ref()).is_some_and(|(source, list)| list.denies(&source))
    };
    denied(&service.vip_access) || (service.proxy.abuse.is_none() && denied(&service.access))
}

/// Finds a server for a client.
pub(super) async fn establish(asker: &Asker<'_>) -> Result<Established, Cause> {
    let conn = asker.conn;
    let served = &conn.served;
    // Clients of a Unix socket have no address that lists or limits could speak of: whoever may open
    // the file may connect.
    let source = conn.address();
    let denied = |list: &Option<Arc<AccessList>>| {
        source.as_ref().zip(list.as_ref()).is_some_and(|(source, list)| list.denies(source))
    };
    if denied(&served.service.vip_access) {
        return Err(Cause::Denied);
    }
    if denied(&served.service.access) {
        let established = abuse(asker, served).await;
        conn.connected.set(established.is_ok().then(clock::now));
        return established;
    }
    let held = match source.zip(served.service.proxy.max_per_source) {
        Some((source, limit)) => Some(served.state.admit(source, limit).ok_or(Cause::SourceLimit)?),
        None => None,
    };
    let (server, place) = find(asker, served, source).await?;
    Ok(Established { server, place: Some(place), source: held })
}

/// The server for those that the access list denies.
async fn abuse(asker: &Asker<'_>, served: &Arc<Served>) -> Result<Established, Cause> {
    let proxy = &served.service.proxy;
    let Some(abuse) = &proxy.abuse else { return Err(Cause::Denied) };
    let to = abuse.endpoint();
    match reach(asker, &to, seen(asker.conn, &to), None).await {
        Ok(server) => Ok(Established { server, place: None, source: None }),
        Err(Failed::Backend | Failed::Silent) => Err(Cause::ConnectFailed),
        Err(Failed::Local) => Err(Cause::Local),
    }
}

/// A backend that accepts, and a place there.
async fn find(
    asker: &Asker<'_>,
    served: &Arc<Served>,
    address: Option<Addr>,
) -> Result<(Reached, Place), Cause> {
    let &Asker { conn, barred, .. } = asker;
    let mut tried = Vec::new();
    loop {
        let port = Be16::new(conn.client.key().port());
        let client = Client { address, port, barred, tried: &tried, draw: draw() };
        let (place, seat) = match take_in_turn(served, &client).await? {
            Taken::Seat(place, seat) => (place, seat),
            Taken::Full => return Err(Cause::Full),
            Taken::None if tried.is_empty() => return Err(Cause::NoBackend),
            Taken::None => return Err(Cause::ConnectFailed),
        };
        conn.place.set(Some(place));
        conn.placed.set(Some(clock::now()));
        let backend = &served.service.backends[place];
        let seen = seen(conn, &backend.address);
        match reach(asker, &backend.address, seen, Some(place)).await {
            Ok(server) => {
                conn.connected.set(Some(clock::now()));
                if seen.is_some() {
                    served.heard(place);
                }
                return Ok((server, seat));
            }
            Err(Failed::Local) => return Err(Cause::Local),
            Err(failed) => {
                let silent = matches!(failed, Failed::Silent);
                let failure = if silent { Failure::Silent } else { Failure::Refused };
                served.failed(place, failure, seen);
                served.state.redispatched.fetch_add(1, Relaxed);
                conn.retries.set(conn.retries.get().saturating_add(1));
                conn.place.set(None);
                tried.push(place);
            }
        }
    }
}

/// What came of looking for a place.
pub(super) enum Taken {
    Seat(usize, Place),
    Full,
    None,
}

/// Chooses a backend, and takes a place there. Between the two another thread may take the last one.
pub(super) fn take(served: &Served, client: &Client<'_>, now: Moment) -> Taken {
    let mut tried = client.tried.to_vec();
    let mut lost = false;
    loop {
        let client = Client { tried: &tried, ..*client };
        let mut memory = served.state.memory();
        let choice =
            choose(&served.service, served.secret, &client, &mut memory, &served.load(now), now);
        drop(memory);
        match choice {
            Choice::Take { place, known } => match served.take(place, known) {
                Some(seat) => return Taken::Seat(place, seat),
                None => {
                    lost = true;
                    tried.push(place);
                }
            },
            Choice::Full => return Taken::Full,
            Choice::None if lost => return Taken::Full,
            Choice::None => return Taken::None,
        }
    }
}

/// The same for who may have to wait for a place.
async fn take_in_turn(served: &Served, client: &Client<'_>) -> Result<Taken, Cause> {
    let proxy = &served.service.proxy;
    let queued = proxy.queue > 0;
    // Who comes later must not be served earlier. A stubborn service has a queue for each server.
    let behind = queued && served.state.waiters() > 0 && !served.service.stubborn;
    if !behind {
        let taken = take(served, client, clock::now());
        if !queued || !matches!(taken, Taken::Full) {
            return Ok(taken);
        }
    }
    let mut turn = served.state.queue(proxy.queue).ok_or(Cause::Full)?;
    let until = clock::now() + proxy.timeouts.queue;
    loop {
        let left = until.since(clock::now());
        if left.is_zero() {
            return Err(Cause::QueueTimeout);
        }
        if turn.wait(left.min(LOOK)).await || served.service.stubborn {
            match take(served, client, clock::now()) {
                Taken::Full => {}
                taken => return Ok(taken),
            }
        }
    }
}

/// The address of the client, if the server at this end is to see it.
fn seen(conn: &Conn, to: &Endpoint) -> Option<IpAddr> {
    let (client, server) = (conn.client.inet()?, to.inet()?);
    conn.served.source(client.ip(), server.ip())
}

/// Connects within the time for that, and agrees upon TLS if it begins here.
async fn reach(
    asker: &Asker<'_>,
    to: &Endpoint,
    seen: Option<IpAddr>,
    place: Option<usize>,
) -> Result<Reached, Failed> {
    let proxy = &asker.conn.served.service.proxy;
    let limit = proxy.timeouts.connect;
    if proxy.backend_tls.is_none() {
        let stream = connect(to, seen, limit).await?;
        return Ok(Reached { stream, session: None });
    }
    // Boxed: services without it are not to have room for it.
    Box::pin(reach_sealed(asker, to, seen, place, limit)).await
}

async fn reach_sealed(
    asker: &Asker<'_>,
    to: &Endpoint,
    seen: Option<IpAddr>,
    place: Option<usize>,
    limit: Duration,
) -> Result<Reached, Failed> {
    let served = &asker.conn.served;
    let deadline = Instant::now() + limit;
    // Its files could not be read: it is said to the operator, and nothing is ever sent in the open.
    let originator = served.state.tls.originator().ok_or(Failed::Local)?;
    let mut stream = connect(to, seen, limit).await?;
    let agreeing = async {
        // If it is gone, that is met again.
        let _ = stream.write_all(asker.greeting).await;
        tls::approach(asker.worker, &originator, to, asker.alpn, &mut stream).await
    };
    let late = || NotAgreed { fault: ServerFault::Silent, why: "it does not answer".to_owned() };
    let NotAgreed { fault, why } = match timeout_at(deadline, agreeing).await.map_err(|_| late()) {
        Ok(Ok(session)) => return Ok(Reached { stream, session: Some(session) }),
        Ok(Err(failure)) | Err(failure) => failure,
    };
    served.state.tls.count(fault);
    if place.is_none_or(|place| served.backends[place].mistrust(clock::now())) {
        tracing::warn!("service {}: {to}: TLS: {why}", served.service.name);
    }
    Err(Failed::Backend)
}

/// Connects within a time, from the client's address if that is to be seen.
async fn connect(to: &Endpoint, seen: Option<IpAddr>, limit: Duration) -> Result<Stream, Failed> {
    let address = match to {
        Endpoint::Inet(address) => *address,
        Endpoint::Unix(path) => return connect_unix(path, limit).await,
    };
    let connecting = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        assume(&socket, seen)?;
        socket.connect(address).await
    };
    match timeout(limit, connecting).await {
        Ok(Ok(server)) => Ok(Stream::Tcp(server)),
        Ok(Err(error)) if is_local(&error) => Err(Failed::Local),
        Ok(Err(_)) => Err(Failed::Backend),
        Err(_) => Err(Failed::Silent),
    }
}

/// Connects to a Unix socket within a time. That its file may not be opened is up to that file, and
/// another backend may do.
async fn connect_unix(path: &UnixPath, limit: Duration) -> Result<Stream, Failed> {
    match timeout(limit, unix::connect(path.path())).await {
        Ok(Ok(server)) => Ok(Stream::Unix(server)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(
                "{path}: {error}: pend needs write access to the socket and search access to its \
                 folders"
            );
            Err(Failed::Backend)
        }
        Ok(Err(error)) if is_local(&error) => Err(Failed::Local),
        Ok(Err(_)) => Err(Failed::Backend),
        Err(_) => Err(Failed::Silent),
    }
}

/// Errors that say nothing about the backend.
pub(super) fn is_local(error: &io::Error) -> bool {
    const LOCAL: [Errno; 7] = [
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
        Errno::EADDRNOTAVAIL,
        Errno::EPERM,
        Errno::EACCES,
    ];
    error.raw_os_error().is_some_and(|number| LOCAL.contains(&Errno::from_raw(number)))
}

/// A random number, good enough to draw backends (xorshift64*, Vigna 2014).
pub(super) fn draw() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(clock::now().0 | 1);
    }
    let mut state = STATE.get();
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_backends_fault() {
        for (number, local) in [
            (Errno::EMFILE, true),
            (Errno::EADDRNOTAVAIL, true),
            (Errno::ECONNREFUSED, false),
            (Errno::EHOSTUNREACH, false),
        ] {
            assert_eq!(is_local(&io::Error::from_raw_os_error(number as i32)), local, "{number}");
        }
    }

    #[test]
    fn draws_differ() {
        let draws: std::collections::BTreeSet<u64> = (0..100).map(|_| draw()).collect();
        assert_eq!(draws.len(), 100);
    }
}
