//! Checks of type `http`, with nginx.

use std::fs;

use nix::sys::signal::Signal;
use pen_tests::{Agent, Nginx, client::http};

use super::Checked;
use crate::{stage::WEB, tls::Pki};

#[test]
fn a_server_that_answers_otherwise_than_expected_is_down_though_it_accepts_connections() {
    let checked =
        Checked::by(r#"type = "http", path = "/files/health", expect = 200, body = "well""#);
    checked.wait_down("connection refused");
    let nginx = Nginx::start(&checked.lab.backends[0].netns, "b1", 80).unwrap();
    checked.wait_down("answered 404, expected 200");
    let health = nginx.files().join("health");
    fs::write(&health, "all is well\n").unwrap();
    checked.wait_up();
    assert_eq!(http(&checked.lab.client().netns, WEB).unwrap(), "b1");
    fs::write(&health, "the disk is full\n").unwrap();
    checked.wait_down(r#"answered 200 with "the disk is full", expected a body with "well""#);
    let events = checked.pend.events("backend-down").unwrap();
    let last = events.last().unwrap();
    assert!(last.ends_with(r#"expected a body with "well""#), "{events:?}");

    checked.now_by(r#"type = "http", path = "/files/health", body_regex = "^the disk""#);
    checked.wait_up();
    checked.now_by(r#"type = "http", path = "/nowhere", expect = "404""#);
    let shown = || checked.pend.penctl(["backends", "web/b1"]).unwrap().stdout;
    assert!(shown().contains("checked by http GET /nowhere expecting 404"), "{}", shown());
    checked.wait_up();
}

#[test]
fn the_last_results_are_shown_with_their_times() {
    let checked = Checked::by(r#"type = "http", expect = 204"#);
    let _nginx = Nginx::start(&checked.lab.backends[0].netns, "b1", 80).unwrap();
    checked.wait_down("answered 200, expected 204");
    let probes = checked.pend.penctl_json(["backends", "web/b1"]).unwrap();
    assert_eq!(probes["subject"], "web/b1");
    let newest = &probes["results"][0];
    assert_eq!(newest["error"], "answered 200, expected 204");
    assert!(newest["took_us"].as_u64().unwrap() > 0, "{probes}");
    let text = checked.pend.penctl(["backends", "web/b1"]).unwrap().stdout;
    assert!(text.starts_with("web/b1 is down, checked by http GET / expecting 204\n"), "{text}");
    let unknown = checked.pend.penctl(["backends", "web/b7"]).unwrap();
    assert!(unknown.stderr.contains("there are: b1"), "{}", unknown.stderr);
}

#[test]
fn a_server_that_speaks_something_else_or_says_nothing_is_down() {
    let checked = Checked::by(r#"type = "http""#);
    let host = &checked.lab.backends[0].netns;
    let at = checked.backend(80);
    let mute = host.run(|| std::net::TcpListener::bind(at)).unwrap();
    checked.wait_down("accepted the connection, but did not answer within 1s");
    drop(mute);
    checked.wait_down("connection refused");
}

#[test]
fn a_server_that_hangs_up_hangs_is_gone_or_speaks_tls_is_told_apart() {
    let checked = Checked::by(r#"type = "http""#);
    let host = &checked.lab.backends[0].netns;
    let rude = "80;\n        location = /rude { return 444; }\n        default_type text/plain";
    let mut nginx = Nginx::start_on(host, "b1", &[rude.to_owned()], 80).unwrap();
    checked.wait_up();
    checked.now_by(r#"type = "http", path = "/rude""#);
    checked.wait_down("closed the connection without an answer");
    checked.now_by(r#"type = "http""#);
    checked.wait_up();
    // The kernel goes on accepting for it.
    nginx.process().signal(Signal::SIGSTOP).unwrap();
    checked.wait_down("accepted the connection, but did not answer within 1s");
    nginx.process().signal(Signal::SIGCONT).unwrap();
    checked.wait_up();
    checked.lab.switch.set_link("b1", false).unwrap();
    checked.wait_gone();
    checked.lab.switch.set_link("b1", true).unwrap();
    checked.wait_up();

    let pki = Pki::new();
    pki.issue("site", &["site.test"]);
    let [chain, key] = ["pem", "key"].map(|end| pki.file(&format!("site.{end}")));
    let _secure = Nginx::secure(host, "b1", 443, (&chain, &key), "").unwrap();
    checked.now_by(r#"type = "http", port = 443"#);
    checked.wait_down("answered 400, expected 200-399");
    let _agent = Agent::start(host, "b1", 9999, "up 100%\n").unwrap();
    checked.now_by(r#"type = "http", port = 9999"#);
    checked.wait("told that it is no HTTP", |row| {
        let why = row["why"].as_str().unwrap_or_default();
        why.starts_with("check failed: answered something else (") && why.ends_with("HTTP/1.1")
    });
}
