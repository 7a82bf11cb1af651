//! What scripts and other programs build upon: JSON of every verb, tab-separated text in a pipe,
//! and the HTTP interface with nothing but curl.

use std::process::Command;

use pen_tests::{
    paths::program,
    process::{SHORT, run, run_ok},
};
use serde_json::Value;

use crate::stage::Stage;

const VERBS: [&[&str]; 14] = [
    &["status"],
    &["services"],
    &["backends"],
    &["vips"],
    &["counters"],
    &["flows"],
    &["clients"],
    &["events"],
    &["explain", "10.77.0.2:5000", "10.77.0.100:80"],
    &["explain", "--simulate", "10", "--service", "web"],
    &["drain", "web/b1"],
    &["maint", "web/b1"],
    &["ready", "web/b1"],
    &["weight", "web/b1", "2"],
];

#[test]
fn the_json_of_every_verb_is_read_by_jq() {
    let stage = Stage::new();
    for words in VERBS {
        // The status of a pipe is that of jq; penctl's own is looked at elsewhere.
        let script = r#"p=$1; s=$2; shift 2; "$p" --socket "$s" --json "$@" | jq -e ."#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(program("penctl").unwrap());
        shell.arg(stage.pend.socket()).args(words);
        let json = run_ok(&mut shell).unwrap();
        assert!(json.starts_with(['{', '[']), "{words:?}: {json}");
    }
    let mut jq = Command::new("sh");
    let script = r#""$1" --socket "$2" --json backends | jq -r '.[] | select(.usable) | .name'"#;
    jq.args(["-c", script, "sh"]).arg(program("penctl").unwrap()).arg(stage.pend.socket());
    assert_eq!(run_ok(&mut jq).unwrap().lines().count(), 12);
}

#[test]
fn in_a_pipe_tables_are_tab_separated_and_without_colour() {
    let mut stage = Stage::new();
    // Something that a terminal would show in red.
    stage.demos[0].process().kill9().unwrap();
    stage.pend.wait_health("web", "b1", "down").unwrap();
    for words in VERBS {
        let text = stage.pend.penctl(words).unwrap().stdout;
        assert!(!text.is_empty() && !text.contains('\x1b'), "{words:?}: {text}");
        // The reasons of an explanation are set in; nothing is aligned.
        let aligned = |line: &str| line.trim_start().contains("  ");
        assert!(!text.lines().any(aligned), "{words:?}: {text}");
    }
    for (verb, columns, rows) in [("services", 8, 4), ("backends", 11, 12), ("vips", 9, 2)] {
        let text = stage.pend.penctl([verb]).unwrap().stdout;
        assert_eq!(text.lines().count(), rows + 1, "{text}");
        for line in text.lines() {
            assert_eq!(line.split('\t').count(), columns, "{line}");
        }
    }
}

#[test]
fn curl_alone_can_ask_and_order() {
    let stage = Stage::new();
    let curl = |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--unix-socket"]).arg(stage.pend.socket());
        run(curl.args(args), SHORT).unwrap().stdout
    };
    let status: Value = serde_json::from_str(&curl(&["http://pend/v1/status"])).unwrap();
    assert_eq!(status["backends_usable"], 12);
    let order = r#"{"service": "web", "backend": "b1", "admin": "drain"}"#;
    let done = curl(&["--json", order, "http://pend/v1/admin"]);
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["was"], &done["now"]), (&"ready".into(), &"drain".into()));
    assert_eq!(stage.pend.backend("web", "b1").unwrap()["admin"], "drain");

    let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    for (url, status) in [
        (&["http://pend/v1/nothing"][..], "404"),
        (&["-XDELETE", "http://pend/v1/status"], "405"),
        (&["--json", "{}", "http://pend/v1/admin"], "400"),
        (&["--json", &order.replace("b1", "b9"), "http://pend/v1/admin"], "409"),
    ] {
        assert_eq!(curl(&[&code[..], url].concat()), status, "{url:?}");
    }
    let refusal = curl(&["http://pend/v1/nothing"]);
    let refusal: Value = serde_json::from_str(&refusal).unwrap();
    assert_eq!(refusal["error"], "there is no /v1/nothing");
    assert!(refusal["cure"].as_str().unwrap().contains("/v1/status"));
}

#[test]
fn events_are_followed_as_they_happen() {
    let stage = Stage::new();
    let mut penctl = Command::new(program("penctl").unwrap());
    penctl.arg("--socket").arg(stage.pend.socket()).args(["events", "--follow"]);
    let scratch = pen_tests::paths::Scratch::new().unwrap();
    let mut follower =
        pen_tests::Process::start("penctl", penctl, &scratch.file("events")).unwrap();
    let says = |what: &str| {
        pen_tests::wait_until(SHORT, &format!("penctl says {what:?}"), || {
            follower.log().contains(what).then_some(())
        })
        .unwrap();
    };
    says("web/b3 is up");
    stage.order(["drain", "web/b3"]);
    says("web/b3: ready -> drain by the operator");
    let log = follower.log();
    assert_eq!(log.matches("web/b3: ready -> drain").count(), 1, "{log}");
    follower.terminate(SHORT).unwrap();
}
