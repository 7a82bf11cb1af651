//! All servers that are asked: one socket, which any address of 127.0.0.0/8 leads to. It answers as
//! little as a server can, and notes when each address was asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use pen_tests::Netns;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::INTERVAL;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8192;

#[derive(Default)]
struct Book {
    /// How often each was asked, and when last.
    asked: HashMap<IpAddr, (u32, Instant)>,
    /// What [`Target::take`] returns.
    late: Vec<f64>,
}

impl Book {
    fn note(&mut self, address: IpAddr, now: Instant) {
        let (count, last) = self.asked.entry(address).or_insert((0, now));
        if *count > 0 {
            let gap = now.duration_since(*last).as_secs_f64() - INTERVAL.as_secs_f64();
            self.late.push(1000.0 * gap);
        }
        (*count, *last) = (*count + 1, now);
    }
}

/// The servers; dropping it ends them.
pub(crate) struct Target {
    /// Where they listen.
    pub(crate) port: u16,
    book: Arc<Mutex<Book>>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(listen).context("the servers cannot listen")?;
        let port = socket.local_addr()?.port();
        let (stop, stopped) = watch::channel(());
        let book = Arc::new(Mutex::new(Book::default()));
        let thread = thread::spawn({
            let book = Arc::clone(&book);
            move || {
                if let Err(error) = serve(socket, stopped, &book) {
                    // Nobody is asked then, which ends the measurement.
                    drop(error);
                }
            }
        });
        Ok(Self { port, book, stop: Some(stop), thread: Some(thread) })
    }

    /// Addresses that were asked so often at least.
    pub(crate) fn asked(&self, often: u32) -> usize {
        self.with(|book| book.asked.values().filter(|(count, _)| *count >= often).count())
    }

    /// Begins anew, for another program.
    pub(crate) fn forget(&self) {
        self.with(|book| *book = Book::default());
    }

    /// Of each check since the last time: milliseconds by which it came later after the one before than
    /// the interval, below zero if it came sooner.
    pub(crate) fn take(&self) -> Vec<f64> {
        self.with(|book| std::mem::take(&mut book.late))
    }

    fn with<T>(&self, what: impl FnOnce(&mut Book) -> T) -> T {
        what(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, there is nothing more to end.
            let _ = thread.join();
        }
    }
}

fn listen() -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn serve(
    socket: std::net::TcpListener,
    mut stopped: watch::Receiver<()>,
    book: &Mutex<Book>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(socket)?;
        loop {
            tokio::select! {
                // Only ever closed.
                _ = stopped.changed() => return Ok(()),
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    let now = Instant::now();
                    // One that was reset already has no address, and was asked all the same.
                    if let Ok(at) = client.local_addr() {
                        book.lock().unwrap_or_else(PoisonError::into_inner).note(at.ip(), now);
                    }
                    spawn_local(answer(client));
                },
            }
        }
    })
}

/// Answers a request, if there is one.
async fn answer(mut client: TcpStream) {
    let mut request = [0; 1024];
    if client.read(&mut request).await.is_ok_and(|length| length > 0) {
        // An error is the client's end.
        let _ = client.write_all(ANSWER).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_check_is_late_by_what_lies_between_beyond_the_interval() {
        let mut book = Book::default();
        let (first, now) = (IpAddr::from([127, 0, 1, 1]), Instant::now());
        for millis in [0, 1000, 2250] {
            book.note(first, now + Duration::from_millis(millis));
        }
        book.note(IpAddr::from([127, 0, 1, 2]), now);
        let late: Vec<_> = book.late.iter().map(|late| late.round()).collect();
        assert_eq!(late, [0.0, 250.0]);
    }
}
