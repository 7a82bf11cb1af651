//! What happens to bytes: all of them arrive, in order, and an end is passed on as the end that it was.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pen_tests::{Lab, process::SHORT, wait::pace, wait_until};

use super::{LONG, Server, connect, lab, read_all, unchecked};
use crate::effort;
use crate::stage::WEB;

/// Bytes that tell whether one is missing: the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn backend(lab: &Lab) -> (std::net::IpAddr, u16) {
    (lab.backends[0].v4.into(), 80)
}

#[test]
fn a_client_that_ends_its_half_still_gets_a_long_answer() {
    let lab = lab(1);
    let answer = noise(5, 5_000_000);
    let expected = answer.clone();
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |mut stream| {
        let request = read_all(&stream).unwrap();
        assert_eq!(request, b"all of it\n");
        stream.write_all(&answer).unwrap();
    });
    let _pend = unchecked(&lab, "");
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"all of it\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&client).unwrap() == expected);
}

#[test]
fn a_server_that_ends_its_half_still_gets_a_long_request() {
    let lab = lab(1);
    let request = noise(6, 5_000_000);
    let (report, reported) = mpsc::channel();
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |mut stream| {
        stream.write_all(b"go on\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        report.send(read_all(&stream).unwrap()).unwrap();
    });
    let _pend = unchecked(&lab, "");
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    assert_eq!(read_all(&client).unwrap(), b"go on\n");
    client.write_all(&request).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(reported.recv_timeout(LONG).unwrap() == request);
}

/// Sends all, in pieces of changing size, with pauses now and then.
fn send(mut stream: &TcpStream, bytes: &[u8], hasty: bool) -> io::Result<()> {
    let mut rest = bytes;
    let mut number = 0_usize;
    while !rest.is_empty() {
        number += 1;
        let piece = if hasty { 1 << 20 } else { 1 + (number * 7919) % 40_000 };
        let (now, later) = rest.split_at(piece.min(rest.len()));
        stream.write_all(now)?;
        rest = later;
        if !hasty && number.is_multiple_of(50) {
            pace(Duration::from_millis(3));
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads all, slowly or not.
fn receive(mut stream: &TcpStream, hasty: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; if hasty { 1 << 20 } else { 20_000 }];
    let mut number = 0_u32;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            length => bytes.extend(&buffer[..length]),
        }
        number += 1;
        if !hasty && number.is_multiple_of(40) {
            pace(Duration::from_millis(2));
        }
    }
}

/// Both ways at once; true for each way in which all arrived.
fn exchange(stream: &TcpStream, out: &[u8], expected: &[u8], hasty: bool) -> io::Result<[bool; 2]> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, out, hasty));
        let received = receive(stream, hasty)?;
        let sent = sender.join().map_err(|_| io::ErrorKind::Other)?.is_ok();
        Ok([sent, received == expected])
    })
}

#[test]
fn all_bytes_arrive_in_order_fast_or_slow_on_a_hundred_connections_at_once() {
    let lab = lab(1);
    // In full, a gigabyte each way.
    let length = if effort::is_full() { 10_750_000 } else { 2_000_000 };
    let (up, down) = (noise(1, length), noise(2, length));
    let (report, reported) = mpsc::channel();
    let (expected, answer) = (up.clone(), down.clone());
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |stream| {
        // Which half of them is slow depends on the port, so that all four pairs come.
        let hasty = stream.peer_addr().unwrap().port() % 4 < 2;
        let result = exchange(&stream, &answer, &expected, hasty);
        report.send(result.map_err(|error| error.to_string())).unwrap();
    });
    // The network of a busy machine loses a lot, so that some segments are seconds late.
    let pend = unchecked(&lab, r#"timeouts = { half_closed = "5m" }"#);
    let client = &lab.client().netns;
    let streams: Vec<TcpStream> = (0..100).map(|_| connect(client, WEB).unwrap()).collect();
    let results: Vec<io::Result<[bool; 2]>> = thread::scope(|scope| {
        let exchange = |(number, stream)| {
            let (up, down) = (&up, &down);
            scope.spawn(move || exchange(stream, up, down, number % 2 == 0))
        };
        let clients: Vec<_> = streams.iter().enumerate().map(exchange).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let services = pend.penctl(["--json", "services"]).unwrap().stdout;
    for (number, result) in results.iter().enumerate() {
        let done = result.as_ref().is_ok_and(|ways| *ways == [true, true]);
        assert!(done, "client {number}: {result:?}\n{}{services}", pend.log());
    }
    for number in 0..100 {
        let result = reported.recv_timeout(LONG);
        assert_eq!(result, Ok(Ok([true, true])), "server {number}\n{}{services}", pend.log());
    }
}

#[test]
fn a_long_stream_comes_through_the_pipes_unchanged() {
    let lab = lab(1);
    let down = noise(9, 200_000_000);
    let answer = down.clone();
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |mut stream| {
        let _ = stream.write_all(&answer);
    });
    let mut pend = unchecked(&lab, "");
    let client = connect(&lab.client().netns, WEB).unwrap();
    assert!(read_all(&client).unwrap() == down);
    // Pipes were used, and those that are left are few.
    let pid = pend.pid().unwrap();
    let pipes = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
    };
    let found = pipes(pid);
    assert!((2..=40).contains(&found), "{found} pipes");
    assert!(pend.is_running());
}

/// Holds a connection in the middle of something and has one end reset it: how the other end ends.
fn after_reset(lab: &Lab, by_client: bool) -> io::Result<usize> {
    let (hand, handed) = mpsc::channel();
    let _server = Server::start(&lab.backends[0].netns, backend(lab), move |stream| {
        stream.set_read_timeout(Some(LONG)).unwrap();
        hand.send(stream).unwrap();
    });
    let mut client = connect(&lab.client().netns, WEB)?;
    client.write_all(b"hello")?;
    let mut server = handed.recv_timeout(LONG).map_err(io::Error::other)?;
    let mut buffer = [0; 5];
    server.read_exact(&mut buffer)?;
    server.write_all(b"world")?;
    client.read_exact(&mut buffer)?;
    let (first, mut other) = if by_client { (client, server) } else { (server, client) };
    nix::sys::socket::setsockopt(
        &first,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    drop(first);
    other.read(&mut buffer)
}

#[test]
fn a_reset_of_either_side_reaches_the_other_one() {
    let lab = lab(1);
    let _pend = unchecked(&lab, "");
    for by_client in [true, false] {
        let error = after_reset(&lab, by_client).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "by the client: {by_client}");
    }
}

#[test]
fn a_server_that_never_reads_holds_its_client_up_and_not_pens_memory() {
    let lab = lab(1);
    let (hand, handed) = mpsc::channel();
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |stream| {
        hand.send(stream).unwrap();
    });
    let pend = unchecked(&lab, "");
    let client = connect(&lab.client().netns, WEB).unwrap();
    let _server_side = handed.recv_timeout(LONG).unwrap();
    client.set_nonblocking(true).unwrap();
    let before = resident(pend.pid().unwrap());
    let bytes = vec![7; 1 << 20];
    let mut total = 0_usize;
    let mut idle = 0;
    wait_until(LONG, "the client is held up", || {
        match (&client).write(&bytes) {
            Ok(length) => {
                total += length;
                idle = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => idle += 1,
            Err(error) => panic!("{error}"),
        }
        (idle > 50).then_some(())
    })
    .unwrap();
    let grown = resident(pend.pid().unwrap()).saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes for {total}");
    assert!(total < 64 << 20, "{total} bytes were taken");
}

/// Bytes of memory that a process has.
pub(crate) fn resident(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// How long it takes until a silent connection is closed, after `begin` has been done with it.
fn lifetime(lab: &Lab, begin: impl FnOnce(&mut TcpStream)) -> Duration {
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    // Before: this thread may not run for a while afterwards.
    let started = pen_tests::wait::Stopwatch::start();
    begin(&mut client);
    let mut buffer = [0; 100];
    while matches!(client.read(&mut buffer), Ok(1..)) {}
    started.elapsed()
}

#[test]
fn silence_ends_a_connection_when_its_time_is_over_and_not_before() {
    let lab = lab(1);
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), |mut stream| {
        let mut line = [0; 5];
        while stream.read_exact(&mut line).is_ok() {
            if &line == b"quiet" || stream.write_all(&line).is_err() {
                continue;
            }
        }
        // Holds its half open.
        pace(LONG);
    });
    let _pend = unchecked(
        &lab,
        r#"timeouts = { client = "1s", server = "2s", tunnel = "3s", half_closed = "1500ms" }"#,
    );
    let spoke = |client: &mut TcpStream| {
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    };
    let within = |found: Duration, seconds: f64| {
        let found = found.as_secs_f64();
        assert!((seconds - 0.05..seconds + 1.0).contains(&found), "{found} instead of {seconds}");
    };
    within(lifetime(&lab, |_| {}), 1.0);
    within(lifetime(&lab, |client| client.write_all(b"quiet").unwrap()), 2.0);
    within(lifetime(&lab, spoke), 3.0);
    within(
        lifetime(&lab, |client| {
            spoke(client);
            client.shutdown(Shutdown::Write).unwrap();
        }),
        1.5,
    );
    // Whoever goes on talking stays.
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    for _ in 0..20 {
        spoke(&mut client);
        pace(Duration::from_millis(200));
    }
    spoke(&mut client);
}

#[test]
fn a_thousand_connections_leave_no_descriptor_behind() {
    let lab = lab(1);
    let _server = Server::named(&lab.backends[0].netns, backend(&lab), "b1");
    let pend = unchecked(&lab, "");
    let pid = pend.pid().unwrap();
    let files = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let client = &lab.client().netns;
    let visit = |at: SocketAddr| {
        let stream = connect(client, at).unwrap();
        assert_eq!(super::name_at(&stream).unwrap(), "b1");
    };
    visit(WEB);
    let mut before = 0;
    wait_until(SHORT, "the first one is over", || {
        let now = files();
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .unwrap();
    (0..1000).for_each(|_| visit(WEB));
    wait_until(SHORT, "descriptors are back", || (files() <= before).then_some(())).unwrap();
}

/// More than a client's kernel takes unasked, and less than what pen's takes besides.
const UNASKED: usize = 100_000;

#[test]
fn with_fast_close_a_client_that_reads_late_and_speaks_again_gets_all() {
    let lab = lab(1);
    let answer = noise(9, UNASKED);
    let expected = answer.clone();
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(&answer).unwrap();
    });
    let pend = unchecked(&lab, "fast_close = true");
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"?").unwrap();
    wait_until(SHORT, "pen has the whole answer", || {
        let listed = pend.penctl_json(["connections"]).unwrap();
        let open = &listed["connections"][0];
        (open.is_null() || open["bytes_down"] == UNASKED).then_some(())
    })
    .unwrap();
    // The server has ended by now, or does so in the next moments, of which nothing can be seen here.
    for _ in 0..20 {
        client.write_all(b"and?").unwrap();
        pace(Duration::from_millis(20));
    }
    let heard = read_all(&client).unwrap();
    assert!(heard == expected, "{} of {UNASKED} bytes", heard.len());
}

#[test]
fn with_fast_close_the_first_end_of_either_side_ends_both_and_nothing_is_lost() {
    let lab = lab(1);
    let answer = noise(7, 5_000_000);
    let (expected, words) = (answer.clone(), noise(8, 5_000_000));
    let (report, reported) = mpsc::channel();
    let (heard, sent) = (words.clone(), answer);
    let _server = Server::start(&lab.backends[0].netns, backend(&lab), move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        match first[0] {
            // Its own end is far off: it only sees the client's, and that it is not listened to.
            b'c' => {
                let whole = read_all(&stream).unwrap() == heard;
                let cut = wait_until(SHORT, "a reset", || stream.write_all(&[0; 999]).err());
                report.send(whole && cut.is_ok()).unwrap();
            }
            // It does not read what the client goes on to send.
            _ => {
                stream.write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                report.send(read_all(&stream).is_ok()).unwrap();
            }
        }
    });
    // Half a connection would last for an hour.
    let pend = unchecked(&lab, "fast_close = true\ntimeouts = { half_closed = \"1h\" }");
    let gone = || {
        let listed = pend.penctl_json(["connections"]).unwrap();
        listed["connections"].as_array().is_some_and(Vec::is_empty).then_some(())
    };

    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"c").unwrap();
    client.write_all(&words).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&client).unwrap().is_empty(), "the client is told the end at once");
    assert!(reported.recv_timeout(LONG).unwrap(), "the server got all, and is cut off");
    wait_until(SHORT, "no connection is left", gone).unwrap();
    assert_eq!(pend.counter("proxy-client-closed").unwrap(), 1);

    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"s").unwrap();
    assert!(read_all(&client).unwrap() == expected);
    assert!(reported.recv_timeout(LONG).unwrap(), "the server is told the end in order");
    wait_until(SHORT, "no connection is left", gone).unwrap();
    assert_eq!(pend.counter("proxy-server-closed").unwrap(), 1);

    // A client that goes on to send while it has an answer to read loses nothing of it.
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"s").unwrap();
    let mut sending = client.try_clone().unwrap();
    let sender = thread::spawn(move || while sending.write_all(&[0; 4096]).is_ok() {});
    assert!(read_all(&client).unwrap() == expected);
    // It may have been cut off by now.
    let _ = client.shutdown(Shutdown::Both);
    sender.join().unwrap();
    wait_until(SHORT, "no connection is left", gone).unwrap();
    assert_eq!(pend.counter("proxy-server-closed").unwrap(), 2);
}
