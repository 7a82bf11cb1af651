//! Who stays where while the table moves: flows with a record, flows without one, clients that are
//! remembered, and what a record that no longer counts is worth.

use std::time::Duration;

use pen_common::abi::{Backend, Cfg, Slot};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Tables;
use pen_tests::{process::SHORT, wait_until};

use crate::bench::Bench;
use crate::frame::{IPV4_PAYLOAD, Packet, patch};
use crate::rng::Rng;
use crate::world::{SLOTS, VIP4, by_client, one_service, uniform, usual};

/// Where the flags of a TCP header stand.
const FLAGS: usize = IPV4_PAYLOAD + 13;
const ACK: u8 = 16;
const RST: u8 = 4;

fn syn(port: u16) -> Vec<u8> {
    Packet::tcp(VIP4, 80).from([198, 51, 100, 7], port).frame()
}

fn with_flags(port: u16, flags: u8) -> Vec<u8> {
    patch(&syn(port), FLAGS, &[flags])
}

/// 80/tcp whose slots all have this base and current.
fn moving(base: u16, current: u16) -> Tables {
    let mut tables = one_service(&[1; 3]);
    tables.slots.insert(0, vec![Slot::new(base, current, true); SLOTS as usize].into());
    tables
}

/// The next state of the slots.
fn move_to(bench: &mut Bench, base: u16, current: u16) {
    let mut tables = bench.tables().clone();
    tables.slots.insert(0, vec![Slot::new(base, current, true); SLOTS as usize].into());
    bench.change(tables);
}

#[test]
fn a_flow_without_a_record_belongs_to_the_base_and_a_new_one_to_the_current() {
    let mut bench = Bench::new(moving(1, 2));
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 1);
    assert_eq!(bench.forwarded(&syn(2000)), 2);
    assert_eq!(bench.forwarded(&with_flags(2000, ACK)), 2, "it is recorded");
    move_to(&mut bench, 3, 3);
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 1, "so is the old one");
    assert_eq!(bench.forwarded(&with_flags(2000, ACK)), 2);
    assert_eq!(bench.forwarded(&with_flags(3000, ACK)), 3);
}

#[test]
fn a_datagram_without_a_record_belongs_to_the_base() {
    let mut tables = usual();
    tables.slots.insert(1, vec![Slot::new(4, 5, true); SLOTS as usize].into());
    let mut bench = Bench::new(tables.clone());
    let datagram = Packet::udp(VIP4, 53).frame();
    assert_eq!(bench.forwarded(&datagram), 4);
    tables.slots.insert(1, vec![Slot::new(5, 5, true); SLOTS as usize].into());
    bench.change(tables);
    assert_eq!(bench.forwarded(&datagram), 4, "it is recorded");
    assert_eq!(bench.forwarded(&Packet::udp(VIP4, 53).from([198, 51, 100, 8], 1).frame()), 5);
}

#[test]
fn a_reset_makes_no_record() {
    let mut bench = Bench::new(moving(1, 2));
    assert_eq!(bench.forwarded(&with_flags(1000, RST)), 1);
    move_to(&mut bench, 3, 3);
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 3, "nothing was remembered");
}

#[test]
fn a_record_of_a_backend_that_died_is_void_also_after_its_return() {
    let mut bench = Bench::new(moving(1, 2));
    assert_eq!(bench.forwarded(&syn(1000)), 2);
    let alive = bench.tables().clone();
    let mut dead = alive.clone();
    dead.backends.insert(2, Backend { state: Backend::DOWN, generation: 9, ..alive.backends[&2] });
    bench.change(dead.clone());
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 1);
    let back = Backend { state: Backend::UP, ..dead.backends[&2] };
    bench.write(pen_ctl::engine::tables::Write::SetBackend(2, back));
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 1, "it went on at the base");
}

#[test]
fn a_drained_backend_keeps_its_flows_and_a_repeated_connection_is_a_new_one() {
    for state in [Backend::DRAIN, Backend::DRAINED] {
        let mut bench = Bench::new(moving(1, 2));
        assert_eq!(bench.forwarded(&syn(1000)), 2);
        move_to(&mut bench, 1, 3);
        bench.set_state(2, state);
        assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 2);
        assert_eq!(bench.forwarded(&syn(1000)), 3);
    }
}

#[test]
fn a_repeated_syn_goes_where_the_first_one_went() {
    let mut bench = Bench::new(moving(1, 2));
    assert_eq!(bench.forwarded(&syn(1000)), 2);
    move_to(&mut bench, 1, 3);
    assert_eq!(bench.forwarded(&syn(1000)), 2);
    assert_eq!(bench.forwarded(&syn(1001)), 3);
}

#[test]
fn a_client_is_remembered_on_all_its_ports() {
    let mut tables = by_client(one_service(&[1; 3]));
    tables.slots.insert(0, uniform(1));
    let mut bench = Bench::new(tables);
    assert_eq!(bench.forwarded(&syn(1000)), 1);
    move_to(&mut bench, 1, 2);
    for port in 2000..3000 {
        assert_eq!(bench.forwarded(&syn(port)), 1);
    }
    let other = Packet::tcp(VIP4, 80).from([198, 51, 100, 8], 1000).frame();
    assert_eq!(bench.forwarded(&other), 2);
}

#[test]
fn a_remembered_client_keeps_a_draining_backend_and_leaves_a_drained_one() {
    let mut bench = Bench::new(by_client(moving(1, 1)));
    assert_eq!(bench.forwarded(&syn(1000)), 1);
    move_to(&mut bench, 1, 2);
    bench.set_state(1, Backend::DRAIN);
    assert_eq!(bench.forwarded(&syn(1001)), 1);
    bench.set_state(1, Backend::DRAINED);
    assert_eq!(bench.forwarded(&syn(1002)), 2);
    assert_eq!(bench.forwarded(&with_flags(1001, ACK)), 1, "open connections stay");
}

#[test]
fn a_client_that_was_silent_for_its_time_to_live_is_forgotten() {
    const TTL: Duration = Duration::from_millis(300);
    let mut tables = by_client(moving(1, 1));
    for service in tables.services.values_mut() {
        service.client_ttl_ns = u64::try_from(TTL.as_nanos()).expect("short");
        // Or the flow's own record would be found.
        service.flow_ttl_ns = 1;
    }
    let mut bench = Bench::new(tables);
    assert_eq!(bench.forwarded(&syn(1000)), 1);
    move_to(&mut bench, 1, 2);
    assert_eq!(bench.forwarded(&syn(1001)), 1, "still remembered");
    // A look that finds the client stamps it at most once a second, later than it is forgotten.
    wait_until(SHORT, "the client is forgotten", || {
        (bench.forwarded(&syn(1002)) == 2).then_some(())
    })
    .unwrap();
}

#[test]
fn with_the_table_of_clients_full_of_others_packets_go_where_the_slot_says() {
    let mut bench = Bench::new(by_client(one_service(&[1; 3])));
    let mut rng = Rng::new(5);
    // More than it holds.
    for _ in 0..300_000 {
        bench.send(None, &rng.moved(&Packet::tcp(VIP4, 80)).frame());
    }
    bench.total();
    let slots = bench.tables().slots[&0].clone();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        let frame = Packet::tcp(VIP4, 80).from([203, 0, 113, number], 1000).frame();
        let outcome = bench.run(&frame);
        assert_eq!(outcome.counter, Counter::Transmit);
        seen.insert(bench.backend_of(&frame, &outcome.frame));
    }
    assert_eq!(seen.len(), 3);
    assert!(slots.iter().all(|slot| !slot.is_unsettled()));
}

#[test]
fn while_no_record_can_be_made_a_new_flow_goes_where_its_next_packets_will() {
    let mut tables = moving(1, 2);
    tables.cfg = Cfg { records_per_second: 0, ..tables.cfg };
    let mut bench = Bench::new(tables);
    assert_eq!(bench.forwarded(&syn(1000)), 1);
    assert_eq!(bench.forwarded(&with_flags(1000, ACK)), 1);
    bench.set_state(1, Backend::DOWN);
    assert_eq!(bench.forwarded(&syn(1001)), 2, "a dead base is no place to go");
}
