//! Asks a backend by a datagram, directly or through the tunnel.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::tunnel::Datagrams;
use super::{Limit, Way, failure};
use crate::config::Exchange;
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe;

/// Longest answer that is read.
const ANSWER: usize = 64 * 1024;

pub(super) async fn ask(exchange: &Exchange, way: &Way, limit: &Limit) -> Outcome {
    let talk = |answer: &[u8]| Some(probe::udp::judge(exchange, answer));
    converse(&exchange.send, way, limit, talk).await
}

/// Sends a datagram, and judges what comes back until something is an answer.
pub(super) async fn converse(
    question: &[u8],
    way: &Way,
    limit: &Limit,
    judge: impl Fn(&[u8]) -> Option<Outcome>,
) -> Outcome {
    let silence = match way.through {
        Some(_) => |_| ProbeError::NoTunnelAnswer,
        None => ProbeError::Timeout,
    };
    let talking = async {
        let socket = Socket::open(way).await?;
        socket.send(question).await?;
        let mut answer = vec![0; ANSWER];
        loop {
            let length = socket.receive(&mut answer).await?;
            if let Some(outcome) = judge(&answer[..length]) {
                return outcome;
            }
        }
    };
    limit.wait(talking, silence).await
}

/// What sends datagrams to a backend, and hears its answers.
enum Socket {
    Direct(UdpSocket),
    Tunnel(Datagrams),
}

impl Socket {
    async fn open(way: &Way) -> Result<Self, ProbeError> {
        let target = way.address()?;
        match way.through {
            Some(tunnel) => Datagrams::open(target, tunnel).map(Self::Tunnel),
            None => direct(target).await.map(Self::Direct),
        }
        .map_err(|error| failure(&error))
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), ProbeError> {
        match self {
            Self::Direct(socket) => socket.send(bytes).await.map(drop),
            Self::Tunnel(socket) => socket.send(bytes),
        }
        .map_err(|error| failure(&error))
    }

    async fn receive(&self, buffer: &mut [u8]) -> Result<usize, ProbeError> {
        match self {
            Self::Direct(socket) => socket.recv(buffer).await,
            Self::Tunnel(socket) => socket.receive(buffer).await,
        }
        .map_err(|error| failure(&error))
    }
}

async fn direct(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Pattern;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test)
    }

    fn ping() -> Exchange {
        Exchange { send: b"ping".to_vec(), expect: Some(Pattern::Text("pong".to_owned())) }
    }

    #[test]
    fn a_server_is_asked_as_configured_and_has_to_answer_so() {
        run(async {
            let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
            let target = server.local_addr().expect("bound").into();
            let way = Way { target, through: None };
            let limit = Limit::of(Duration::from_secs(30));
            for (answer, right) in [("pong", true), ("no", false)] {
                let serve = async {
                    let mut question = [0; 16];
                    let (length, client) = server.recv_from(&mut question).await.expect("asked");
                    assert_eq!(&question[..length], b"ping");
                    server.send_to(answer.as_bytes(), client).await.expect("answered");
                };
                let ping = ping();
                let (outcome, ()) = tokio::join!(ask(&ping, &way, &limit), serve);
                assert_eq!(outcome.is_ok(), right, "{outcome:?}");
            }
        });
    }

    #[test]
    fn a_closed_port_refuses_and_a_silent_server_is_silent() {
        run(async {
            let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
            let target = server.local_addr().expect("bound").into();
            let way = Way { target, through: None };
            let short = Duration::from_secs(1);
            let silent = ask(&ping(), &way, &Limit::of(short)).await;
            assert_eq!(silent, Err(ProbeError::Timeout(short)));
            drop(server);
            let refused = ask(&ping(), &way, &Limit::of(Duration::from_secs(30))).await;
            assert_eq!(refused, Err(ProbeError::Refused));
        });
    }
}
