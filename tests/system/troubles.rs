//! Backends that die, hang, vanish and answer wrongly, at random and at the same time, below a service
//! of the kernel and one of the proxy: who is well serves, who is not does not, and both services agree.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use pen_tests::{
    Host, Lab, Nginx, Pend, Protocol, ServiceText,
    wait::{Stopwatch, pace},
};

use crate::effort;
use crate::proxy::{lab, proxied};
use crate::stage::{WEB, over_all, vips};

const CHECK: &str = r#"{ type = "http", port = 80, path = "/files/health", interval = "200ms", fast_interval = "100ms", timeout = "200ms", rise = 2, fall = 2 }"#;
/// A check may just have gone well; the next one fails after its timeout, and the second one as well.
const FALL: Duration = Duration::from_millis(200 + 200 + 100 + 200);
/// A check may just have failed, which took its timeout; the next one and the second one go well.
const RISE: Duration = Duration::from_millis(200 + 200 + 100);
/// For a busy machine, whose own lateness is held against nobody.
const MARGIN: Duration = Duration::from_millis(1500);

/// What becomes of a backend.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Its port is closed.
    Killed,
    /// It accepts connections, for the kernel does, and says nothing.
    Stopped,
    /// Nothing comes from it at all.
    Unplugged,
    /// It answers, but not as it should.
    Wrong,
}

const TROUBLES: [Trouble; 4] =
    [Trouble::Killed, Trouble::Stopped, Trouble::Unplugged, Trouble::Wrong];

/// A backend, and how it has been since when.
struct Life<'a> {
    lab: &'a Lab,
    host: &'a Host,
    server: Option<Nginx>,
    trouble: Option<Trouble>,
    since: Stopwatch,
    /// How long it stays so.
    lasts: Duration,
}

fn serve(host: &Host) -> Nginx {
    let server = Nginx::start(&host.netns, &host.name, 80).unwrap();
    fs::write(server.files().join("health"), "well\n").unwrap();
    server
}

impl Life<'_> {
    fn begin(&mut self, trouble: Trouble) {
        match (trouble, &mut self.server) {
            (Trouble::Killed, Some(server)) => {
                server.process().kill9().unwrap();
                self.server = None;
            }
            (Trouble::Stopped, Some(server)) => server.process().signal(Signal::SIGSTOP).unwrap(),
            (Trouble::Wrong, Some(server)) => {
                fs::remove_file(server.files().join("health")).unwrap();
            }
            (Trouble::Unplugged, _) => {
                self.lab.switch.set_link(&self.host.name, false).unwrap();
            }
            (_, None) => unreachable!("it was well, so it runs"),
        }
        self.trouble = Some(trouble);
        self.since = Stopwatch::start();
    }

    fn end(&mut self, trouble: Trouble) {
        match (trouble, &mut self.server) {
            (Trouble::Killed, server) => *server = Some(serve(self.host)),
            (Trouble::Stopped, Some(server)) => server.process().signal(Signal::SIGCONT).unwrap(),
            (Trouble::Wrong, Some(server)) => {
                fs::write(server.files().join("health"), "well\n").unwrap();
            }
            (Trouble::Unplugged, _) => {
                self.lab.switch.set_link(&self.host.name, true).unwrap();
            }
            (_, None) => unreachable!("only who was killed does not run"),
        }
        self.trouble = None;
        self.since = Stopwatch::start();
    }

    /// What checks have to have found out by now, if they had the time.
    fn has_to_be(&self) -> Option<&'static str> {
        let (state, within) = if self.trouble.is_some() { ("down", FALL) } else { ("up", RISE) };
        (self.since.elapsed() > within + MARGIN).then_some(state)
    }
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Each backend of each service, with its state.
fn states(pend: &Pend) -> Vec<(String, String, String)> {
    let rows = pend.penctl_json(["backends"]).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let state =
        |row: &serde_json::Value| (text(&row["service"]), text(&row["name"]), text(&row["health"]));
    rows.as_array().unwrap().iter().map(state).collect()
}

#[test]
fn who_is_well_serves_and_who_is_not_does_not() {
    let lab = lab(3);
    let checked = |service| ServiceText { check: Some(CHECK.to_owned()), ..service };
    let far = std::net::SocketAddr::new(WEB.ip(), 81);
    let config = vips()
        .service(checked(proxied(&lab, "near", WEB, "")))
        .service(checked(over_all(&lab, "far", far, Protocol::Tcp, 80)));
    let mut lives: Vec<Life<'_>> = lab
        .backends
        .iter()
        .map(|host| Life {
            lab: &lab,
            host,
            server: Some(serve(host)),
            trouble: None,
            since: Stopwatch::start(),
            lasts: Duration::from_secs(1),
        })
        .collect();
    let mut pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    pend.wait_ready(6).unwrap();
    let time = effort::time().unwrap_or(Duration::from_secs(15));
    let (begun, mut dice) = (Stopwatch::start(), Dice(0x7065_6e21));
    let (mut changes, mut judged) = (0, 0);
    while begun.elapsed() < time {
        for life in &mut lives {
            if life.since.elapsed() < life.lasts {
                continue;
            }
            match life.trouble {
                Some(trouble) => life.end(trouble),
                None => life.begin(TROUBLES[usize::try_from(dice.below(4)).unwrap()]),
            }
            // Some changes are too short for the checks, and some are long.
            life.lasts = Duration::from_millis(300 + dice.below(5000));
            changes += 1;
        }
        // Before it is asked: whatever is true now was true long before the answer.
        let expected: Vec<_> = lives.iter().map(Life::has_to_be).collect();
        for (service, backend, state) in states(&pend) {
            let place = lives.iter().position(|life| life.host.name == backend).unwrap();
            if let Some(expected) = expected[place] {
                judged += 1;
                let life = &lives[place];
                assert_eq!(
                    state,
                    expected,
                    "{service}/{backend} after {:?} of {:?}\n{}",
                    life.since.elapsed(),
                    life.trouble,
                    pend.events("backend-down").unwrap_or_default().join("\n")
                );
            }
        }
        pace(Duration::from_millis(20));
    }
    println!("{changes} changes, looked at {judged} times");
    assert!(changes > 3 && judged > 100, "{changes} changes, looked at {judged} times");
}
