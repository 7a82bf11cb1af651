//! Probes backends. One short task per probe, bounded by its timeout; results go to the engine.

mod agent;
mod dns;
mod exec;
mod http;
mod icmp;
mod smtp;
mod tls;
mod tunnel;
mod udp;

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use self::tls::Contexts;
use crate::config::{CheckKind, Endpoint};
use crate::engine::event::{Event, Outcome, ProbeError, ProbeId, Question, Tunnel};
use crate::io::clock;

/// Probes at a time; each has a descriptor or a few.
const AT_ONCE: usize = 1024;
/// Programs at a time.
const PROGRAMS: usize = 32;

/// Starts probes, but not too many at a time: the others wait, and their time begins when their turn
/// has come.
#[derive(Debug)]
pub struct Prober {
    events: mpsc::Sender<Event>,
    places: Arc<Semaphore>,
    programs: Arc<Semaphore>,
    contexts: Arc<Contexts>,
}

impl Prober {
    /// Results are sent to `events`.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self::with_places(events, AT_ONCE, PROGRAMS)
    }

    fn with_places(events: mpsc::Sender<Event>, places: usize, programs: usize) -> Self {
        let [places, programs] = [places, programs].map(|count| Arc::new(Semaphore::new(count)));
        Self { events, places, programs, contexts: Arc::default() }
    }

    /// Starts a probe. The result is sent as [`Event::ProbeDone`].
    pub fn start(&self, probe: ProbeId, kind: CheckKind, way: Way, limit: Duration) {
        let places = match kind {
            CheckKind::Exec(_) => &self.programs,
            _ => &self.places,
        };
        let (places, events) = (Arc::clone(places), self.events.clone());
        let contexts = Arc::clone(&self.contexts);
        tokio::spawn(async move {
            // Nobody closes it, so that a place is had.
            let _place = places.acquire().await;
            let begin = clock::now();
            let outcome = ask(&kind, &way, limit, &contexts).await;
            let took = clock::now().since(begin);
            // The loop is gone only when the daemon ends; then nobody waits for the result.
            let _ = events.send(Event::ProbeDone { probe, took, outcome }).await;
        });
    }

    /// Asks an agent. The result is sent as [`Event::AgentAnswered`].
    pub fn ask_agent(&self, question: Question) {
        let Question { probe, target, send, timeout } = question;
        let (places, events) = (Arc::clone(&self.places), self.events.clone());
        tokio::spawn(async move {
            let _place = places.acquire().await;
            let way = Way { target: target.into(), through: None };
            let answer = agent::ask(&send, &way, &Limit::of(timeout)).await;
            // As above.
            let _ = events.send(Event::AgentAnswered { probe, answer }).await;
        });
    }
}

/// Where a probe goes, and how.
#[derive(Clone, Debug)]
pub struct Way {
    /// The backend, and the port that is asked.
    pub target: Endpoint,
    /// The tunnel to it, if its traffic takes one.
    pub through: Option<Tunnel>,
}

impl Way {
    /// What only an address can be asked; the configuration rules out the others.
    fn address(&self) -> Result<SocketAddr, ProbeError> {
        match &self.target {
            Endpoint::Inet(address) => Ok(*address),
            Endpoint::Unix(path) => Err(ProbeError::Local(format!("{path} is no address"))),
        }
    }
}

/// A connection over which is spoken.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn ask(kind: &CheckKind, way: &Way, limit: Duration, contexts: &Contexts) -> Outcome {
    let clock = Limit::of(limit);
    match kind {
        CheckKind::None => Ok(()),
        CheckKind::Tcp => match way.through {
            Some(tunnel) => tunnel::connect(way.address()?, tunnel, limit).await,
            None => connect(&way.target, &clock).await.map(drop),
        },
        CheckKind::Tls(tls) => tls::ask(tls, way, &clock, contexts).await,
        CheckKind::Http(http) => http::ask(http, way, &clock, contexts).await,
        CheckKind::Udp(exchange) => udp::ask(exchange, way, &clock).await,
        CheckKind::Dns(dns) => dns::ask(dns, way, &clock).await,
        CheckKind::Smtp { hello } => smtp::ask(hello, way, &clock).await,
        CheckKind::Icmp => icmp::ask(way.address()?.ip(), &clock).await,
        CheckKind::Exec(exec) => exec::ask(exec, way, &clock).await,
    }
}

// === Limit ===

/// What is left of the time that a probe may take.
struct Limit {
    whole: Duration,
    until: Instant,
}

impl Limit {
    fn of(whole: Duration) -> Self {
        Self { whole, until: Instant::now() + whole }
    }

    /// Waits for something, but no longer than this. If this machine itself was late, that is not
    /// held against the backend.
    async fn wait<T>(
        &self,
        what: impl Future<Output = Result<T, ProbeError>>,
        silence: fn(Duration) -> ProbeError,
    ) -> Result<T, ProbeError> {
        match timeout_at(self.until, what).await {
            Ok(result) => result,
            Err(_elapsed) => {
                let late = self.until.elapsed();
                let error = format!("this machine was busy, and {} late", format_duration(late));
                Err(if late > self.whole / 2 {
                    ProbeError::Local(error)
                } else {
                    silence(self.whole)
                })
            }
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// A connection through which a probe speaks to the backend.
///
/// Where traffic takes a tunnel, one to the virtual address is tried there first; what is asked then
/// goes to the backend's own address, because the kernel has no connection at the tunnel's end.
async fn converse(way: &Way, limit: &Limit) -> Result<Box<dyn Stream>, ProbeError> {
    if let Some(tunnel) = way.through {
        tunnel::connect(way.address()?, tunnel, limit.left()).await?;
    }
    connect(&way.target, limit).await
}

async fn connect(target: &Endpoint, limit: &Limit) -> Result<Box<dyn Stream>, ProbeError> {
    match target {
        Endpoint::Inet(address) => connect_tcp(*address, limit).await,
        Endpoint::Unix(path) => connect_unix(path.path(), limit).await,
    }
}

async fn connect_unix(path: &Path, limit: &Limit) -> Result<Box<dyn Stream>, ProbeError> {
    let connecting = async {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream) as _),
            // Whereas TCP would try for a while to get into a full queue, and time out.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(ProbeError::Timeout(limit.whole))
            }
            Err(error) => Err(failure(&error)),
        }
    };
    limit.wait(connecting, ProbeError::Timeout).await
}

async fn connect_tcp(target: SocketAddr, limit: &Limit) -> Result<Box<dyn Stream>, ProbeError> {
    let connecting = async {
        let stream = TcpStream::connect(target).await.map_err(|error| match error.kind() {
            ErrorKind::TimedOut => ProbeError::Timeout(limit.whole),
            _ => failure(&error),
        })?;
        // A reset instead of FIN: the backend's accept queue and our ports keep no trace of
        // thousands of probes.
        let _ = stream.set_zero_linger();
        Ok(Box::new(stream) as _)
    };
    limit.wait(connecting, ProbeError::Timeout).await
}

/// What went wrong, in the words of a probe.
fn failure(error: &std::io::Error) -> ProbeError {
    match error.kind() {
        ErrorKind::ConnectionRefused => ProbeError::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            ProbeError::Closed
        }
        _ if is_local(error) => ProbeError::Local(error.to_string()),
        _ => ProbeError::System(error.to_string()),
    }
}

/// What nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], ProbeError> {
    random_bytes().map_err(|error| ProbeError::Local(error.to_string()))
}

fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Errors that say nothing about the backend.
fn is_local(error: &std::io::Error) -> bool {
    const LOCAL: [Errno; 5] =
        [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| LOCAL.contains(&Errno::from_raw(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    async fn connect(target: SocketAddr, limit: Duration) -> Outcome {
        let way = Way { target: target.into(), through: None };
        ask(&CheckKind::Tcp, &way, limit, &Contexts::default()).await
    }

    async fn connect_unix(path: &Path, limit: Duration) -> Outcome {
        let path = crate::config::UnixPath::new(path.to_str().expect("text"));
        let target = Endpoint::Unix(path);
        let way = Way { target, through: None };
        ask(&CheckKind::Tcp, &way, limit, &Contexts::default()).await
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test);
    }

    #[test]
    fn a_listening_port_is_healthy_and_a_closed_one_refuses() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let target = listener.local_addr().expect("bound");
            let limit = Duration::from_secs(5);
            assert_eq!(connect(target, limit).await, Ok(()));
            drop(listener);
            assert_eq!(connect(target, limit).await, Err(ProbeError::Refused));
        });
    }

    #[test]
    fn a_machine_that_was_late_itself_holds_nothing_against_the_backend() {
        run(async {
            let limit = Limit::of(Duration::from_millis(20));
            let slow = async {
                // Holds up the whole runtime, as a busy machine would.
                let until = Instant::now() + Duration::from_millis(200);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                std::future::pending::<Result<(), _>>().await
            };
            let result = limit.wait(slow, ProbeError::Timeout).await;
            assert!(matches!(result, Err(ProbeError::Local(_))), "{result:?}");
        });
    }

    #[test]
    fn of_too_many_programs_some_wait_for_their_turn() {
        run(async {
            let (sender, mut results) = mpsc::channel(8);
            let prober = Prober::with_places(sender, 1, 1);
            let folder = std::env::temp_dir().join(format!("pen-turns-{}", std::process::id()));
            // Whoever meets another one here fails.
            let script = format!("mkdir {0} && sleep 0.1 && rmdir {0}", folder.display());
            let words = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
            let exec = Arc::new(crate::config::Exec { words, user: "nobody".to_owned() });
            let target: SocketAddr = "192.0.2.1:80".parse().expect("literal");
            for serial in 0..4 {
                let probe = ProbeId { backend: 1, generation: 1, serial };
                let way = Way { target: target.into(), through: None };
                let kind = CheckKind::Exec(Arc::clone(&exec));
                prober.start(probe, kind, way, Duration::from_secs(30));
            }
            for _ in 0..4 {
                let result = results.recv().await;
                let outcome = match &result {
                    Some(Event::ProbeDone { outcome, .. }) => outcome,
                    other => panic!("{other:?}"),
                };
                assert_eq!(outcome, &Ok(()));
            }
        });
    }

    #[test]
    fn a_unix_socket_is_healthy_while_somebody_listens() {
        run(async {
            let name = format!("pen-probe-{}.sock", std::process::id());
            let path = std::env::temp_dir().join(name);
            let limit = Duration::from_secs(5);
            let gone = connect_unix(&path, limit).await;
            assert!(
                matches!(&gone, Err(ProbeError::System(text)) if text.contains("No such file")),
                "{gone:?}"
            );
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
            let socket = socket.expect("a socket");
            socket.bind(&socket2::SockAddr::unix(&path).expect("short")).expect("a free path");
            socket.listen(0).expect("a backlog of one");
            assert_eq!(connect_unix(&path, limit).await, Ok(()));
            let full = Err(ProbeError::Timeout(limit));
            assert_eq!(connect_unix(&path, limit).await, full);
            drop(socket);
            assert_eq!(connect_unix(&path, limit).await, Err(ProbeError::Refused));
            std::fs::remove_file(&path).expect("it was there");
        });
    }

    #[test]
    fn a_full_accept_queue_is_a_timeout() {
        run(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("socket");
            socket.bind(([127, 0, 0, 1], 0).into()).expect("bind");
            let listener = socket.listen(1).expect("listen");
            let target = listener.local_addr().expect("bound");
            let mut held = Vec::new();
            let limit = Duration::from_secs(1);
            while let Ok(Ok(stream)) = timeout(limit, TcpStream::connect(target)).await {
                held.push(stream);
                assert!(held.len() < 100, "the queue never fills");
            }
            assert_eq!(connect(target, limit).await, Err(ProbeError::Timeout(limit)));
        });
    }

    #[test]
    fn what_this_machine_lacks_is_not_the_backends_fault() {
        for (number, local) in
            [(Errno::EMFILE, true), (Errno::EADDRNOTAVAIL, true), (Errno::EHOSTUNREACH, false)]
        {
            assert_eq!(is_local(&std::io::Error::from_raw_os_error(number as i32)), local);
        }
    }

    #[test]
    fn an_error_of_the_system_is_told_in_its_words() {
        run(async {
            // Port 0 can be bound but not reached.
            let target = SocketAddr::from(([127, 0, 0, 1], 0));
            let outcome = connect(target, Duration::from_secs(5)).await;
            assert!(
                matches!(&outcome, Err(ProbeError::System(text)) if !text.is_empty())
                    || outcome == Err(ProbeError::Refused),
                "{outcome:?}"
            );
        });
    }
}
