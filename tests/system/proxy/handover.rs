//! A configuration that changes, a daemon that is replaced, and one that ends: under traffic, of which
//! nothing is lost that need not be.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use pen_tests::{
    ConfigText, Lab, Netns, Pend, Protocol, ServiceText, server::HTTP_PORT, wait::pace, wait_until,
};

use super::{LONG, Server, connect, lab, name_at, proxied, start};
use crate::stage::{ECHO, Stage, WEB, vips};

/// Requests of curl, a hundred a second, each on a connection of its own.
const REQUESTS: usize = 600;

/// Has curl ask for pages while something happens; all of them have to come.
fn every_request_is_answered(netns: &Netns, happens: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let over = &over;
        let asking = scope.spawn(move || {
            let mut command: Command = netns.command("curl");
            command.args(["--silent", "--show-error", "--rate", "100/s", "--max-time", "20"]);
            command.args(["--header", "Connection: close", "--write-out", "%{http_code}\n"]);
            command.arg(format!("http://{WEB}/[1-{REQUESTS}]")).args(["--output", "/dev/null"]);
            let output = command.output().unwrap();
            over.store(true, Relaxed);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
        });
        happens();
        assert!(!over.load(Relaxed), "curl had ended before all had happened");
        asking.join().unwrap()
    });
    let (codes, errors) = answers;
    let good = codes.lines().filter(|code| *code == "200").count();
    assert_eq!((good, errors.as_str()), (REQUESTS, ""), "{codes}");
}

#[test]
fn no_request_fails_while_the_configuration_is_changed_twenty_times() {
    let stage = super::stage(3, "");
    let config = |backends: usize| {
        let mut service = proxied(&stage.lab, "web", WEB, "");
        service.backends.truncate(backends);
        vips().service(service).render(Some(stage.pend.socket()))
    };
    every_request_is_answered(stage.client(), || {
        for round in 0..20 {
            stage.pend.write_config(&config(2 + round % 2)).unwrap();
            let reload = stage.pend.penctl(["reload"]).unwrap();
            assert!(reload.status.success(), "{}", reload.stderr);
            pace(Duration::from_millis(100));
        }
    });
    assert_eq!(stage.pend.penctl_json(["backends"]).unwrap().as_array().unwrap().len(), 3);
}

#[test]
fn no_request_fails_while_the_daemon_is_replaced_again_and_again() {
    let Stage { mut pend, lab, demos: _demos } = super::stage(2, "");
    every_request_is_answered(&lab.client().netns, || {
        for _ in 0..3 {
            let status = pend.replace().unwrap();
            assert_eq!(status.code(), Some(0), "{}", pend.log());
            pend.wait_ready(2).unwrap();
        }
    });
    assert!(pend.terminate().unwrap().success());
}

/// Sends a line and gets it back.
fn echo(mut stream: &TcpStream) {
    stream.write_all(b"again\n").unwrap();
    assert_eq!(name_at(stream).unwrap(), "again");
}

#[test]
fn connections_and_clients_that_wait_survive_a_replacement() {
    let lab = lab(1);
    let _server = Server::named(&lab.backends[0].netns, (lab.backends[0].v4.into(), 80), "b1");
    // Only one is served at a time: others wait to be accepted.
    let mut pend = super::unchecked(&lab, "max_connections = 1");
    let client = &lab.client().netns;
    let first = connect(client, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    let waiting: Vec<_> = (0..8).map(|_| connect(client, WEB).unwrap()).collect();
    let mut old = pend.overtake().unwrap();
    pend.wait_ready(1).unwrap();
    echo(&first);
    assert!(old.exit_status().is_none(), "it has a connection");
    drop(first);
    thread::scope(|scope| {
        for one in waiting {
            scope.spawn(move || assert_eq!(name_at(&one).unwrap(), "b1"));
        }
    });
    assert_eq!(old.wait(LONG).unwrap().code(), Some(0));
    assert!(pend.terminate().unwrap().success());
}

#[test]
fn no_datagram_of_a_flow_is_lost_by_a_replacement() {
    let Stage { mut pend, lab, demos: _demos } = Stage::in_lab(lab(2), |lab| {
        let service = crate::stage::over_all(lab, "echo", ECHO, Protocol::Udp, HTTP_PORT);
        let keys = "scheduler = \"hash\"\ntimeouts = { udp = \"300ms\" }".to_owned();
        vips().service(ServiceText { mode: "proxy".to_owned(), keys, ..service })
    });
    let talk = lab.client().netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    talk.connect(ECHO).unwrap();
    // None is lost, however late it is on a busy machine.
    talk.set_read_timeout(Some(LONG)).unwrap();
    let ask = || {
        talk.send(b"who\n")?;
        let mut answer = [0; 64];
        talk.recv(&mut answer).map(|length| answer[..length].to_vec())
    };
    let by = ask().unwrap();
    let over = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = Vec::new();
            while !over.load(Relaxed) {
                answers.push(ask());
            }
            answers
        });
        let replaced = (0..3).try_for_each(|_| {
            let mut old = pend.overtake()?;
            // It ends when its last flow has been silent for its time.
            let status = old.wait(LONG)?;
            anyhow::ensure!(status.code() == Some(0), "{status}");
            Ok(())
        });
        over.store(true, Relaxed);
        replaced.unwrap();
        asking.join().unwrap()
    });
    let others: Vec<_> = answers.iter().filter(|name| name.as_ref().ok() != Some(&by)).collect();
    assert!(others.is_empty(), "{others:?} of {}", answers.len());
    assert!(answers.len() > 10, "{}", answers.len());
}

#[test]
fn a_successor_without_the_service_keeps_no_client_waiting_for_it() {
    let Stage { mut pend, lab, demos: _demos } = super::stage(1, "");
    let client = &lab.client().netns;
    connect(client, WEB).unwrap();
    pend.write_config(&vips().render(Some(pend.socket()))).unwrap();
    assert_eq!(pend.replace().unwrap().code(), Some(0));
    wait_until(LONG, "clients are refused", || connect(client, WEB).err().map(|_| ())).unwrap();
}

#[test]
fn who_was_replaced_ends_what_goes_on_for_too_long() {
    let lab = lab(1);
    let _server = Server::named(&lab.backends[0].netns, (lab.backends[0].v4.into(), 80), "b1");
    let (mut pend, _) = draining(&lab, "300ms");
    let mut first = connect(&lab.client().netns, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    let mut old = pend.overtake().unwrap();
    assert_eq!(old.wait(LONG).unwrap().code(), Some(0));
    assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)), "it has ended");
    pend.wait_ready(1).unwrap();
    assert_eq!(name_at(&connect(&lab.client().netns, WEB).unwrap()).unwrap(), "b1");
}

/// pend that gives its connections this time at its end.
fn draining(lab: &Lab, time: &str) -> (Pend, ConfigText) {
    let service = ServiceText {
        check: Some(r#"{ type = "none" }"#.to_owned()),
        ..proxied(lab, "web", WEB, "")
    };
    let config = vips().service(service).extra(&format!("[node]\ndrain_at_exit = \"{time}\""));
    (start(lab, &config), config)
}

#[test]
fn a_daemon_that_is_to_end_takes_nobody_new_and_waits_for_those_it_has() {
    let lab = lab(1);
    let _server = Server::named(&lab.backends[0].netns, (lab.backends[0].v4.into(), 80), "b1");
    let (mut pend, _) = draining(&lab, "50s");
    let client = &lab.client().netns;
    let first = connect(client, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    pend.signal(Signal::SIGTERM).unwrap();
    wait_until(LONG, "new clients are refused", || connect(client, WEB).err().map(|_| ())).unwrap();
    echo(&first);
    assert!(pend.is_running());
    drop(first);
    assert_eq!(pend.wait_end().unwrap().code(), Some(0));
    assert!(!pend.socket().exists());
    // Whoever cannot wait says so once more.
    let (mut pend, _) = draining(&lab, "50s");
    let first = connect(client, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    pend.signal(Signal::SIGTERM).unwrap();
    wait_until(LONG, "new clients are refused", || connect(client, WEB).err().map(|_| ())).unwrap();
    assert_eq!(pend.end_with(Signal::SIGTERM).unwrap().code(), Some(0));
    drop(first);
}
