//! Simulations: shares of many random flows.

use pen_common::abi::AddrEntry;

use super::*;
use crate::api::{self, Simulate};

fn wish(flows: u32) -> Simulate {
    Simulate { service: "web".into(), flows, seed: 1, established: false }
}

fn simulate(sim: &Sim, wish: &Simulate) -> api::Simulation {
    let simulation = sim.engine.simulation(sim.now, wish).expect("a fair wish");
    simulation.run(&NoRecords, &|| true)
}

#[test]
fn shares_follow_the_weights_and_all_flows_are_accounted_for() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    sim.set_weight("b3", 2).expect("known backend");
    // New flows go by the new weights at once.
    let simulation = simulate(&sim, &wish(20_000));
    assert_eq!((simulation.flows, simulation.complete), (20_000, true));
    assert_eq!(simulation.shares.iter().map(|share| share.flows).sum::<u32>(), 20_000);
    for (share, expected) in simulation.shares.iter().zip([25.0, 25.0, 50.0]) {
        assert!((share.expected - expected).abs() < 0.01, "{share:?}");
        assert!((share.percent - expected).abs() < 1.5, "{share:?}");
    }
    let established = Simulate { established: true, ..wish(20_000) };
    for share in simulate(&sim, &established).shares {
        assert!((share.percent - 33.3).abs() < 1.5, "old ones stay where they are: {share:?}");
    }
}

#[test]
fn a_seed_draws_the_same_flows_again_and_another_one_draws_others() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let first = simulate(&sim, &wish(1000));
    assert_eq!(simulate(&sim, &wish(1000)), first);
    let other = simulate(&sim, &Simulate { seed: 2, ..wish(1000) });
    assert_ne!(other.shares, first.shares);
}

#[test]
fn flows_that_no_backend_gets_are_shown_by_their_counter() {
    let mut sim = Sim::start(config(2));
    sim.refusing.extend([address(1), address(2)]);
    sim.run_for(secs(10));
    let simulation = simulate(&sim, &wish(100));
    assert!(simulation.shares.iter().all(|share| share.flows == 0 && share.expected == 0.0));
    let [other] = &simulation.others[..] else { panic!("{simulation:?}") };
    assert_eq!((other.counter.as_str(), other.flows), ("drop-no-backend", 100));
}

#[test]
fn a_simulation_ends_when_its_time_is_up() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    let simulation = sim.engine.simulation(sim.now, &wish(1_000_000)).expect("a fair wish");
    let left = std::cell::Cell::new(3);
    let go_on = || {
        left.set(left.get() - 1);
        left.get() > 0
    };
    let simulation = simulation.run(&NoRecords, &go_on);
    assert_eq!((simulation.flows, simulation.complete), (2048, false));
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    let sim = Sim::start(config(1));
    for (wish, refused) in [
        (wish(0), "0 flows cannot be simulated; ask for 1 to 1000000"),
        (wish(1_000_001), "1000001 flows cannot be simulated; ask for 1 to 1000000"),
        (
            Simulate { service: "www".into(), ..wish(1) },
            "there is no service `www`; there are: web",
        ),
    ] {
        let refusal = sim.engine.simulation(sim.now, &wish).expect_err(refused);
        assert_eq!(refusal.to_string(), refused);
    }
}

#[test]
fn a_service_whose_interface_is_missing_gets_nothing() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    sim.engine.applied.addrs.remove(&Addr::from(VIP));
    let simulation = simulate(&sim, &wish(10));
    assert_eq!(simulation.others[0].counter, "pass-not-ours");
    let strange = AddrEntry { group: 9, ..AddrEntry::default() };
    sim.engine.applied.addrs.insert(Addr::from(VIP), strange);
    assert_eq!(simulate(&sim, &wish(10)).others[0].counter, "pass-not-master");
}
