//! The map in which a port is found with one cheap look-up: it follows the others, whatever stands
//! in it, and who finds no place in it is served as well.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use pen_common::ABI_VERSION;
use pen_common::abi::{Service, ServiceKey, map};
use pen_common::hash::listen_index;
use pen_common::net::{Be16, protocol};
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::Packet;
use crate::world::{VIP4, add_service, empty, one_service};

/// Two ports for the same place.
fn rivals() -> [u16; 2] {
    let mut places = BTreeMap::new();
    let place = |port| {
        let vip = IpAddr::from(VIP4).into();
        listen_index(&ServiceKey::new(vip, Be16::new(port), protocol::TCP))
    };
    (1..u16::MAX)
        .find_map(|port| places.insert(place(port), port).map(|before| [before, port]))
        .expect("there are fewer places than ports")
}

#[test]
fn two_ports_for_the_same_place_are_both_served_and_so_is_the_one_that_is_left() {
    let ports = rivals();
    let with = |ports: &[u16]| {
        let mut tables = empty();
        for port in ports {
            add_service(&mut tables, VIP4.into(), *port, protocol::TCP, &[1]);
        }
        tables
    };
    let mut bench = Bench::new(with(&ports));
    for port in ports {
        bench.ends_in(Counter::Transmit, &Packet::tcp(VIP4, port).frame(), "both");
    }
    for (left, gone) in [(ports[0], ports[1]), (ports[1], ports[0])] {
        bench.change(with(&[left]));
        bench.ends_in(Counter::Transmit, &Packet::tcp(VIP4, left).frame(), "the one that is left");
        bench.ends_in(Counter::PassNoService, &Packet::tcp(VIP4, gone).frame(), "the other one");
    }
}

#[test]
fn a_daemon_that_died_before_the_map_had_followed_leaves_nothing_to_the_next_one() {
    let mut bench = Bench::new(one_service(&[1]));
    let frame = Packet::tcp(VIP4, 80).frame();
    bench.ends_in(Counter::Transmit, &frame, "served");
    drop(bench.lend());
    let pin = bench.pins().0.join(format!("v{ABI_VERSION}")).join(map::SERVICES);
    let services = Map::HashMap(MapData::from_pin(pin).expect("it is pinned"));
    let mut services: HashMap<MapData, ServiceKey, Service> = services.try_into().expect("a hash");
    let keys: Vec<ServiceKey> = services.keys().collect::<Result<_, _>>().expect("keys");
    keys.iter().for_each(|key| services.remove(key).expect("it is there"));
    let next = bench.pins().open().expect("it opens");
    bench.give_back(next);
    bench.ends_in(Counter::PassNoService, &frame, "the service is gone");
}
