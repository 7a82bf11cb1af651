//! What happens when servers fail, and when this machine is short of something.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use pen_tests::{
    Netns, client::http, process::SHORT, process::run_ok, wait::Stopwatch, wait_until,
};

use super::{LONG, Server, connect, lab, name_at, stage, unchecked};
use crate::stage::WEB;

/// Both backends run a server that the test plays.
fn servers(lab: &pen_tests::Lab) -> Vec<Server> {
    let start =
        |host: &pen_tests::Host| Server::named(&host.netns, (host.v4.into(), 80), &host.name);
    lab.backends.iter().map(start).collect()
}

/// Who answers, and after which time.
fn visit(netns: &Netns, at: SocketAddr) -> (std::io::Result<String>, Duration) {
    let started = Stopwatch::start();
    let name = connect(netns, at).and_then(|stream| name_at(&stream));
    (name, started.elapsed())
}

#[test]
fn a_refused_connection_goes_to_another_server_at_once() {
    let lab = lab(2);
    let mut servers = servers(&lab);
    let _pend = unchecked(&lab, "scheduler = \"roundrobin\"");
    servers.remove(0);
    for _ in 0..6 {
        let (name, time) = visit(&lab.client().netns, WEB);
        assert_eq!(name.unwrap(), "b2");
        assert!(time < Duration::from_millis(500), "{time:?}");
    }
}

#[test]
fn a_silent_server_costs_the_first_client_the_timeout_and_the_others_nothing() {
    let lab = lab(2);
    let _servers = servers(&lab);
    let keys = "scheduler = \"roundrobin\"\ntimeouts = { connect = \"1s\" }";
    let pend = unchecked(&lab, keys);
    // Nobody answers there any more, not even with a refusal.
    lab.backends[0].netns.ip("link set eth0 down").unwrap();
    let (name, time) = visit(&lab.client().netns, WEB);
    assert_eq!(name.unwrap(), "b2");
    assert!(time < Duration::from_millis(1600), "{time:?}");
    for _ in 0..6 {
        let (name, time) = visit(&lab.client().netns, WEB);
        assert_eq!(name.unwrap(), "b2");
        assert!(time < Duration::from_millis(500), "{time:?}");
    }
    drop(pend);
}

#[test]
fn a_server_that_came_back_is_used_again_after_the_time_of_ejection() {
    let lab = lab(2);
    let mut servers = servers(&lab);
    let _pend = unchecked(&lab, "scheduler = \"roundrobin\"\neject = \"1s\"");
    servers.remove(0);
    let client = &lab.client().netns;
    for _ in 0..2 {
        assert_eq!(visit(client, WEB).0.unwrap(), "b2");
    }
    servers.push(Server::named(&lab.backends[0].netns, (lab.backends[0].v4.into(), 80), "b1"));
    let started = Stopwatch::start();
    wait_until(LONG, "b1 is asked again", || (visit(client, WEB).0.unwrap() == "b1").then_some(()))
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn without_any_server_the_client_is_told_at_once_and_served_when_one_is_back() {
    let lab = lab(1);
    let pend = unchecked(&lab, "eject = \"500ms\"");
    let client = &lab.client().netns;
    let (name, time) = visit(client, WEB);
    assert!(name.is_err() && time < Duration::from_secs(1), "{name:?} after {time:?}");
    let _servers = servers(&lab);
    wait_until(LONG, "it is served", || visit(client, WEB).0.ok()).unwrap();
    drop(pend);
}

#[test]
fn checks_take_a_server_out_and_bring_it_back() {
    let mut stage = stage(2, "scheduler = \"roundrobin\"\neject = \"0s\"");
    drop(stage.demos.remove(0));
    stage.pend.wait_health("web", "b1", "down").unwrap();
    let by = stage.web_tally(20);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b2"]);
    stage.demos.push(pen_tests::Demo::on(&stage.lab.backends[0]).unwrap());
    stage.pend.wait_health("web", "b1", "up").unwrap();
    let by = stage.web_tally(20);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "{by:?}");
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = text.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|text| text.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[test]
fn without_descriptors_it_waits_calmly_and_goes_on_when_there_are_some() {
    let lab = lab(1);
    let _servers = servers(&lab);
    let mut pend = unchecked(&lab, "");
    let pid = pend.pid().unwrap();
    let client = &lab.client().netns;
    let first = connect(client, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    let limit = |files: usize| {
        let files = format!("--nofile={files}:20000");
        run_ok(Command::new("prlimit").args(["--pid", &pid.to_string(), &files])).unwrap();
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    for _ in 0..2 {
        // Room for ten connections or so.
        limit(files + 20);
        let held: Vec<_> = (0..60).map(|_| connect(client, WEB).unwrap()).collect();
        wait_until(SHORT, "it runs short", || {
            pend.log().contains("not accepting for a moment").then_some(())
        })
        .unwrap();
        let (before, started) = (cpu(pid), Stopwatch::start());
        // What exists goes on.
        use std::io::{Read, Write};
        for _ in 0..20 {
            (&first).write_all(b"ping").unwrap();
            (&first).read_exact(&mut [0; 4]).unwrap();
            pen_tests::wait::pace(Duration::from_millis(50));
        }
        let share = (cpu(pid) - before) / started.elapsed().as_secs_f64();
        assert!(share < 0.2, "{share} of a core");
        drop(held);
        limit(20_000);
        wait_until(LONG, "it serves again", || visit(client, WEB).0.ok()).unwrap();
    }
    assert!(pend.is_running());
    assert!(pend.log().matches("not accepting for a moment").count() < 20, "{}", pend.log());
}

#[test]
fn a_full_service_keeps_clients_waiting_and_serves_them_in_turn() {
    let lab = lab(1);
    let _servers = servers(&lab);
    let pend = unchecked(&lab, "max_connections = 4");
    let client = &lab.client().netns;
    let held: Vec<_> = (0..4)
        .map(|_| {
            let stream = connect(client, WEB).unwrap();
            name_at(&stream).unwrap();
            stream
        })
        .collect();
    let next = connect(client, WEB).unwrap();
    next.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(name_at(&next).is_err(), "it waits");
    let pid = pend.pid().unwrap();
    let (before, started) = (cpu(pid), Stopwatch::start());
    pen_tests::wait::pace(Duration::from_secs(1));
    assert!((cpu(pid) - before) / started.elapsed().as_secs_f64() < 0.05);
    drop(held);
    next.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(name_at(&next).unwrap(), "b1");
}

#[test]
fn maintenance_ends_the_connections_of_a_server_and_drain_does_not() {
    let stage = stage(2, "scheduler = \"roundrobin\"");
    let mut talks: Vec<_> =
        (0..4).map(|_| pen_tests::client::TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let names: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert!(names.contains(&"b1".to_owned()) && names.contains(&"b2".to_owned()));
    stage.order(["drain", "web/b1"]);
    for (talk, name) in talks.iter_mut().zip(&names) {
        assert_eq!(talk.ask().unwrap(), *name);
    }
    assert_eq!(stage.web_tally(10).keys().collect::<Vec<_>>(), ["b2"]);
    stage.order(["maint", "web/b1"]);
    for (mut talk, name) in talks.into_iter().zip(&names) {
        assert_eq!(talk.ask().is_ok(), name == "b2");
    }
    assert!(http(stage.client(), WEB).is_ok());
}
