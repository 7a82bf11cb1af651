//! Servers of HTTP/2 that answer as they are told to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::tls::tests::Authority;
use super::*;
use crate::config::{Codes, Http, HttpVersion, ProbeTls};

const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

/// Answers one connection: `/up` with 204, the health of `well` as serving, of `ill` as not serving and
/// of others as unknown. Says who was asked for.
async fn serve(stream: Box<dyn Stream>) {
    let answer = service_fn(|request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.expect("a whole request").to_bytes();
        let response = Response::builder();
        let response = match path.as_str() {
            "/up" => response.status(204).body(Full::default().boxed()),
            grpc::PATH => {
                let status = match body.get(7..) {
                    Some(b"well") => 1,
                    Some(b"ill") => 2,
                    _ => {
                        let response = response.header("grpc-status", "5");
                        let response = response.header("grpc-message", "unknown service");
                        return Ok(response.body(Full::default().boxed()).expect("valid"));
                    }
                };
                let mut fields = HeaderMap::new();
                fields.insert("grpc-status", "0".parse().expect("valid"));
                let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
                let fields = std::future::ready(Some(Ok(fields)));
                response.body(body.with_trailers(fields).boxed())
            }
            _ => response.status(404).body(Full::default().boxed()),
        };
        Ok::<_, Infallible>(response.expect("valid"))
    });
    // It ends when the client has what it wanted.
    let _ = server::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// What a probe finds where a connection is treated so.
async fn against<S: Future<Output = ()> + Send + 'static>(
    treat: impl FnOnce(tokio::net::TcpStream) -> S + Send + 'static,
    probe: impl AsyncFnOnce(Way) -> Outcome,
) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let target = listener.local_addr().expect("bound").into();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        treat(stream).await;
    });
    probe(Way { target, through: None }).await.err().map(|error| error.to_string())
}

async fn health(asked: &Grpc, way: Way) -> Outcome {
    ask(asked, &way, &Limit::of(PATIENCE), &Contexts::default()).await
}

async fn page(http: &Http, way: Way) -> Outcome {
    super::super::http::ask(http, &way, &Limit::of(PATIENCE), &Contexts::default()).await
}

fn of(service: &str) -> Grpc {
    Grpc { service: service.to_owned(), host: None, tls: None }
}

fn get(path: &str) -> Http {
    Http {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: None,
        headers: Vec::new(),
        expect: Codes::parse("200-399").expect("valid"),
        body: None,
        tls: None,
        version: HttpVersion::Two,
    }
}

#[test]
fn a_service_has_to_say_that_it_serves() {
    run(async {
        for (service, error) in [
            ("well", None),
            ("ill", Some("answered NOT_SERVING, expected SERVING")),
            ("none", Some("answered NOT_FOUND with \"unknown service\", expected SERVING")),
        ] {
            let serve = |stream| serve(Box::new(stream));
            let found = against(serve, async |way| health(&of(service), way).await).await;
            assert_eq!(found.as_deref(), error);
        }
    });
}

#[test]
fn http_2_is_asked_with_and_without_tls() {
    run(async {
        let error = Some("answered 404, expected 200-399");
        for (path, error) in [("/up", None), ("/nowhere", error)] {
            let plain = |stream| serve(Box::new(stream));
            let found = against(plain, async |way| page(&get(path), way).await).await;
            assert_eq!(found.as_deref(), error);
            let mut settings = Authority::new("http2").server(&["a.example"], [-1, 9]);
            settings.alpn_protocols = vec![b"h2".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(settings));
            let secure = async move |stream| {
                serve(Box::new(acceptor.accept(stream).await.expect("an agreement"))).await;
            };
            let http = Http { tls: Some(ProbeTls::default()), ..get(path) };
            let found = against(secure, async |way| page(&http, way).await).await;
            assert_eq!(found.as_deref(), error);
        }
    });
}

#[test]
fn what_is_no_http_2_is_told_apart() {
    run(async {
        let old = async |mut stream: tokio::net::TcpStream| {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let found = against(old, async |way| page(&get("/up"), way).await).await;
        let found = found.expect("it is none");
        assert!(found.starts_with("answered something else ("), "{found}");
        assert!(found.ends_with("), expected HTTP/2"), "{found}");
        let settings = Authority::new("no-http2").server(&["a.example"], [-1, 9]);
        let acceptor = TlsAcceptor::from(Arc::new(settings));
        let secure = async move |stream| {
            // The client leaves as soon as it knows.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        };
        let asked = Grpc { tls: Some(ProbeTls::default()), ..of("well") };
        let found = against(secure, async |way| health(&asked, way).await).await;
        assert_eq!(found.as_deref(), Some("answered TLS without HTTP/2, expected HTTP/2"));
        let closed = async |mut stream: tokio::net::TcpStream| {
            // The beginning of any connection of HTTP/2, and the settings after it.
            let _ = stream.read_exact(&mut [0; 24]).await;
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let found = against(closed, async |way| health(&of("well"), way).await).await;
        assert_eq!(found.as_deref(), Some("closed the connection without an answer"));
    });
}
