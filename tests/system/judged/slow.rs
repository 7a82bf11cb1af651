//! Slow start: a server that returns gets few of the new connections at first, and its share in the end.

use std::time::Duration;

use pen_tests::{
    ServiceText,
    client::http,
    wait::{Stopwatch, pace},
    wait_until,
};

use super::{Asker, Site, at};
use crate::proxy::LONG;

const MODES: [&str; 3] = ["dsr", "nat", "proxy"];
const SLOW_START: Duration = Duration::from_secs(5);
/// Its weight is a tenth for so long.
const STEP: Duration = Duration::from_millis(500);
/// What each of two servers has in the end, in percent.
const FAIR: f64 = 50.0;

fn slow(service: ServiceText) -> ServiceText {
    let scheduler = if service.mode == "proxy" { "\nscheduler = \"roundrobin\"" } else { "" };
    ServiceText { keys: format!("slow_start = \"5s\"{scheduler}"), ..service }
}

fn wait_usable(asker: &mut Asker, usable: bool) -> Duration {
    let since = wait_until(LONG, "all have noticed", || {
        let rows = asker.rows("b1");
        let all = rows.iter().all(|row| row["usable"] == usable);
        all.then(|| rows.iter().map(|row| row["since_ms"].as_u64().unwrap()).max().unwrap())
    });
    Duration::from_millis(since.unwrap())
}

fn shares(asker: &mut Asker) -> Vec<f64> {
    asker.rows("b1").iter().map(|row| row["share"].as_f64().unwrap()).collect()
}

/// Connections of a service, and how many of them the first server had.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: u32,
    first: u32,
}

impl Tally {
    fn percent(self) -> f64 {
        100.0 * f64::from(self.first) / f64::from(self.all)
    }
}

#[test]
fn a_server_that_returns_gets_few_new_connections_at_first_and_its_share_in_the_end() {
    let mut site = Site::start(&MODES, slow);
    let mut asker = Asker::new(&site.pend);
    for share in shares(&mut asker) {
        assert!((share - FAIR).abs() < 3.0, "nobody is spared at the start: {share}");
    }
    site.crash();
    wait_usable(&mut asker, false);
    site.revive();
    let since = wait_usable(&mut asker, true);
    let clock = Stopwatch::start();
    let mut before = shares(&mut asker);
    let is_early = |early: bool| (since + clock.elapsed() < STEP) == early;
    // On a machine that was held up for so long there is nothing to see of the first step.
    assert!(!is_early(true) || before.iter().all(|share| *share < FAIR / 3.0), "{before:?}");
    let (mut early, mut late) = ([Tally::default(); 3], [Tally::default(); 3]);
    let end = SLOW_START + Duration::from_secs(1);
    while since + clock.elapsed() < end {
        for (place, mode) in MODES.iter().enumerate() {
            let begun = since + clock.elapsed();
            let by = http(&site.lab.client().netns, at(mode)).unwrap();
            let tally = match () {
                () if is_early(true) => &mut early[place],
                () if begun > SLOW_START + Duration::from_millis(200) => &mut late[place],
                () => continue,
            };
            tally.all += 1;
            tally.first += u32::from(by == "b1");
        }
        let now = shares(&mut asker);
        assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "{before:?} {now:?}");
        before = now;
        pace(Duration::from_millis(2));
    }
    println!("early {early:?}, late {late:?}, in the end {before:?}");
    assert!(before.iter().all(|share| (share - FAIR).abs() < 3.0), "{before:?}");
    for (place, mode) in MODES.iter().enumerate() {
        let (early, late) = (early[place], late[place]);
        // The proxy takes turns; the kernel draws by the client's port.
        let slack = if *mode == "proxy" { 2.0 } else { 12.0 };
        if early.all >= 20 {
            assert!(early.percent() < FAIR / 3.0 + slack, "{mode}: {early:?}");
        }
        assert!(late.all < 20 || (late.percent() - FAIR).abs() < 10.0 + slack, "{mode}: {late:?}");
    }
}
