//! `penctl`'s half of the control interface.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::route;
use crate::api::{Refusal, Request};

/// An answer that takes so much longer than the daemon may take will not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens.
    Unreachable {
        /// The socket.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    Refused(Refusal),
    /// The connection broke, or something else than pend answered.
    Broken(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { socket, source } => {
                write!(f, "{socket}: {source}; is pend running? Name its socket with --socket")
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Broken(what) => write!(f, "no sensible answer from the daemon: {what}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A connection to the daemon.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    peer: Option<u32>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If nobody listens.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|source| {
            ClientError::Unreachable { socket: socket.display().to_string(), source }
        })?;
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // 0 is a process of another namespace.
        let peer = peer.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        Ok(Self { sender, peer })
    }

    /// The daemon's process, unless it lives where we cannot see it.
    #[must_use]
    pub fn peer(&self) -> Option<u32> {
        self.peer
    }

    /// Asks, and returns the answer's JSON.
    ///
    /// # Errors
    ///
    /// If the daemon refuses, or does not answer.
    pub async fn ask(&mut self, request: &Request) -> Result<Vec<u8>, ClientError> {
        let patience = route::patience(request) + PATIENCE;
        let (method, uri, body) = route::format(request);
        let request = hyper::Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "pend")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let answer = async {
            self.sender.ready().await.map_err(broken)?;
            let response = self.sender.send_request(request).await.map_err(broken)?;
            let success = response.status().is_success();
            let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
            if success {
                return Ok(body.to_vec());
            }
            Err(match serde_json::from_slice(&body) {
                Ok(refusal) => ClientError::Refused(refusal),
                Err(error) => broken(error),
            })
        };
        timeout(patience, answer).await.unwrap_or_else(|elapsed| Err(broken(elapsed)))
    }
}

fn broken(error: impl fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}
