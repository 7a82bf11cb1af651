//! What the operator asks for at run time takes effect on real traffic, a dry run does not, and
//! what cannot be done is refused with a sentence and an exit status for scripts.

use std::path::Path;

use pen_tests::{
    Output, Pend,
    client::TcpTalk,
    paths::program,
    process::{SHORT, run},
};
use serde_json::Value;

use crate::stage::{Stage, WEB};

fn shares(pend: &Pend) -> Vec<(Value, Value, Value)> {
    let rows = pend.penctl_json(["backends"]).unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["admin"].clone(), row["weight"].clone(), row["share"].clone())).collect()
}

#[test]
fn a_drained_backend_gets_no_new_flow_until_it_is_ready_again() {
    let stage = Stage::new();
    let said = stage.order(["drain", "web/b2"]);
    assert!(said.starts_with("web/b2 is drain (was ready), "), "{said}");
    let by = stage.web_tally(200);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!((&row["admin"], &row["usable"]), (&"drain".into(), &false.into()));
    assert_eq!(row["health"], "up");
    assert_eq!(row["why"], "drained by the operator");
    // Only in the service that was named.
    assert_eq!(stage.pend.backend("web6", "b2").unwrap()["usable"], true);
    assert_eq!(stage.order(["drain", "web/b2"]), "web/b2 is drain as before\n");

    let said = stage.order(["ready", "web/b2"]);
    assert!(said.starts_with("web/b2 is ready (was drain), "), "{said}");
    assert!(stage.web_tally(100).contains_key("b2"));
    let events = stage.pend.events("admin").unwrap();
    assert_eq!(
        events,
        ["web/b2: ready -> drain by the operator", "web/b2: drain -> ready by the operator"]
    );
}

#[test]
fn a_backend_in_maintenance_gets_no_packet_and_no_check() {
    let stage = Stage::new();
    for service in ["web", "web6", "echo", "echo6"] {
        stage.order(["maint", &format!("{service}/b1")]);
    }
    let mac = &stage.lab.backends[0].mac;
    // A check that was under way when the order came may still end.
    pen_tests::wait_until(SHORT, "the last connection to b1 has ended", || {
        let open = stage.lab.backends[0].netns.output("ss", ["-Htn"]).unwrap().stdout;
        open.is_empty().then_some(())
    })
    .unwrap();
    let capture = pen_tests::Capture::start(
        &stage.lab.backends[0].netns,
        "eth0",
        &format!("tcp and ether dst {mac}"),
    )
    .unwrap();
    let by = stage.web_tally(200);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b2", "b3"], "{by:?}");
    // Well over a round of checks has gone by with two hundred requests.
    assert_eq!(capture.stop().unwrap(), Vec::<String>::new());
    let row = stage.pend.backend("web", "b1").unwrap();
    assert_eq!(row["why"], "in maintenance by the operator");

    stage.order(["ready", "web/b1"]);
    stage.pend.wait_health("web", "b1", "up").unwrap();
    assert!(stage.web_tally(100).contains_key("b1"));
}

#[test]
fn a_weight_of_three_shows_in_the_share_of_requests() {
    let stage = Stage::new();
    let said = stage.order(["weight", "web/b1", "3"]);
    assert!(said.starts_with("web/b1 is 3 (was 1), "), "{said}");
    let row = stage.pend.backend("web", "b1").unwrap();
    let share = row["share"].as_f64().unwrap();
    assert!((share - 60.0).abs() < 0.5, "{share}");
    let by = stage.web_tally(400);
    // 240 expected; five standard deviations of 9.8.
    assert!((190..=290).contains(&by["b1"]), "{by:?}");
    assert!((40..=120).contains(&by["b2"]) && (40..=120).contains(&by["b3"]), "{by:?}");

    stage.order(["weight", "web/b1", "0"]);
    assert_eq!(stage.web_tally(100).keys().collect::<Vec<_>>(), ["b2", "b3"]);
    assert_eq!(stage.pend.backend("web", "b1").unwrap()["why"], "weight 0");
}

#[test]
fn a_dry_run_tells_what_would_move_and_changes_nothing() {
    let stage = Stage::new();
    let before = shares(&stage.pend);
    for (words, begin) in [
        (&["drain", "web/b1", "--dry-run"][..], "web/b1 would be drain (was ready), "),
        (&["maint", "web/b1", "--dry-run"], "web/b1 would be maint (was ready), "),
        (&["weight", "web/b1", "3", "--dry-run"], "web/b1 would be 3 (was 1), "),
        (&["ready", "--dry-run", "web/b1"], "web/b1 would be ready as before"),
    ] {
        let output = stage.pend.penctl(words).unwrap();
        assert!(output.status.success() && output.stdout.starts_with(begin), "{output:?}");
    }
    assert_eq!(shares(&stage.pend), before);
    assert!(stage.pend.events("admin").unwrap().is_empty());
    assert!(stage.web_tally(60).contains_key("b1"));
}

#[test]
fn what_the_dry_run_foretells_is_what_then_happens() {
    let stage = Stage::new();
    let moved = |words: &[&str]| stage.pend.penctl_json(words).unwrap()["moved"].clone();
    let told = moved(&["drain", "web/b3", "--dry-run"]);
    assert_eq!(moved(&["drain", "web/b3"]), told);
    // The share of b3, and a little of the others', which depends on the secret.
    let told = told.as_f64().unwrap();
    assert!((33.0..45.0).contains(&told), "{told}");
}

fn refusal(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is missing: {}", output.stderr);
    }
}

#[test]
fn refusals_tell_what_there_is_and_leave_a_status_for_scripts() {
    let stage = Stage::new();
    let penctl = |words: &[&str]| stage.pend.penctl(words).unwrap();
    assert_eq!(penctl(&["status"]).status.code(), Some(0));

    let wrong = "penctl: service `web` has no backend `b9`; there are: b1, b2, b3\n";
    refusal(&penctl(&["drain", "web/b9"]), 1, &[wrong]);
    let wrong = "penctl: there is no service `wob`; there are: web, web6, echo, echo6\n";
    refusal(&penctl(&["maint", "wob/b1", "--dry-run"]), 1, &[wrong]);
    refusal(&penctl(&["weight", "web/b1", "257"]), 1, &["weight 257 is too high; give 0 to 256"]);
    let families = ["explain", "10.77.0.2:1", "[fd77::100]:80"];
    refusal(&penctl(&families), 1, &["different families"]);

    refusal(&penctl(&["drain", "web"]), 2, &["expected SERVICE/BACKEND, e.g. web/b1"]);
    refusal(&penctl(&["weight", "web/b1", "many"]), 2, &["many"]);
    refusal(&penctl(&["explain", "10.77.0.2", "10.77.0.100:80"]), 2, &["10.77.0.2"]);
    refusal(&penctl(&["explode"]), 2, &["explode", "Usage"]);
    refusal(&penctl(&[]), 2, &["Usage"]);
}

#[test]
fn a_daemon_that_is_not_there_is_status_three_and_says_which_socket() {
    let mut stage = Stage::new();
    let socket = stage.pend.socket().to_owned();
    let unreachable = |socket: &Path| {
        let mut command = std::process::Command::new(program("penctl").unwrap());
        let output = run(command.arg("--socket").arg(socket).arg("status"), SHORT).unwrap();
        let words = [socket.to_str().unwrap(), "is pend running?"];
        refusal(&output, 3, &words);
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    };
    unreachable(Path::new("/nonexistent/pend.sock"));
    // A crash leaves the socket's file.
    stage.pend.kill9().unwrap();
    assert!(socket.exists());
    unreachable(&socket);
}

#[test]
fn an_established_connection_outlives_orders_about_other_backends() {
    let stage = Stage::new();
    let mut talks: Vec<_> = (0..30).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let first: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    stage.order(["drain", "web6/b1"]);
    stage.order(["weight", "echo/b2", "7"]);
    let then: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert_eq!(first, then);
    for talk in talks {
        talk.close().unwrap();
    }
}
