//! Probes backends. One short task per probe, bounded by its timeout; results go to the engine.

mod tunnel;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::engine::event::{Event, Outcome, ProbeError, ProbeId, Tunnel};

/// Starts a probe: is a TCP connection accepted, directly or through a tunnel? The result is sent as
/// [`Event::ProbeDone`].
pub fn start(
    events: mpsc::Sender<Event>,
    probe: ProbeId,
    address: IpAddr,
    port: u16,
    through: Option<Tunnel>,
    limit: Duration,
) {
    tokio::spawn(async move {
        let outcome = match through {
            Some(tunnel) => tunnel::connect(address, port, tunnel, limit).await,
            None => connect(SocketAddr::new(address, port), limit).await,
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
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Err(ProbeError::Refused),
        Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => Err(ProbeError::Timeout),
        Ok(Err(error)) if is_local(&error) => Err(ProbeError::Local(error.to_string())),
        Ok(Err(error)) => Err(ProbeError::System(error.to_string())),
        Err(_elapsed) => Err(ProbeError::Timeout),
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
