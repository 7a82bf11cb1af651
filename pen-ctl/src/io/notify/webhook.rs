//! Tells a server: one request of HTTP/1.1 over a connection of its own.

use std::sync::Arc;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Told, json};
use crate::config::Webhook;
use crate::config::tls::material;
use crate::io::cause::chain;

/// Longest head of an answer.
const HEAD: usize = 64 * 1024;

pub(super) async fn tell(webhook: &Webhook, told: &Told<'_>) -> Result<(), String> {
    let connecting = TcpStream::connect((webhook.host.as_str(), webhook.port));
    let stream = connecting.await.map_err(|error| format!("{}: {error}", webhook.authority))?;
    if !webhook.tls {
        return post(webhook, told, stream).await;
    }
    let name = ServerName::try_from(webhook.host.clone()).map_err(|error| error.to_string())?;
    // Messages are seldom; a file that has changed is read.
    let connector = TlsConnector::from(Arc::new(client(webhook)?));
    let agreeing = connector.connect(name, stream);
    let stream = agreeing.await.map_err(|error| format!("{}: {error}", webhook.authority))?;
    post(webhook, told, stream).await
}

fn client(webhook: &Webhook) -> Result<ClientConfig, String> {
    let roots = material::server_roots(webhook.ca.as_deref());
    let roots = roots.map_err(|problem| problem.to_string())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(material::provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn post(
    webhook: &Webhook,
    told: &Told<'_>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(), String> {
    let request = Request::post(&webhook.path)
        .header(HOST, &webhook.authority)
        .header(USER_AGENT, concat!("pen/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(json(told))));
    let request = request.map_err(|error| error.to_string())?;
    let broken = |error: hyper::Error| format!("{}: {}", webhook.authority, chain(&error));
    let connecting = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.map_err(broken)?;
    // The connection ends with it.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let status = sender.send_request(request).await.map_err(broken)?.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("{} answered {}", webhook.authority, status.as_u16())),
    }
}
