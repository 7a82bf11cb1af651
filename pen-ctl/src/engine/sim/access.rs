//! What virtual addresses ask of those who come: access lists, rates; and whether they answer echo.

use pen_common::abi::AddrEntry;

use super::*;
use crate::config::{Access, Acl, Cidr};
use crate::engine::tables::diff;

/// Lets these networks do this, and all others `default`.
fn list(networks: &[(&str, Access)], default: Access) -> Acl {
    let network = |(text, access): &(&str, Access)| {
        let (address, bits) = text.split_once('/').expect("a network");
        let address = address.parse().expect("an address");
        (Cidr { address, bits: bits.parse().expect("a length") }, *access)
    };
    Acl { name: "list".into(), networks: networks.iter().map(network).collect(), default }
}

fn behind(acl: Acl) -> Config {
    let mut config = config(2);
    config.vips[0].acl = Some(acl.name.clone());
    config.acls = vec![acl];
    config
}

fn entry(maps: &Tables) -> AddrEntry {
    maps.addrs[&Addr::from(VIP)]
}

/// Whether a source gets through.
fn passes(maps: &Tables, now: Moment, source: [u8; 4]) -> bool {
    let flow = Flow {
        source: Addr::v4(source),
        source_port: Be16::new(5000),
        port: Be16::new(80),
        protocol: protocol::TCP,
        stage: Stage::Open,
    };
    let arrival = Arrival { ifindex: 3, station: NIC };
    let lookup = maps.at(now, &NoRecords);
    match forward::decide(&lookup, &arrival, &Addr::from(VIP), || Ok(flow)) {
        Verdict::Forward(_) => true,
        Verdict::Drop(reason) => {
            assert_eq!(reason, DropReason::DropAcl);
            false
        }
        Verdict::Pass(reason) => panic!("{reason:?}"),
    }
}

#[test]
fn the_smallest_network_of_a_list_decides_and_the_default_about_all_others() {
    let networks = [
        ("198.51.0.0/16", Access::Allow),
        ("198.51.100.0/24", Access::Deny),
        ("198.51.100.7/32", Access::Allow),
        ("::/0", Access::Deny),
    ];
    for default in [Access::Allow, Access::Deny] {
        let mut sim = Sim::start(behind(list(&networks, default)));
        sim.run_for(secs(1));
        for (source, expected) in [
            ([198, 51, 100, 7], true),
            ([198, 51, 100, 8], false),
            ([198, 51, 99, 8], true),
            ([203, 0, 113, 1], default == Access::Allow),
        ] {
            assert_eq!(passes(&sim.maps, sim.now, source), expected, "{source:?} {default:?}");
        }
    }
}

#[test]
fn while_a_list_changes_every_source_is_judged_by_the_old_one_or_by_the_new_one() {
    let open = list(&[("203.0.113.0/24", Access::Deny)], Access::Allow);
    let closed = list(&[("198.51.100.0/24", Access::Allow)], Access::Deny);
    let mut before = Sim::start(behind(open));
    before.run_for(secs(1));
    let mut after = Sim::start_over(behind(closed), before.maps.clone());
    after.run_for(secs(1));
    let (always, never) = ([198, 51, 100, 7], [203, 0, 113, 7]);
    let mut maps = before.maps.clone();
    for write in diff(&before.maps, &after.maps) {
        maps.apply(&write);
        assert!(passes(&maps, after.now, always) && !passes(&maps, after.now, never), "{write:?}");
    }
    assert_eq!(maps, after.maps);
    assert_ne!(entry(&before.maps).acl, entry(&after.maps).acl);
    assert_eq!(after.maps.prefixes.len(), 3, "the old list is gone");
}

#[test]
fn a_restart_changes_nothing_about_lists_and_numbers() {
    let mut config = behind(list(&[("10.0.0.0/8", Access::Deny)], Access::Allow));
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    config.vips.push(Vip { syn_rate: Some(7), ..vip(other) });
    let mut first = Sim::start(config.clone());
    first.run_for(secs(2));
    let second = Sim::start_over(config.clone(), first.maps.clone());
    assert_eq!(second.maps, first.maps);
    // The number of an address stays while others come and go.
    let id = first.maps.addrs[&Addr::from(other)].id;
    config.vips.remove(0);
    config.services.clear();
    let third = Sim::start_over(config, first.maps.clone());
    assert_eq!(third.maps.addrs[&Addr::from(other)].id, id);
    assert_eq!(third.maps.prefixes.len(), 0, "nobody refers to the list");
}

#[test]
fn the_maps_say_what_an_address_asks() {
    let mut config = config(1);
    assert_eq!(entry(&Sim::start(config.clone()).maps).syn_interval_ns, 0);
    for (rate, interval) in [(1, 1_000_000_000), (100, 10_000_000), (1_000_000, 1000)] {
        config.vips[0].syn_rate = Some(rate);
        assert_eq!(entry(&Sim::start(config.clone()).maps).syn_interval_ns, interval);
    }
    config.vips[0].echo = true;
    let sim = Sim::start(config);
    assert_eq!(entry(&sim.maps).flags, AddrEntry::ECHO);
    let vip = &sim.engine.vips(sim.now)[0];
    assert_eq!((vip.echo, vip.acl.as_deref(), vip.syn_rate), (true, None, Some(1_000_000)));
}
