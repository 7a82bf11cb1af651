//! `penctl flows` and `penctl clients` show what the kernel remembers, as it is, and do not hold the
//! daemon up however much that is.

use std::{net::IpAddr, path::PathBuf, thread, time::Duration};

use aya::maps::{HashMap, Map, MapData};
use pen_common::{
    abi::{DEFAULT_FLOWS, FlowKey, Record, map},
    net::{Addr, Be16},
};
use pen_tests::{
    client::{TcpTalk, http},
    process::SHORT,
    wait::Stopwatch,
    wait_until,
};
use serde_json::Value;

use crate::stage::{Stage, WEB, WEB6, usual};

/// The usual services; those of TCP remember clients.
fn remembering() -> Stage {
    Stage::in_lab(pen_tests::Lab::builder().build().unwrap(), |lab| {
        let mut config = usual(lab);
        for service in config.services.iter_mut().filter(|found| found.name.starts_with("web")) {
            "client".clone_into(&mut service.affinity);
        }
        config
    })
}

fn rows(stage: &Stage, words: &[&str]) -> Vec<Value> {
    let answer = stage.pend.penctl_json(words).unwrap();
    assert_eq!((&answer["more"], &answer["complete"]), (&0.into(), &true.into()), "{answer}");
    answer[words[0]].as_array().unwrap().clone()
}

#[test]
fn a_client_is_listed_with_its_backend_until_that_dies() {
    let mut stage = remembering();
    assert_eq!(rows(&stage, &["clients"]), [] as [Value; 0]);
    let by = http(stage.client(), WEB).unwrap();
    http(stage.client(), WEB6).unwrap();
    let [row] = &rows(&stage, &["clients", "--service", "web"])[..] else { panic!("one client") };
    assert_eq!(row["client"], "10.77.0.2");
    assert_eq!(row["backend"], by.as_str());
    assert_eq!((&row["live"], &row["why"]), (&true.into(), &Value::Null));
    assert!(row["age_ms"].as_u64().unwrap() < 5000, "{row}");
    let [row] = &rows(&stage, &["clients", "--service", "web6"])[..] else { panic!("one client") };
    assert_eq!(row["client"], "fd77::/64", "a network is one client");
    assert_eq!(rows(&stage, &["clients", "--client", "10.77.0.0/24"]).len(), 1);
    assert_eq!(rows(&stage, &["clients", "--client", "10.77.1.0/24"]).len(), 0);

    let index = stage.lab.backends.iter().position(|host| host.name == by).unwrap();
    stage.demos[index].process().kill9().unwrap();
    stage.pend.wait_health("web", &by, "down").unwrap();
    let text = stage.order(["clients", "--service", "web"]);
    assert!(text.contains("10.77.0.2") && text.contains("void: the backend"), "{text}");
    // Whoever comes again is remembered anew.
    let other = http(stage.client(), WEB).unwrap();
    assert_ne!(other, by);
    let [row] = &rows(&stage, &["clients", "--service", "web"])[..] else { panic!("one client") };
    assert_eq!((&row["backend"], &row["live"]), (&other.into(), &true.into()));
}

#[test]
fn connections_of_slots_that_moved_are_listed_with_their_backends() {
    let stage = Stage::new();
    stage.order(["drain", "web/b1"]);
    let mut talks: Vec<_> = (0..60).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let flows = rows(&stage, &["flows", "--service", "web"]);
    assert!(!flows.is_empty(), "a third of the slots moved");
    for row in &flows {
        let local = |talk: &&mut TcpTalk| row["client"] == talk.local().unwrap().to_string();
        let talk = talks.iter_mut().find(local).expect("its client is ours");
        assert_eq!(row["backend"], talk.ask().unwrap());
        assert_eq!((&row["vip"], &row["kind"]), (&"10.77.0.100:80".into(), &"record".into()));
        assert_eq!(row["live"], true);
    }
    let b2 = rows(&stage, &["flows", "--backend", "b2"]);
    assert!(b2.len() < flows.len() && b2.iter().all(|row| row["backend"] == "b2"));

    let one = stage.pend.penctl(["flows", "--limit", "1"]).unwrap();
    assert_eq!(one.stdout.lines().count(), 2, "a header and a row: {}", one.stdout);
    let more = format!("penctl: {} more; --limit shows more of them\n", flows.len() - 1);
    assert_eq!(one.stderr, more);
}

#[test]
fn a_list_of_what_does_not_exist_is_refused_with_the_names_of_what_does() {
    let stage = Stage::new();
    for (words, said) in [
        (&["flows", "--service", "www"][..], "there is no service `www`; there are: web, web6"),
        (&["clients", "--backend", "b9"], "there is no backend `b9`; there are: b1, b2, b3"),
        (&["flows", "--limit", "0"], "give a limit of 1 to 100000"),
    ] {
        let refused = stage.pend.penctl(words).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let usage = stage.pend.penctl(["clients", "--client", "10.0.0.0/40"]).unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

/// Records as a busy day leaves them, by the same door that the daemon uses.
fn fill(stage: &Stage, count: u32) {
    let folder = stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION));
    let pin: PathBuf = folder.join(map::FLOWS);
    let map = Map::LruHashMap(MapData::from_pin(pin).unwrap());
    let mut flows: HashMap<_, FlowKey, Record> = map.try_into().unwrap();
    for number in 0..count {
        let [a, b, c, d] = number.to_be_bytes();
        let key = FlowKey {
            client: Addr::from(IpAddr::from([100, b, c, d])),
            service: 0,
            source_port: Be16::new(u16::from(a) + 1),
            port: Be16::new(80),
        };
        let record = Record { backend: 1, generation: 1, last_seen_ns: u64::from(number) };
        flows.insert(key, record, 0).unwrap();
    }
}

#[test]
fn a_million_records_are_listed_without_a_pause_of_the_daemon() {
    let stage = Stage::new();
    fill(&stage, DEFAULT_FLOWS);
    let longest = thread::scope(|scope| {
        let listers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| stage.pend.penctl_json(["flows", "--limit", "5"])))
            .collect();
        let mut longest = Duration::ZERO;
        wait_until(3 * SHORT, "all lists are there", || {
            let clock = Stopwatch::start();
            stage.order(["status"]);
            longest = longest.max(clock.elapsed());
            listers.iter().all(|lister| lister.is_finished()).then_some(())
        })
        .unwrap();
        let (mut listed, mut refused) = (0, 0);
        for lister in listers {
            // One at a time; who would wait for too long is told so.
            match lister.join().unwrap() {
                Ok(answer) => {
                    listed += 1;
                    let rows = answer["flows"].as_array().unwrap().len();
                    assert_eq!(rows, 5);
                    assert!(answer["more"].as_u64().unwrap() > 100_000, "{}", answer["more"]);
                }
                Err(error) => {
                    refused += 1;
                    let said = format!("{error:#}");
                    assert!(said.contains("another long list"), "{said}");
                }
            }
        }
        assert!(listed >= 1, "{refused} refused");
        longest
    });
    assert!(longest < Duration::from_secs(1), "the daemon answered after {longest:?}");
    assert_eq!(stage.pend.usable_backends().unwrap(), 12);
}
