//! The clients. Each kind of load yields what was done within a window, and what the proxy's
//! processor time was for exactly that: the clock and the books are read at both ends of it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pen_tests::Netns;
use pen_tests::process::run;
use pen_tests::wait::Stopwatch;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::backend::{ANSWER, BULK, CLOSE, KEEP, read, write};
use super::secure::{Secure, settings};

/// Connections that are kept.
const KEPT: &str = "-c100";
/// Connections that are made at a time.
const MAKERS: u32 = 64;
/// Connections that move bulk.
const MOVERS: u32 = 4;
/// Connections that ask at a fixed rate, every other one directly, and how often each does: one of them
/// each millisecond, so that none waits for another one.
const ASKERS: u32 = 40;
const EVERY: Duration = Duration::from_millis(40);
/// Connections that do nothing, and those that open them.
pub(crate) const IDLE: u32 = 5000;
pub(crate) const IDLE_TLS: u32 = 2000;
const OPENERS: u32 = 20;
/// Bytes of a connection with TLS that are looked at; those after them are only counted, or the client
/// would need more time than the proxies.
const LOOKED_AT: usize = 1 << 20;
/// Before a window begins, as a part of it.
const WARM_UP: f64 = 0.2;
/// Beyond the time of a load.
const GRACE: Duration = Duration::from_secs(20);

/// What was done in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Requests, connections or bytes.
    pub(crate) done: f64,
    pub(crate) time: Duration,
    /// Of the proxy.
    pub(crate) cpu: Duration,
}

/// Reads the proxy's books.
pub(crate) type Books<'a> = &'a (dyn Fn() -> Result<Duration> + Sync);

/// Requests over kept connections, by wrk, whose cost per request is the least. It knows whole
/// seconds only.
pub(crate) fn requests(
    netns: &Netns,
    to: SocketAddr,
    time: f64,
    books: Books<'_>,
) -> Result<Window> {
    let seconds = Duration::from_secs_f64(time.ceil());
    let length = format!("-d{}s", seconds.as_secs());
    let mut wrk = netns.command("wrk");
    wrk.args(["-t1", KEPT, &length]).arg(format!("http://{to}/"));
    let before = books()?;
    let output = run(&mut wrk, seconds + GRACE)?;
    let cpu = books()? - before;
    let (done, seconds) = wrk_says(&output.stdout)
        .with_context(|| format!("wrk: {}\n{}{}", output.status, output.stdout, output.stderr))?;
    Ok(Window { done, time: Duration::from_secs_f64(seconds), cpu })
}

/// `  81923 requests in 2.00s, 3.28MB read`, unless something failed.
fn wrk_says(text: &str) -> Option<(f64, f64)> {
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    let (count, rest) = line.trim().split_once(" requests in ")?;
    let (seconds, _) = rest.split_once("s,")?;
    Some((count.parse().ok()?, seconds.parse().ok()?))
}

/// Connections with one request each, made one after the other by several clients.
pub(crate) fn connections(
    netns: &Netns,
    to: SocketAddr,
    time: f64,
    books: Books<'_>,
) -> Result<Window> {
    window(netns, MAKERS, |done| make(to, done), time, books)
}

async fn make(to: SocketAddr, done: Rc<Cell<f64>>) -> Result<()> {
    loop {
        let stream = TcpStream::connect(to).await?;
        write(&stream, CLOSE).await?;
        expect_answer(&stream).await?;
        ensure!(read(&stream, &mut [0]).await? == 0, "more than an answer");
        done.set(done.get() + 1.0);
    }
}

/// Bytes from the server, as fast as they come.
pub(crate) fn bulk(netns: &Netns, to: SocketAddr, time: f64, books: Books<'_>) -> Result<Window> {
    window(netns, MOVERS, |done| swallow(to, done), time, books)
}

async fn swallow(to: SocketAddr, done: Rc<Cell<f64>>) -> Result<()> {
    let stream = TcpStream::connect(to).await?;
    write(&stream, BULK).await?;
    count(&stream, &done).await
}

async fn count(stream: &TcpStream, done: &Cell<f64>) -> Result<()> {
    let mut bytes = vec![0; 256 * 1024];
    loop {
        let got = read(stream, &mut bytes).await?;
        ensure!(got > 0, "the stream ended");
        let got = u32::try_from(got).context("no more than asked for")?;
        done.set(done.get() + f64::from(got));
    }
}

/// Connections with TLS and one request each, made one after the other by several clients. Those that
/// resume have done one handshake in full before, and then use a ticket of the connection before.
pub(crate) fn handshakes(
    netns: &Netns,
    to: SocketAddr,
    time: f64,
    books: Books<'_>,
    resume: bool,
) -> Result<Window> {
    window(netns, MAKERS, |done| shake(to, resume, done), time, books)
}

async fn shake(to: SocketAddr, resume: bool, done: Rc<Cell<f64>>) -> Result<()> {
    let settings = settings(resume)?;
    let mut expected = HandshakeKind::Full;
    loop {
        let mut stream = Secure::ask(to, &settings, CLOSE).await?;
        ensure!(stream.kind() == Some(expected), "a handshake that is {:?}", stream.kind());
        stream.answer().await?;
        stream.end().await?;
        done.set(done.get() + 1.0);
        if resume {
            expected = HandshakeKind::Resumed;
        }
    }
}

/// Bytes from the server through TLS.
pub(crate) fn secure_bulk(
    netns: &Netns,
    to: SocketAddr,
    time: f64,
    books: Books<'_>,
) -> Result<Window> {
    window(netns, MOVERS, |done| swallow_secure(to, done), time, books)
}

async fn swallow_secure(to: SocketAddr, done: Rc<Cell<f64>>) -> Result<()> {
    let mut stream = Secure::ask(to, &settings(false)?, BULK).await?;
    stream.zeros(LOOKED_AT).await?;
    count(&stream.into_idle(), &done).await
}

/// Runs so many clients, and looks at what they do within a window. One that fails ends it.
fn window<C, F>(
    netns: &Netns,
    clients: u32,
    client: C,
    time: f64,
    books: Books<'_>,
) -> Result<Window>
where
    C: Fn(Rc<Cell<f64>>) -> F + Send,
    F: Future<Output = Result<()>> + 'static,
{
    inside(netns, async move || {
        let done = Rc::new(Cell::new(0.0));
        let failed = Rc::new(RefCell::new(None));
        for _ in 0..clients {
            let (client, failed) = (client(Rc::clone(&done)), Rc::clone(&failed));
            spawn_local(async move {
                if let Err(error) = client.await {
                    failed.borrow_mut().get_or_insert(error);
                }
            });
        }
        sleep(Duration::from_secs_f64(time * WARM_UP)).await;
        let (clock, cpu, before) = (Stopwatch::start(), books()?, done.get());
        sleep(Duration::from_secs_f64(time)).await;
        let (time, cpu, done) = (clock.elapsed(), books()? - cpu, done.get() - before);
        failed.take().map_or(Ok(Window { done, time, cpu }), Err)
    })
}

/// Microseconds that each request took, directly and through a proxy, at a fixed rate that is far from
/// any limit. Both at once: what the machine does meanwhile happens to both.
pub(crate) fn latencies(
    netns: &Netns,
    direct: SocketAddr,
    proxied: SocketAddr,
    time: f64,
) -> Result<[Vec<f64>; 2]> {
    inside(netns, async move || {
        let begin = Instant::now() + EVERY;
        let end = begin + Duration::from_secs_f64(time);
        let clients: Vec<_> = (0..ASKERS)
            .map(|number| {
                let to = if number % 2 == 0 { direct } else { proxied };
                spawn_local(ask(to, begin + EVERY * number / ASKERS, end))
            })
            .collect();
        let mut all = [Vec::new(), Vec::new()];
        for (number, client) in clients.into_iter().enumerate() {
            all[number % 2].extend(client.await.context("a client panicked")??);
        }
        Ok(all)
    })
}

/// Asks from one moment to another, and says how long each answer took.
async fn ask(to: SocketAddr, mut next: Instant, end: Instant) -> Result<Vec<f64>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // The first one pays for the connection of the proxy to its server.
    write(&stream, KEEP).await?;
    expect_answer(&stream).await?;
    let mut took = Vec::new();
    while next < end {
        sleep_until(next).await;
        next += EVERY;
        let clock = Stopwatch::start();
        write(&stream, KEEP).await?;
        expect_answer(&stream).await?;
        took.push(clock.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

/// Opens connections, uses each once, and looks at the proxy while they do nothing.
pub(crate) fn idle<T: Send>(
    netns: &Netns,
    to: SocketAddr,
    count: u32,
    tls: Option<&Arc<ClientConfig>>,
    look: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    inside(netns, async move || {
        let openers = (0..OPENERS).map(|number| {
            let tls = tls.cloned();
            spawn_local(async move {
                let mut open = Vec::new();
                for _ in (number..count).step_by(OPENERS as usize) {
                    open.push(use_once(to, tls.as_ref()).await?);
                }
                anyhow::Ok(open)
            })
        });
        let mut open = Vec::new();
        for opener in openers.collect::<Vec<_>>() {
            open.extend(opener.await.context("a client panicked")??);
        }
        look()
    })
}

async fn use_once(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<TcpStream> {
    if let Some(settings) = tls {
        let mut stream = Secure::ask(to, settings, KEEP).await?;
        stream.answer().await?;
        return Ok(stream.into_idle());
    }
    let stream = TcpStream::connect(to).await?;
    write(&stream, KEEP).await?;
    expect_answer(&stream).await?;
    Ok(stream)
}

async fn expect_answer(stream: &TcpStream) -> Result<()> {
    let mut answer = [0; ANSWER.len()];
    let mut length = 0;
    while length < answer.len() {
        let got = read(stream, &mut answer[length..]).await?;
        ensure!(got > 0, "the connection ended before the answer");
        length += got;
    }
    ensure!(answer == *ANSWER, "another answer");
    Ok(())
}

/// Runs clients on one thread in a namespace. What they have open when it ends is closed.
fn inside<T: Send>(netns: &Netns, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime: io::Result<_> = runtime;
        LocalSet::new().block_on(&runtime?, work())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_believed_only_if_nothing_failed() {
        let good = "  1 threads and 9 connections\n  81923 requests in 2.01s, 3.28MB read\n";
        assert_eq!(wrk_says(good), Some((81923.0, 2.01)));
        let bad = format!("{good}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert_eq!(wrk_says(&bad), None);
        assert_eq!(wrk_says("unable to connect"), None);
    }
}
