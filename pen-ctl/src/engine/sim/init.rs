//! What a backend is taken for before anything is known of it, and where it is asked.

use super::*;
use crate::config::Init;

fn started(init: Init, refusing: bool) -> Sim {
    let mut config = config(2);
    config.services[0].check.init = init;
    let refusing = refusing.then_some(address(2)).into_iter().collect();
    Sim::start_among(config, Tables::default(), refusing)
}

/// Whether the second backend serves, at the start and after each of these seconds.
fn course(mut sim: Sim) -> String {
    let mut course = String::new();
    for _ in 0..5 {
        course.push(if sim.serving().contains(&2) { '+' } else { '-' });
        sim.run_for(secs(1));
    }
    course
}

#[test]
fn the_first_check_decides_unless_a_backend_is_taken_for_up_or_down() {
    let serves = |init, refusing| {
        let course = course(started(init, refusing));
        (course.starts_with('+'), course.ends_with('+'), course.matches('-').count())
    };
    assert_eq!(serves(Init::Up, false), (true, true, 0));
    let (at_once, in_the_end, without) = serves(Init::Up, true);
    assert!(at_once && !in_the_end && without < 4, "it takes three failed checks");
    let (at_once, in_the_end, without) = serves(Init::Down, false);
    assert!(!at_once && in_the_end && without >= 2, "it takes two good checks");
    assert_eq!(serves(Init::Down, true), (false, false, 5));
    let (_, in_the_end, without) = serves(Init::First, false);
    assert!(in_the_end && without <= 1, "it takes one");
}

#[test]
fn another_address_may_be_asked() {
    let mut config = config(2);
    let other: IpAddr = "10.9.9.9".parse().expect("literal");
    config.services[0].check.address = Some(other);
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert_eq!(sim.probes.keys().collect::<Vec<_>>(), [&other]);
    sim.refusing.insert(other);
    sim.run_for(secs(5));
    assert_eq!(sim.serving(), BTreeSet::new());
}
