//! A server is drained whose flows are in the kernel: they are counted, and leave it at the deadline,
//! also if pend was killed in between.

use std::process::Command;
use std::time::Duration;

use pen_tests::{
    Process, client::TcpTalk, client::UdpTalk, paths::Scratch, paths::program, wait_until,
};

use crate::stage::{ECHO, Stage, WEB, usual};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn flows_stay_until_the_deadline_and_are_counted_also_by_the_next_pend() {
    let mut stage = Stage::new();
    let mut talks: Vec<_> = (0..12).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let names: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let victim = names[0].clone();
    let target = format!("web/{victim}");
    let here = names.iter().filter(|name| **name == victim).count();
    stage.order(["drain", &target, "--deadline", "25s"]);
    let row = stage.pend.backend("web", &victim).unwrap();
    assert!(row["draining"]["deadline_in_ms"].as_u64().unwrap() > 0, "{row}");
    for (talk, name) in talks.iter_mut().zip(&names) {
        assert_eq!(talk.ask().unwrap(), *name, "who is there stays");
    }
    assert!(!stage.web_tally(50).contains_key(&victim));
    wait_until(LONG, "its flows are counted", || {
        let row = stage.pend.backend("web", &victim).unwrap();
        (row["draining"]["flows"] == here).then_some(())
    })
    .unwrap();

    stage.pend.kill9().unwrap();
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(11).unwrap();
    let row = stage.pend.backend("web", &victim).unwrap();
    assert_eq!(row["admin"], "drain");
    assert!(row["draining"]["deadline_in_ms"].as_u64().unwrap() < 25_000, "{row}");
    assert_eq!(talks[0].ask().unwrap(), victim);
    wait_until(LONG, "its flows are counted again", || {
        let row = stage.pend.backend("web", &victim).unwrap();
        (row["draining"]["flows"] == here).then_some(())
    })
    .unwrap();

    let row = wait_until(LONG, "the deadline", || {
        Some(stage.pend.backend("web", &victim).unwrap()).filter(|row| row["admin"] == "maint")
    })
    .unwrap();
    assert_eq!(row["draining"]["over"], true);
    for (talk, name) in talks.iter_mut().zip(&names) {
        // Another server knows nothing of these connections.
        assert_eq!(talk.ask().is_err(), *name == victim, "{name}");
    }
    let told = stage.pend.events("drained").unwrap();
    let flows = if here == 1 { "1 flow".to_owned() } else { format!("{here} flows") };
    let text =
        format!("{target}: the deadline of its drain is over: {flows} ended, and flows that");
    assert!(told.len() == 1 && told[0].starts_with(&text), "{told:?}");
    // Only in the service that was named.
    assert_eq!(stage.pend.backend("web6", &victim).unwrap()["usable"], true);
}

#[test]
fn who_waits_for_flows_hears_when_the_last_one_has_expired() {
    let lab = pen_tests::Lab::builder().backends(2).build().unwrap();
    let stage = Stage::in_lab(lab, |lab| {
        let mut config = usual(lab);
        for service in &mut config.services {
            service.settle = Some("2s".to_owned());
        }
        config
    });
    let talk = UdpTalk::open(stage.client(), ECHO).unwrap();
    let target = format!("echo/{}", talk.ask().unwrap());
    let scratch = Scratch::new().unwrap();
    let mut command = Command::new(program("penctl").unwrap());
    command.arg("--socket").arg(stage.pend.socket()).args(["drain", &target, "--wait"]);
    let mut waits = Process::start("penctl", command, &scratch.file("penctl.log")).unwrap();
    wait_until(LONG, "the flow is counted", || {
        talk.ask();
        waits.log().contains(": 1 flow left (").then_some(())
    })
    .unwrap();
    assert_eq!(waits.wait(LONG).unwrap().code(), Some(0), "{}", waits.log());
    assert!(waits.log().ends_with(&format!("{target}: empty: can be switched off\n")));
    let text = format!("{target} is drained: nothing is left, it can be switched off");
    assert_eq!(stage.pend.events("drained").unwrap(), [text]);
}
