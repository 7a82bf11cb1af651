//! Receivers as tables: what happens, and what each of them is told.

use super::*;
use crate::config::{Exec, Webhook};

const SECOND: Duration = Duration::from_secs(1);

fn at(second: u64) -> Moment {
    Moment(0) + Duration::from_secs(1000 + second)
}

fn program(name: &str) -> Notify {
    let exec = Exec { words: vec!["/bin/true".to_owned()], user: "nobody".to_owned() };
    Notify {
        name: name.to_owned(),
        to: To::Program(exec),
        events: None,
        rate_limit: 1000,
        timeout: SECOND,
    }
}

fn webhook(name: &str) -> Notify {
    let to = To::Webhook(Webhook {
        tls: false,
        host: "a.example".to_owned(),
        port: 80,
        authority: "a.example".to_owned(),
        path: "/".to_owned(),
        ca: None,
    });
    Notify { to, ..program(name) }
}

fn receivers(all: &[Notify]) -> Receivers {
    let mut receivers = Receivers::default();
    receivers.configure(all);
    receivers
}

fn event(second: u64, kind: &'static str, warning: bool) -> Message {
    Message {
        at: at(second),
        sequence: second,
        warning,
        kind,
        subject: "web/b1".to_owned(),
        text: format!("{kind} at {second}"),
        left_out: 0,
    }
}

/// The texts of what is told now, and all of it succeeds.
fn told(receivers: &mut Receivers, second: u64) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let deliveries = receivers.poll(at(second));
        if deliveries.is_empty() {
            return texts;
        }
        for Delivery { to, serial, message } in deliveries {
            texts.push(message.text);
            receivers.done(at(second), &to.name, serial, Ok(()));
        }
    }
}

fn fail(receivers: &mut Receivers, second: u64) -> Option<Change> {
    let delivery = receivers.poll(at(second)).pop().expect("an attempt");
    receivers.done(at(second), &delivery.to.name, delivery.serial, Err("no answer".to_owned()))
}

#[test]
fn each_receiver_is_told_what_it_wants() {
    let of = |events: &[&str]| Some(events.iter().map(|event| (*event).to_owned()).collect());
    for (events, wanted) in [
        (None, [true, false, true]),
        (of(&["backend-up"]), [false, true, false]),
        (of(&["backend-up", "ejected"]), [false, true, true]),
        (of(&["all"]), [true, true, true]),
    ] {
        let config = Notify { events, ..program("a") };
        let found = [("backend-down", true), ("backend-up", false), ("ejected", true)]
            .map(|(kind, warning)| config.wants(kind, warning));
        assert_eq!(found, wanted, "{:?}", config.events);
    }
}

#[test]
fn of_more_events_than_the_rate_allows_one_message_tells_how_many_they_were() {
    let mut receivers = receivers(&[Notify { rate_limit: 2, ..program("a") }]);
    for second in 0..5 {
        let kind = if second == 4 { "ejected" } else { "backend-down" };
        receivers.offer(&event(second, kind, true));
    }
    assert_eq!(told(&mut receivers, 5), ["backend-down at 0", "backend-down at 1"]);
    assert_eq!(receivers.next_deadline(), at(60));
    assert_eq!(told(&mut receivers, 59), Vec::<String>::new());
    let summary = "3 more events were not told one by one: 2 backend-down, 1 ejected";
    assert_eq!(told(&mut receivers, 60), [summary]);
    // It was the first one of the next minute.
    for second in 61..64 {
        receivers.offer(&event(second, "backend-down", true));
    }
    assert_eq!(told(&mut receivers, 64), ["backend-down at 61"]);
    let summary = "2 more events were not told one by one: 2 backend-down";
    assert_eq!(told(&mut receivers, 120), [summary]);
    // After a quiet minute all is as at first.
    receivers.offer(&event(300, "ejected", true));
    receivers.offer(&event(301, "ejected", true));
    assert_eq!(told(&mut receivers, 301).len(), 2);
    assert_eq!(receivers.next_deadline(), Moment::NEVER);
    assert_eq!(receivers.totals().expect("some").dropped, 0);
}

#[test]
fn a_server_that_does_not_answer_is_tried_again_after_longer_and_longer_waits() {
    let mut receivers = receivers(&[webhook("a")]);
    receivers.offer(&event(0, "backend-down", true));
    let mut second = 0;
    let mut waits = Vec::new();
    for attempt in 0..TRIES {
        let change = fail(&mut receivers, second);
        assert_eq!(change.is_some(), attempt == 0, "told once");
        let next = receivers.next_deadline();
        if next == Moment::NEVER {
            break;
        }
        let wait = next.since(at(second)).as_secs();
        assert!(receivers.poll(at(second + wait - 1)).is_empty(), "not before");
        waits.push(wait);
        second += wait;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60]);
    let totals = Totals { sent: 0, failed: u64::from(TRIES), dropped: 1 };
    assert_eq!(receivers.totals(), Some(totals));
    assert_eq!(receivers.failing().collect::<Vec<_>>(), [("a", "no answer")]);
    receivers.offer(&event(second, "backend-down", true));
    let delivery = receivers.poll(at(second)).pop().expect("another message, another attempt");
    let change = receivers.done(at(second), "a", delivery.serial, Ok(()));
    assert_eq!(change, Some(Change::Works));
    assert_eq!(receivers.failing().count(), 0);
}

#[test]
fn a_program_that_fails_is_not_started_again_for_the_same_event() {
    let mut receivers = receivers(&[program("a")]);
    receivers.offer(&event(0, "backend-down", true));
    assert_eq!(fail(&mut receivers, 0), Some(Change::Fails("no answer".to_owned())));
    assert!(receivers.poll(at(100)).is_empty());
    assert_eq!(receivers.totals(), Some(Totals { sent: 0, failed: 1, dropped: 1 }));
}

#[test]
fn one_message_is_under_way_at_a_time_and_late_results_count_nothing() {
    let mut receivers = receivers(&[program("a"), program("b")]);
    receivers.offer(&event(0, "backend-down", true));
    receivers.offer(&event(1, "ejected", true));
    let first = receivers.poll(at(1));
    assert_eq!(first.len(), 2, "each has one");
    assert!(receivers.poll(at(1)).is_empty());
    assert_eq!(receivers.done(at(1), "a", 4711, Err("late".to_owned())), None);
    assert_eq!(receivers.done(at(1), "c", 1, Ok(())), None);
    assert!(receivers.poll(at(1)).is_empty());
    receivers.done(at(1), "a", first[0].serial, Ok(()));
    assert_eq!(receivers.poll(at(1))[0].message.text, "ejected at 1");
}

#[test]
fn of_too_many_that_wait_the_oldest_go_and_are_counted() {
    let mut receivers = receivers(&[webhook("a")]);
    receivers.offer(&event(0, "backend-down", true));
    let under_way = receivers.poll(at(0)).pop().expect("an attempt");
    for second in 1..=count(WAITING) + 5 {
        receivers.offer(&event(second, "backend-down", true));
    }
    assert_eq!(receivers.totals().expect("some").dropped, 6);
    receivers.done(at(100), "a", under_way.serial, Ok(()));
    let left = told(&mut receivers, 100);
    assert_eq!(left.len(), WAITING - 1);
    assert_eq!(left[0], "backend-down at 7");
}

#[test]
fn a_reload_keeps_what_waits_for_those_that_are_told_as_before() {
    let mut receivers = receivers(&[program("a"), program("b"), program("c")]);
    receivers.offer(&event(0, "backend-down", true));
    let faster = Notify { rate_limit: 1, ..program("a") };
    receivers.configure(&[webhook("b"), faster, program("d")]);
    assert_eq!(receivers.names(), ["b", "a", "d"]);
    let deliveries = receivers.poll(at(1));
    let names: Vec<_> = deliveries.iter().map(|found| found.to.name.as_str()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(receivers.totals().expect("some").dropped, 2, "those of b and c");
}

#[test]
fn nobody_is_told_that_it_cannot_be_told() {
    let mut receivers = receivers(&[program("a"), program("b")]);
    let subject = "a".to_owned();
    receivers.offer(&Message { subject, ..event(0, "notify-failed", true) });
    let deliveries = receivers.poll(at(0));
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].to.name, "b");
}

#[test]
fn without_receivers_there_is_nothing_to_count_and_nothing_to_test() {
    let receivers = receivers(&[]);
    assert_eq!(receivers.totals(), None);
    assert_eq!(receivers.test("a", at(0)), None);
    assert_eq!(receivers.next_deadline(), Moment::NEVER);
}

#[test]
fn every_event_of_the_code_can_be_named_in_the_configuration_and_no_other() {
    let pattern = concat!(
        r"(?:\b(?:tell|warn|announce|note_event)\((?:self, )?\s*(?:now|context),\s*(?:(?:true|false|warning|weight > known),\s*)?",
        r"|\btell\((?:true|false|warning),\s*|\bpush\(\((?:true|false),\s*|let \(warning, kind, subject\) = \(true, )",
        "\"([a-z-]+)\"",
    );
    let pattern = regex::Regex::new(pattern).expect("valid");
    let mut found = std::collections::BTreeSet::from(["all".to_owned()]);
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
            let path = entry.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() && name != "sim" && name != "tests" {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("tests") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.extend(pattern.captures_iter(&text).map(|found| found[1].to_owned()));
            }
        }
    }
    let named: std::collections::BTreeSet<_> =
        crate::config::EVENTS.iter().map(|event| (*event).to_owned()).collect();
    assert_eq!(found, named);
}
