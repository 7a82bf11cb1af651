//! Two masters, and what an enemy on the link can do: replay, rewrite, provoke.

use std::net::IpAddr;

use pen_common::moment::Moment;

use super::stories::{joined, last_advert, pair, preempting, skewed};
use super::{Sim, ms, secs};
use crate::engine::carp::event::{Event, Family};
use crate::engine::carp::fixtures::{IFINDEX, bsd, key, strong, strong_with, ucarp};
use crate::engine::carp::settings::{Accept, Auth, Secret, Settings, Strong, TieBreak, Transport};

fn split(settings: Settings, sources: [&str; 2]) -> Sim {
    let nodes = sources.map(|source| {
        let source: IpAddr = source.parse().unwrap();
        vec![Settings { sources: vec![source], ..settings.clone() }]
    });
    let mut sim = Sim::new(7, nodes.to_vec());
    for (node, source) in sim.nodes.iter_mut().zip(sources) {
        node.addresses = Some(vec![source.parse().unwrap()]);
    }
    sim.wire.isolate(0);
    sim.start(0);
    sim.run_for(ms(370));
    sim.start(1);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0, 1]);
    sim.wire.heal();
    sim
}

/// Behaviour 9: the peer of 10.77.0.2, by the rule of the real ucarp and by number.
#[test]
fn of_two_equal_masters_the_one_stays_that_the_rule_says() {
    let cases =
        [("11.0.0.1", 1, 0), ("10.77.1.1", 1, 0), ("9.255.255.3", 0, 1), ("10.77.0.9", 0, 0)];
    for (peer, by_ucarp, by_number) in cases {
        for (tie_break, winner) in [(TieBreak::UcarpLe, by_ucarp), (TieBreak::Numeric, by_number)] {
            let settings = Settings { tie_break, ..ucarp(1) };
            let mut sim = split(settings, ["10.77.0.2", peer]);
            let took = sim.run_until(ms(2500), |sim| sim.masters().len() == 1);
            assert!(took <= secs(1), "{took:?}");
            assert_eq!(sim.masters(), [winner], "{peer} {tie_break:?}");
            sim.run_for(secs(30));
            assert_eq!(sim.masters(), [winner], "{peer} {tie_break:?}");
        }
    }
}

/// Neighbours are told within a second of the end of the split who has the VIPs.
#[test]
fn after_a_split_the_winner_tells_the_neighbours_last() {
    for settings in [ucarp(1), strong(1)] {
        let mut sim = split(settings, ["10.77.0.2", "10.77.0.9"]);
        let healed = sim.now;
        sim.run_for(secs(1));
        assert_eq!(sim.masters(), [0]);
        assert!(!sim.announcements(0, healed).is_empty());
        assert!(sim.announcements(1, healed).is_empty());
    }
}

#[test]
fn bsd_nodes_find_one_master_after_a_split_of_equals() {
    let mut sim = split(bsd(1), ["10.77.0.2", "10.77.0.9"]);
    sim.run_for(secs(8));
    assert_eq!(sim.masters().len(), 1);
    let master = sim.masters();
    sim.run_for(secs(30));
    assert_eq!(sim.masters(), master);
}

/// Equal masters of both families that could not hear each other until now: 10.77.0.1 goes first of
/// IPv4, fe80::8 of IPv6.
fn split_of_both_families(without: Option<Family>) -> Sim {
    let vips = vec!["10.77.0.100".parse().unwrap(), "2001:db8::100".parse().unwrap()];
    let settings = Settings { vips, ..strong(1) };
    let source = |sources: [&str; 2]| {
        let sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        vec![Settings { sources, ..settings.clone() }]
    };
    let mut sim =
        Sim::new(3, vec![source(["10.77.0.1", "fe80::9"]), source(["10.77.0.2", "fe80::8"])]);
    sim.wire.isolate(0);
    sim.start(0);
    sim.start(1);
    sim.run_for(secs(5));
    sim.wire.without = without;
    sim.wire.heal();
    sim
}

#[test]
fn a_tie_of_both_families_is_decided_in_one() {
    let mut sim = split_of_both_families(None);
    sim.run_for(secs(2));
    assert_eq!(sim.masters(), [0]);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn a_tie_is_decided_in_the_family_that_is_heard() {
    for (without, winner) in [(Family::V4, 1), (Family::V6, 0)] {
        let mut sim = split_of_both_families(Some(without));
        sim.run_until(secs(3), |sim| sim.masters() == [winner]);
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [winner]);
        sim.wire.without = None;
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [winner]);
    }
}

#[test]
fn unicast_peers_of_another_family_than_the_vips_are_told() {
    let transport = Transport::Unicast { min_ttl: 255 };
    let node = |host: usize| {
        let peers = vec![format!("fe80::{}", 3 - host).parse().unwrap()];
        vec![Settings { transport, peers, ..strong(1) }]
    };
    let mut sim = Sim::new(3, vec![node(1), node(2)]);
    sim.start(0);
    sim.start(1);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0]);
}

/// Whoever copies a machine copies its name.
#[test]
fn of_two_nodes_with_one_name_only_one_serves_and_both_say_so() {
    for skew in [0, 100] {
        let mut sim = Sim::new(4, vec![vec![skewed(strong(1), skew)], vec![strong(1)]]);
        sim.nodes[1].number = sim.nodes[0].number;
        sim.start(0);
        sim.run_for(secs(5));
        sim.start(1);
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [0], "it is heard");
        let text = "g1: 10.77.0.1 has the name of this node, as if it were this one: give each node \
                    another `node.name`";
        assert!(sim.nodes[1].told.contains(&text.to_owned()), "{:?}", sim.nodes[1].told);
        let group = sim.group(1, 1);
        assert_eq!((group.peers.len(), group.peers[0].same_name), (1, Some(true)));
        assert_eq!(sim.nodes[1].twins[&1], Some([10, 77, 0, 1].into()));
        sim.crash(0);
        sim.run_until(secs(4), |sim| sim.is_master(1, 1));
        sim.run_for(secs(120));
        assert_eq!(sim.nodes[1].twins[&1], None, "it is not heard any more");
        sim.wire.isolate(0);
        sim.start(0);
        sim.run_for(secs(10));
        assert_eq!(sim.masters(), [0, 1]);
        sim.wire.heal();
        sim.run_for(secs(3));
        assert_eq!(sim.masters(), [usize::from(skew > 0)]);
    }
}

/// Their sequence numbers have nothing to do with each other.
#[test]
fn nodes_with_one_name_are_both_heard_by_a_third() {
    let mut sim = Sim::new(4, vec![vec![strong(1)], vec![strong(1)], vec![skewed(strong(1), 50)]]);
    sim.nodes[1].number = sim.nodes[0].number;
    sim.nodes[0].starts = 7;
    for node in 0..3 {
        sim.start(node);
    }
    sim.run_for(secs(5));
    sim.crash(0);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [1]);
    assert_eq!(sim.drops(2, "replayed"), 0);
}

// --- attacks ---

fn inject(sim: &mut Sim, to: usize, frame: &[u8]) {
    let packet = frame[14..].to_vec();
    sim.tell(to, Event::Received { ifindex: IFINDEX, family: Family::V4, packet });
}

/// Behaviour 11.
#[test]
fn an_old_advert_of_a_dead_master_does_not_keep_its_backup_waiting() {
    for settings in [ucarp(1), strong(1)] {
        let mut sim = pair(settings.clone(), settings);
        let frame = sim.adverts(0, Moment(0))[1].frame.clone();
        let last = last_advert(&sim, 0);
        sim.crash(0);
        for _ in 0..6 {
            inject(&mut sim, 1, &frame);
            sim.run_for(secs(1));
        }
        let took = sim.adverts(1, last)[0].at.since(last);
        assert!(took <= ms(3050), "{took:?}");
        let refused = sim.drops(1, "repeated") + sim.drops(1, "replayed");
        assert_eq!(refused, 6);
    }
}

/// The source, advbase and advskew of a packet rewritten, with right checksums.
fn rewritten(frame: &[u8], advbase: u8, advskew: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    (frame[29], frame[39], frame[36]) = (77, advbase, advskew);
    for (from, to, at) in [(14, 34, 24), (34, 70, 40)] {
        frame[at..at + 2].fill(0);
        let sum = crate::engine::carp::packet::sum(&frame[from..to], Default::default());
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Behaviour 12.
#[test]
fn a_signed_master_is_not_moved_by_its_own_adverts_rewritten() {
    let mut sim = pair(skewed(strong(1), 50), skewed(strong(1), 100));
    let start = sim.now;
    let before = sim.announcements(0, Moment(0)).len();
    for _ in 0..20 {
        let frame = sim.adverts(0, Moment(0)).last().unwrap().frame.clone();
        for (advbase, advskew) in [(0, 1), (255, 255), (1, 0)] {
            let frame = rewritten(&frame, advbase, advskew);
            inject(&mut sim, 0, &frame);
            inject(&mut sim, 1, &frame);
        }
        inject(&mut sim, 1, &frame);
        sim.run_for(ms(500));
    }
    assert_eq!(sim.masters(), [0]);
    assert_eq!(sim.announcements(0, Moment(0)).len(), before, "no ARP");
    assert!(sim.adverts(1, start).is_empty());
    assert_eq!(sim.drops(0, "bad-tag"), 60);
    assert_eq!(sim.drops(1, "bad-tag"), 60);
    assert_eq!(sim.drops(1, "replayed"), 20);
}

/// Behaviour 13.
#[test]
fn many_adverts_of_a_slower_master_provoke_few_announcements_and_adverts() {
    let mut sim = pair(ucarp(1), ucarp(1));
    sim.run_for(secs(5));
    sim.pause(1);
    let start = sim.now;
    // Each with a counter of its own: what was captured of an earlier master.
    let mut other = Sim::new(99, vec![vec![skewed(ucarp(1), 90)]]);
    other.start(0);
    other.run_for(secs(560));
    let frames: Vec<_> =
        other.adverts(0, Moment(0)).iter().map(|sent| rewritten(&sent.frame, 1, 90)).collect();
    assert!(frames.len() >= 400);
    for frame in &frames[..400] {
        inject(&mut sim, 0, frame);
        sim.run_for(ms(5));
    }
    assert_eq!(sim.masters(), [0]);
    assert!(sim.announcements(0, start).len() <= 4);
    assert!(sim.adverts(0, start).len() <= 9);
    assert_eq!(sim.group(0, 1).received, 400);
}

/// What the old digest cannot prevent: a fresh packet of the master, rewritten.
#[test]
fn without_signatures_a_rewritten_advert_moves_the_vips() {
    let mut sim = pair(skewed(bsd(1), 50), skewed(bsd(1), 100));
    let frame = sim.adverts(0, Moment(0)).last().unwrap().frame.clone();
    inject(&mut sim, 0, &rewritten(&frame, 0, 1));
    assert!(sim.masters().is_empty());
}

// --- keys ---

fn with_keys(settings: Settings, ids: &[u8], active: u8) -> Settings {
    let keys = ids.iter().map(|id| key(*id)).collect();
    let strong = Strong { keys, active, accept: Accept::Enforce, legacy: None };
    Settings { auth: Auth::Sha256(strong), ..settings }
}

fn configure(sim: &mut Sim, node: usize, settings: Settings) {
    let now = sim.now + sim.nodes[node].clock;
    sim.nodes[node].settings = vec![settings.clone()];
    sim.nodes[node].carp.configure(now, vec![settings]);
    sim.carry_out(node);
}

/// Behaviour 22.
#[test]
fn keys_are_changed_without_a_refused_packet() {
    let first = |active| with_keys(strong(1), &[1, 2], active);
    let second = |active| with_keys(skewed(strong(1), 100), &[1, 2], active);
    let mut sim = pair(first(1), second(1));
    configure(&mut sim, 0, first(2));
    sim.run_for(secs(5));
    assert_eq!(sim.group(1, 1).peers[0].key, Some(2));
    configure(&mut sim, 1, second(2));
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    for node in 0..2 {
        assert_eq!(sim.group(node, 1).drops.values().sum::<u64>(), 0);
    }
    assert_eq!(sim.group(1, 1).transitions, 0);
    // A node that was forgotten says who signs with what it does not have.
    let mut sim = pair(first(1), with_keys(skewed(strong(1), 100), &[1], 1));
    configure(&mut sim, 0, first(2));
    sim.run_for(secs(2));
    assert!(sim.drops(1, "unknown-key") > 0);
    let told = &sim.nodes[1].told;
    let expected = "g1: refused an advertisement from 10.77.0.1: it is signed with a key that \
                    this node does not have";
    assert!(told.iter().any(|text| text == expected), "{told:?}");
}

/// From a password to signatures, one node after the other, in three steps.
#[test]
fn signatures_are_introduced_without_an_interruption() {
    let listed: Option<&[&str]> = Some(&["10.77.0.1", "10.77.0.2"]);
    let steps = [Accept::ReceiveOnly, Accept::Permissive, Accept::Enforce];
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    for accept in steps {
        for node in [1, 0] {
            let skew = if node == 0 { 0 } else { 100 };
            configure(&mut sim, node, skewed(strong_with(1, accept, listed), skew));
            sim.run_for(secs(5));
            assert_eq!(sim.masters(), [0], "{accept:?} {node}");
        }
    }
    for node in 0..2 {
        assert_eq!(sim.group(node, 1).drops.values().sum::<u64>(), 0);
    }
}

#[test]
fn a_node_that_starts_again_is_heard_again() {
    let mut sim = pair(strong(1), skewed(strong(1), 100));
    sim.crash(0);
    sim.run_until(secs(4), |sim| sim.is_master(1, 1));
    sim.start(0);
    sim.run_for(secs(5));
    sim.crash(1);
    sim.run_until(secs(4), |sim| sim.is_master(0, 1));
    sim.start(1);
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0]);
    assert_eq!(sim.drops(1, "replayed"), 0);
}

#[test]
fn another_configuration_of_a_peer_is_told() {
    let other = Settings { config_hash: 9, ..skewed(strong(1), 100) };
    let sim = pair(strong(1), other);
    assert_eq!(sim.group(1, 1).peers[0].same_config, Some(false));
    assert!(sim.nodes[1].told.contains(&"g1: 10.77.0.1 has another configuration".to_owned()));
}

/// A new password on one node and then on the other: two masters in between, and then one again.
#[test]
fn a_password_that_differs_is_told_and_heals() {
    let other = Settings { auth: Auth::Ucarp { password: Secret::new("hate") }, ..ucarp(1) };
    let mut sim = pair(ucarp(1), skewed(ucarp(1), 100));
    configure(&mut sim, 1, skewed(other.clone(), 100));
    sim.run_for(secs(5));
    assert_eq!(sim.masters(), [0, 1]);
    configure(&mut sim, 0, other);
    sim.run_for(secs(2));
    assert_eq!(sim.masters(), [0]);
}

#[test]
fn a_preempting_node_after_a_split_is_no_duel_without_end() {
    let mut sim = joined(skewed(strong(1), 100), preempting(strong(1)));
    sim.run_for(secs(3));
    sim.wire.isolate(1);
    sim.run_for(secs(10));
    assert_eq!(sim.masters(), [0, 1]);
    sim.wire.heal();
    sim.run_for(secs(2));
    assert_eq!(sim.masters(), [1]);
}
