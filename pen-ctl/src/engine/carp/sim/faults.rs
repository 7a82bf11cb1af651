//! What goes wrong at the edges: leases against the patience of others, faults that leave the wire
//! working, answers and farewells that come too late.

use pen_common::moment::Moment;

use super::groups::{demote, order, reload, synced, two_groups_on_two_nodes};
use super::stories::{last_advert, pair, skewed};
use super::{Sim, ms, secs};
use crate::api::carp::CarpState;
use crate::engine::carp::event::{Event, Family, Order, Role};
use crate::engine::carp::fixtures::{IFINDEX, bsd, strong, ucarp};
use crate::engine::carp::settings::Settings;

#[test]
fn a_killed_masters_lease_has_ended_when_a_peer_takes_over_whatever_the_ratio_and_the_skew() {
    for deadratio in 1..=4 {
        for skew in [0, 100, 240, 254] {
            for settings in [ucarp(1), strong(1)] {
                let settings = Settings { deadratio, ..settings };
                let mut sim = Sim::started(vec![skewed(settings.clone(), skew), settings]);
                sim.crash(1);
                sim.run_until(secs(20), |sim| sim.is_master(0, 1));
                sim.start(1);
                sim.run_for(ms(600));
                sim.crash(0);
                let lease = sim.nodes[0].roles[&1].1;
                sim.run_until(secs(20), |sim| sim.is_master(1, 1));
                let own = sim.now + sim.nodes[0].clock;
                assert!(
                    lease <= own,
                    "ratio {deadratio}, skew {skew}: {:?} too long",
                    lease.since(own)
                );
            }
        }
    }
}

#[test]
fn a_killed_masters_lease_has_ended_when_a_peer_takes_over_that_never_heard_it() {
    for (deadratio, advbase, skew) in [(3, 500, 240), (2, 1000, 240), (1, 500, 100), (3, 100, 0)] {
        let settings = Settings { deadratio, advbase: ms(advbase), ..strong(1) };
        let mut sim = Sim::new(1, vec![vec![skewed(settings.clone(), skew)], vec![settings]]);
        sim.start(0);
        sim.run_until(secs(20), |sim| sim.is_master(0, 1));
        sim.run_for(ms(1));
        sim.crash(0);
        sim.start(1);
        sim.run_until(secs(20), |sim| sim.is_master(1, 1));
        assert!(!sim.is_master(0, 1), "ratio {deadratio}, {advbase} ms, skew {skew}");
    }
}

/// The last word of one that gives way is not about the one that stays.
#[test]
fn a_killed_masters_lease_has_ended_when_a_peer_takes_over_that_heard_another_one_as_well() {
    let node = |skew| skewed(Settings { deadratio: 2, advbase: ms(500), ..strong(1) }, skew);
    let mut sim = Sim::started(vec![node(200), node(0), node(1)]);
    order(&mut sim, 0, Order::Promote);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    sim.wire.isolate(0);
    sim.run_until(secs(5), |sim| sim.masters() == [0, 1]);
    sim.wire.heal();
    sim.run_until(secs(5), |sim| sim.masters() == [0]);
    assert!(last_advert(&sim, 1) > last_advert(&sim, 0), "a farewell");
    sim.run_for(ms(5));
    sim.crash(0);
    sim.run_until(secs(5), |sim| !sim.masters().contains(&0) || sim.masters().len() > 1);
    assert!(sim.masters().is_empty(), "{:?}", sim.masters());
}

/// Peers that have not heard what it says now go by what it said before.
#[test]
fn the_lease_of_a_master_that_offers_its_vips_is_not_longer_than_that_of_one_that_keeps_them() {
    let quick = Settings { advbase: ms(100), ..strong(1) };
    let mut sim = pair(quick.clone(), skewed(quick, 50));
    let before = sim.nodes[0].roles[&1].1.since(last_advert(&sim, 0) + sim.nodes[0].clock);
    sim.crash(1);
    demote(&mut sim, 0, 240);
    sim.run_for(ms(50));
    let after = sim.nodes[0].roles[&1].1.since(last_advert(&sim, 0) + sim.nodes[0].clock);
    assert!(after <= before, "{after:?}, {before:?}");
}

#[test]
fn a_member_of_a_sync_group_that_was_dissolved_is_at_fault_no_more() {
    let mut sim = two_groups_on_two_nodes(0, false);
    sim.set_link(0, IFINDEX, false);
    sim.run_for(secs(10));
    assert_eq!(sim.group(0, 2).state, CarpState::Init);
    let alone = Settings { sync_group: None, ..synced(2, "eth1") };
    let faulty = Settings { sync_group: None, ..synced(1, "eth0") };
    reload(&mut sim, vec![faulty, alone]);
    assert_eq!(sim.group(0, 2).faults, [""; 0]);
    sim.run_for(secs(1));
    assert_eq!(sim.group(0, 2).state, CarpState::Backup);
}

#[test]
fn who_loses_its_addresses_says_farewell() {
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    let lost = sim.now;
    sim.tell(0, Event::AddressesReady { group: 1, result: Err("XDP is off".to_owned()) });
    assert_eq!(sim.role(0, 1), Role::Backup);
    assert_eq!(sim.adverts(0, lost)[0].base_and_skew(), (255, 255));
    sim.run_until(ms(500), |sim| sim.masters() == [1]);
}

#[test]
fn a_promoted_node_of_a_bsd_is_master_whatever_failed_on_it() {
    let mut sim = pair(bsd(1), skewed(bsd(1), 100));
    demote(&mut sim, 1, 50);
    order(&mut sim, 1, Order::Promote);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [1]);
    order(&mut sim, 1, Order::Release);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [1], "whoever does not preempt, does not");
}

/// It may be a node that was cut off for a while, or one whose farewells are repeated.
#[test]
fn the_farewell_of_another_than_the_master_is_not_heeded() {
    let mut sim = Sim::started(vec![ucarp(1), skewed(ucarp(1), 1), skewed(ucarp(1), 2)]);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    let farewell = {
        let mut other = Sim::started(vec![skewed(ucarp(1), 1), ucarp(1)]);
        other.crash(0);
        other.run_until(secs(5), |sim| sim.is_master(1, 1));
        order(&mut other, 1, Order::Demote);
        other.run_for(ms(1));
        other.adverts(1, Moment(0)).last().unwrap().frame[14..].to_vec()
    };
    assert_eq!((farewell[25], farewell[22]), (255, 255));
    sim.run_for(ms(1000) - sim.now.since(last_advert(&sim, 0)) + ms(500));
    sim.tell(2, Event::Received { ifindex: IFINDEX, family: Family::V4, packet: farewell });
    sim.run_for(secs(3));
    assert_eq!(sim.masters(), [0]);
    assert_eq!(sim.group(2, 1).transitions, 0);
}

#[test]
fn an_answer_that_comes_when_it_is_no_longer_waited_for_is_not_obeyed() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.nodes[0].take_time = secs(60);
    sim.run_until(secs(5), |sim| sim.nodes[0].holds_addresses[&1]);
    sim.pause(0);
    sim.tell(0, Event::AddressesReady { group: 1, result: Ok(()) });
    sim.run_for(secs(30));
    sim.resume(0);
    assert!(sim.masters().is_empty());
    assert!(sim.adverts(0, Moment(0)).is_empty());
}

#[test]
fn who_could_send_nothing_when_it_became_master_is_none() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_until(secs(5), |sim| sim.is_master(0, 1));
    sim.tell(0, Event::SendFailed { group: 1, error: "no buffer".to_owned() });
    assert!(sim.masters().is_empty());
}

#[test]
fn neighbours_are_told_again_and_again_after_an_offer_that_nobody_took() {
    let back: [fn(&mut Sim); 2] =
        [|sim| _ = sim.run_for(secs(5)), |sim| order(sim, 0, Order::Promote)];
    for back in back {
        let refresh = Some(secs(60));
        let mut sim = Sim::started(vec![Settings { announce_refresh: refresh, ..strong(1) }]);
        sim.run_for(secs(10));
        order(&mut sim, 0, Order::Demote);
        sim.run_for(ms(100));
        assert_eq!(sim.role(0, 1), Role::Leaving);
        let left = sim.now;
        back(&mut sim);
        assert_eq!(sim.role(0, 1), Role::Master);
        sim.run_for(ms(1500));
        assert!(!sim.announcements(0, left).is_empty(), "at once");
        let later = sim.now;
        sim.run_for(secs(130));
        assert!(sim.announcements(0, later).len() >= 2, "each minute");
    }
}
