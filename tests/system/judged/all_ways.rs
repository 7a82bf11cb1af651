//! One server below services of all six modes: it is asked once, dies once, and returns once.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use aya::maps::{Array, Map, MapData};
use pen_common::{
    ABI_VERSION,
    abi::{Backend, map},
    net::Addr,
};
use pen_ctl::api::{OneBackend, Request};
use pen_tests::{
    Pend, ServiceText,
    client::http,
    wait::{Stopwatch, pace},
    wait_until,
};
use serde_json::Value;

use super::{Asker, Site, WAYS, accepted, at};
use crate::{proxy::LONG, stage::tally};

const MODES: [&str; 6] = [WAYS[0].0, WAYS[1].0, WAYS[2].0, WAYS[3].0, WAYS[4].0, WAYS[5].0];
const INTERVAL: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_millis(100);
const FALL: u32 = 3;

/// Checked each [`INTERVAL`], with more keys.
fn checked(service: ServiceText, more: &str) -> ServiceText {
    let check = format!(
        r#"{{ type = "tcp", interval = "200ms", timeout = "100ms", rise = 2, fall = {FALL}{more} }}"#
    );
    ServiceText { check: Some(check), ..service }
}

/// Through tunnels it would be another question.
fn asked_alike(service: ServiceText) -> ServiceText {
    let tunnel = ["ipip", "gue"].contains(&service.mode.as_str());
    checked(service, if tunnel { ", tunnel = false" } else { "" })
}

fn served_by(site: &Site) -> Vec<Vec<String>> {
    let by = |mode| tally(24, || http(site.client(), at(mode)).unwrap()).into_keys().collect();
    MODES.map(by).into()
}

/// Waits until the first server is usable or not, and whatever is seen in between: all services agree,
/// and it has been so in all of them since the same moment.
fn wait_in_step(asker: &mut Asker, usable: bool) {
    wait_until(LONG, "all services have noticed", || {
        let rows = asker.rows("b1");
        let one = |key: &str| rows.iter().map(|row| row[key].to_string()).collect::<BTreeSet<_>>();
        assert_eq!((rows.len(), one("usable").len()), (MODES.len(), 1), "{rows:?}");
        let is_now = rows[0]["usable"] == usable;
        assert!(!is_now || one("since_ms").len() == 1, "{rows:?}");
        is_now.then_some(())
    })
    .unwrap();
}

/// The last events of a kind, one for each service, were told one after the other at the same moment.
fn assert_told_at_once(asker: &mut Asker, kind: &str) {
    let events = asker.events(kind, "b1");
    let last = &events[events.len() - MODES.len()..];
    let number = |event: &Value, key: &str| event[key].as_u64().unwrap();
    for pair in last.windows(2) {
        assert_eq!(number(&pair[0], "at_ms"), number(&pair[1], "at_ms"), "{last:?}");
        assert_eq!(number(&pair[0], "sequence") + 1, number(&pair[1], "sequence"), "{last:?}");
    }
    let subjects: BTreeSet<_> = last.iter().map(|event| event["subject"].to_string()).collect();
    assert_eq!(subjects.len(), MODES.len(), "{last:?}");
}

#[test]
fn a_server_of_all_modes_is_asked_once_and_leaves_and_returns_for_all_at_the_same_moment() {
    let mut site = Site::start(&MODES, asked_alike);
    let mut asker = Asker::new(&site.pend);
    let (before, clock) = (accepted(&site.lab.backends[0]), Stopwatch::start());
    let asked = wait_until(LONG, "it is asked ten times", || {
        let asked = accepted(&site.lab.backends[0]) - before;
        (asked >= 10).then_some(asked)
    })
    .unwrap();
    let turns = clock.elapsed().as_millis() / INTERVAL.as_millis();
    // A check may have been late, and the next one in time.
    assert!(u128::from(asked) <= turns + 3, "{asked} connections in {turns} intervals");
    assert_eq!(served_by(&site), vec![vec!["b1", "b2"]; MODES.len()]);

    site.crash();
    wait_in_step(&mut asker, false);
    assert_told_at_once(&mut asker, "backend-down");
    assert_eq!(served_by(&site), vec![vec!["b2"]; MODES.len()]);

    site.revive();
    wait_in_step(&mut asker, true);
    assert_told_at_once(&mut asker, "backend-up");
    assert_eq!(served_by(&site), vec![vec!["b1", "b2"]; MODES.len()]);
}

// === How soon ===

/// What the kernel goes by.
struct Kernel(Array<MapData, Backend>);

impl Kernel {
    fn of(pend: &Pend) -> Self {
        let pin = pend.pins().join(format!("v{ABI_VERSION}")).join(map::BACKENDS);
        Self(Map::Array(MapData::from_pin(pin).unwrap()).try_into().unwrap())
    }

    /// State of a backend in each service that has it, in the order of the services.
    fn states(&self, addr: Addr) -> Vec<u32> {
        let all = (0..64).map(|id| self.0.get(&id, 0).unwrap());
        let mut found: Vec<_> = all.filter(|backend| backend.addr == addr).collect();
        found.sort_by_key(|backend| backend.service);
        found.iter().map(|backend| backend.state).collect()
    }
}

/// What was measured of a crash, in the worst service.
#[derive(Debug)]
struct Crash {
    /// From its end to the kernel's table.
    whole: Duration,
    /// From the end of the check that decided to the kernel's table.
    kernel: Duration,
}

/// How long ago the check ended that took the backend of a service out.
fn decided(asker: &mut Asker, service: &str) -> Duration {
    let wanted = OneBackend { service: service.to_owned(), backend: "b1".to_owned() };
    let told = asker.ask(&Request::Probes(wanted)).remove(0);
    let results = told["results"].as_array().unwrap();
    let failed: Vec<_> = results.iter().take_while(|result| !result["error"].is_null()).collect();
    assert!(failed.len() >= FALL as usize, "{told}");
    // A check that was under way saw it die.
    let of_crash = ["connection refused", "closed the connection without an answer"];
    let is_of_crash = |result: &&Value| of_crash.iter().any(|error| result["error"] == *error);
    assert!(failed.iter().all(is_of_crash), "{told}");
    // Newest first.
    let third = failed[failed.len() - FALL as usize];
    Duration::from_millis(third["ago_ms"].as_u64().unwrap())
}

fn crash(site: &mut Site, asker: &mut Asker, kernel: &Kernel) -> Crash {
    let addr = Addr::from(IpAddr::from(site.lab.backends[0].v4));
    let clock = Stopwatch::start();
    site.crash();
    let mut out: [Option<Stopwatch>; MODES.len()] = [None; MODES.len()];
    let mut whole = Duration::ZERO;
    while out.iter().any(Option::is_none) {
        assert!(clock.elapsed() < LONG, "the kernel has heard of these: {out:?}");
        pace(Duration::from_millis(1));
        let states = kernel.states(addr);
        assert_eq!(states.len(), MODES.len(), "{states:?}");
        for (out, state) in out.iter_mut().zip(states) {
            if state == Backend::DOWN && out.is_none() {
                *out = Some(Stopwatch::start());
                whole = clock.elapsed();
            }
        }
    }
    let mut kernel = Duration::ZERO;
    for (mode, out) in MODES.iter().zip(out) {
        let (since, ago) = (out.expect("it is out").elapsed(), decided(asker, mode));
        kernel = kernel.max(ago.saturating_sub(since));
    }
    // Nor has the proxy been told of it later than the kernel.
    assert!(asker.rows("b1").iter().all(|row| row["usable"] == false));
    Crash { whole, kernel }
}

#[test]
fn in_every_mode_a_crashed_server_is_out_as_soon_as_the_check_that_decides_has_failed() {
    // Each through its own tunnel, or directly.
    let mut site = Site::start(&MODES, |service| checked(service, ""));
    let (mut asker, kernel) = (Asker::new(&site.pend), Kernel::of(&site.pend));
    // What is promised of a machine that has nothing else to do; on one that runs other tests as well
    // packets and threads wait for their turn.
    let quiet = std::env::var_os("PEN_QUIET").is_some();
    let limit = Duration::from_millis(if quiet { 50 } else { 500 });
    let detection = INTERVAL * FALL + TIMEOUT;
    let in_time = |crash: &Crash| crash.kernel < limit && crash.whole < detection + limit;
    let mut crashes = Vec::new();
    // A busy machine does not keep us waiting each time.
    while crashes.len() < 2 || !crashes.iter().any(in_time) {
        assert!(crashes.len() < 8, "{crashes:?}");
        crashes.push(crash(&mut site, &mut asker, &kernel));
        site.revive();
        wait_until(LONG, "all have it back", || {
            asker.rows("b1").iter().all(|row| row["usable"] == true).then_some(())
        })
        .unwrap();
    }
    println!("{crashes:?}");
    let worst = crashes.iter().map(|crash| crash.whole).max().unwrap();
    assert!(worst < detection + Duration::from_secs(2), "{crashes:?}");
}
