//! The server behind all proxies. It does as little as a server can, because it shares the cores with
//! what is measured: a fixed answer to a request, an answer and the end, or bytes for as long as the
//! client takes them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use pen_tests::Netns;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

/// Is answered, and the connection stays.
pub(crate) const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Is answered, and the connection ends.
pub(crate) const CLOSE: &[u8] = b"GET /close HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Is answered without end.
pub(crate) const BULK: &[u8] = b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n";
/// What a request gets.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbench";

/// As many as there are cores would get in the proxy's way no less, and answer no more.
const THREADS: usize = 2;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Written at once in bulk.
const CHUNK: usize = 256 * 1024;
/// Longest request.
const REQUEST: usize = 1024;

/// A running server; dropping it ends it.
pub(crate) struct Backend {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let (stop, stopped) = watch::channel(());
        let (mut address, mut threads) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Vec::new());
        for _ in 0..THREADS {
            let socket = netns.run(|| listen(address)).context("the backend cannot listen")?;
            address = socket.local_addr()?;
            let stopped = stopped.clone();
            threads.push(thread::spawn(move || {
                if let Err(error) = serve(socket, stopped) {
                    // Its clients then find nobody, which ends the measurement.
                    drop(error);
                }
            }));
        }
        Ok(Self { address, stop: Some(stop), threads })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // It does not panic, and if it did, there is nothing more to end.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn serve(socket: std::net::TcpListener, mut stopped: watch::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(socket)?;
        let chunk: Arc<[u8]> = vec![0; CHUNK].into();
        loop {
            tokio::select! {
                // Only ever closed.
                _ = stopped.changed() => return Ok(()),
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    let chunk = Arc::clone(&chunk);
                    // An error is the client's end.
                    spawn_local(async move { talk(&client, &chunk).await.ok() });
                },
            }
        }
    })
}

async fn talk(client: &TcpStream, chunk: &[u8]) -> io::Result<()> {
    let mut request = [0; REQUEST];
    let mut length = 0;
    loop {
        let got = read(client, &mut request[length..]).await?;
        if got == 0 {
            return Ok(());
        }
        length += got;
        if !request[..length].ends_with(b"\r\n\r\n") {
            continue;
        }
        if request.starts_with(b"GET /bulk") {
            loop {
                write(client, chunk).await?;
            }
        }
        write(client, ANSWER).await?;
        if request.starts_with(b"GET /close") {
            return Ok(());
        }
        length = 0;
    }
}

/// Reads what there is; waits if there is nothing.
pub(crate) async fn read(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.try_read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            result => return result,
        }
    }
}

/// Writes all of it.
pub(crate) async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
