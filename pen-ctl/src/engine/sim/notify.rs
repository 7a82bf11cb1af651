//! Who is told of what happens.

use std::time::Duration;

use pen_common::moment::Moment;

use super::{Sim, address, config};
use crate::config::{Exec, Notify, To, Webhook};
use crate::engine::event::Event;

fn told(name: &str) -> Notify {
    let exec = Exec { words: vec!["/bin/true".to_owned()], user: "nobody".to_owned() };
    Notify {
        name: name.to_owned(),
        to: To::Program(exec),
        events: None,
        rate_limit: 10,
        timeout: Duration::from_secs(1),
    }
}

fn texts(sim: &Sim) -> Vec<String> {
    sim.told.iter().map(|found| format!("{}: {}", found.to.name, found.message.text)).collect()
}

/// The last message went so.
fn end(sim: &mut Sim, result: Result<(), String>) {
    let last = sim.told.last().expect("a message");
    let (receiver, serial) = (last.to.name.clone(), last.serial);
    sim.event(Event::Notified { receiver, serial, result });
}

#[test]
fn a_backend_that_goes_down_is_told_and_who_cannot_be_told_is_a_warning() {
    let mut config = config(2);
    config.notify = vec![told("pager")];
    let mut sim = Sim::start(config);
    sim.run_for(Duration::from_secs(3));
    assert_eq!(texts(&sim), Vec::<String>::new(), "nothing needs attention");
    sim.dead.insert(address(1));
    sim.run_for(Duration::from_secs(10));
    assert_eq!(texts(&sim), ["pager: web/b1 is down: no answer within 500ms"]);
    end(&mut sim, Err("no modem".to_owned()));
    let warning = "pager cannot be told of events: no modem";
    assert!(sim.engine.status(sim.now, 1).warnings.contains(&warning.to_owned()));
    let counts = |sim: &Sim| {
        let counters = sim.engine.notify_counters();
        counters.into_iter().map(|found| (found.name, found.packets)).collect::<Vec<_>>()
    };
    let expected = [("notify-sent", 0), ("notify-failed", 1), ("notify-dropped", 1)];
    assert_eq!(counts(&sim), expected.map(|(name, count)| (name.to_owned(), count)));
    let kinds = |sim: &Sim| {
        let events = sim.engine.events(0);
        events
            .into_iter()
            .map(|event| event.kind)
            .filter(|kind| kind.starts_with("notify"))
            .collect()
    };
    let failed: Vec<String> = kinds(&sim);
    assert_eq!(failed, ["notify-failed"]);
    sim.dead.insert(address(2));
    sim.run_for(Duration::from_secs(10));
    assert!(texts(&sim).contains(&"pager: web/b2 is down: no answer within 500ms".to_owned()));
    end(&mut sim, Ok(()));
    let works: Vec<String> = kinds(&sim);
    assert_eq!(works, ["notify-failed", "notify-works"]);
    assert!(sim.engine.status(sim.now, 1).warnings.is_empty());
}

#[test]
fn a_reload_says_what_is_other_and_keeps_the_paths_of_webhooks_to_itself() {
    let webhook = |path: &str| {
        To::Webhook(Webhook {
            tls: true,
            host: "a.example".to_owned(),
            port: 443,
            authority: "a.example".to_owned(),
            path: path.to_owned(),
            ca: None,
        })
    };
    let mut config = config(1);
    config.notify = vec![Notify { to: webhook("/secret"), ..told("hook") }, told("pager")];
    let mut sim = Sim::start(config.clone());
    config.notify[0].to = webhook("/other");
    config.notify[1] = Notify { rate_limit: 3, ..told("mail") };
    let changes = sim.engine.reconfigure(sim.now, config, false).expect("nothing fixed").changes;
    let lines: Vec<_> = changes
        .into_iter()
        .map(|found| format!("{} {:?} {:?} {:?}", found.subject, found.key, found.was, found.now))
        .collect();
    let expected = [
        r#"notify mail None None Some("program /bin/true as nobody")"#,
        r#"notify hook Some("path") Some("one") Some("another one")"#,
        r#"notify pager None Some("program /bin/true as nobody") None"#,
    ];
    assert_eq!(lines, expected);
    let now = sim.engine.notify_test(sim.now, "hook").expect("it is there");
    assert_eq!(now.to.to, webhook("/other"));
}

#[test]
fn a_test_is_for_one_that_there_is() {
    let mut config = config(1);
    let sim = Sim::start(config.clone());
    let refused = |sim: &Sim, name| sim.engine.notify_test(Moment(1), name).expect_err("none");
    let none = "no [[notify]] is called a; the configuration has none; add one";
    assert_eq!(refused(&sim, "a").to_string(), none);
    config.notify = vec![told("pager"), told("mail")];
    let sim = Sim::start(config);
    let others = "no [[notify]] is called a; there are: pager, mail";
    assert_eq!(refused(&sim, "a").to_string(), others);
    let test = sim.engine.notify_test(Moment(1), "mail").expect("it is there");
    assert_eq!((test.to.name.as_str(), test.message.kind), ("mail", "test"));
}
