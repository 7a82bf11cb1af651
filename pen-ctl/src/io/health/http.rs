//! Asks a backend by HTTP/1.1: one request over a connection of its own.

use std::error::Error;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::Authority;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::tls::{self, Contexts};
use super::{Limit, Stream, Way, converse, failure};
use crate::config::{Endpoint, Http};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe;

/// Longest head of an answer.
const HEAD: usize = 64 * 1024;
/// So much of a body is searched.
const BODY: usize = 64 * 1024;
/// Tells a server's log who asks.
const AGENT: &str = concat!("pen/", env!("CARGO_PKG_VERSION"));

pub(super) async fn ask(http: &Http, way: &Way, limit: &Limit, known: &Contexts) -> Outcome {
    let stream = converse(way, limit).await?;
    let host = match &http.host {
        Some(host) => host.clone(),
        None => host_of(&way.target, http.tls.is_some()),
    };
    let talking = async {
        let stream: Box<dyn Stream> = match &http.tls {
            Some(tls) => {
                let name = http.host.as_deref().and_then(name_of);
                let name = name.unwrap_or_else(|| tls::host_of(&way.target));
                Box::new(known.agree(tls, &[b"http/1.1"], &name, stream).await?)
            }
            None => stream,
        };
        exchange(http, &host, stream).await
    };
    limit.wait(talking, ProbeError::Silent).await
}

/// The address, as a URI writes it.
fn host_of(target: &Endpoint, tls: bool) -> String {
    let usual = if tls { 443 } else { 80 };
    match target {
        Endpoint::Inet(SocketAddr::V4(at)) if at.port() == usual => at.ip().to_string(),
        Endpoint::Inet(SocketAddr::V6(at)) if at.port() == usual => format!("[{}]", at.ip()),
        Endpoint::Inet(at) => at.to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}

/// The name alone, without port and brackets.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    Some(authority.host().trim_matches(['[', ']']).to_owned())
}

async fn exchange(http: &Http, host: &str, stream: Box<dyn Stream>) -> Outcome {
    let mut request = Request::builder()
        .method(http.method.as_str())
        .uri(&http.path)
        .header(HOST, host)
        .header(CONNECTION, "close");
    if !http.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        request = request.header(USER_AGENT, AGENT);
    }
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| ProbeError::Local(error.to_string()))?;
    let connecting = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.map_err(|error| broken(&error))?;
    // It ends with the set.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status().as_u16();
    let wants_body = http.body.is_some() && http.expect.contains(status);
    let body = if wants_body { beginning(response).await? } else { Vec::new() };
    probe::http::judge(http, status, &body)
}

/// As much of the body as is searched.
async fn beginning(response: Response<Incoming>) -> Result<Vec<u8>, ProbeError> {
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while body.len() < BODY {
        let Some(frame) = incoming.frame().await else { break };
        let frame = frame.map_err(|error| broken(&error))?;
        body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    body.truncate(BODY);
    Ok(body)
}

/// What hyper found wrong, in the words of a probe.
fn broken(error: &hyper::Error) -> ProbeError {
    let system = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match system {
        Some(system) => failure(system),
        None if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() => {
            ProbeError::Answered {
                found: format!("something else ({error})"),
                expected: "HTTP/1.1".to_owned(),
            }
        }
        None if error.is_incomplete_message() || error.is_closed() => ProbeError::Closed,
        None => ProbeError::System(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Codes, Pattern};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// What a server that answers so gets to read, and what the probe makes of it.
    fn talk(http: Http, answer: &'static [u8], limit: Duration) -> (String, Outcome) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let target = listener.local_addr().expect("bound");
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a whole head"));
                }
                stream.write_all(answer).await.expect("a client that reads");
                if answer.is_empty() {
                    // Until the client has lost its patience.
                    let _ = stream.read_u8().await;
                }
                String::from_utf8(head).expect("text")
            });
            let outcome = {
                let way = Way { target: target.into(), through: None };
                ask(&http, &way, &Limit::of(limit), &Contexts::default()).await
            };
            let head = server.await.expect("it ended").replace(&target.to_string(), "TARGET");
            (head, outcome)
        })
    }

    fn get() -> Http {
        Http {
            method: "GET".to_owned(),
            path: "/up?full=1".to_owned(),
            host: None,
            headers: Vec::new(),
            expect: Codes::parse("200-399").expect("valid"),
            body: None,
            tls: None,
        }
    }

    #[test]
    fn the_request_is_what_was_configured() {
        let (head, outcome) = talk(get(), b"HTTP/1.1 204 No Content\r\n\r\n", PATIENCE);
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            head,
            format!(
                "GET /up?full=1 HTTP/1.1\r\nhost: TARGET\r\nconnection: close\r\n\
                 user-agent: {AGENT}\r\n\r\n"
            )
        );
        let headers = [("X-Token", "secret"), ("User-Agent", "me")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let host = Some("www.example".to_owned());
        let http = Http { method: "HEAD".to_owned(), host, headers, ..get() };
        let (head, outcome) = talk(http, b"HTTP/1.0 200 OK\r\n\r\n", PATIENCE);
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            head,
            "HEAD /up?full=1 HTTP/1.1\r\nhost: www.example\r\nconnection: close\r\n\
             x-token: secret\r\nuser-agent: me\r\n\r\n"
        );
    }

    #[test]
    fn each_wrong_answer_is_told_apart() {
        let with = |text: &str| Http { body: Some(Pattern::Text(text.to_owned())), ..get() };
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let refused = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
        for (http, answer, error) in [
            (with("ell"), &ok[..], None),
            (with("bye"), ok, Some(r#"answered 200 with "hello", expected a body with "bye""#)),
            (get(), refused, Some("answered 500, expected 200-399")),
            (get(), b"HTTP/1.1 200 O", Some("closed the connection without an answer")),
        ] {
            let (_, outcome) = talk(http, answer, PATIENCE);
            let found = outcome.err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error, "{answer:?}");
        }
        let (_, outcome) = talk(get(), b"220 mail ready\r\n", PATIENCE);
        let found = outcome.expect_err("no HTTP").to_string();
        assert!(found.contains("expected HTTP/1.1"), "{found}");
    }

    #[test]
    fn silence_after_the_request_is_told_apart_from_silence_before_it() {
        let limit = Duration::from_secs(1);
        let (_, outcome) = talk(get(), b"", limit);
        assert_eq!(outcome, Err(ProbeError::Silent(limit)));
    }

    #[test]
    fn a_long_body_is_searched_at_its_beginning() {
        let long: &'static [u8] = Box::leak(
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; 2 * BODY], b"end"].concat().into(),
        );
        let with = |text: &str| Http { body: Some(Pattern::Text(text.to_owned())), ..get() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            for (text, found) in [("xxx", true), ("end", false)] {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
                let target = listener.local_addr().expect("bound");
                tokio::spawn(async move {
                    let (mut stream, _) = listener.accept().await.expect("a client");
                    // It need not read all of it.
                    let _ = stream.write_all(long).await;
                });
                let way = Way { target: target.into(), through: None };
                let outcome =
                    ask(&with(text), &way, &Limit::of(PATIENCE), &Contexts::default()).await;
                assert_eq!(outcome.is_ok(), found, "{outcome:?}");
            }
        });
    }
}
