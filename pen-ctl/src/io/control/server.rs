//! The daemon's half of the control interface. Nothing that a peer does can stall the daemon: the
//! number of connections, the size of a request, the time for its header, for the whole exchange
//! and for an idle connection are bounded, and the engine only ever sees whole valid requests. Nor
//! can it keep others out: one connection too many ends the oldest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, Group, chown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::route::{self, refuse};
use crate::api::{Refusal, Reply, Request};

/// Connections at a time. A question is answered within milliseconds, so that the oldest of so many
/// is idle.
const CONNECTIONS: usize = 32;
/// Bytes of a request's body.
const BODY_LIMIT: usize = 64 * 1024;
/// Bytes of a request's header.
const HEADER_LIMIT: usize = 16 * 1024;
/// Time for a request's header, which is also how long a connection may be idle.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Time for a request's body.
const BODY_TIME: Duration = Duration::from_secs(5);
/// A connection ends after this time in any case.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// A request on its way to the daemon's loop, with the way back.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
}

/// The control socket. Dropping it removes it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes it, for root and the group `pen` (if there is one) only.
    ///
    /// # Errors
    ///
    /// If another daemon listens on it, or the folder cannot be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: bind(path)?, path: path.to_owned() })
    }
}

impl Drop for Socket {
    /// While the listener still lives, so that nobody else can have taken the path meanwhile.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A typing error in the configuration must not cost a file.
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "is there and is no socket; give another [control] socket, or remove it",
        ));
    }
    // Only a socket that nobody listens on is a left-over.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another pend listens here; stop it first, or give this one another [control] \
                 socket",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // Under another name until its mode is right: nobody connects in between.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o660))?;
    let group = Group::from_name("pen").ok().flatten().map_or(Gid::from_raw(0), |group| group.gid);
    // A user who is not root keeps the socket to itself.
    let _ = chown(&new, None, Some(group));
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Serves the socket until `ending` becomes true; then what is under way is answered, and the socket
/// removed.
pub async fn serve(socket: Socket, calls: mpsc::Sender<Call>, mut ending: watch::Receiver<bool>) {
    // Oldest first.
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = end(&mut ending) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory: wait instead of spinning.
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (calls, ending) = (calls.clone(), ending.clone());
        open.push_back(tokio::spawn(async move {
            let _ = timeout(CONNECTION_TIME, connection(stream, calls, ending)).await;
        }));
    }
    for connection in open {
        // One that was aborted has ended as well.
        let _ = connection.await;
    }
}

/// Waits for the end.
async fn end(ending: &mut watch::Receiver<bool>) {
    // Without a daemon it is the end as well.
    let _ = ending.wait_for(|ending| *ending).await;
}

async fn connection(
    stream: UnixStream,
    calls: mpsc::Sender<Call>,
    mut ending: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let calls = calls.clone();
        async move {
            let (status, body) = match exchange(request, &calls).await {
                Ok(reply) => (StatusCode::OK, serde_json::to_vec(&reply)),
                Err((status, refusal)) => (
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                    serde_json::to_vec(&refusal),
                ),
            };
            let mut body = body.expect("plain data is JSON");
            body.push(b'\n');
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .expect("status and header are valid");
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
    );
    // What a peer does wrong ends its connection and nothing else; hyper has answered if it could.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = end(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn exchange(
    request: hyper::Request<Incoming>,
    calls: &mpsc::Sender<Call>,
) -> Result<Reply, (u16, Refusal)> {
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            let cure = format!("send at most {BODY_LIMIT} bytes");
            return Err(refuse(413, format!("the body cannot be read: {error}"), &cure));
        }
        Err(_elapsed) => {
            return Err(refuse(408, "the body did not come".to_owned(), "send it at once"));
        }
    };
    let query = head.uri.query().unwrap_or("");
    let request = route::parse(&head.method, head.uri.path(), query, &body)?;
    let patience = route::patience(&request);
    let (reply, answer) = oneshot::channel();
    let busy = |_| refuse(503, "the daemon is busy".to_owned(), "try again");
    calls.try_send(Call { request, reply }).map_err(|_| busy(()))?;
    match timeout(patience, answer).await {
        Ok(Ok(Ok(reply))) => Ok(reply),
        Ok(Ok(Err(refusal))) => Err((409, refusal)),
        Ok(Err(_)) | Err(_) => Err(busy(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("pen-control-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn bind_in_runtime(path: &Path) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async { bind(path).map(drop) })
    }

    #[test]
    fn the_end_comes_when_all_answers_are_given_and_takes_the_socket_along() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let folder = folder("end");
        let path = folder.join("pend.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let socket = Socket::bind(&path).expect("nobody is there");
            let (calls, mut asked) = mpsc::channel(4);
            let (ending, ended) = watch::channel(false);
            let server = tokio::spawn(serve(socket, calls, ended));
            // One that says nothing, and one that waits for its answer.
            let mut idle = UnixStream::connect(&path).await.expect("it listens");
            let mut peer = UnixStream::connect(&path).await.expect("it listens");
            let question = b"GET /v1/vips HTTP/1.1\r\nhost: pend\r\n\r\n";
            peer.write_all(question).await.expect("it reads");
            let call = asked.recv().await.expect("a question");
            ending.send_replace(true);
            assert!(!server.is_finished());
            call.reply.send(Ok(Reply::Vips(Vec::new()))).expect("somebody waits");
            server.await.expect("it ends");
            assert!(!path.exists());
            let (mut answer, mut nothing) = (String::new(), String::new());
            peer.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("[]\n"), "{answer}");
            idle.read_to_string(&mut nothing).await.expect("an end");
            assert_eq!(nothing, "");
        });
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = folder("file");
        let path = folder.join("pen.toml");
        fs::write(&path, "precious").expect("write");
        let error = bind_in_runtime(&path).expect_err("it is a file");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not() {
        let folder = folder("stale");
        let path = folder.join("pend.sock");
        bind_in_runtime(&path).expect("a new one");
        bind_in_runtime(&path).expect("nobody listens any more");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        fs::remove_file(&path).expect("clean up");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("listen");
        let error = bind_in_runtime(&path).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
