//! A server is drained: its connections are counted, and end at the deadline.

use std::process::Command;

use pen_tests::{
    Process, client::TcpTalk, paths::Scratch, paths::program, process::SHORT, wait_until,
};
use serde_json::Value;

use super::{LONG, stage};
use crate::stage::{Stage, WEB};

/// `penctl`, beside the test.
fn begin(stage: &Stage, scratch: &Scratch, words: &[&str]) -> Process {
    let mut command = Command::new(program("penctl").unwrap());
    command.arg("--socket").arg(stage.pend.socket()).args(words);
    Process::start("penctl", command, &scratch.file("penctl.log")).unwrap()
}

/// What is still at a server.
fn left(stage: &Stage, backend: &str) -> Value {
    stage.pend.backend("web", backend).unwrap()["draining"].clone()
}

fn talks_to(stage: &Stage, server: &str, count: usize) -> (Vec<TcpTalk>, TcpTalk) {
    let mut talks: Vec<_> =
        (0..2 * count).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let names: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let (here, mut there): (Vec<_>, Vec<_>) =
        talks.into_iter().zip(names).partition(|(_, name)| name == server);
    let other = there.pop().expect("round robin").0;
    (here.into_iter().map(|(talk, _)| talk).collect(), other)
}

#[test]
fn connections_go_on_until_the_deadline_and_end_then() {
    let stage = stage(2, "scheduler = \"roundrobin\"");
    let (mut talks, mut other) = talks_to(&stage, "b1", 3);
    assert_eq!(talks.len(), 3);
    let scratch = Scratch::new().unwrap();
    let mut waits = begin(&stage, &scratch, &["drain", "web/b1", "--deadline", "15s", "--wait"]);
    wait_until(LONG, "three connections are counted", || {
        (left(&stage, "b1")["connections"] == 3).then_some(())
    })
    .unwrap();
    let shown = stage.order(["backends"]);
    assert!(shown.contains("drained by the operator; 3 connections left; the rest ends in "));
    let shown = stage.order(["backends", "web/b1"]);
    assert!(shown.contains("\n3 connections left; the rest ends in "), "{shown}");
    assert_eq!(stage.web_tally(10).keys().collect::<Vec<_>>(), ["b2"]);
    for talk in &mut talks {
        assert_eq!(talk.ask().unwrap(), "b1");
    }
    talks.pop().unwrap().close().unwrap();
    let found = wait_until(LONG, "one has ended by itself", || {
        Some(left(&stage, "b1")).filter(|left| left["left"] == 2)
    })
    .unwrap();
    assert!(found["deadline_in_ms"].as_u64().unwrap() < 15_000 && found["empty"] == false);

    wait_until(LONG, "the deadline has ended the others", || talks[0].ask().err()).unwrap();
    assert!(talks[1].ask().is_err());
    assert_eq!(other.ask().unwrap(), "b2");
    assert_eq!(waits.wait(LONG).unwrap().code(), Some(0), "{}", waits.log());
    let log = waits.log();
    for line in [
        "web/b1 is drain for 15s at most (was ready), ",
        "\nweb/b1: 3 connections left; the rest ends in ",
        "\nweb/b1: 2 connections left; the rest ends in ",
        "\nweb/b1: the deadline is over: 2 ended\n",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let text = "web/b1: the deadline of its drain is over: 2 connections ended; drain -> maint";
    assert_eq!(stage.pend.events("drained").unwrap(), [text]);
    let row = stage.pend.backend("web", "b1").unwrap();
    assert_eq!((&row["admin"], &row["usable"]), (&"maint".into(), &false.into()));
    stage.order(["ready", "web/b1"]);
    stage.pend.wait_health("web", "b1", "up").unwrap();
    assert!(stage.web_tally(4).contains_key("b1"));
}

#[test]
fn who_waits_hears_when_nothing_is_left_and_when_the_drain_is_revoked() {
    let stage = stage(2, "scheduler = \"roundrobin\"");
    let (mut talks, _other) = talks_to(&stage, "b1", 1);
    let scratch = Scratch::new().unwrap();
    let mut waits = begin(&stage, &scratch, &["drain", "web/b1", "--wait"]);
    wait_until(LONG, "one connection is counted", || {
        waits.log().contains("\nweb/b1: 1 connection left\n").then_some(())
    })
    .unwrap();
    stage.order(["ready", "web/b1"]);
    assert_eq!(waits.wait(LONG).unwrap().code(), Some(1));
    let error = "penctl: web/b1 is drained no more: somebody has made it ready; drain it again, or \
                 look at `penctl events`\n";
    assert!(waits.log().ends_with(error), "{}", waits.log());

    let scratch = Scratch::new().unwrap();
    let mut waits = begin(&stage, &scratch, &["--json", "drain", "web/b1", "--wait"]);
    let lines = |waits: &Process| -> Vec<Value> {
        let log = waits.log();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    wait_until(LONG, "one connection is counted", || {
        lines(&waits).iter().any(|line| line["draining"]["left"] == 1).then_some(())
    })
    .unwrap();
    talks.pop().unwrap().close().unwrap();
    assert_eq!(waits.wait(LONG).unwrap().code(), Some(0), "{}", waits.log());
    let lines = lines(&waits);
    assert_eq!(lines[0]["now"], "drain");
    let last = lines.last().unwrap();
    assert_eq!((&last["subject"], &last["draining"]["empty"]), (&"web/b1".into(), &true.into()));
    let text = "web/b1 is drained: nothing is left, it can be switched off";
    wait_until(SHORT, "it is told as well", || {
        (stage.pend.events("drained").unwrap() == [text]).then_some(())
    })
    .unwrap();
    assert!(stage.order(["backends"]).contains("operator; empty: can be switched off"));
}

#[test]
fn a_deadline_that_makes_no_sense_is_refused() {
    let stage = stage(1, "");
    let refused = stage.pend.penctl(["drain", "web/b1", "--deadline", "0s"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let error = "penctl: a drain that ends at once is none; for no packet at all from now on, say `maint`\n";
    assert_eq!(refused.stderr, error);
    let refused = stage.pend.penctl(["drain", "web/b1", "--deadline", "soon"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let would = stage.order(["drain", "web/b1", "--deadline", "90s", "--dry-run"]);
    assert!(would.starts_with("web/b1 would be drain for 1m 30s at most (was ready), "), "{would}");
    assert_eq!(stage.pend.backend("web", "b1").unwrap()["admin"], "ready");
}
