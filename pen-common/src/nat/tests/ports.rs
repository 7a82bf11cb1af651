//! What flows quarrel about: return entries, and the ports that make them different.

extern crate std;

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[test]
fn the_same_ports_through_two_services_are_a_conflict_until_one_flow_is_over() {
    let maps = maps();
    let (first, second) = (usual(), Tuple { destination: vip(2), ..usual() });
    let sent = maps.sent(Service::NAT, first, SYN);
    for flags in [SYN, ACK, RST] {
        let refused = maps.send(Service::NAT, second, flags, 1);
        assert_eq!(refused, Err(DropReason::DropNatConflict));
    }
    assert_eq!(maps.answer(&sent, ACK), Some(first.reversed()), "it stays the first one's");
    let elsewhere = maps.send(Service::NAT, second, SYN, 2).expect("another backend");
    assert_eq!(maps.answer(&elsewhere, ACK), Some(second.reversed()));
    maps.sent(Service::NAT, first, RST);
    maps.pass(LINGER_NS);
    assert!(maps.send(Service::NAT, second, RST, 1).is_ok(), "a RST passes, and takes nothing");
    assert_eq!(maps.answer(&sent, ACK), None);
    assert_eq!(maps.sent(Service::NAT, second, SYN), sent);
    assert_eq!(maps.answer(&sent, ACK), Some(second.reversed()));
}

#[test]
fn masqueraded_flows_never_quarrel() {
    let maps = maps();
    let mut ports = BTreeSet::new();
    for (number, port) in (1..=5).flat_map(|number| (5000..5100).map(move |port| (number, port))) {
        for vip in [1, 2] {
            let came = tuple(number, port, vip, 80, protocol::TCP);
            let sent = maps.sent(Service::MASQUERADE, came, SYN);
            assert!(ports.insert(sent.source_port), "a port is given twice");
        }
    }
    assert_eq!(ports.len(), 1000);
}

#[test]
fn when_all_ports_are_in_use_a_flow_is_refused_until_one_is_over() {
    let mut maps = maps();
    maps.cfg.last_port = Be16::new(10_003);
    let came = |number: u16| tuple(7, 5000 + number, 1, 80, protocol::TCP);
    let sent: Vec<_> = (0..4).map(|n| maps.sent(Service::MASQUERADE, came(n), SYN)).collect();
    let again = |maps: &Maps, flags| maps.send(Service::MASQUERADE, came(4), flags, 1);
    assert_eq!(again(&maps, SYN), Err(DropReason::DropNoPort));
    assert_eq!(maps.entry(&came(4)), None);
    let other = maps.send(Service::MASQUERADE, came(4), SYN, 2);
    assert!(other.is_ok(), "another backend has ports of its own");
    assert_eq!(again(&maps, SYN), Err(DropReason::DropNoPort), "back to the full one");
    for (number, sent) in (0..).zip(&sent) {
        maps.answer(sent, if number == 2 { RST } else { ACK });
    }
    maps.pass(LINGER_NS);
    let taken = again(&maps, SYN).expect("the reset flow's port is free");
    assert_eq!(taken, sent[2]);
    assert_eq!(maps.answer(&taken, ACK), Some(came(4).reversed()));
    // The flow that lost it gets no other, and does not disturb.
    for flags in [ACK, FIN] {
        let lost = maps.send(Service::MASQUERADE, came(2), flags, 1);
        assert_eq!(lost, Err(DropReason::DropNoPort));
    }
    let lost = maps.send(Service::MASQUERADE, came(2), RST, 1);
    assert_eq!(lost, Err(DropReason::DropNoEntry));
    assert_eq!(maps.answer(&taken, ACK), Some(came(4).reversed()));
}

#[test]
fn without_a_range_of_ports_nothing_is_masqueraded() {
    for (first, last) in [(0, 0), (0, 100), (100, 99)] {
        let mut maps = maps();
        (maps.cfg.first_port, maps.cfg.last_port) = (Be16::new(first), Be16::new(last));
        let refused = maps.send(Service::MASQUERADE, usual(), SYN, 1);
        assert_eq!(refused, Err(DropReason::DropNoPort), "{first}..={last}");
    }
}

#[test]
fn a_flow_that_moves_to_another_backend_gets_another_port_there() {
    let maps = maps();
    let first = maps.sent(Service::MASQUERADE, usual(), SYN);
    let second = maps.send(Service::MASQUERADE, usual(), ACK, 2).expect("goes on");
    assert_eq!(second.destination, backend(2).addr);
    assert_eq!(maps.answer(&second, ACK), Some(usual().reversed()));
    // What the old one still says arrives for half a minute; then the port is somebody else's.
    assert_eq!(maps.answer(&first, ACK), Some(usual().reversed()));
    maps.pass(LINGER_NS);
    assert_eq!(maps.answer(&first, ACK), None);
    assert_eq!(maps.answer(&second, ACK), Some(usual().reversed()));
    // The same id, but another address: the operator changed the backend.
    let moved = Backend { addr: Addr::v4([10, 0, 0, 9]), ..backend(2) };
    let request = request(Service::MASQUERADE, usual(), ACK, 0, 2, &moved);
    assert_eq!(maps.carry(request).expect("goes on").destination, moved.addr);
}

#[test]
fn ports_are_spread_over_the_whole_range_and_small_ranges_are_tried_out() {
    let range = |first, last| Cfg {
        first_port: Be16::new(first),
        last_port: Be16::new(last),
        ..Cfg::default()
    };
    let all = range(1, 0xffff);
    let tens: BTreeSet<_> = (0..1000_u64)
        .map(|number| hash::siphash([1, 2], [number, 0, 0]))
        .map(|hash| candidate(&all, hash, 0).expect("a range").value() / 6554)
        .collect();
    assert_eq!(tens.len(), 10);
    for size in 1..=11_u16 {
        let cfg = range(40_000, 39_999 + size);
        for hash in [0, 1, 0xffff_ffff, 0x1234_5678] {
            let tried: BTreeSet<_> =
                (0..TRIES).filter_map(|attempt| candidate(&cfg, hash, attempt)).collect();
            assert_eq!(tried.len(), usize::from(size), "{size} ports, hash {hash:#x}");
        }
    }
}

proptest! {
    #[test]
    fn a_port_is_always_in_the_range(hash: u64, attempt in 0..TRIES, ends: [u16; 2]) {
        let [first, last] = ends;
        let cfg =
            Cfg { first_port: Be16::new(first), last_port: Be16::new(last), ..Cfg::default() };
        match candidate(&cfg, hash, attempt) {
            Some(port) => prop_assert!((first..=last).contains(&port.value())),
            None => prop_assert!(first == 0 || last < first),
        }
    }
}
