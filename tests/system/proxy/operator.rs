//! What the operator sees of proxied connections, and does to them.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use pen_tests::{Pend, client::TcpTalk, client::http, paths::Scratch, process::SHORT, wait_until};
use serde_json::Value;

use super::{Server, connect, lab, name_at, proxied, stage, start};
use crate::stage::{Stage, WEB, vips};

fn rows(pend: &Pend, words: &[&str]) -> Vec<Value> {
    let answer = pend.penctl_json(words).unwrap();
    answer["connections"].as_array().unwrap().clone()
}

#[test]
fn connections_are_listed_with_all_that_is_known_of_them() {
    let stage = stage(2, "scheduler = \"roundrobin\"");
    let mut talks: Vec<_> = (0..4).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let names: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let listed = rows(&stage.pend, &["connections"]);
    assert_eq!(listed.len(), 4);
    for (talk, name) in talks.iter().zip(&names) {
        let client = talk.local().unwrap().to_string();
        let row = listed.iter().find(|row| row["client"] == *client).unwrap();
        assert_eq!((&row["service"], &row["backend"]), (&"web".into(), &(**name).into()));
        assert_eq!((&row["state"], &row["bytes_up"]), (&"open".into(), &4.into()));
        assert_eq!(row["bytes_down"], name.len() + 1);
        assert!(row["age_ms"].as_u64().unwrap() < 20_000);
    }
    let of_b1 = names.iter().filter(|name| *name == "b1").count();
    assert_eq!(rows(&stage.pend, &["connections", "--backend", "b1"]).len(), of_b1);
    assert_eq!(rows(&stage.pend, &["connections", "--client", "10.77.0.3"]).len(), 0);
    assert_eq!(rows(&stage.pend, &["connections", "--client", "10.77.0.0/24"]).len(), 4);
    let few = stage.pend.penctl(["connections", "--limit", "1"]).unwrap();
    assert_eq!(few.stdout.lines().count(), 2, "{few:?}");
    assert!(few.stderr.contains('3'), "{few:?}");
    let row = stage.pend.backend("web", "b1").unwrap();
    assert_eq!(row["proxy"]["connections"], of_b1);
}

#[test]
fn the_operator_closes_one_connection_or_all_that_fit() {
    let stage = stage(2, "scheduler = \"roundrobin\"");
    let mut talks: Vec<_> = (0..4).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let names: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let mine = talks[0].local().unwrap().to_string();
    let listed = rows(&stage.pend, &["connections"]);
    let id = listed.iter().find(|row| row["client"] == *mine).unwrap()["id"].to_string();
    assert_eq!(stage.order(["close", &id, "--dry-run"]), "1 connection would be closed\n");
    assert!(talks[0].ask().is_ok());
    assert_eq!(stage.order(["close", &id]), "1 connection closed\n");
    assert!(talks[0].ask().is_err());
    assert_eq!(stage.order(["close", &id]), "0 connections closed\n");
    let left = names[1..].iter().filter(|name| *name == "b2").count();
    let said = stage.order(["close", "--backend", "b2"]);
    assert!(said.starts_with(&left.to_string()), "{said}");
    for (talk, name) in talks.iter_mut().zip(&names).skip(1) {
        assert_eq!(talk.ask().is_ok(), name == "b1");
    }
    let refused = stage.pend.penctl(["close"]).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    wait_until(SHORT, "they are counted", || {
        let killed = stage.pend.counter("proxy-killed").unwrap();
        (usize::try_from(killed) == Ok(1 + left)).then_some(())
    })
    .unwrap();
}

/// pend with one server, and an access log of this format.
fn logging(format: &str) -> (Stage, PathBuf, Scratch) {
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("access.log");
    let log = format!("[access_log]\nfile = \"{}\"\nformat = \"{format}\"\n", file.display());
    let stage = Stage::in_lab(lab(1), |lab| {
        vips().service(proxied(lab, "web", WEB, "eject = \"0s\"")).extra(&log)
    });
    (stage, file, scratch)
}

fn lines(file: &PathBuf, count: usize) -> Vec<String> {
    wait_until(SHORT, "the lines are there", || {
        let text = fs::read_to_string(file).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .unwrap()
}

#[test]
fn each_connection_leaves_a_line_that_says_how_it_ended() {
    for format in ["json", "text"] {
        let (mut stage, file, _scratch) = logging(format);
        http(stage.client(), WEB).unwrap();
        // One after the other: threads write as connections end.
        lines(&file, 1);
        let mut talk = TcpTalk::open(stage.client(), WEB).unwrap();
        talk.ask().unwrap();
        talk.close().unwrap();
        lines(&file, 2);
        // Nobody checks it in the next moment, and nobody is there.
        stage.demos.clear();
        assert!(http(stage.client(), WEB).is_err());
        let lines = lines(&file, 3);
        assert_eq!(lines.len(), 3, "{lines:?}");
        if format == "text" {
            assert!(lines[0].contains(" web b1 10.77.0.11:80 queue=0 connect="), "{}", lines[0]);
            assert!(lines[0].contains(" cause=") && lines[0].contains(" retries=0 id="));
            continue;
        }
        let values: Vec<Value> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&values[0]["service"], &values[0]["backend"]), (&"web".into(), &"b1".into()));
        assert_eq!(values[0]["address"], "10.77.0.11:80");
        assert_eq!(values[0]["cause"], "server-closed");
        assert!(values[0]["client"].as_str().unwrap().starts_with("10.77.0.2:"));
        assert_eq!((&values[1]["bytes_up"], &values[1]["bytes_down"]), (&4.into(), &3.into()));
        assert_eq!(values[1]["cause"], "client-closed");
        let failed = values[2]["cause"].as_str().unwrap();
        assert!(["connect-failed", "no-backend"].contains(&failed), "{failed}");
        assert_eq!(values[2]["backend"], Value::Null);
    }
}

#[test]
fn a_log_that_was_moved_away_is_opened_anew_on_both_signals() {
    let (mut stage, file, scratch) = logging("text");
    for (number, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        http(stage.client(), WEB).unwrap();
        lines(&file, 1);
        let old = scratch.file(&format!("old{number}"));
        fs::rename(&file, &old).unwrap();
        stage.pend.signal(signal).unwrap();
        wait_until(SHORT, "there is a new file", || file.exists().then_some(())).unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap().lines().count(), 1);
        http(stage.client(), WEB).unwrap();
        assert_eq!(lines(&file, 1).len(), 1);
        fs::remove_file(&file).unwrap();
        stage.pend.signal(signal).unwrap();
        wait_until(SHORT, "there is a new file", || file.exists().then_some(())).unwrap();
    }
}

#[test]
fn what_has_ended_before_the_daemon_does_is_in_the_log() {
    let (mut stage, file, _scratch) = logging("text");
    for _ in 0..50 {
        http(stage.client(), WEB).unwrap();
    }
    wait_until(SHORT, "all have ended", || {
        (stage.pend.counter("proxy-server-closed").unwrap() == 50).then_some(())
    })
    .unwrap();
    stage.pend.terminate().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 50);
}

#[test]
fn a_log_that_is_not_to_be_had_is_an_error_at_the_start() {
    let lab = lab(1);
    let config = vips()
        .service(proxied(&lab, "web", WEB, ""))
        .extra("[access_log]\nfile = \"/nonexistent/access.log\"\n");
    let mut pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    let error = format!("{:#}", pend.wait_ready(0).unwrap_err());
    assert!(error.contains("access log: /nonexistent/access.log: No such file"), "{error}");
}

#[test]
fn a_peer_that_is_stuck_on_the_control_socket_delays_no_connection() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let pend = start(&lab, &vips().service(proxied(&lab, "web", WEB, "")));
    let stuck: Vec<_> =
        (0..20).map(|_| std::os::unix::net::UnixStream::connect(pend.socket()).unwrap()).collect();
    for _ in 0..20 {
        let started = pen_tests::wait::Stopwatch::start();
        let mut stream = connect(&lab.client().netns, WEB).unwrap();
        assert_eq!(name_at(&stream).unwrap(), "b1");
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "nothing else comes");
        assert!(started.elapsed() < Duration::from_millis(500));
    }
    drop(stuck);
}
