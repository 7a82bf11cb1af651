//! Peers of the control socket that misbehave: whatever they do, the operator is answered within a
//! second, checks go on, and nothing is left of them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::FileTypeExt, fs::MetadataExt, net::UnixStream},
    thread,
    time::Duration,
};

use pen_tests::{Pend, wait::Stopwatch, wait_until};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(1);

fn connect(pend: &Pend) -> UnixStream {
    let stream = UnixStream::connect(pend.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(15))).unwrap();
    stream
}

fn assert_answers_soon(pend: &Pend, after: &str) {
    let clock = Stopwatch::start();
    let output = pend.penctl(["status"]).unwrap();
    let took = clock.elapsed();
    assert!(output.status.success() && took < SOON, "after {after}: {took:?} {output:?}");
}

fn descriptors(pend: &Pend) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pend.pid().unwrap())).unwrap().count()
}

/// What the daemon says to these bytes before it closes, or within the patience of a peer.
fn say(pend: &Pend, bytes: &[u8]) -> String {
    let mut stream = connect(pend);
    // The daemon may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_socket_is_for_its_owner_and_group_only() {
    let stage = Stage::new();
    let metadata = fs::metadata(stage.pend.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o7777, 0o660);
    assert_eq!(metadata.uid(), 0);
}

#[test]
fn garbage_and_excess_are_refused_and_the_next_question_is_answered() {
    let stage = Stage::new();
    let before = descriptors(&stage.pend);
    let bytes: Vec<u8> =
        (0..100_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let header =
        format!("GET /v1/status HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let body = |length: usize| {
        let head =
            format!("POST /v1/admin HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        head.into_bytes()
    };
    let mut ten_megabytes = body(10_000_000);
    ten_megabytes.resize(10_000_000, b' ');
    let mut chunks =
        b"POST /v1/admin HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    chunks.extend(format!("10000\r\n{}\r\n", " ".repeat(65_536)).repeat(20).into_bytes());
    for (what, bytes, status) in [
        ("garbage", &bytes[..], Some("400")),
        ("a text", b"hello?\r\n\r\n", Some("400")),
        ("a huge header", header.as_bytes(), Some("431")),
        ("ten thousand headers", many.as_bytes(), Some("431")),
        ("a body of 10 MB", &ten_megabytes, Some("413")),
        ("chunks without end", &chunks, Some("413")),
        ("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        ("a body that is no JSON", &[&body(4)[..], b"{{{{"].concat(), Some("400")),
    ] {
        let answer = say(&stage.pend, bytes);
        let expected = status.map_or_else(String::new, |status| format!("HTTP/1.1 {status} "));
        assert!(answer.starts_with(&expected), "{what}: {answer}");
        assert_answers_soon(&stage.pend, what);
    }
    no_leak(&stage.pend, before);
}

fn no_leak(pend: &Pend, before: usize) {
    // Probes come and go, one descriptor each; there are twelve backends.
    wait_until(Duration::from_secs(12), "all peers' descriptors are closed", || {
        (descriptors(pend) <= before + 12).then_some(())
    })
    .unwrap();
}

#[test]
fn half_a_request_and_then_silence_is_ended_by_the_daemon() {
    let stage = Stage::new();
    for half in
        ["GET /v1/sta", "POST /v1/admin HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"]
    {
        let clock = Stopwatch::start();
        let answer = say(&stage.pend, half.as_bytes());
        assert!(clock.elapsed() < Duration::from_secs(10), "{:?}", clock.elapsed());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert_answers_soon(&stage.pend, "half a request");
}

#[test]
fn a_hundred_silent_peers_do_not_keep_the_operator_out() {
    let mut stage = Stage::new();
    let before = descriptors(&stage.pend);
    let silent: Vec<_> = (0..100).map(|_| connect(&stage.pend)).collect();
    assert_answers_soon(&stage.pend, "a hundred silent connections");
    for mut stream in &silent {
        // The daemon may have ended it already.
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: ");
    }
    assert_answers_soon(&stage.pend, "a hundred half requests");
    // Checks go on meanwhile.
    stage.demos[1].process().kill9().unwrap();
    stage.pend.wait_health("web", "b2", "down").unwrap();
    assert_answers_soon(&stage.pend, "a hundred peers that still wait");
    drop(silent);
    no_leak(&stage.pend, before);
}

#[test]
fn twenty_peers_that_ask_again_and_again_are_all_answered() {
    let stage = Stage::new();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut stream = connect(&stage.pend);
                for _ in 0..10 {
                    stream.write_all(b"GET /v1/vips HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
                    let status = read_answer(&mut stream);
                    assert_eq!(status, "HTTP/1.1 200 OK");
                }
            });
        }
    });
    assert_answers_soon(&stage.pend, "all this");
}

/// The status line of one answer, which is read to its end.
fn read_answer(stream: &mut UnixStream) -> String {
    let mut lines = BufReader::new(stream);
    let (mut status, mut length) = (String::new(), 0);
    lines.read_line(&mut status).unwrap();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    lines.read_exact(&mut vec![0; length]).unwrap();
    status.trim_end().to_owned()
}
