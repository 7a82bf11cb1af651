//! Taking over from another version: nothing is attached before the tables are filled.

use super::*;

/// A controller that found another version forwarding.
fn taking_over(config: Config, dead: &[u8]) -> Sim {
    let mut sim = Sim::prepare(config, Tables::default());
    sim.dead = dead.iter().map(|number| address(*number)).collect();
    sim.engine.attach_when_filled(sim.now);
    sim.begin();
    sim
}

#[test]
fn the_program_is_attached_once_all_backends_are_known_and_the_table_is_whole_then() {
    let mut sim = taking_over(config(3), &[]);
    assert_eq!(sim.attached, [] as [String; 0], "checks have not ended");
    // They start a hundredth of a second apart.
    sim.run_for(Duration::from_millis(50));
    assert_eq!(sim.attached, ["eth0"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    let slots = sim.maps.slots.values().next().expect("one service");
    assert!(slots.iter().all(|slot| !slot.is_unsettled()), "made in one piece");
}

#[test]
fn a_backend_that_refuses_is_known_as_well() {
    let mut sim = Sim::prepare(config(3), Tables::default());
    sim.refusing.insert(address(2));
    sim.engine.attach_when_filled(sim.now);
    sim.begin();
    sim.run_for(Duration::from_millis(50));
    assert_eq!(sim.attached, ["eth0"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
}

#[test]
fn one_of_which_nothing_is_heard_is_not_waited_for_for_ever() {
    let mut sim = taking_over(config(3), &[2]);
    sim.run_for(secs(9));
    assert_eq!(sim.attached, [] as [String; 0]);
    sim.run_for(secs(2));
    assert_eq!(sim.attached, ["eth0"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
}

#[test]
fn maps_that_cannot_be_written_hold_the_program_back() {
    let mut sim = Sim::prepare(config(2), Tables::default());
    sim.engine.attach_when_filled(sim.now);
    sim.event(Event::LinkChanged(link(true)));
    sim.event(Event::Started);
    sim.broken_maps = true;
    sim.run_for(Duration::from_millis(500));
    assert_eq!(sim.attached, [] as [String; 0], "the maps are to be tried again in a second");
    sim.run_for(secs(2));
    assert_eq!(sim.attached, ["eth0"]);
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}
