//! One master and its backup: intervals, take-overs, handovers, preemption, absence.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pen_common::moment::Moment;

use super::{Sim, ms, secs};
use crate::api::carp::CarpState;
use crate::engine::carp::event::{Event, Hook, Role};
use crate::engine::carp::fixtures::{IFINDEX, bsd, strong, ucarp};
use crate::engine::carp::settings::{Settings, VipMac};

pub(super) fn skewed(settings: Settings, advskew: u8) -> Settings {
    Settings { advskew, ..settings }
}

pub(super) fn preempting(settings: Settings) -> Settings {
    Settings { preempt: true, ..settings }
}

/// Two nodes of which 0 is master.
pub(super) fn pair(first: Settings, second: Settings) -> Sim {
    let mut sim = Sim::new(1, vec![vec![first], vec![second]]);
    sim.start(0);
    sim.run_until(secs(5), |sim| sim.is_master(0, 1));
    sim.start(1);
    sim.run_for(ms(5300));
    assert_eq!(sim.masters(), [0]);
    sim
}

pub(super) fn last_advert(sim: &Sim, node: usize) -> Moment {
    sim.adverts(node, Moment(0)).last().expect("it was master").at
}

// --- adverts ---

/// Behaviour 1.
#[test]
fn adverts_come_each_second_and_no_counter_comes_twice() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(25));
    let adverts = sim.adverts(0, Moment(0));
    assert!(adverts.len() > 20);
    for two in adverts.windows(2) {
        assert_eq!(two[1].at.since(two[0].at), secs(1));
    }
    let counters: BTreeSet<_> = adverts.iter().map(|sent| sent.frame[42..50].to_vec()).collect();
    assert_eq!(counters.len(), adverts.len());
}

#[test]
fn a_timer_that_is_late_does_not_shift_the_next() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_until(secs(5), |sim| sim.is_master(0, 1));
    let start = last_advert(&sim, 0);
    for second in 1..6 {
        sim.run_for((start + secs(second)).since(sim.now) - ms(1));
        sim.pause(0);
        sim.run_for(ms(8));
        sim.resume(0);
        sim.run_for(ms(1));
        assert_eq!(last_advert(&sim, 0), start + secs(second) + ms(7), "{second}");
    }
}

/// Behaviour 3.
#[test]
fn a_node_that_starts_behind_a_master_is_silent() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), settings);
        sim.run_for(secs(30));
        assert_eq!(sim.masters(), [0]);
        assert!(sim.sent.iter().all(|sent| sent.node == 0));
    }
}

/// Behaviour 4.
#[test]
fn a_takeover_comes_when_ucarps_formula_says() {
    for (skew, expected) in [(0, 3000.0), (100, 3390.625)] {
        let mut sim = pair(ucarp(1), skewed(ucarp(1), skew));
        sim.wire.isolate(0);
        let last = last_advert(&sim, 0);
        sim.run_until(secs(5), |sim| sim.is_master(1, 1));
        let took = sim.adverts(1, last)[0].at.since(last).as_secs_f64() * 1000.0;
        assert!((expected..expected + 50.0).contains(&took), "{skew}: {took}");
    }
}

/// Behaviour 5.
#[test]
fn a_takeover_is_announced_with_the_first_advert_and_again() {
    for (mac, expected) in
        [(VipMac::Virtual, [0, 0, 0x5e, 0, 1, 42]), (VipMac::Interface, [2, 0, 0, 0, 0, 1])]
    {
        let mut sim = Sim::started(vec![Settings { mac, ..ucarp(1) }]);
        sim.run_for(secs(8));
        let advert = sim.adverts(0, Moment(0))[0].at;
        let announcements = sim.announcements(0, Moment(0));
        let after: Vec<_> =
            announcements.iter().map(|sent| sent.at.since(advert).as_millis()).collect();
        assert_eq!(after, [0, 100, 1000, 2000]);
        for sent in announcements {
            assert_eq!(
                (&sent.frame[28..32], &sent.frame[38..42]),
                (&[10, 77, 0, 100][..], &[10, 77, 0, 100][..])
            );
            assert_eq!((&sent.frame[6..12], &sent.frame[22..28]), (&expected[..], &expected[..]));
        }
        assert_eq!(sim.adverts(0, Moment(0))[0].frame[6..12], expected);
    }
}

#[test]
fn as_ucarp_does_the_vip_is_at_the_interface_and_adverts_come_from_elsewhere() {
    let mut sim = Sim::started(vec![Settings { mac: VipMac::Ucarp, ..ucarp(1) }]);
    sim.run_for(secs(4));
    assert_eq!(sim.adverts(0, Moment(0))[0].frame[6..12], [0, 0, 0x5e, 0, 0, 42]);
    assert_eq!(sim.announcements(0, Moment(0))[0].frame[22..28], [2, 0, 0, 0, 0, 1]);
}

/// Behaviour 19, the engine's part.
#[test]
fn three_vips_of_both_families_are_advertised_and_announced_in_both() {
    let vips = ["10.77.0.101", "2001:db8::100", "10.77.0.100"];
    let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
    let settings = Settings { vips, ..bsd(1) };
    let mut sim = pair(settings.clone(), skewed(settings, 50));
    let adverts = sim.adverts(0, Moment(0));
    let v6 = adverts.iter().filter(|sent| sent.frame[12] == 0x86).count();
    assert_eq!(adverts.len(), 2 * v6);
    let first = adverts.iter().find(|sent| sent.frame[12] == 0x86).unwrap();
    assert_eq!((first.frame[21], first.frame[53]), (255, 0x12), "hop limit, ff02::12");
    let announced =
        sim.announcements(0, Moment(0)).iter().filter(|sent| sent.frame[12] == 0x86).count();
    assert_eq!(announced, 4);
    assert!(sim.group(1, 1).received > 5);
    sim.crash(0);
    sim.run_until(secs(4), |sim| sim.is_master(1, 1));
}

#[test]
fn a_group_of_ipv6_alone_works_alone() {
    for settings in [bsd(1), strong(1)] {
        let vips = vec!["2001:db8::100".parse().unwrap()];
        let settings = Settings { vips, ..settings };
        let mut sim = pair(settings.clone(), skewed(settings, 50));
        assert!(sim.adverts(0, Moment(0)).iter().all(|sent| sent.frame[12] == 0x86));
        sim.crash(0);
        sim.run_until(secs(4), |sim| sim.is_master(1, 1));
    }
}

// --- handover ---

/// Behaviour 6.
#[test]
fn a_stop_hands_over_before_it_gives_up() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), skewed(settings, 100));
        sim.nodes[1].take_time = ms(30);
        let start = sim.now;
        sim.tell(0, Event::Stop);
        assert_eq!(sim.role(0, 1), Role::Leaving, "still serving");
        sim.run_until(secs(1), |sim| sim.is_master(1, 1));
        assert!(sim.now.since(start) < ms(120), "{:?}", sim.now.since(start));
        assert_eq!(sim.role(0, 1), Role::Leaving, "until the other is there");
        sim.run_for(ms(1));
        assert!(sim.nodes[0].stopped);
        assert_eq!(sim.role(0, 1), Role::Backup);
        let bow_outs = sim.adverts(0, start);
        assert!(bow_outs.iter().all(|sent| sent.base_and_skew() == (255, 255)));
        // Or switches would learn that the virtual address is still here.
        assert!(bow_outs.iter().all(|sent| sent.frame[6..12] == [2, 0, 0, 0, 0, 1]));
        assert_eq!(sim.nodes[0].hooks.last().unwrap().2, Hook::Down);
    }
}

#[test]
fn a_stop_without_another_node_ends_at_the_limit() {
    for (down_at_exit, hooks) in [(true, 3), (false, 2)] {
        let mut sim = Sim::started(vec![Settings { down_at_exit, ..ucarp(1) }]);
        sim.run_for(secs(5));
        sim.tell(0, Event::Stop);
        let took = sim.run_until(secs(5), |sim| sim.nodes[0].stopped);
        assert_eq!(took, secs(4));
        assert_eq!(sim.role(0, 1), Role::Backup);
        assert_eq!(sim.nodes[0].hooks.len(), hooks);
    }
}

#[test]
fn a_stop_ends_at_once_what_is_no_master() {
    let mut sim = pair(ucarp(1), ucarp(1));
    sim.tell(1, Event::Stop);
    assert!(sim.nodes[1].stopped);
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(5));
    sim.tell(0, Event::Stop);
    sim.set_link(0, IFINDEX, false);
    assert!(sim.nodes[0].stopped, "nor is there anyone to hand over to without a link");
}

#[test]
fn of_three_backups_the_preferred_one_takes_a_bow_out() {
    let settings = |skew| vec![skewed(strong(1), skew)];
    let mut sim = Sim::new(1, vec![settings(0), settings(150), settings(100), settings(200)]);
    for node in 0..4 {
        sim.start(node);
    }
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    let before = sim.now;
    sim.tell(0, Event::Stop);
    sim.run_for(secs(3));
    assert_eq!(sim.masters(), [2]);
    assert!(sim.adverts(1, before).is_empty() && sim.adverts(3, before).is_empty());
}

#[test]
fn a_handover_survives_the_loss_of_two_bow_outs() {
    let mut sim = pair(strong(1), skewed(strong(1), 100));
    sim.wire.blocked.insert((0, 1));
    sim.tell(0, Event::Stop);
    sim.run_for(ms(30));
    sim.wire.heal();
    let took = sim.run_until(secs(1), |sim| sim.is_master(1, 1));
    assert!(took < ms(100), "{took:?}");
}

// --- preemption ---

/// A master, and a node that starts now.
pub(super) fn joined(first: Settings, second: Settings) -> Sim {
    let mut sim = Sim::new(1, vec![vec![first], vec![second]]);
    sim.start(0);
    sim.run_until(secs(8), |sim| sim.is_master(0, 1));
    sim.run_for(ms(1100));
    sim.start(1);
    sim
}

/// Behaviour 7.
#[test]
fn a_preferred_node_that_advertises_is_obeyed_at_once() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = joined(skewed(settings.clone(), 100), preempting(settings));
        sim.run_until(secs(2), |sim| sim.is_master(1, 1));
        let advert = sim.adverts(1, Moment(0))[0].at;
        sim.run_until(ms(50), |sim| sim.role(0, 1) == Role::Backup);
        assert!(
            sim.now.since(advert) < ms(1),
            "no moment without a master, and hardly one with two"
        );
        sim.run_for(secs(30));
        assert_eq!(sim.masters(), [1]);
    }
}

/// Behaviour 8.
#[test]
fn a_node_that_preempts_does_so_at_the_next_advert() {
    let mut sim = joined(skewed(ucarp(1), 100), preempting(ucarp(1)));
    let due = last_advert(&sim, 0) + ms(1391);
    sim.run_until(secs(2), |sim| sim.is_master(1, 1));
    assert!(sim.now.since(due) < ms(50) && due.since(sim.now) < ms(50));
}

#[test]
fn a_node_that_does_not_preempt_waits() {
    let mut sim = joined(skewed(ucarp(1), 100), ucarp(1));
    sim.run_for(secs(20));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn an_equal_node_does_not_preempt() {
    let mut sim = joined(ucarp(1), preempting(ucarp(1)));
    sim.run_for(secs(20));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn a_delay_of_preemption_is_kept_and_starts_anew_after_a_better_master() {
    let settings = Settings { preempt_delay: secs(10), ..preempting(ucarp(1)) };
    let mut sim = joined(skewed(ucarp(1), 100), settings);
    let took = sim.run_until(secs(20), |sim| sim.is_master(1, 1));
    assert!(took > secs(10) && took < secs(12), "{took:?}");
}

/// UCarp's "going to time out": its own patience is shorter than the master's interval.
#[test]
fn a_master_that_advertises_too_seldom_is_replaced() {
    let slow = Settings { advbase: secs(5), ..ucarp(1) };
    let mut sim = Sim::new(1, vec![vec![slow], vec![ucarp(1)]]);
    sim.start(0);
    sim.run_until(secs(16), |sim| sim.is_master(0, 1));
    sim.start(1);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [1]);
}

#[test]
fn signed_nodes_follow_the_masters_interval_and_do_not_flap() {
    let settings = |advbase| Settings { advbase, ..strong(1) };
    let mut sim = joined(settings(secs(2)), settings(ms(100)));
    sim.run_for(secs(1));
    sim.run_for(secs(20));
    assert_eq!(sim.masters().len(), 1);
    let moves = sim.group(0, 1).transitions + sim.group(1, 1).transitions;
    assert!(moves <= 3, "{moves}");
    let last = sim.masters()[0];
    sim.crash(last);
    sim.run_until(secs(7), |sim| sim.is_master(1 - last, 1));
}

#[test]
fn nodes_of_ten_milliseconds_take_over_within_forty() {
    let settings = Settings { advbase: ms(10), ..strong(1) };
    let mut sim = pair(settings.clone(), skewed(settings, 100));
    for _ in 0..20 {
        let (master, backup) = if sim.is_master(0, 1) { (0, 1) } else { (1, 0) };
        sim.crash(master);
        let took = sim.run_until(ms(45), |sim| sim.is_master(backup, 1));
        assert!(took <= ms(40), "{took:?}");
        sim.start(master);
        sim.run_for(secs(3));
        assert_eq!(sim.masters(), [backup]);
    }
}

// --- absence ---

/// Behaviour 14, the engine's part: the lease of a dead master ends before its backup takes over.
#[test]
fn a_dead_master_serves_until_just_before_the_next_one_does() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), settings);
        let last = last_advert(&sim, 0);
        sim.crash(0);
        sim.run_until(secs(3), |sim| sim.masters().is_empty());
        assert_eq!(sim.now.since(last), ms(2850));
        sim.run_until(secs(1), |sim| sim.is_master(1, 1));
        assert!(sim.now.since(last) < ms(3050));
    }
}

/// Behaviour 15.
#[test]
fn a_master_that_was_stopped_for_long_gives_way_and_sends_nothing() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), skewed(settings, 100));
        sim.pause(0);
        sim.run_for(secs(6));
        assert_eq!(sim.masters(), [1]);
        let woken = sim.now;
        sim.resume(0);
        sim.run_for(secs(2));
        assert_eq!(sim.masters(), [1]);
        assert_eq!(sim.state(0), CarpState::Backup);
        assert!(sim.adverts(0, woken).is_empty());
        assert_eq!(sim.group(0, 1).late, 1);
        sim.run_for(secs(20));
        assert_eq!(sim.masters(), [1]);
    }
}

/// Behaviour 15 with the other role: what was sent meanwhile waits to be read.
#[test]
fn a_backup_that_was_stopped_for_long_does_not_take_its_master_for_dead() {
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    sim.pause(1);
    sim.run_for(secs(6));
    sim.nodes[1].waiting.clear();
    sim.resume(1);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    assert!(sim.adverts(1, Moment(0)).is_empty());
    sim.crash(0);
    sim.run_until(secs(4), |sim| sim.is_master(1, 1));
}

/// Behaviour 16: the wall clock is not asked, and each node has its own beginning of time.
#[test]
fn nodes_need_no_common_clock() {
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    assert_ne!(sim.nodes[0].clock, sim.nodes[1].clock);
    sim.run_for(secs(60));
    assert_eq!(sim.masters(), [0]);
}

/// Behaviour 17, the engine's part: nothing waits for a hook.
#[test]
fn a_hook_that_does_not_end_delays_nothing() {
    let mut sim = Sim::started(vec![ucarp(1), skewed(ucarp(1), 50), skewed(ucarp(1), 100)]);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    sim.crash(0);
    let start = sim.now;
    sim.run_for(secs(15));
    assert_eq!(sim.masters(), [1]);
    let adverts = sim.adverts(1, start);
    assert!(adverts.windows(2).all(|two| two[1].at.since(two[0].at) < ms(1200)));
    assert!(sim.adverts(2, start).is_empty());
    assert_eq!(sim.nodes[1].hooks.last().map(|(_, _, hook)| *hook), Some(Hook::Up));
}

#[test]
fn hooks_follow_the_role_and_neutral_spares_the_first() {
    for (neutral, expected) in
        [(false, vec![Hook::Down, Hook::Up, Hook::Down]), (true, vec![Hook::Up, Hook::Down])]
    {
        let mut sim = Sim::started(vec![Settings { neutral, ..ucarp(1) }]);
        sim.run_for(secs(5));
        sim.set_link(0, IFINDEX, false);
        let hooks: Vec<_> = sim.nodes[0].hooks.iter().map(|(_, _, hook)| *hook).collect();
        assert_eq!(hooks, expected);
    }
}

#[test]
fn a_lease_that_was_found_is_gone_on_with() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(5));
    sim.crash(0);
    sim.run_for(ms(300));
    let lease = sim.nodes[0].roles[&1].1;
    sim.start(0);
    sim.tell(0, Event::LeaseFound { group: 1, until: lease });
    sim.run_for(ms(1));
    assert_eq!(sim.masters(), [0]);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn a_lease_that_ran_out_is_nothing() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.tell(0, Event::LeaseFound { group: 1, until: Moment(5) });
    sim.run_for(secs(1));
    assert_eq!(sim.state(0), CarpState::Backup);
}
