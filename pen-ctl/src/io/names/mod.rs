//! Asks the DNS for servers, and keeps what it said in a file for the daemon after this one. A few
//! questions at a time; each server is asked twice before a question has failed.

#[cfg(test)]
mod tests;

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::engine::event::Event;
use crate::engine::names::wire::{self, Kind, Record, Reply};
use crate::engine::names::{Answer, Query, Target};
use crate::io::cause::chain;
use crate::io::store::{self, Store};

/// Questions at a time.
const AT_A_TIME: usize = 16;
/// A server gets so long to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each server is asked so often.
const ROUNDS: usize = 2;
/// Targets of one name whose addresses are asked for.
const MOST_TARGETS: usize = 256;
/// Servers of one name: more than a service can have, so that it says which it leaves out.
const MOST_SERVERS: usize = 4096;
/// What a file of the machine says holds for so long.
const FILE_TTL: Duration = Duration::from_secs(10);

/// Asks.
#[derive(Debug)]
pub struct Resolver {
    events: Sender<Event>,
    gate: Arc<Semaphore>,
    store: Store<(Query, Answer)>,
}

impl Resolver {
    /// Keeps answers in this folder.
    #[must_use]
    pub fn new(events: Sender<Event>, folder: PathBuf) -> Self {
        let gate = Arc::new(Semaphore::new(AT_A_TIME));
        Self { events, gate, store: Store::new(folder, store::NAMES) }
    }

    /// Asks; the answer is an event.
    pub fn ask(&self, query: Query, servers: Vec<SocketAddr>) {
        let (events, gate) = (self.events.clone(), Arc::clone(&self.gate));
        tokio::spawn(async move {
            // It is never closed.
            let _turn = gate.acquire_owned().await;
            let result = resolve(&query, servers).await;
            // Without a receiver the daemon has ended.
            let _ = events.send(Event::NameAnswered { query, result }).await;
        });
    }

    /// Keeps answers for the next daemon.
    pub fn keep(&self, answers: Vec<(Query, Answer)>) {
        self.store.keep(answers);
    }
}

async fn resolve(query: &Query, servers: Vec<SocketAddr>) -> Result<Answer, String> {
    let from_machine = servers.is_empty();
    let servers = match from_machine {
        // Without the file there is a server on the machine itself, if any.
        true => wire::servers(&file("/etc/resolv.conf").await),
        false => servers,
    };
    let mut asking = Asking { query, servers: &servers, first: 0, from_machine };
    let (mut targets, ttl) = if query.srv {
        asking.services().await?
    } else {
        let (addresses, ttl) = asking.addresses(&query.name).await?;
        let target = |address| Target { address, srv: None };
        (addresses.into_iter().map(target).collect(), ttl)
    };
    targets.sort();
    targets.dedup();
    match targets.is_empty() {
        true => Err("the DNS has no such records".to_owned()),
        false => Ok(Answer { targets, ttl }),
    }
}

/// A file of the machine; one that is missing says nothing.
async fn file(path: &'static str) -> String {
    let read = spawn_blocking(move || std::fs::read_to_string(path).unwrap_or_default());
    read.await.unwrap_or_default()
}

struct Asking<'a> {
    query: &'a Query,
    servers: &'a [SocketAddr],
    /// The one that answered last is asked first: to wait for a dead one once is enough.
    first: usize,
    /// Also its file of hosts counts.
    from_machine: bool,
}

impl Asking<'_> {
    /// Addresses of the family that is preferred, or of the other one if there are none.
    async fn addresses(&mut self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let Query { v6, both, .. } = *self.query;
        if self.from_machine {
            let text = file("/etc/hosts").await;
            let (same, other): (Vec<_>, Vec<_>) =
                wire::hosts(&text, name).into_iter().partition(|found| found.is_ipv6() == v6);
            if !same.is_empty() {
                return Ok((same, FILE_TTL));
            }
            if both && !other.is_empty() {
                return Ok((other, FILE_TTL));
            }
        }
        let kinds = if v6 { [Kind::Aaaa, Kind::A] } else { [Kind::A, Kind::Aaaa] };
        for kind in kinds.into_iter().take(1 + usize::from(both)) {
            let (records, ttl) = self.records(name, kind).await?;
            let address = |record| match record {
                Record::Address(address) => Some(address),
                Record::Service(..) => None,
            };
            let found: Vec<_> = records.into_iter().filter_map(address).collect();
            if !found.is_empty() {
                return Ok((found, ttl));
            }
        }
        Ok((Vec::new(), Duration::ZERO))
    }

    async fn services(&mut self) -> Result<(Vec<Target>, Duration), String> {
        let (records, mut ttl) = self.records(&self.query.name, Kind::Srv).await?;
        let mut targets = Vec::new();
        for record in records.into_iter().take(MOST_TARGETS) {
            // A dot alone says that there is no such service.
            let Record::Service(srv, host) = record else { continue };
            if host.is_empty() {
                continue;
            }
            let (addresses, time) = self.addresses(&host).await?;
            if !addresses.is_empty() {
                ttl = ttl.min(time);
            }
            let room = MOST_SERVERS.saturating_sub(targets.len());
            let addresses = addresses.into_iter().take(room);
            targets.extend(addresses.map(|address| Target { address, srv: Some(srv) }));
        }
        Ok((targets, ttl))
    }

    async fn records(&mut self, name: &str, kind: Kind) -> Result<(Vec<Record>, Duration), String> {
        let mut last = "there is no server to ask".to_owned();
        let count = self.servers.len();
        for at in (self.first..).take(ROUNDS * count) {
            let server = self.servers[at % count];
            match ask(server, name, kind).await {
                Ok(found) => {
                    self.first = at % count;
                    return Ok(found);
                }
                Err(error) => last = format!("{server}: {error}"),
            }
        }
        Err(last)
    }
}

async fn ask(
    server: SocketAddr,
    name: &str,
    kind: Kind,
) -> Result<(Vec<Record>, Duration), String> {
    let mut number = [0; 2];
    random(&mut number).map_err(words)?;
    let number = u16::from_be_bytes(number);
    let question = wire::question(name, kind, number)?;
    let judge = |message: &[u8]| wire::read(name, kind, number, message);
    let silent = |_| format!("no answer within {}", humantime::format_duration(PATIENCE));
    let mut reply =
        timeout(PATIENCE, over_udp(server, &question, judge)).await.map_err(silent)??;
    if reply == Reply::Truncated {
        reply = timeout(PATIENCE, over_tcp(server, &question, judge)).await.map_err(silent)??;
    }
    match reply {
        Reply::Records(records, ttl) => Ok((records, ttl)),
        Reply::Truncated => Err("its answer is cut off".to_owned()),
        Reply::Failed(why) => Err(why),
    }
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// What went wrong here or on the way.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn words(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "it is not listening (connection refused)".to_owned(),
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => chain(&error),
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &[u8],
    judge: impl Fn(&[u8]) -> Option<Reply>,
) -> Result<Reply, String> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question, which strangers have to guess.
    let socket = UdpSocket::bind((any, 0)).await.map_err(words)?;
    socket.connect(server).await.map_err(words)?;
    socket.send(question).await.map_err(words)?;
    let mut message = vec![0; 4096];
    loop {
        let length = socket.recv(&mut message).await.map_err(words)?;
        if let Some(reply) = judge(&message[..length]) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    question: &[u8],
    judge: impl Fn(&[u8]) -> Option<Reply>,
) -> Result<Reply, String> {
    let mut stream = TcpStream::connect(server).await.map_err(words)?;
    // A message comes after its length (RFC 1035 section 4.2.2).
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await.map_err(words)?;
    let mut message = vec![0; usize::from(stream.read_u16().await.map_err(words)?)];
    stream.read_exact(&mut message).await.map_err(words)?;
    judge(&message).ok_or_else(|| "it answered another question".to_owned())
}
