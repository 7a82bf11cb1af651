//! Servers that the DNS names: they join through their checks, leave with their flows, and stay while the
//! DNS is silent.

use super::*;
use crate::engine::names::{Answer, Target};

fn says(numbers: &[u8]) -> Result<Answer, String> {
    let target = |number: &u8| Target { address: address(*number), srv: None };
    Ok(Answer { targets: numbers.iter().map(target).collect(), ttl: secs(5) })
}

/// Started with these servers in the DNS, all of which are fine unless they refuse.
fn started(dns: Result<Answer, String>, refusing: &[u8]) -> Sim {
    let refusing = refusing.iter().map(|number| address(*number)).collect();
    let mut sim = Sim { dns, refusing, ..Sim::prepare(named(false), Tables::default()) };
    sim.begin();
    sim.run_for(secs(2));
    sim
}

fn told(sim: &Sim, kind: &str) -> Vec<String> {
    let events = sim.engine.events(0).into_iter().filter(|event| event.kind == kind);
    events.map(|event| event.text).collect()
}

#[test]
fn servers_join_through_their_checks_and_leave_with_their_flows() {
    let mut sim = started(says(&[1, 2]), &[4]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    sim.dns = says(&[2, 3, 4]);
    sim.run_for(secs(6));
    assert_eq!(sim.serving(), BTreeSet::from([2, 3]), "4 refuses, and 1 has left");
    let of = |number| Addr::from(address(number));
    let state = |sim: &Sim, number| {
        let found = sim.maps.backends.values().find(|backend| backend.addr == of(number));
        found.map(|backend| backend.state)
    };
    assert_eq!(state(&sim, 1), Some(pen_common::abi::Backend::DRAINED), "it keeps its flows");
    let news = [
        "app.example: 10.0.0.1, 10.0.0.2 joins",
        "app.example: 10.0.0.3, 10.0.0.4 joins, 10.0.0.1 leaves",
    ];
    assert_eq!(told(&sim, "name-changed"), news);
    sim.refusing.clear();
    sim.run_for(secs(5));
    assert_eq!(sim.serving(), BTreeSet::from([2, 3, 4]));
    sim.run_for(secs(2 * 3600));
    assert_eq!(state(&sim, 1), None, "its flows have ended");
}

#[test]
fn who_stays_is_not_touched() {
    let mut sim = started(says(&[1, 2]), &[]);
    sim.set_weight("app/10.0.0.1", 7).expect("it is there");
    let row = |sim: &Sim| {
        let rows = sim.engine.backends(sim.now, &Counts::default());
        rows.into_iter().find(|row| row.name == "app/10.0.0.1").expect("it is listed").weight
    };
    sim.dns = says(&[1, 3]);
    sim.run_for(secs(6));
    assert_eq!(row(&sim), 7, "what the operator set");
    sim.engine.reconfigure(sim.now, named(false), false).expect("the same");
    sim.carry_out();
    assert_eq!((row(&sim), sim.serving()), (7, BTreeSet::from([1, 3])));
}

#[test]
fn the_last_good_answer_stays_while_the_dns_fails() {
    let mut sim = started(says(&[1, 2]), &[]);
    sim.dns = Err("no answer within 2s".to_owned());
    sim.run_for(secs(600));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    let text = "app.example is not resolved: no answer within 2s; its last known servers stay";
    assert_eq!(told(&sim, "name-unresolved"), [text]);
    let warnings = sim.engine.status(sim.now, 1).warnings;
    assert!(
        warnings[0].ends_with("times in a row): its last 2 known servers stay"),
        "{warnings:?}"
    );
    assert!(
        sim.questions.len() < 25,
        "they are asked less and less often: {}",
        sim.questions.len()
    );
    sim.dns = says(&[2]);
    sim.run_for(secs(61));
    assert_eq!(sim.serving(), BTreeSet::from([2]));
    assert_eq!(told(&sim, "name-resolved"), ["app.example is resolved again"]);
    assert_eq!(sim.engine.status(sim.now, 1).warnings, [""; 0]);
}

#[test]
fn a_restart_while_the_dns_fails_has_the_servers_of_before() {
    let mut before = started(says(&[1, 2]), &[]);
    before.set_weight("app/10.0.0.1", 7).expect("it is there");
    let (maps, kept) = (before.maps.clone(), before.kept_names.clone());
    let mut sim = Sim::prepare(named(false), maps.clone());
    sim.engine = Engine::knowing(named(false), maps.clone(), [7, 7], sim.now, kept);
    sim.begin();
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]), "at once");
    assert_eq!(sim.maps.slots, maps.slots, "nothing moves");
    sim.run_for(secs(60));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    let rows = sim.engine.backends(sim.now, &Counts::default());
    assert_eq!(rows.iter().map(|row| row.weight).collect::<Vec<_>>(), [7, 3]);
}

#[test]
fn a_service_without_any_server_yet_says_so_and_begins_when_there_is_one() {
    let mut sim = started(Err("no answer within 2s".to_owned()), &[]);
    assert_eq!(sim.serving(), BTreeSet::new());
    let text = "app.example is not resolved: no answer within 2s; there are no servers of it";
    assert_eq!(told(&sim, "name-unresolved"), [text]);
    sim.dns = says(&[1]);
    sim.run_for(secs(60));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
}

#[test]
fn other_name_servers_are_asked_at_once() {
    let mut sim = started(says(&[1, 2]), &[]);
    sim.dns = says(&[2]).map(|answer| Answer { ttl: secs(3600), ..answer });
    sim.run_for(secs(10));
    sim.dns = says(&[3]);
    let mut config = named(false);
    config.node.resolvers = vec!["10.0.0.53:53".parse().expect("literal")];
    sim.engine.reconfigure(sim.now, config, false).expect("good");
    sim.carry_out();
    sim.run_for(secs(2));
    assert_eq!(sim.serving(), BTreeSet::from([3]));
}

#[test]
fn thousands_of_servers_make_no_endless_story() {
    let answer = |first: u32| {
        let address = |number| IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + first + number));
        let target = |number| Target { address: address(number), srv: None };
        Ok(Answer { targets: (0..3000).map(target).collect(), ttl: secs(5) })
    };
    let mut config = named(false);
    config.services[0].check.kind = CheckKind::None;
    let mut sim = Sim { dns: answer(0), ..Sim::prepare(config, Tables::default()) };
    sim.begin();
    sim.dns = answer(3000);
    sim.run_for(secs(6));
    let events = sim.engine.events(0);
    assert!(events.len() < 20, "{}", events.len());
    let longest = events.iter().map(|event| event.text.len()).max();
    assert!(longest < Some(500), "{longest:?}");
}

#[test]
fn what_the_operator_set_holds_for_an_hour_after_the_dns_left_the_server_out() {
    for (pause, admin, weight) in [(6, Admin::Maint, 7), (3700, Admin::Ready, 3)] {
        let mut sim = started(says(&[1, 2]), &[]);
        sim.set_weight("app/10.0.0.1", 7).expect("it is there");
        sim.set_admin("app/10.0.0.1", Admin::Maint).expect("it is there");
        sim.dns = says(&[2]);
        sim.run_for(secs(pause));
        let rows = sim.engine.backends(sim.now, &Counts::default());
        assert!(rows.iter().all(|row| row.name != "app/10.0.0.1"), "it is gone");
        sim.dns = says(&[1, 2]);
        sim.run_for(secs(6));
        let rows = sim.engine.backends(sim.now, &Counts::default());
        let row = rows.iter().find(|row| row.name == "app/10.0.0.1").expect("it is back");
        assert_eq!((row.admin, row.weight), (admin, weight));
    }
}
