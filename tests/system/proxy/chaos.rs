//! Servers that die and come back, connections that are reset, descriptors that run out, all at once:
//! afterwards everything is as before, and no byte was wrong.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use pen_tests::{Host, process::run_ok, wait::Stopwatch, wait::pace, wait_until};

use super::data::{noise, resident};
use super::{LONG, Server, connect, lab, name_at, unchecked};
use crate::effort;
use crate::stage::WEB;

fn server(host: &Host) -> Server {
    Server::named(&host.netns, (host.v4.into(), 80), &host.name)
}

/// When there are no descriptors for a moment, in parts of the whole time.
const STARVED: [f64; 2] = [0.2, 0.6];
/// By how much memory may grow after the first quarter: whoever leaks, leaks more in ten minutes.
const MEMORY: usize = 4 << 20;

/// So many files may a process have open.
fn limit(pid: u32, files: usize) {
    let files = format!("--nofile={files}:20000");
    run_ok(Command::new("prlimit").args(["--pid", &pid.to_string(), &files])).unwrap();
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn after_all_kinds_of_trouble_nothing_is_left_and_no_byte_was_wrong() {
    let lab = lab(2);
    let mut servers: Vec<Server> = lab.backends.iter().map(server).collect();
    let pend = unchecked(&lab, "scheduler = \"random\"\neject = \"50ms\"");
    let pid = pend.pid().unwrap();
    let client = &lab.client().netns;
    name_at(&connect(client, WEB).unwrap()).unwrap();
    let baseline = descriptors(pid);
    let time = effort::time().unwrap_or(Duration::from_secs(7));
    let mut early = 0;
    let (over, served, broken) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for number in 0..6_u64 {
            let (over, served, broken) = (&over, &served, &broken);
            scope.spawn(move || {
                let mut round = number;
                while !over.load(Relaxed) {
                    round += 6;
                    match visit(client, round) {
                        Ok(()) => served.fetch_add(1, Relaxed),
                        Err(_) => broken.fetch_add(1, Relaxed),
                    };
                }
            });
        }
        let mut starve = STARVED.iter().map(|part| time.mul_f64(*part)).peekable();
        let begun = Stopwatch::start();
        for round in 0.. {
            // One of the two is away for a moment, with all of its connections.
            let place = round % 2;
            drop(servers.remove(place));
            pace(Duration::from_millis(60));
            servers.insert(place, server(&lab.backends[place]));
            if starve.next_if(|at| begun.elapsed() > *at).is_some() {
                limit(pid, baseline);
                pace(Duration::from_millis(200));
                limit(pid, 20_000);
            }
            pace(Duration::from_millis(100));
            if early == 0 && begun.elapsed() > time / 4 {
                early = resident(pid);
            }
            if begun.elapsed() > time {
                break;
            }
        }
        over.store(true, Relaxed);
    });
    let late = resident(pid);
    println!("{served:?} served, {broken:?} broken; {early} and {late} bytes of memory");
    assert!(late < early + MEMORY, "{early} bytes of memory have become {late}");
    // One of the servers is always there, and whoever could not be reached a moment ago may be back.
    let (served, broken) = (served.load(Relaxed), broken.load(Relaxed));
    assert!(served > 100 && broken < served / 2, "{served} served, {broken} broken");
    wait_until(LONG, "all descriptors are back", || {
        // A thread keeps a few pipes for the next one who needs them.
        (descriptors(pid) <= baseline + 2 * 2 * 8).then_some(())
    })
    .unwrap();
    wait_until(LONG, "all places are free", || {
        let open = pend.penctl_json(["connections"]).unwrap();
        let rows = pend.penctl_json(["backends"]).unwrap();
        let free = |row: &serde_json::Value| row["proxy"]["connections"] == 0;
        let none = open["connections"].as_array().unwrap().is_empty();
        (none && rows.as_array().unwrap().iter().all(free)).then_some(())
    })
    .unwrap();
    assert_eq!(pend.penctl_json(["services"]).unwrap()[0]["proxy"]["connections"], 0);
}

/// Talks for a while, and ends in one of several ways. An error is a connection that broke; a wrong byte
/// is a panic.
fn visit(netns: &pen_tests::Netns, round: u64) -> std::io::Result<()> {
    let stream = connect(netns, WEB)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    name_at(&stream)?;
    let bytes = noise(round, 1 + usize::try_from(round * 7919 % 300_000).expect("small"));
    let echo = thread::scope(|scope| {
        let sender = scope.spawn(|| (&stream).write_all(&bytes));
        let mut echo = vec![0; bytes.len()];
        let mut length = 0;
        while length < echo.len() {
            match (&stream).read(&mut echo[length..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => length += more,
            }
        }
        echo.truncate(length);
        if length < bytes.len() {
            // Nobody reads any more.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let _ = sender.join();
        echo
    });
    assert!(bytes.starts_with(&echo), "a byte is wrong");
    if round.is_multiple_of(3) {
        setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    if echo.len() == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
