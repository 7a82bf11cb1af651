//! Asks a backend by HTTP/2, and servers of gRPC how they are.

use std::error::Error as _;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, TE, USER_AGENT};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::http::{AGENT, BODY, open};
use super::tls::Contexts;
use super::{Limit, Stream, Way, converse, failure};
use crate::config::Grpc;
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe::grpc::{self, Answer};

/// Of a connection over which a request was sent; it ends with this.
pub(super) type Tasks = JoinSet<hyper::Result<()>>;

/// Sends a request, of which the address has to be whole.
pub(super) async fn send(
    request: Request<Full<Bytes>>,
    stream: Box<dyn Stream>,
    tasks: &mut Tasks,
) -> Result<Response<Incoming>, ProbeError> {
    let connecting = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.map_err(|error| broken(&error))?;
    tasks.spawn(connection);
    sender.send_request(request).await.map_err(|error| broken(&error))
}

/// What hyper found wrong, in the words of a probe.
pub(super) fn broken(error: &hyper::Error) -> ProbeError {
    let source = error.source();
    if let Some(system) = source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        return failure(system);
    }
    let inner = source.and_then(|source| source.downcast_ref::<h2::Error>());
    match inner.map(|inner| (inner, inner.get_io())) {
        Some((_, Some(system))) => failure(system),
        Some((inner, None)) => ProbeError::Answered {
            found: format!("something else ({inner})"),
            expected: "HTTP/2".to_owned(),
        },
        None if error.is_closed() || error.is_canceled() => ProbeError::Closed,
        None => ProbeError::System(error.to_string()),
    }
}

/// Asks a server of gRPC.
pub(super) async fn ask(asked: &Grpc, way: &Way, limit: &Limit, known: &Contexts) -> Outcome {
    let stream = converse(way, limit).await?;
    let talking = async {
        let opened = open(asked.host.as_deref(), asked.tls.as_ref(), &[b"h2"], way, known, stream);
        let (host, stream) = opened.await?;
        let scheme = if asked.tls.is_some() { "https" } else { "http" };
        let request = Request::post(format!("{scheme}://{host}{}", grpc::PATH))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(Full::from(grpc::question(&asked.service)))
            .map_err(|error| ProbeError::Local(error.to_string()))?;
        let mut tasks = Tasks::new();
        let response = send(request, stream, &mut tasks).await?;
        grpc::judge(&answer(response).await?)
    };
    limit.wait(talking, ProbeError::Silent).await
}

async fn answer(response: Response<Incoming>) -> Result<Answer, ProbeError> {
    let mut answer = Answer { http: response.status().as_u16(), ..Answer::default() };
    // A failure has no body, and these fields in its head.
    note(&mut answer, response.headers());
    let mut incoming = response.into_body();
    while answer.body.len() < BODY {
        let Some(frame) = incoming.frame().await else { break };
        let frame = frame.map_err(|error| broken(&error))?;
        match frame.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => {
                if let Some(fields) = frame.trailers_ref() {
                    note(&mut answer, fields);
                }
            }
        }
    }
    Ok(answer)
}

fn note(answer: &mut Answer, fields: &HeaderMap) {
    let text = |name: &str| {
        fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    answer.status = text("grpc-status").or_else(|| answer.status.take());
    answer.message = text("grpc-message").or_else(|| answer.message.take());
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
