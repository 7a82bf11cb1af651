//! Checks of type `http`, with nginx.

use std::fs;

use pen_tests::{Nginx, client::http};

use super::Checked;
use crate::stage::WEB;

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
