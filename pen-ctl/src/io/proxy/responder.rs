//! Answers clients that come without TLS, as `engine::proxy::redirect` decides. Each connection has one
//! answer and a deadline, and one too many ends the oldest: who only holds them open keeps nobody out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::config::Responder as Config;
use crate::engine::proxy::redirect::{self, Answer, Asked, CHALLENGES};

/// Connections at a time, on each address.
const CONNECTIONS: usize = 256;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 8 * 1024;
/// Time for a request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A connection ends after this time in any case.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// From one attempt to the next, where somebody else listens, or accepting fails.
const RETRY: Duration = Duration::from_secs(1);
/// Longest file that is served. They have some hundred bytes.
const LONGEST: u64 = 4096;

/// Listens where it is wanted. Dropping it ends that.
#[derive(Debug, Default)]
pub(super) struct Responder {
    shared: Arc<Shared>,
    listening: HashMap<SocketAddr, JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    config: Mutex<Option<Arc<Config>>>,
    /// Addresses that are not to be had, and why.
    deaf: Mutex<BTreeMap<SocketAddr, String>>,
    counts: [AtomicU64; NAMES.len()],
}

/// What is counted.
#[derive(Clone, Copy)]
enum Count {
    Redirected,
    Challenges,
    Refused,
    Crowded,
}

/// By [`Count`]: its name, and what it says.
const NAMES: [(&str, &str); 4] = [
    ("responder-redirected", "Requests without TLS that were sent to where it is."),
    ("responder-challenges", "Challenges of authorities that were answered from a file."),
    ("responder-refused", "Requests without TLS that were not understood, or for no such file."),
    ("responder-crowded", "Connections without TLS that were ended because of too many others."),
];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Responder {
    /// Does as it is wanted now; has to be called within a runtime if there is something to do.
    pub(super) fn follow(&mut self, wanted: Option<&Config>) {
        if lock(&self.shared.config).as_deref() == wanted {
            return;
        }
        *lock(&self.shared.config) = wanted.cloned().map(Arc::new);
        let addresses = wanted.map_or(&[][..], |wanted| &wanted.listen);
        self.listening.retain(|at, task| {
            let stays = addresses.contains(at);
            if !stays {
                task.abort();
                lock(&self.shared.deaf).remove(at);
            }
            stays
        });
        for at in addresses {
            let task = || tokio::spawn(serve(*at, Arc::clone(&self.shared)));
            self.listening.entry(*at).or_insert_with(task);
        }
    }

    /// What the operator should look after.
    pub(super) fn warnings(&self) -> Vec<String> {
        let deaf = lock(&self.shared.deaf);
        deaf.iter().map(|(at, why)| format!("responder: {at}: {why}")).collect()
    }

    /// Each with its name and what it says, if there is something that counts.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let counts = self.shared.counts.iter().map(|count| count.load(Relaxed));
        let all = NAMES.iter().zip(counts).map(|((name, reason), count)| (*name, *reason, count));
        all.filter(|_| !self.listening.is_empty())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.listening.values().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Relaxed);
    }
}

/// Connections, the oldest first. Dropping it ends them.
#[derive(Default)]
struct Open(VecDeque<JoinHandle<()>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(at: SocketAddr, shared: Arc<Shared>) {
    let listener = listener(at, &shared).await;
    let mut open = Open::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors or memory: wait instead of spinning.
            sleep(RETRY).await;
            continue;
        };
        open.0.retain(|connection| !connection.is_finished());
        if open.0.len() >= CONNECTIONS
            && let Some(oldest) = open.0.pop_front()
        {
            oldest.abort();
            shared.count(Count::Crowded);
        }
        let shared = Arc::clone(&shared);
        open.0.push_back(tokio::spawn(async move {
            let _ = timeout(CONNECTION_TIME, connection(stream, &shared)).await;
        }));
    }
}

/// Listens as soon as the address is to be had: a daemon that ends may have it for a moment.
async fn listener(at: SocketAddr, shared: &Shared) -> TcpListener {
    loop {
        match listen(at).and_then(TcpListener::from_std) {
            Ok(listener) => {
                lock(&shared.deaf).remove(&at);
                return listener;
            }
            Err(error) => {
                if lock(&shared.deaf).insert(at, error.to_string()).is_none() {
                    tracing::warn!("responder: {at}: {error}; it is tried again");
                }
            }
        }
        sleep(RETRY).await;
    }
}

fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Virtual addresses come and go.
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One request, and its answer.
async fn connection(stream: TcpStream, shared: &Shared) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(respond(&request, shared).await)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // What is no request hyper has answered, if it could.
    if served.is_err_and(|error| error.is_parse()) {
        shared.count(Count::Refused);
    }
}

async fn respond(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let config = lock(&shared.config).clone();
    let answer = config.as_ref().map_or(Answer::NotFound, |config| {
        let uri = request.uri();
        let mut hosts = request.headers().get_all(HOST).iter();
        // Of two nobody knows which one is meant.
        let host = hosts.next().filter(|_| hosts.next().is_none());
        let host = host.and_then(|host| host.to_str().ok());
        let authority = uri.authority().map_or(host, |authority| Some(authority.as_str()));
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let asked = Asked { method: request.method().as_str(), authority, path };
        redirect::answer(&asked, config.https_port, config.webroot.is_some())
    });
    let mut response = Response::new(Full::default());
    let (what, status) = match answer {
        Answer::Redirect(status, to) => match to.parse() {
            Ok(to) => {
                response.headers_mut().insert(LOCATION, to);
                (Count::Redirected, StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND))
            }
            Err(_) => (Count::Refused, StatusCode::BAD_REQUEST),
        },
        Answer::Challenge(token) => match challenge(config, token).await {
            Some(bytes) => {
                *response.body_mut() = Full::new(bytes.into());
                let kind = hyper::header::HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                (Count::Challenges, StatusCode::OK)
            }
            None => (Count::Refused, StatusCode::NOT_FOUND),
        },
        Answer::NotFound => (Count::Refused, StatusCode::NOT_FOUND),
        Answer::Bad => (Count::Refused, StatusCode::BAD_REQUEST),
    };
    shared.count(what);
    *response.status_mut() = status;
    response
}

async fn challenge(config: Option<Arc<Config>>, token: String) -> Option<Vec<u8>> {
    let work = move || read(config?.webroot.as_deref()?, &token).ok();
    spawn_blocking(work).await.ok().flatten()
}

/// Reads a file among the challenges: nothing that a link leads to, and nothing but a short file.
fn read(webroot: &Path, token: &str) -> io::Result<Vec<u8>> {
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(webroot, folder, Mode::empty())?;
    let how = OpenHow::new()
        // A pipe would let us wait.
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(&folder, &*format!("{CHALLENGES}/{token}"), how)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_short_files_of_the_folder_itself_are_read() {
        let root = std::env::temp_dir().join(format!("pen-responder-{}", std::process::id()));
        let folder = root.join(CHALLENGES);
        fs::create_dir_all(folder.join("folder")).expect("a folder");
        fs::write(root.join("secret"), "secret").expect("write");
        fs::write(folder.join("good"), "good").expect("write");
        fs::write(folder.join("long"), vec![b'a'; 5000]).expect("write");
        symlink("../../secret", folder.join("link")).expect("a link");
        symlink("good", folder.join("near")).expect("a link");
        nix::unistd::mkfifo(&folder.join("pipe"), Mode::S_IRWXU).expect("a pipe");
        assert_eq!(read(&root, "good").expect("a file"), b"good");
        for name in ["long", "link", "near", "folder", "pipe", "absent"] {
            assert!(read(&root, name).is_err(), "{name}");
        }
        fs::remove_dir_all(root).expect("clean up");
    }
}
