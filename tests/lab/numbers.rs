//! Numbered datagrams at a steady pace, and who received which: nothing that happens to the daemon may
//! lose or double a single one.
//!
//! The pace is held back while too many are under way, so that a busy machine, which lets a receiver
//! wait, does not overrun the rings of the lab's wires: what is lost then would not be pen's fault.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    Netns,
    client::UdpTalk,
    wait::{Stopwatch, pace},
    wait_until,
};

/// Ends of flows from the client; each has a port of its own.
const FLOWS_EACH: usize = 20;
/// Datagrams that may be under way: less than half of what a ring of veth holds (256).
const WINDOW: u32 = 100;
/// Who waits longer for one of them goes on: it is lost.
const LOST: Duration = Duration::from_millis(500);
/// How long the last ones may take.
const LAST: Duration = Duration::from_secs(3);
const LISTEN: Duration = Duration::from_millis(20);

/// What became of the datagrams.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were sent.
    pub sent: u32,
    /// The numbers that nobody received.
    pub lost: Vec<u32>,
    /// The numbers that were received more than once.
    pub doubled: Vec<u32>,
    /// Sent in a second, on average.
    pub per_second: f64,
}

/// Sends numbered datagrams to all of `servers` in turn, `per_second` of them altogether, from before
/// `during` until after it, and at least so many. All backends listen on these addresses, and do not answer.
pub fn while_counting<T>(
    client: &Netns,
    backends: &[Netns],
    servers: &[SocketAddr],
    per_second: u32,
    least: u32,
    during: impl FnOnce() -> T,
) -> Result<(T, Report)> {
    let mut sockets = Vec::new();
    for backend in backends {
        for server in servers {
            let socket = backend.run(|| UdpSocket::bind(server))?;
            socket.set_read_timeout(Some(LISTEN))?;
            sockets.push(socket);
        }
    }
    let flows = servers.iter().flat_map(|server| (0..FLOWS_EACH).map(move |_| *server));
    let flows: Vec<UdpTalk> =
        flows.map(|server| UdpTalk::open(client, server)).collect::<io::Result<_>>()?;
    let (stop, over, arrived) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(0));
    let (stop, over, arrived) = (&stop, &over, &arrived);
    thread::scope(|scope| {
        let receivers: Vec<_> = sockets
            .iter()
            .map(|socket| scope.spawn(move || receive(socket, over, arrived)))
            .collect();
        let sender = scope.spawn(move || send(&flows, per_second, least, stop, arrived));
        // A panic must reach the end of the scope, where all threads have to have ended.
        let result = catch_unwind(AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or_else(|cause| resume_unwind(cause));
        if let Ok((sent, _)) = sent {
            // Those that do not come are reported below.
            let _ = wait_until(LAST, "all datagrams have arrived", || {
                (arrived.load(Ordering::Relaxed) >= sent).then_some(())
            });
        }
        over.store(true, Ordering::Relaxed);
        let mut numbers = Vec::new();
        for receiver in receivers {
            numbers.extend(receiver.join().unwrap_or_else(|cause| resume_unwind(cause)));
        }
        let (sent, per_second) = sent?;
        let result = result.unwrap_or_else(|cause| resume_unwind(cause));
        Ok((result, Report { per_second, ..report(sent, &numbers)? }))
    })
}

fn receive(socket: &UdpSocket, over: &AtomicBool, arrived: &AtomicU32) -> Vec<u32> {
    let (mut numbers, mut datagram) = (Vec::new(), [0; 64]);
    while !over.load(Ordering::Relaxed) {
        // The end of its patience, in order to look whether it is over.
        let Ok(length) = socket.recv(&mut datagram) else { continue };
        if let Ok(number) = datagram[..length].try_into() {
            numbers.push(u32::from_be_bytes(number));
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    numbers
}

/// How many were sent, and how many in a second.
fn send(
    flows: &[UdpTalk],
    per_second: u32,
    least: u32,
    stop: &AtomicBool,
    arrived: &AtomicU32,
) -> io::Result<(u32, f64)> {
    let clock = Stopwatch::start();
    let (mut sent, mut given_up) = (0_u32, 0_u32);
    for flow in flows.iter().cycle() {
        if stop.load(Ordering::Relaxed) && sent >= least {
            break;
        }
        // By the clock, not by the pause, and not for less than a pause can be.
        let due = Duration::from_secs_f64(f64::from(sent) / f64::from(per_second));
        let early = due.saturating_sub(clock.elapsed());
        if early > Duration::from_millis(1) {
            pace(early);
        }
        let arrived = || arrived.load(Ordering::Relaxed);
        let waiting = Stopwatch::start();
        while sent.saturating_sub(arrived() + given_up) >= WINDOW {
            pace(Duration::from_micros(100));
            if waiting.elapsed() > LOST {
                given_up = sent.saturating_sub(arrived());
            }
        }
        flow.send(&sent.to_be_bytes())?;
        sent += 1;
    }
    Ok((sent, f64::from(sent) / clock.elapsed().as_secs_f64()))
}

fn report(sent: u32, numbers: &[u32]) -> Result<Report> {
    let mut times = vec![0_u8; usize::try_from(sent)?];
    for number in numbers {
        match times.get_mut(usize::try_from(*number)?) {
            Some(times) => *times = times.saturating_add(1),
            None => bail!("{number} was received and never sent"),
        }
    }
    let with = |wanted: fn(u8) -> bool| {
        let numbers = (0_u32..).zip(&times).filter(|(_, times)| wanted(**times));
        numbers.map(|(number, _)| number).collect()
    };
    Ok(Report {
        sent,
        lost: with(|times| times == 0),
        doubled: with(|times| times > 1),
        per_second: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_and_what_is_doubled_is_told_by_number() {
        let report = report(5, &[4, 0, 2, 2]).unwrap();
        assert_eq!((report.sent, report.lost, report.doubled), (5, vec![1, 3], vec![2]));
        super::report(2, &[2]).expect_err("it was never sent");
    }
}
