//! A server that flaps: clients meet its failures no more often than it can be left alone for them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pen_tests::{
    Demo, ServiceText,
    client::http,
    wait::{Stopwatch, pace},
};

use super::{Asker, Site, at};

/// Up for so long, then down for as long.
const PHASE: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(8);
/// Once because it has just died, once because the table has not heard yet, once because a connection
/// was cut; and as often because the machine is busy.
const PER_EJECTION: usize = 6;

/// What a client met.
#[derive(Debug, Default)]
struct Met {
    served: usize,
    failures: Vec<String>,
}

impl Met {
    fn add(&mut self, answer: std::io::Result<String>) {
        match answer {
            Ok(_) => self.served += 1,
            Err(error) => self.failures.push(error.to_string()),
        }
    }
}

/// No check: what is known of a server is what clients find out.
fn unchecked(service: ServiceText) -> ServiceText {
    let keys = match service.mode.as_str() {
        "proxy" => "scheduler = \"roundrobin\"\neject = \"1500ms\"",
        _ => "",
    };
    ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), keys: keys.to_owned(), ..service }
}

#[test]
fn clients_of_a_proxy_and_of_the_kernel_meet_a_server_that_flaps_a_few_times_in_an_ejection() {
    let mut site = Site::start(&["dsr", "nat", "proxy"], unchecked);
    let host = &site.lab.backends[0];
    let first = &mut site.demos[0];
    let client = &site.lab.client().netns;
    let over = AtomicBool::new(false);
    let mut met = [(); 3].map(|()| Met::default());
    let deaths = thread::scope(|scope| {
        let flapper = scope.spawn(|| {
            let (mut phase, mut deaths) = (Stopwatch::start(), 0);
            while !over.load(Ordering::Relaxed) {
                pace(Duration::from_millis(5));
                if phase.elapsed() < PHASE {
                    continue;
                }
                match first.process().is_running() {
                    true => {
                        first.process().kill9().unwrap();
                        deaths += 1;
                    }
                    false => *first = Demo::on(host).unwrap(),
                }
                phase = Stopwatch::start();
            }
            deaths
        });
        let clock = Stopwatch::start();
        while clock.elapsed() < TIME {
            let [dsr, nat, proxy] = &mut met;
            // Two: one for each server, as long as both take new clients.
            proxy.add(http(client, at("proxy")));
            proxy.add(http(client, at("proxy")));
            dsr.add(http(client, at("dsr")));
            nat.add(http(client, at("nat")));
            pace(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
        flapper.join().unwrap()
    });
    let mut asker = Asker::new(&site.pend);
    let told = asker.events("ejected", "b1");
    let of = |mode: &str| {
        let subject = format!("{mode}/b1");
        told.iter().filter(|event| event["subject"] == subject.as_str()).count()
    };
    let ejections = of("proxy");
    println!("{deaths} deaths, {ejections} ejections, {met:?}");
    assert!(deaths >= 2 && ejections >= 1, "{deaths} deaths, {told:?}");
    // Each lasts at least as long as the first one.
    assert!(ejections <= 1 + TIME.as_millis() as usize / 1500, "{told:?}");
    assert_eq!((of("dsr"), of("nat")), (ejections, ejections), "all hear of it: {told:?}");
    let [dsr, nat, proxy] = met;
    // Who is refused gets another server; only what was cut is lost.
    assert!(proxy.failures.len() <= deaths, "{deaths} deaths, {proxy:?}");
    for kernel in [&dsr, &nat] {
        let most = PER_EJECTION * ejections;
        assert!(kernel.failures.len() <= most, "{ejections} ejections, {kernel:?}");
    }
    assert!([dsr, nat, proxy].iter().all(|met| met.served > 50), "too slow to say anything");
}
