//! How many flows of UDP there may be, for how long, and what they cost.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use pen_tests::client::http;
use pen_tests::process::{SHORT, run_ok};
use pen_tests::server::HTTP_PORT;
use pen_tests::wait::{Stopwatch, pace};
use pen_tests::{ConfigText, Demo, Pend, paths::Scratch, wait_until};

use super::super::fail::cpu;
use super::{LONG, Scene, Server, Talk, lab, unchecked};
use crate::stage::{ECHO, WEB, count, vips};

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn silence_ends_a_flow_when_its_time_is_over_and_not_before_and_is_logged() {
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("access.log");
    let log = format!("[access_log]\nfile = \"{}\"\nformat = \"json\"\n", file.display());
    let scene = Scene::with(1, |lab| {
        vips().service(unchecked(lab, ECHO, "timeouts = { udp = \"1s\" }")).extra(&log)
    });
    let (silent, active) = (scene.flow(), scene.flow());
    silent.ask().unwrap();
    let started = Stopwatch::start();
    wait_until(LONG, "it has ended", || {
        active.ask().unwrap();
        (scene.counter("proxy-flow-idle") == 1).then_some(())
    })
    .unwrap();
    let time = started.elapsed();
    assert!(time > Duration::from_millis(900) && time < Duration::from_millis(1800), "{time:?}");
    let left = scene.rows(&[]);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["client"], active.local());
    let line = wait_until(SHORT, "the line is there", || {
        std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
    });
    let line: serde_json::Value = serde_json::from_str(line.unwrap().trim_end()).unwrap();
    assert_eq!((&line["cause"], &line["client"]), (&"flow-idle".into(), &silent.local().into()));
    assert_eq!((&line["service"], &line["backend"]), (&"echo".into(), &"b1".into()));
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&3.into(), &6.into()));
    // Its backend has them as well.
    let traffic = &scene.pend.backend("echo", "b1").unwrap()["proxy"];
    assert_eq!((&traffic["connections"], &traffic["total"]), (&1.into(), &2.into()));
}

#[test]
fn flows_are_bounded_and_only_silent_ones_give_way() {
    let scene = Scene::new(1, "max_connections = 60");
    let pid = scene.pend.pid().unwrap();
    let before = descriptors(pid);
    let flows: Vec<Talk> = (0..60).map(|_| scene.flow()).collect();
    let speak = || flows.iter().all(|flow| flow.ask().is_some());
    assert!(speak());
    let more = scene.flow();
    let ignored = (0..3).filter(|_| {
        assert!(speak());
        more.0.send(b"who").unwrap();
        more.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        more.0.recv(&mut [0; 16]).is_err()
    });
    assert_eq!(ignored.count(), 3, "nobody gives way who speaks");
    more.0.set_read_timeout(Some(LONG)).unwrap();
    assert!(scene.counter("proxy-flow-limit") >= 1);
    pace(Duration::from_millis(500));
    // One that speaks stays.
    flows[0].ask().unwrap();
    assert!(more.ask().is_some());
    assert_eq!(scene.counter("proxy-flow-displaced"), 1);
    for _ in 0..15 {
        assert!(scene.flow().ask().is_some());
    }
    assert!(scene.rows(&[]).iter().any(|row| row["client"] == flows[0].local()));
    // Many more than there is room for.
    let client = scene.client();
    for _ in 0..30 {
        let burst: Vec<Talk> = (0..500).map(|_| Talk::open(client, ECHO)).collect();
        for flow in &burst {
            flow.0.send(b"who").unwrap();
        }
        let now = descriptors(pid);
        // Those that have just given way may be closed a moment later.
        assert!(now <= before + 60 + 2 * 32, "{before} before, {now} now");
    }
    assert!(scene.rows(&["--limit", "1000"]).len() <= 60);
    wait_until(LONG, "there is room again", || scene.flow().ask()).unwrap();
}

#[test]
fn idle_flows_give_all_descriptors_back() {
    let scene = Scene::new(2, "timeouts = { udp = \"500ms\" }");
    let pid = scene.pend.pid().unwrap();
    let before = descriptors(pid);
    // Kept to the end, so that none has the port of an earlier one.
    let flows: Vec<Talk> = (0..2000).map(|_| scene.flow()).collect();
    assert!(flows.iter().all(|flow| flow.ask().is_some()));
    wait_until(LONG, "all are back", || (descriptors(pid) <= before).then_some(())).unwrap();
    assert_eq!(scene.counter("proxy-flow-idle"), 2000);
    let service = &scene.pend.penctl_json(["services"]).unwrap()[0]["proxy"];
    assert_eq!((&service["connections"], &service["accepted"]), (&0.into(), &2000.into()));
    let rows = scene.pend.penctl_json(["backends"]).unwrap();
    let total = |row: &serde_json::Value| row["proxy"]["total"].as_u64().unwrap();
    assert_eq!(rows.as_array().unwrap().iter().map(total).sum::<u64>(), 2000);
}

#[test]
fn limits_of_servers_and_of_sources_hold() {
    let scene = Scene::with(2, |lab| {
        let text = vips().service(unchecked(lab, ECHO, "max_per_source = 5")).render(None);
        let mut text = text.replace("name = \"b1\" }", "name = \"b1\", max_connections = 2 }");
        text = text.replace("name = \"b2\" }", "name = \"b2\", max_connections = 4 }");
        ConfigText::default().extra(&text)
    });
    let flows: Vec<Talk> = (0..5).map(|_| scene.flow()).collect();
    let names = count(flows.iter().map(|flow| flow.ask().unwrap()));
    assert!(names.values().sum::<u32>() == 5 && names["b1"] <= 2 && names["b2"] <= 4, "{names:?}");
    assert!(scene.flow().is_ignored());
    assert_eq!(scene.counter("proxy-source-limit"), 1);
    let other = Talk::open(&scene.lab.clients[1].netns, ECHO);
    assert!(other.ask().is_some(), "another source is not concerned");
    assert!(Talk::open(&scene.lab.clients[1].netns, ECHO).is_ignored(), "all servers are full");
    assert_eq!(scene.counter("proxy-full"), 1);
    scene.order(["close", "--client", "10.77.0.2"]);
    assert!(scene.flow().ask().is_some());
}

#[test]
fn without_descriptors_flows_that_exist_go_on_and_new_ones_come_later() {
    let scene = Scene::new(1, "");
    let flow = scene.flow();
    flow.ask().unwrap();
    let pid = scene.pend.pid().unwrap();
    let limit = |files: usize| {
        let files = format!("--nofile={files}:20000");
        run_ok(Command::new("prlimit").args(["--pid", &pid.to_string(), &files])).unwrap();
    };
    // Some numbers below the highest one may be free.
    limit(descriptors(pid));
    let some: Vec<Talk> = (0..60).map(|_| scene.flow()).collect();
    assert!(some.iter().any(|flow| flow.is_ignored()));
    assert_eq!(flow.ask().as_deref(), Some("b1"));
    limit(20_000);
    assert!(scene.counter("proxy-local") >= 1);
    assert_eq!(scene.flow().ask().as_deref(), Some("b1"));
}

#[test]
fn flows_that_nobody_speaks_on_cost_no_time() {
    let scene = Scene::new(2, "");
    let flows: Vec<Talk> = (0..100).map(|_| scene.flow()).collect();
    assert!(flows.iter().all(|flow| flow.ask().is_some()));
    let pid = scene.pend.pid().unwrap();
    let (before, started) = (cpu(pid), Stopwatch::start());
    pace(Duration::from_secs(1));
    let share = (cpu(pid) - before) / started.elapsed().as_secs_f64();
    assert!(share < 0.1, "{share} of a core");
}

#[test]
fn flows_as_many_as_there_may_be_keep_no_connection_waiting() {
    let lab = lab(1);
    let _server = Server::of(&lab.backends[0]);
    let _demo = Demo::start(&lab.backends[0].netns, "b1", HTTP_PORT, 7777).unwrap();
    let config = vips().service(unchecked(&lab, ECHO, ""));
    let config = config.service(super::super::proxied(&lab, "web", WEB, ""));
    let pend = Pend::prepare(&lab.balancer().netns).unwrap();
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    let mut pend = pend.through(&["prlimit", "--nofile=600:600"]);
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    let client = &lab.client().netns;
    let flows: Vec<Talk> = (0..300).map(|_| Talk::open(client, ECHO)).collect();
    for flow in &flows {
        flow.0.send(b"who").unwrap();
    }
    wait_until(LONG, "there are too many", || {
        (pend.counter("proxy-flow-limit").unwrap() > 50).then_some(())
    })
    .unwrap();
    for _ in 0..20 {
        assert_eq!(http(client, WEB).unwrap(), "b1");
    }
}

/// Servers that come and go, no descriptors, checks, drains, reloads and closings, all at once.
#[test]
fn after_all_kinds_of_trouble_no_flow_is_left_and_no_client_is_without_a_server() {
    let mut scene = Scene::with(3, |lab| {
        let keys = "scheduler = \"roundrobin\"\neject = \"100ms\"\ntimeouts = { udp = \"1s\" }";
        vips().service(unchecked(lab, ECHO, keys))
    });
    let pid = scene.pend.pid().unwrap();
    let baseline = descriptors(pid);
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let client = scene.client().clone();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let flow = Talk::open(&client, ECHO);
                    flow.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let asked = (0..20).filter(|_| flow.ask().is_some()).count();
                    answered.fetch_add(asked as u64, Relaxed);
                }
            });
        }
        for round in 0..12 {
            let place = round % 3;
            let host = &scene.lab.backends[place];
            drop(scene.servers.remove(place));
            let limit = |files: usize| {
                let files = format!("--nofile={files}:20000");
                run_ok(Command::new("prlimit").args(["--pid", &pid.to_string(), &files])).unwrap();
            };
            match round % 4 {
                0 => limit(baseline),
                1 => drop(scene.order(["maint", "echo/b2"])),
                2 => drop(scene.order(["close", "--service", "echo"])),
                _ => drop(scene.order(["reload"])),
            }
            pace(Duration::from_millis(150));
            limit(20_000);
            scene.order(["ready", "echo/b2"]);
            scene.servers.insert(place, Server::of(host));
            pace(Duration::from_millis(100));
        }
        over.store(true, Relaxed);
    });
    assert!(answered.load(Relaxed) > 100, "{answered:?} answered");
    wait_until(LONG, "all descriptors are back", || (descriptors(pid) <= baseline).then_some(()))
        .unwrap();
    assert!(scene.rows(&[]).is_empty());
    let rows = scene.pend.penctl_json(["backends"]).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["proxy"]["connections"] == 0), "{rows}");
    assert_eq!(scene.pend.penctl_json(["services"]).unwrap()[0]["proxy"]["connections"], 0);
    wait_until(LONG, "all three serve again", || {
        let names = count((0..6).filter_map(|_| scene.flow().ask()));
        (names.len() == 3).then_some(())
    })
    .unwrap();
}
