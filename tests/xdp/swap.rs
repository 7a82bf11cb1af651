//! A table is replaced as a whole while frames run: a frame sees the old one or the new one, and
//! none is lost in between. A thread writes, as the daemon does while the kernel forwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pen_common::abi::{Backend, Service};
use pen_common::net::Be16;
use pen_ctl::engine::tables::Write;

use crate::bench::{Action, Bench};
use crate::frame::Packet;
use crate::rng::Rng;
use crate::world::{VIP4, backend_at, new_backend, one_service, uniform};

const CHANGES: usize = 60;

/// Runs frames of random flows while another thread carries the writes out, one after the other;
/// returns the backends.
fn run_while_writing(bench: &mut Bench, writes: Vec<Write>) -> Vec<u32> {
    let mut writer = bench.lend();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        let writer = scope.spawn(move || {
            for write in writes {
                writer.write(&[write]).expect("the kernel takes the write");
            }
            done.store(true, Ordering::Release);
            writer
        });
        let mut rng = Rng::new(4);
        let packet = Packet::tcp(VIP4, 80);
        let mut seen = Vec::new();
        while !done.load(Ordering::Acquire) || seen.len() < 1000 {
            let (action, out) = bench.send(None, &rng.moved(&packet).frame());
            assert_eq!(action, Action::Tx, "frame {} is lost", seen.len());
            seen.push(backend_at(&out));
        }
        bench.give_back(writer.join().expect("all writes are done"));
        seen
    })
}

#[test]
fn while_a_table_is_replaced_every_frame_goes_to_the_old_or_the_new_backend() {
    let mut bench = Bench::new(one_service(&[1; 2]));
    bench.write(Write::SetTable(0, uniform(1)));
    let writes =
        (0..CHANGES).map(|turn| Write::SetTable(0, uniform(if turn % 2 == 0 { 2 } else { 1 })));
    let seen = run_while_writing(&mut bench, writes.collect());
    let (first, second) = (1, 2);
    assert!(seen.iter().all(|id| *id == first || *id == second));
    // The change is seen, many times.
    let swaps = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((CHANGES / 6..=CHANGES).contains(&swaps), "{swaps} swaps in {} frames", seen.len());
}

#[test]
fn while_a_backend_flaps_every_frame_goes_to_a_backend() {
    // Enough of the other backends that eight slots in a row are never all of the one that flaps.
    let mut bench = Bench::new(one_service(&[1; 10]));
    let states = [Backend::DOWN, Backend::UP, Backend::DRAIN, Backend::UP];
    let writes = (0..20 * CHANGES).map(|turn| {
        let state = states[turn % states.len()];
        Write::SetBackend(3, Backend { state, ..new_backend(3, 0, 1) })
    });
    let seen = run_while_writing(&mut bench, writes.collect());
    assert!(seen.iter().all(|id| (1..=10).contains(id)));
}

#[test]
fn while_a_service_comes_and_goes_the_other_one_is_not_disturbed() {
    let mut bench = Bench::new(one_service(&[1; 2]));
    let key = *bench.tables().services.keys().next().expect("the service");
    let service = bench.tables().services[&key];
    let other = pen_common::abi::ServiceKey { port: Be16::new(81), ..key };
    let writes = (0..CHANGES).flat_map(|_| {
        [
            Write::SetTable(1, uniform(1)),
            Write::SetService(other, Service { id: 1, ..service }),
            Write::RemoveService(other),
            Write::RemoveTable(1),
        ]
    });
    let seen = run_while_writing(&mut bench, writes.collect());
    assert!(seen.iter().all(|id| (1..=2).contains(id)));
}
