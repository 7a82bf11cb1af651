//! Which backend a flow goes to: shares follow the weights, few flows move when a backend goes, the
//! secret decides and nothing else does, and the kernel decides what `forward::decide` does in
//! userspace, which is what `penctl explain` shows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use pen_common::abi::{Backend, Service, Slot};
use pen_common::forward::{Arrival, Flow, Stage, decide};
use pen_common::moment::Moment;
use pen_common::net::{Be16, protocol};
use pen_common::verdict::Verdict;
use pen_ctl::engine::tables::{NoRecords, Tables};

use crate::bench::{Action, Bench};
use crate::frame::{Packet, usual_packets};
use crate::rng::Rng;
use crate::world::{
    NIC, SECRET, VIP_MAC, VIP4, VIP6, backend_at, by_client, fill_table, one_service, usual,
};

/// Backends of that many random flows to 80/tcp on the IPv4 address, always the same flows.
fn choices(bench: &mut Bench, flows: usize) -> Vec<u32> {
    let mut rng = Rng::new(1);
    let packet = Packet::tcp(VIP4, 80);
    let before = bench.total();
    let choices = (0..flows)
        .map(|_| {
            let (action, out) = bench.send(None, &rng.moved(&packet).frame());
            assert_eq!(action, Action::Tx);
            backend_at(&out)
        })
        .collect();
    assert_eq!(bench.total() - before, u64::try_from(flows).expect("64 bits"));
    choices
}

fn percents(choices: &[u32]) -> BTreeMap<u32, f64> {
    let mut shares = BTreeMap::new();
    for id in choices {
        *shares.entry(*id).or_default() += 100.0 / choices.len() as f64;
    }
    shares
}

/// The tables without a backend.
fn without(tables: &Tables, id: u32) -> Tables {
    let mut tables = tables.clone();
    tables.backends.remove(&id);
    fill_table(&mut tables, 0);
    tables
}

#[test]
fn ten_equal_backends_get_ten_percent_each() {
    let shares = percents(&choices(&mut Bench::new(one_service(&[1; 10])), 100_000));
    assert_eq!(shares.len(), 10);
    for (id, percent) in shares {
        assert!((9.0..=11.0).contains(&percent), "backend {id} gets {percent:.2} %");
    }
}

#[test]
fn weights_one_two_three_get_their_shares() {
    let shares = percents(&choices(&mut Bench::new(one_service(&[1, 2, 3])), 50_000));
    for (id, percent) in shares {
        let expected = f64::from(id) * 100.0 / 6.0;
        assert!((percent - expected).abs() <= 2.0, "weight {id} gets {percent:.2} %");
    }
}

#[test]
fn without_one_of_ten_few_flows_of_the_others_move_and_all_come_back_with_it() {
    const FLOWS: usize = 20_000;
    let all = one_service(&[1; 10]);
    let mut bench = Bench::new(all.clone());
    let before = choices(&mut bench, FLOWS);
    for gone in [1, 6] {
        bench.change(without(&all, gone));
        let after = choices(&mut bench, FLOWS);
        assert!(!after.contains(&gone));
        let kept = before.iter().zip(&after).filter(|(before, _)| **before != gone);
        let moved = kept.clone().filter(|(before, after)| before != after).count();
        let percent = 100.0 * moved as f64 / kept.count() as f64;
        assert!(percent < 1.5, "without {gone}, {percent:.2} % of the others' flows moved");
        bench.change(all.clone());
        assert_eq!(choices(&mut bench, FLOWS), before, "with {gone} again");
    }
}

#[test]
fn nodes_with_the_same_secret_agree_and_others_do_not() {
    const FLOWS: usize = 10_000;
    let tables = one_service(&[1; 10]);
    let here = choices(&mut Bench::new(tables.clone()), FLOWS);
    assert_eq!(choices(&mut Bench::new(tables.clone()), FLOWS), here);
    // The same table with another key of the flow hash, then with its own table.
    let mut other = tables;
    other.cfg.secret = [SECRET[0], SECRET[1] + 1];
    for what in ["another hash", "another hash and table"] {
        let there = choices(&mut Bench::new(other.clone()), FLOWS);
        let same = here.iter().zip(&there).filter(|(here, there)| here == there).count();
        // One of ten agrees by chance.
        assert!((800..=1200).contains(&same), "{what}: {same} of {FLOWS} flows agree");
        fill_table(&mut other, 0);
    }
}

/// What userspace says of a packet: the backend, if it is forwarded.
fn decided(tables: &Tables, packet: &Packet) -> Option<u32> {
    let arrival = Arrival { ifindex: NIC, station: packet.station };
    let flow = Flow {
        source: packet.source.into(),
        source_port: Be16::new(packet.source_port),
        port: Be16::new(packet.port),
        protocol: packet.protocol,
        stage: if packet.protocol == protocol::TCP { Stage::Open } else { Stage::Datagram },
    };
    let lookup = tables.at(Moment(1), &NoRecords);
    match decide(&lookup, &arrival, &packet.destination.into(), || Ok(flow)) {
        Verdict::Forward(forward) => Some(forward.id),
        Verdict::Pass(_) | Verdict::Drop(_) => None,
    }
}

#[test]
fn the_kernel_decides_as_userspace_explains() {
    for (tables, seed) in [(usual(), 2), (by_client(usual()), 3)] {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new(tables.clone());
        // One of three is down, so that the slots after a flow's own one count as well.
        bench.set_state(2, Backend::DOWN);
        bench.set_state(8, Backend::DOWN);
        for number in 0..10_000 {
            let packets = usual_packets();
            let (_, packet) = &packets[number % 4];
            let packet = rng.moved(packet);
            let (action, out) = bench.send(None, &packet.frame());
            let chosen = (action == Action::Tx).then(|| backend_at(&out));
            assert_eq!(chosen, decided(bench.tables(), &packet), "seed {seed}: {packet:?}");
        }
    }
}

#[test]
fn a_table_may_have_any_size() {
    for slots in [1, 7, 64, 65537] {
        let mut tables = one_service(&[1; 10]);
        for service in tables.services.values_mut() {
            service.slots = slots;
        }
        let table = (0..slots).map(|slot| Slot::settled(1 + u16::from(slot % 10 == 3)));
        tables.slots.insert(0, table.collect());
        let mut bench = Bench::new(tables);
        assert_eq!(bench.dataplane().read().unwrap(), *bench.tables(), "{slots} slots");
        let mut rng = Rng::new(6);
        for _ in 0..300 {
            let packet = rng.moved(&Packet::tcp(VIP4, 80));
            let chosen = bench.forwarded(&packet.frame());
            assert_eq!(Some(chosen), decided(bench.tables(), &packet), "{slots} slots");
        }
    }
}

#[test]
fn affinity_by_client_keeps_all_ports_of_a_client_together() {
    let mut bench = Bench::new(by_client(usual()));
    for (what, packet) in usual_packets() {
        let mut backends: Vec<u32> = (0..1000_u16)
            .map(|port| {
                let packet = packet.clone().from(packet.source, 1000 + 13 * port);
                backend_at(&bench.send(None, &packet.frame()).1)
            })
            .collect();
        backends.dedup();
        assert_eq!(backends.len(), 1, "{what}");
    }
}

#[test]
fn affinity_by_flow_spreads_the_ports_of_a_client() {
    let mut bench = Bench::new(usual());
    for (what, packet) in usual_packets() {
        let backends: Vec<u32> = (0..1000_u16)
            .map(|port| {
                let packet = packet.clone().from(packet.source, 1000 + 13 * port);
                backend_at(&bench.send(None, &packet.frame()).1)
            })
            .collect();
        for (id, percent) in percents(&backends) {
            assert!((25.0..=42.0).contains(&percent), "{what}: backend {id} gets {percent:.1} %");
        }
    }
}

#[test]
fn clients_are_spread_and_an_ipv6_client_is_a_network_of_64_bits() {
    let mut bench = Bench::new(by_client(usual()));
    let mut choice = |vip: IpAddr, source: IpAddr| {
        bench.forwarded(&Packet::tcp(vip, 80).at_station(VIP_MAC).from(source, 1000).frame())
    };
    let mut networks = Vec::new();
    for network in 0..200_u16 {
        let host = |low| Ipv6Addr::new(0x2001, 0xdb8, 7, network, 1, 2, 3, low).into();
        let first = choice(VIP6.into(), host(1));
        assert_eq!(choice(VIP6.into(), host(0xffff)), first, "one network, one backend");
        networks.push(first);
    }
    let hosts: Vec<u32> =
        (0..200).map(|host| choice(VIP4.into(), [198, 51, 100, host].into())).collect();
    for (what, choices) in [("networks", networks), ("hosts", hosts)] {
        let shares = percents(&choices);
        assert_eq!(shares.len(), 3, "{what}: {shares:?}");
    }
}

#[test]
fn a_client_prefix_groups_clients() {
    let mut tables = by_client(one_service(&[1; 10]));
    for service in tables.services.values_mut() {
        // /24, counted in the mapped address.
        *service = Service { prefix_v4: 96 + 24, ..*service };
    }
    let mut bench = Bench::new(tables);
    let mut network = |third: u8| -> Vec<u32> {
        let mut backends: Vec<u32> = (0..=255)
            .map(|host| {
                let packet = Packet::tcp(VIP4, 80).from([198, 51, third, host], 1000);
                backend_at(&bench.send(None, &packet.frame()).1)
            })
            .collect();
        backends.dedup();
        backends
    };
    let networks: Vec<Vec<u32>> = (0..50).map(&mut network).collect();
    assert!(networks.iter().all(|backends| backends.len() == 1), "{networks:?}");
    assert!(networks.windows(2).any(|pair| pair[0] != pair[1]));
}
