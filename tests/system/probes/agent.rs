//! Agents beside checks: a script with the words that haproxy understands.

use pen_tests::{Agent, Nginx, client::http, wait_until};

use super::Checked;
use crate::{proxy::LONG, stage::WEB};

#[test]
fn a_server_follows_its_agents_words() {
    let checked = Checked::by(r#"type = "tcp", agent = { port = 9999, interval = "200ms" }"#);
    let host = &checked.lab.backends[0].netns;
    let _nginx = Nginx::start(host, "b1", 80).unwrap();
    checked.wait_up();
    let agent = Agent::start(host, "agent", 9999, "up 100%\n").unwrap();
    let why = |words: &str, why: &str| {
        agent.says(words).unwrap();
        checked.wait(why, |row| row["why"].as_str() == Some(why));
        assert!(http(&checked.lab.client().netns, WEB).is_err(), "{words}");
    };
    why("maint\n", "in maintenance by its agent");
    why("ready down # the disk is full\n", "its agent says down: \"the disk is full\"");
    why("drain up\n", "drained by its agent");
    agent.says("ready up weight:300%\n").unwrap();
    checked.wait("three times its weight", |row| row["weight"] == 3 && row["why"].is_null());
    assert_eq!(http(&checked.lab.client().netns, WEB).unwrap(), "b1");
    // What the operator says goes before it.
    assert!(checked.pend.penctl(["drain", "web/b1"]).unwrap().status.success());
    checked.wait("drained", |row| row["why"] == "drained by the operator");
    assert!(checked.pend.penctl(["ready", "web/b1"]).unwrap().status.success());
    checked.wait("ready", |row| row["why"].is_null());
    let silent = |why: &str| {
        wait_until(LONG, why, || {
            let events = checked.pend.events("agent-silent").ok()?;
            let is = |event: &&String| event.contains("what it said last holds");
            events.iter().filter(is).any(|event| event.contains(why)).then_some(())
        })
        .unwrap();
    };
    agent.says("no idea\n").unwrap();
    silent("answered \"no idea\", expected words of an agent");
    checked.wait("its last word", |row| row["weight"] == 3);
    agent.says("weight:200%\n").unwrap();
    checked.wait("its new word", |row| row["weight"] == 2);
    drop(agent);
    silent("connection refused");
    checked.wait("its last word", |row| row["weight"] == 2);
}
