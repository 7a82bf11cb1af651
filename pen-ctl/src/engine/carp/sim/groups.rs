//! Faults, sync groups, demotion, orders, and reloads.

use pen_common::moment::Moment;

use super::stories::{last_advert, pair, preempting, skewed};
use super::{Sim, link_of, ms, secs};
use crate::api::carp::{CarpOrder, CarpState};
use crate::engine::carp::Refusal;
use crate::engine::carp::event::{Action, Event, Order, Role};
use crate::engine::carp::fixtures::{IFINDEX, bsd, strong, ucarp};
use crate::engine::carp::settings::{Settings, Transport};

// --- faults ---

/// Behaviour 18, the engine's part.
#[test]
fn a_lost_interface_ends_the_role_and_its_return_begins_anew() {
    let lost: [fn(&mut Sim); 3] = [
        |sim| sim.set_link(0, IFINDEX, false),
        |sim| {
            let down = crate::engine::carp::Link { up: false, ..link_of(0, IFINDEX) };
            sim.tell(0, Event::LinkChanged(down));
        },
        |sim| sim.tell(0, Event::LinkGone { ifindex: IFINDEX }),
    ];
    for lose in lost {
        let mut sim = Sim::started(vec![ucarp(1)]);
        sim.run_for(secs(5));
        lose(&mut sim);
        assert_eq!(sim.role(0, 1), Role::Backup);
        assert!(!sim.nodes[0].holds_addresses[&1]);
        let group = sim.group(0, 1);
        assert_eq!((group.state, group.faults.len()), (CarpState::Init, 1), "{:?}", group.faults);
        sim.run_for(secs(10));
        sim.set_link(0, IFINDEX, true);
        let took = sim.run_until(secs(4), |sim| sim.is_master(0, 1));
        assert_eq!(took, secs(3));
    }
}

#[test]
fn a_carrier_may_be_ignored() {
    let mut sim = Sim::started(vec![Settings { ignore_link: true, ..ucarp(1) }]);
    sim.run_for(secs(5));
    sim.set_link(0, IFINDEX, false);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    sim.tell(0, Event::LinkGone { ifindex: IFINDEX });
    assert!(sim.masters().is_empty());
}

#[test]
fn an_interface_without_address_is_a_fault() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    // The VIP itself is no source.
    let mut link = link_of(0, IFINDEX);
    link.addresses = vec!["10.77.0.100".parse().unwrap()];
    sim.tell(0, Event::LinkChanged(link));
    assert_eq!(sim.group(0, 1).faults, ["eth0 has no address to advertise from"]);
}

/// It would be the address of another node as soon as the other group moves.
#[test]
fn an_address_of_another_group_is_no_source() {
    let all_vips: Vec<_> =
        ["10.77.0.100", "10.77.0.101", "fe80::99"].iter().map(|vip| vip.parse().unwrap()).collect();
    let vips = vec![all_vips[0], "2001:db8::100".parse().unwrap()];
    let mut sim = Sim::started(vec![Settings { vips, all_vips: all_vips.clone(), ..strong(1) }]);
    let mut link = link_of(0, IFINDEX);
    let own = std::mem::replace(&mut link.addresses, all_vips);
    sim.tell(0, Event::LinkChanged(link.clone()));
    assert_eq!(sim.group(0, 1).faults, ["eth0 has no address to advertise from"]);
    link.addresses.extend(own);
    sim.tell(0, Event::LinkChanged(link));
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    for sent in sim.adverts(0, Moment(0)) {
        let (source, expected) = match sent.frame[12] {
            0x08 => (&sent.frame[26..30], &[10, 77, 0, 1][..]),
            _ => (&sent.frame[36..38], &[0, 1][..]),
        };
        assert_eq!(source, expected);
    }
}

#[test]
fn vips_that_cannot_be_had_are_a_fault_that_is_tried_again() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.nodes[0].take_time = ms(500);
    sim.run_for(secs(3));
    let refused = Event::AddressesReady { group: 1, result: Err("no permission".to_owned()) };
    sim.tell(0, refused);
    assert_eq!(sim.group(0, 1).faults, ["its addresses cannot be used: no permission"]);
    assert!(sim.adverts(0, Moment(0)).is_empty());
    sim.run_for(secs(1));
    assert_eq!(sim.state(0), CarpState::Backup);
    sim.run_for(secs(4));
    assert_eq!(sim.masters(), [0]);
    let lost = Event::AddressesReady { group: 1, result: Err("removed".to_owned()) };
    sim.tell(0, lost);
    assert!(sim.masters().is_empty());
}

#[test]
fn a_system_that_does_not_answer_is_a_fault() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.nodes[0].take_time = secs(3600);
    sim.run_for(ms(4100));
    let expected = "its addresses cannot be used: no answer within 1000 ms";
    assert_eq!(sim.group(0, 1).faults, [expected]);
    assert!(sim.adverts(0, Moment(0)).is_empty());
}

/// While one node takes the VIPs another one may be faster.
#[test]
fn a_node_that_hears_a_master_while_it_takes_over_stops() {
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    sim.nodes[1].take_time = ms(900);
    sim.wire.isolate(0);
    sim.run_for(ms(3300));
    sim.wire.heal();
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    assert!(sim.adverts(1, Moment(0)).is_empty());
    assert!(!sim.nodes[1].holds_addresses[&1]);
}

#[test]
fn what_could_not_be_sent_renews_no_lease_and_makes_a_node_the_last() {
    let mut sim = Sim::started(vec![Settings { deadratio: 5, ..ucarp(1) }]);
    sim.run_for(ms(5500));
    for second in 1..=3 {
        sim.run_for(ms(600));
        let failed = || Event::SendFailed { group: 1, error: "no buffer".to_owned() };
        if second < 3 {
            let lease = sim.nodes[0].roles[&1].1;
            sim.tell(0, failed());
            sim.tell(0, failed());
            assert!(sim.nodes[0].roles[&1].1 < lease);
        } else {
            sim.tell(0, failed());
        }
        sim.run_for(ms(400));
    }
    let group = sim.group(0, 1);
    assert_eq!((group.send_errors, group.demotion), (5, 240));
    sim.run_for(secs(10));
    assert_eq!(sim.group(0, 1).demotion, 0, "it works again");
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn a_master_that_can_send_nothing_loses_its_lease() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(ms(3500));
    for _ in 0..40 {
        sim.run_for(ms(100));
        if sim.is_master(0, 1) {
            sim.tell(0, Event::SendFailed { group: 1, error: "no buffer".to_owned() });
        }
    }
    assert!(sim.masters().is_empty());
    assert!(sim.nodes[0].told.iter().any(|text| text.contains("could not send: no buffer")));
    assert_eq!(sim.group(0, 1).demotion, 240, "others go first");
}

// --- sync groups ---

pub(super) fn synced(group: u32, interface: &str) -> Settings {
    let (name, vhid) = (format!("g{group}"), u8::try_from(40 + group).unwrap());
    let sync_group = Some("all".to_owned());
    Settings { group, name, vhid, interface: interface.to_owned(), sync_group, ..ucarp(1) }
}

pub(super) fn two_groups_on_two_nodes(skew: u8, preempt: bool) -> Sim {
    let groups = |skew| {
        let both = [synced(1, "eth0"), synced(2, "eth1")];
        both.map(|settings| Settings { preempt, ..skewed(settings, skew) }).to_vec()
    };
    let mut sim = Sim::new(5, vec![groups(0), groups(skew)]);
    sim.start(0);
    sim.run_for(secs(5));
    sim.start(1);
    sim.run_for(ms(5300));
    assert!(sim.is_master(0, 1) && sim.is_master(0, 2));
    sim
}

/// Behaviour 23.
#[test]
fn a_sync_group_moves_as_one_and_the_healthy_member_by_bow_out() {
    let mut sim = two_groups_on_two_nodes(0, false);
    let failed = sim.now;
    sim.set_link(0, IFINDEX, false);
    sim.run_until(ms(3100), |sim| sim.is_master(1, 1) && sim.is_master(1, 2));
    let bow_out = sim
        .sent
        .iter()
        .find(|sent| sent.at >= failed && sent.group == 2 && sent.is_advert() && sent.node == 0);
    assert_eq!(bow_out.unwrap().base_and_skew(), (255, 255));
    assert_eq!(sim.group(0, 2).faults, ["another member of its sync group is at fault"]);
    sim.set_link(0, IFINDEX, true);
    sim.run_for(secs(10));
    assert!(sim.is_master(1, 1) && sim.is_master(1, 2));
    assert_eq!(sim.group(0, 2).state, CarpState::Backup);
}

#[test]
fn a_sync_group_whose_fault_ends_during_the_handover_stays() {
    let mut sim = two_groups_on_two_nodes(100, false);
    sim.crash(1);
    sim.set_link(0, IFINDEX, false);
    sim.run_for(ms(100));
    assert_eq!(sim.role(0, 2), Role::Leaving);
    sim.set_link(0, IFINDEX, true);
    assert_eq!(sim.role(0, 2), Role::Master);
    sim.set_link(0, IFINDEX, false);
    sim.run_for(secs(5));
    assert_eq!(sim.role(0, 2), Role::Backup, "no one took it, and it is at fault all the same");
}

#[test]
fn a_sync_group_preempts_as_one_or_not_at_all() {
    let mut sim = two_groups_on_two_nodes(100, true);
    sim.crash(0);
    sim.run_until(secs(5), |sim| sim.is_master(1, 1) && sim.is_master(1, 2));
    sim.run_for(ms(1));
    sim.wire.cut(0, IFINDEX + 1, true);
    sim.start(0);
    sim.run_for(secs(2));
    assert!(sim.is_master(1, 1), "one member alone does not preempt");
    sim.wire.cut(0, IFINDEX + 1, false);
    sim.run_until(secs(3), |sim| sim.is_master(0, 1) && sim.is_master(0, 2));
    sim.run_for(secs(10));
    assert!(!sim.is_master(1, 1) && !sim.is_master(1, 2));
}

#[test]
fn a_member_that_gives_way_takes_the_others_along() {
    let mut sim = two_groups_on_two_nodes(100, false);
    // Alone on one of the two wires, the other node became master; it is promoted there.
    sim.tell(1, Event::Order { group: 1, order: Order::Promote });
    sim.run_for(secs(3));
    assert!(sim.is_master(1, 1) && sim.is_master(1, 2));
    assert!(!sim.is_master(0, 1) && !sim.is_master(0, 2));
}

// --- demotion ---

pub(super) fn demote(sim: &mut Sim, node: usize, weight: u16) {
    let reason = "no backend".to_owned();
    sim.tell(node, Event::Demotion { group: None, reason, weight });
}

#[test]
fn a_demoted_master_offers_the_vips_to_those_who_are_better_off() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), skewed(settings, 50));
        demote(&mut sim, 0, 100);
        assert_eq!(sim.role(0, 1), Role::Master, "neighbours are still answered");
        sim.run_until(ms(200), |sim| sim.masters() == [1]);
        assert_eq!(sim.group(0, 1).demoted_by["no backend"], 100);
        demote(&mut sim, 0, 0);
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [1], "it does not preempt");
    }
}

#[test]
fn signed_nodes_that_are_no_better_off_leave_an_offer() {
    let mut sim = pair(strong(1), skewed(strong(1), 50));
    demote(&mut sim, 1, 100);
    demote(&mut sim, 0, 100);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    assert_eq!(sim.group(1, 1).transitions, 0);
    assert!(!sim.group(0, 1).leaving);
}

/// Each would wait for the other until the limit.
#[test]
fn two_masters_that_offer_the_vips_to_each_other_find_one() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(settings.clone(), skewed(settings, 50));
        sim.wire.isolate(0);
        sim.run_for(secs(5));
        assert_eq!(sim.masters(), [0, 1]);
        sim.wire.heal();
        demote(&mut sim, 0, 100);
        demote(&mut sim, 1, 10);
        sim.run_for(ms(100));
        assert_eq!(sim.masters(), [1]);
    }
}

#[test]
fn a_demoted_master_without_others_stays() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(5));
    demote(&mut sim, 0, 100);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    let last = sim.adverts(0, Moment(0)).last().unwrap().base_and_skew();
    assert_eq!(last, (1, 100));
}

#[test]
fn a_preempting_node_takes_from_a_demoted_one_and_gives_back() {
    let mut sim = pair(preempting(strong(1)), preempting(skewed(strong(1), 50)));
    demote(&mut sim, 0, 100);
    sim.run_for(secs(3));
    assert_eq!(sim.masters(), [1]);
    demote(&mut sim, 0, 0);
    sim.run_for(secs(3));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn what_failed_before_a_group_came_counts_for_it() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    demote(&mut sim, 0, 7);
    let now = sim.now + sim.nodes[0].clock;
    let second = Settings { group: 2, name: "g2".to_owned(), vhid: 43, ..ucarp(2) };
    sim.nodes[0].carp.configure(now, vec![ucarp(1), second]);
    assert_eq!(sim.group(0, 2).demotion, 7);
}

// --- orders ---

pub(super) fn order(sim: &mut Sim, node: usize, order: Order) {
    sim.tell(node, Event::Order { group: 1, order });
}

#[test]
fn a_promoted_node_takes_over_and_keeps_it() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(preempting(settings.clone()), skewed(settings, 100));
        order(&mut sim, 1, Order::Promote);
        sim.run_until(ms(50), |sim| sim.masters() == [1]);
        sim.run_for(secs(20));
        assert_eq!(sim.masters(), [1]);
        assert_eq!(sim.group(1, 1).order, Some(CarpOrder::Promote));
        order(&mut sim, 1, Order::Release);
        sim.run_for(secs(3));
        assert_eq!(sim.masters(), [0], "the one that preempts");
        assert_eq!(sim.group(1, 1).order, None);
    }
}

#[test]
fn a_demoted_node_hands_over_and_is_the_last() {
    for settings in [ucarp(1), bsd(1), strong(1)] {
        let mut sim = pair(preempting(settings.clone()), skewed(settings, 100));
        order(&mut sim, 0, Order::Demote);
        assert_eq!(sim.role(0, 1), Role::Leaving);
        sim.run_until(ms(200), |sim| sim.masters() == [1]);
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [1]);
        sim.crash(1);
        sim.run_until(secs(5), |sim| sim.masters() == [0]);
        sim.start(1);
        sim.run_for(secs(5));
        order(&mut sim, 0, Order::Release);
        sim.run_for(secs(2));
        assert_eq!(sim.masters(), [0]);
    }
}

#[test]
fn an_order_to_hand_over_can_be_taken_back() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(5));
    order(&mut sim, 0, Order::Demote);
    sim.run_for(ms(100));
    assert!(sim.group(0, 1).leaving);
    order(&mut sim, 0, Order::Release);
    assert_eq!(sim.role(0, 1), Role::Master);
    order(&mut sim, 0, Order::Demote);
    sim.run_for(secs(5));
    assert_eq!(sim.role(0, 1), Role::Master, "no one else is there");
}

#[test]
fn an_order_that_cannot_be_obeyed_is_refused() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    let carp = &sim.nodes[0].carp;
    assert_eq!(carp.may(1, Order::Promote), Ok(()));
    assert_eq!(carp.may(9, Order::Demote), Err(Refusal::NoSuchGroup));
    assert_eq!(Refusal::NoSuchGroup.to_string(), "there is no such group");
    sim.tell(0, Event::LinkGone { ifindex: IFINDEX });
    let refused = sim.nodes[0].carp.may(1, Order::Promote).unwrap_err();
    assert_eq!(refused.to_string(), "it takes no part: there is no interface eth0");
    assert_eq!(sim.nodes[0].carp.may(1, Order::Demote), Ok(()));
}

// --- configuration ---

pub(super) fn reload(sim: &mut Sim, settings: Vec<Settings>) {
    let now = sim.now + sim.nodes[0].clock;
    sim.nodes[0].carp.configure(now, settings);
    sim.carry_out(0);
}

#[test]
fn a_reload_keeps_the_role_and_takes_new_vips() {
    let mut sim = Sim::started(vec![bsd(1)]);
    sim.run_for(secs(8));
    let (before, start) = (sim.group(0, 1).transitions, sim.now);
    let mut settings = bsd(1);
    settings.vips.push("10.77.0.101".parse().unwrap());
    reload(&mut sim, vec![settings]);
    sim.run_for(ms(10));
    assert_eq!(sim.masters(), [0]);
    assert_eq!(sim.group(0, 1).transitions, before);
    assert_eq!(sim.announcements(0, start).len(), 2);
}

#[test]
fn a_group_that_is_removed_or_becomes_another_is_given_up_with_a_bow_out() {
    for settings in [vec![], vec![Settings { vhid: 99, ..ucarp(1) }]] {
        let mut sim = Sim::started(vec![ucarp(1)]);
        sim.run_for(ms(5300));
        let start = sim.now;
        reload(&mut sim, settings);
        assert_eq!(sim.role(0, 1), Role::Backup);
        assert_eq!(sim.adverts(0, start)[0].base_and_skew(), (255, 255));
    }
}

#[test]
fn a_reload_during_the_end_changes_nothing() {
    let mut sim = Sim::started(vec![ucarp(1)]);
    sim.run_for(secs(5));
    sim.tell(0, Event::Stop);
    reload(&mut sim, vec![ucarp(1), Settings { group: 2, vhid: 43, ..ucarp(2) }]);
    sim.run_until(secs(5), |sim| sim.nodes[0].stopped);
}

#[test]
fn listening_follows_the_groups() {
    use crate::engine::carp::fixtures::link;
    use crate::engine::carp::{Carp, Start};
    let mut carp = Carp::new(Start { node: 1, random: 1, sequence: 1 }, Moment(0));
    let listened = |carp: &mut Carp| -> Vec<String> {
        let actions = std::iter::from_fn(|| carp.poll_action());
        let told = actions.filter_map(|action| match action {
            Action::Listen { ifindex, groups, macs } => {
                Some(format!("{ifindex} {groups:?} {macs:?}"))
            }
            Action::Unlisten { ifindex } => Some(format!("not {ifindex}")),
            _ => None,
        });
        told.collect()
    };
    carp.handle(Moment(0), Event::LinkChanged(link(1)));
    carp.configure(Moment(0), vec![ucarp(1)]);
    assert_eq!(listened(&mut carp), ["2 {224.0.0.18} {00:00:5e:00:01:2a}"]);
    let vips = vec!["10.77.0.100".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    carp.configure(Moment(0), vec![Settings { vips, ..bsd(1) }]);
    assert_eq!(listened(&mut carp), ["2 {224.0.0.18, ff02::12} {00:00:5e:00:01:2a}"]);
    let transport = Transport::Unicast { min_ttl: 255 };
    let mac = crate::engine::carp::VipMac::Interface;
    carp.configure(Moment(0), vec![Settings { transport, mac, ..bsd(1) }]);
    assert_eq!(listened(&mut carp), ["2 {} {}"]);
    carp.handle(Moment(0), Event::LinkGone { ifindex: 2 });
    assert_eq!(listened(&mut carp), ["not 2"]);
}

#[test]
fn unicast_peers_are_sent_to_each() {
    let settings = |host: u8| {
        let transport = Transport::Unicast { min_ttl: 255 };
        let peers = (1..=3).filter(|peer| *peer != host);
        let peers = peers.map(|peer| [10, 77, 0, peer].into()).collect();
        vec![skewed(Settings { transport, peers, ..strong(1) }, host * 20)]
    };
    let mut sim = Sim::new(2, (1..=3).map(settings).collect());
    for node in 0..3 {
        sim.start(node);
    }
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
    let last = last_advert(&sim, 0);
    let sent = sim.adverts(0, last);
    let mut to: Vec<_> = sent.iter().map(|sent| sent.frame[33]).collect();
    to.dedup();
    assert_eq!(to, [2, 3]);
    assert!(sim.drops(1, "other-destination") > 0, "the simulated wire shows all to all");
    sim.crash(0);
    sim.run_until(secs(5), |sim| sim.masters() == [1]);
}
