//! Backends that go down, drain and are missing: a state is one write and holds from the next frame
//! on, before any table is computed anew, and no frame goes where nobody takes it.

use std::collections::BTreeMap;

use pen_common::abi::{Backend, MAX_BACKENDS, Slot};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;

use crate::bench::Bench;
use crate::frame::{Packet, usual_packets};
use crate::world::{VIP4, fill_table, new_backend, one_service, uniform, usual};

/// Frames of many flows of 80/tcp on the IPv4 address.
fn flows() -> Vec<Vec<u8>> {
    (0..200_u16)
        .map(|port| Packet::tcp(VIP4, 80).from([198, 51, 100, 7], 40000 + port).frame())
        .collect()
}

#[test]
fn the_next_frame_after_a_backend_went_down_goes_to_another_one() {
    let mut bench = Bench::new(usual());
    for (what, packet) in usual_packets() {
        let frame = packet.frame();
        let first = bench.forwarded(&frame);
        let service = bench.tables().backends[&first].service;
        bench.set_state(first, Backend::DOWN);
        let second = bench.forwarded(&frame);
        assert_ne!(second, first, "{what}");
        assert_eq!(bench.tables().backends[&second].service, service, "{what}");
        assert_eq!(bench.forwarded(&frame), second, "{what}: and stays there");
        bench.set_state(first, Backend::UP);
        assert_eq!(bench.forwarded(&frame), first, "{what}: the table did not change");
    }
}

#[test]
fn only_the_flows_of_the_backend_that_went_down_move() {
    let mut bench = Bench::new(one_service(&[1; 5]));
    let before: Vec<u32> = flows().iter().map(|frame| bench.forwarded(frame)).collect();
    bench.set_state(2, Backend::DOWN);
    for (frame, before) in flows().iter().zip(before) {
        let after = bench.forwarded(frame);
        assert!(if before == 2 { after != 2 } else { after == before }, "{before} -> {after}");
    }
}

#[test]
fn the_last_backend_that_is_up_takes_nearly_everything_before_the_table_is_computed_anew() {
    let mut bench = Bench::new(one_service(&[1; 2]));
    bench.set_state(1, Backend::DOWN);
    for frame in flows() {
        let outcome = bench.run(&frame);
        // One of 2^8 flows has eight slots of the dead backend in a row.
        match outcome.counter {
            Counter::Transmit => assert_eq!(bench.backend_of(&frame, &outcome.frame), 2),
            counter => assert_eq!(counter, Counter::DropNoBackend),
        }
    }
    let counts = bench.counts();
    assert!(counts.backends[&2].packets >= 195, "{:?} of 200", counts.backends[&2].packets);
    // The new table has no such gap.
    let mut tables = bench.tables().clone();
    fill_table(&mut tables, 0);
    bench.change(tables);
    for frame in flows() {
        assert_eq!(bench.forwarded(&frame), 2);
    }
}

#[test]
fn with_all_backends_down_a_frame_is_dropped() {
    let mut bench = Bench::new(usual());
    for id in 1..=12 {
        bench.set_state(id, Backend::DOWN);
    }
    for (what, packet) in usual_packets() {
        bench.ends_in(Counter::DropNoBackend, &packet.frame(), what);
    }
    bench.set_state(1, Backend::UP);
    bench.set_state(4, Backend::UP);
}

#[test]
fn a_table_without_backends_is_a_drop() {
    let mut bench = Bench::new(one_service(&[]));
    bench.ends_in(Counter::DropNoBackend, &Packet::tcp(VIP4, 80).frame(), "no member");
}

#[test]
fn a_service_without_table_is_a_drop_of_its_own() {
    let frame = Packet::tcp(VIP4, 80).frame();
    let mut tables = one_service(&[1; 3]);
    tables.slots.clear();
    let mut bench = Bench::new(tables.clone());
    bench.ends_in(Counter::DropNoTable, &frame, "never written");
    // A table that is shorter than the service says.
    let mut end = tables.clone();
    end.services.values_mut().for_each(|service| service.slots = 65521);
    end.slots.insert(0, vec![Slot::settled(1); 20_000].into());
    bench.change(end);
    let slot = flows().iter().map(|frame| bench.run(frame).counter).collect::<Vec<_>>();
    assert!(slot.contains(&Counter::DropNoTable), "most flows lie behind its end");
    // The id of a service is above the map's end.
    for service in tables.services.values_mut() {
        service.id = 4096;
    }
    tables.slots.clear();
    bench.change(tables);
    bench.ends_in(Counter::DropNoTable, &frame, "no such service");
}

#[test]
fn a_slot_that_names_no_backend_of_the_map_is_a_drop() {
    let frame = Packet::tcp(VIP4, 80).frame();
    let mut bench = Bench::new(one_service(&[1; 3]));
    let end = u16::try_from(MAX_BACKENDS).expect("ids fit a slot");
    for id in [end, u16::MAX] {
        bench.write(Write::SetTable(0, uniform(id)));
        bench.ends_in(Counter::DropNoTable, &frame, &format!("backend {id}"));
    }
    // An id that nobody has now is a backend that is down.
    bench.write(Write::SetTable(0, uniform(end - 1)));
    bench.ends_in(Counter::DropNoBackend, &frame, "an unused id");
}

#[test]
fn a_draining_backend_keeps_the_flows_of_its_slots() {
    let mut bench = Bench::new(one_service(&[1; 3]));
    let before: Vec<u32> = flows().iter().map(|frame| bench.forwarded(frame)).collect();
    assert!(before.contains(&2));
    bench.set_state(2, Backend::DRAIN);
    let after: Vec<u32> = flows().iter().map(|frame| bench.forwarded(frame)).collect();
    assert_eq!(after, before);
    for id in [1, 3] {
        bench.set_state(id, Backend::DRAIN);
    }
    let after: Vec<u32> = flows().iter().map(|frame| bench.forwarded(frame)).collect();
    assert_eq!(after, before, "even if all drain");
}

#[test]
fn a_draining_backend_takes_over_from_one_that_went_down() {
    let mut bench = Bench::new(one_service(&[1; 2]));
    bench.set_state(2, Backend::DRAIN);
    bench.set_state(1, Backend::DOWN);
    let mut counters: BTreeMap<Counter, u32> = BTreeMap::new();
    for frame in flows() {
        *counters.entry(bench.run(&frame).counter).or_default() += 1;
    }
    assert!(counters[&Counter::Transmit] >= 195, "{counters:?}");
}

#[test]
fn a_new_address_of_a_backend_holds_from_the_next_frame_on() {
    let mut bench = Bench::new(one_service(&[1]));
    let frame = Packet::tcp(VIP4, 80).frame();
    assert_eq!(bench.forwarded(&frame), 1);
    let other = new_backend(9, 0, 1);
    let backend = Backend { mac: other.mac, source_mac: other.source_mac, ..new_backend(1, 0, 1) };
    bench.write(Write::SetBackend(1, backend));
    let out = bench.run(&frame).frame;
    assert_eq!(out[..6], other.mac.0);
    assert_eq!(out[6..12], other.source_mac.0);
}
