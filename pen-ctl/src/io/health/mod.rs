//! Probes backends. One short task per probe, bounded by its timeout; results go to the engine.

mod tunnel;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::Endpoint;
use crate::engine::event::{Event, Outcome, ProbeError, ProbeId, Tunnel};

/// Starts a probe: is a TCP connection accepted, directly or through a tunnel? The result is sent as
/// [`Event::ProbeDone`].
pub fn start(
    events: mpsc::Sender<Event>,
    probe: ProbeId,
    target: Endpoint,
    through: Option<Tunnel>,
    limit: Duration,
) {
    tokio::spawn(async move {
        let outcome = match (through, &target) {
            (Some(tunnel), Endpoint::Inet(at)) => {
                tunnel::connect(at.ip(), at.port(), tunnel, limit).await
            }
            (None, Endpoint::Inet(at)) => connect(*at, limit).await,
            // Only proxies have them, which have no tunnels.
            (_, Endpoint::Unix(path)) => connect_unix(path.path(), limit).await,
        };
        // The loop is gone only when the daemon ends; then nobody waits for the result.
        let _ = events.send(Event::ProbeDone { probe, outcome }).await;
    });
}

async fn connect(target: SocketAddr, limit: Duration) -> Outcome {
    match timeout(limit, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => {
            // A reset instead of FIN: the backend's accept queue and our ports keep no trace of
            // thousands of probes.
            let _ = stream.set_zero_linger();
            Ok(())
        }
        Ok(Err(error)) => Err(failure(&error)),
        Err(_elapsed) => Err(ProbeError::Timeout),
    }
}

async fn connect_unix(path: &Path, limit: Duration) -> Outcome {
    match timeout(limit, UnixStream::connect(path)).await {
        Ok(Ok(_)) => Ok(()),
        // Whereas TCP would try for a while to get into a full queue, and time out.
        Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => Err(ProbeError::Timeout),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_elapsed) => Err(ProbeError::Timeout),
    }
}

fn failure(error: &std::io::Error) -> ProbeError {
    match error.kind() {
        ErrorKind::ConnectionRefused => ProbeError::Refused,
        ErrorKind::TimedOut => ProbeError::Timeout,
        _ if is_local(error) => ProbeError::Local(error.to_string()),
        _ => ProbeError::System(error.to_string()),
    }
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
            assert_eq!(connect_unix(&path, limit).await, Err(ProbeError::Timeout), "it is full");
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
            let limit = Duration::from_millis(200);
            while let Ok(Ok(stream)) = timeout(limit, TcpStream::connect(target)).await {
                held.push(stream);
                assert!(held.len() < 100, "the queue never fills");
            }
            assert_eq!(connect(target, limit).await, Err(ProbeError::Timeout));
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
