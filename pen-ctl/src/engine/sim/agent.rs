//! What agents on servers say, beside checks and operators.

use super::*;
use crate::config::{Agent, Limits, Proxy};

/// Two backends with agents.
fn with_agents() -> Config {
    let mut config = config(2);
    config.services[0].check.agent = Some(Agent {
        port: 9999,
        interval: secs(1),
        timeout: Duration::from_millis(500),
        send: Arc::from(""),
    });
    config
}

fn start() -> Sim {
    let mut sim = Sim::start(with_agents());
    sim.run_for(secs(2));
    sim
}

/// The agent of the second backend says this from now on.
fn say(sim: &mut Sim, words: &'static str) -> String {
    sim.agents.insert(address(2), words);
    sim.run_for(secs(2));
    let backends = sim.engine.backends(sim.now, &Counts::default());
    backends[1].why.clone().unwrap_or_default()
}

fn weights(sim: &Sim) -> Vec<u32> {
    let backends = sim.engine.backends(sim.now, &Counts::default());
    backends.iter().map(|backend| backend.weight).collect()
}

#[test]
fn state_and_weight_follow_an_agents_words() {
    let mut sim = start();
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]), "without its agent a server serves");
    for (words, why, serving) in [
        ("drain", "drained by its agent", &[1][..]),
        ("up", "drained by its agent", &[1]),
        ("ready", "", &[1, 2]),
        ("maint", "in maintenance by its agent", &[1]),
        ("ready", "", &[1, 2]),
        ("down # the disk is full", "its agent says down: \"the disk is full\"", &[1]),
        ("ready", "its agent says down: \"the disk is full\"", &[1]),
        ("up", "", &[1, 2]),
        ("0%", "weight 0", &[1]),
        ("100%", "", &[1, 2]),
    ] {
        assert_eq!(say(&mut sim, words), why, "{words}");
        assert_eq!(sim.serving(), BTreeSet::from_iter(serving.iter().copied()), "{words}");
    }
    let events = sim.engine.events(0);
    let mut said = events.iter().filter(|event| event.kind == "agent");
    let last = said.next_back().expect("some").text.clone();
    assert_eq!(last, "web/b2: its agent says ready, up, 100%");
}

#[test]
fn a_share_of_a_weight_is_more_than_nothing() {
    let mut config = with_agents();
    config.services[0].backends[1].weight = 10;
    let mut sim = Sim::start(config);
    for (words, weight) in [("55%", 6), ("1%", 1), ("200%", 20), ("25600%", 256), ("0%", 0)] {
        say(&mut sim, words);
        assert_eq!(weights(&sim), [1, weight], "{words}");
    }
}

#[test]
fn the_operators_word_goes_before_an_agents() {
    let mut sim = start();
    sim.set_admin("b2", Admin::Drain).expect("known backend");
    assert_eq!(say(&mut sim, "ready up 50%"), "drained by the operator");
    sim.set_admin("b2", Admin::Maint).expect("known backend");
    assert_eq!(say(&mut sim, "drain"), "in maintenance by the operator");
    sim.set_admin("b2", Admin::Ready).expect("known backend");
    assert_eq!(say(&mut sim, "ready"), "");
    sim.set_weight("b2", 7).expect("known backend");
    say(&mut sim, "50%");
    assert_eq!(weights(&sim), [1, 7]);
}

#[test]
fn the_check_goes_on_beside_it() {
    let mut sim = start();
    say(&mut sim, "up");
    sim.refusing.insert(address(2));
    sim.run_for(secs(5));
    assert_eq!(say(&mut sim, "ready up 100%"), "check failed: connection refused");
    assert_eq!(sim.serving(), BTreeSet::from([1]));
}

#[test]
fn what_an_agent_said_last_holds_while_it_is_silent_and_is_forgotten_with_it() {
    let mut sim = start();
    say(&mut sim, "drain");
    sim.agents.clear();
    sim.run_for(secs(10));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let events = sim.engine.events(0);
    let texts = events.iter().filter(|event| event.kind == "agent-silent");
    let texts: Vec<_> = texts.map(|event| event.text.as_str()).collect();
    let silent =
        |name| format!("web/{name}: its agent: connection refused; what it said last holds");
    // Once for each time that it fell silent.
    assert_eq!(texts, [silent("b1"), silent("b2"), silent("b2")]);
    let mut other = with_agents();
    other.services[0].check.agent = None;
    sim.reload(other);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn an_agent_may_limit_the_connections_of_a_proxy() {
    let mut config = with_agents();
    config.services[0].mode = Mode::Proxy;
    config.services[0].proxy = Some(Box::new(Proxy::usual()));
    let limits = Limits { max_connections: Some(50), max_known: Some(60), prio: 0 };
    config.services[0].backends[1].limits = limits;
    let mut sim = Sim::start(config);
    let known = |sim: &Sim| sim.proxies.services[0].backends[1].limits;
    sim.run_for(secs(2));
    assert_eq!(known(&sim), limits);
    say(&mut sim, "maxconn:5");
    assert_eq!(known(&sim), Limits { max_connections: Some(5), ..limits });
    say(&mut sim, "maxconn:70");
    assert_eq!(known(&sim), Limits { max_connections: Some(70), max_known: Some(70), prio: 0 });
}
