//! Counters agree with each other: what was forwarded is counted once for the program, once for the
//! service and once for the backend, and a new backend does not inherit what another one had.

use pen_common::abi::{Backend, Count};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;

use crate::bench::{Bench, Outcome};
use crate::frame::{Arp, Packet, Solicitation, usual_packets};
use crate::rng::Rng;
use crate::world::{VIP4, VIP6, one_service, usual};

fn sum<'a>(counts: impl IntoIterator<Item = &'a Count>) -> Count {
    counts.into_iter().fold(Count::default(), |sum, count| Count {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    })
}

#[test]
fn forwarded_frames_are_counted_once_for_service_and_backend() {
    let mut bench = Bench::new(usual());
    let mut rng = Rng::new(5);
    let mut forwarded = Count::default();
    for round in 0..100 {
        for (_, packet) in usual_packets() {
            let frame = rng.moved(&packet.data(&vec![0; round])).frame();
            bench.forwarded(&frame);
            forwarded.packets += 1;
            forwarded.bytes += u64::try_from(frame.len()).expect("64 bits");
        }
        // What is not forwarded is in no service and no backend.
        bench.run(&Arp::who_has(VIP4).frame());
        bench.run(&Solicitation::who_has(VIP6).frame());
        bench.run(&Packet::tcp(VIP4, 81).frame());
    }
    let counts = bench.counts();
    assert_eq!(counts.verdicts[Counter::Transmit as usize], forwarded);
    assert_eq!(sum(counts.services.values()), forwarded);
    assert_eq!(sum(counts.backends.values()), forwarded);
    for (service, count) in &counts.services {
        assert_eq!(count.packets, 100, "service {service}");
        let backends = bench.tables().backends.iter();
        let ours = backends.filter(|(_, backend)| backend.service == *service);
        assert_eq!(sum(ours.map(|(id, _)| &counts.backends[id])), *count, "service {service}");
    }
}

#[test]
fn a_frame_that_is_dropped_counts_for_no_backend() {
    let mut tables = one_service(&[1]);
    for backend in tables.backends.values_mut() {
        backend.ifindex = 4242;
    }
    let mut bench = Bench::new(tables);
    let frame = Packet::tcp(VIP4, 80).frame();
    bench.ends_in(Counter::DropRewrite, &frame, "no such interface");
    bench.set_state(1, Backend::DOWN);
    bench.ends_in(Counter::DropNoBackend, &frame, "down");
    let counts = bench.counts();
    assert_eq!(counts.services[&0], Count::default());
    assert_eq!(counts.backends[&1], Count::default());
}

#[test]
fn a_backend_that_is_removed_and_added_again_starts_from_zero() {
    let mut bench = Bench::new(one_service(&[1]));
    let frame = Packet::tcp(VIP4, 80).frame();
    let backend = bench.tables().backends[&1];
    let packets = |bench: &mut Bench| {
        bench.forwarded(&frame);
        bench.counts().backends[&1].packets
    };
    assert_eq!([packets(&mut bench), packets(&mut bench)], [1, 2]);
    // A change of state or weight is no new backend.
    bench.set_state(1, Backend::DOWN);
    bench.set_state(1, Backend::UP);
    assert_eq!(packets(&mut bench), 3);
    bench.write(Write::SetBackend(1, Backend::default()));
    bench.write(Write::SetBackend(1, backend));
    assert_eq!(packets(&mut bench), 1);
}

#[test]
fn a_service_that_is_removed_and_added_again_starts_from_zero() {
    let tables = one_service(&[1]);
    let mut bench = Bench::new(tables.clone());
    let frame = Packet::tcp(VIP4, 80).frame();
    for _ in 0..3 {
        bench.forwarded(&frame);
    }
    assert_eq!(bench.counts().services[&0].packets, 3);
    let mut without = tables.clone();
    without.services.clear();
    without.slots.clear();
    without.backends.clear();
    bench.change(without);
    let Outcome { counter, .. } = bench.run(&frame);
    assert_eq!(counter, Counter::PassNoService);
    bench.change(tables);
    bench.forwarded(&frame);
    let counts = bench.counts();
    assert_eq!((counts.services[&0].packets, counts.backends[&1].packets), (1, 1));
    assert_eq!(counts.verdicts[Counter::Transmit as usize].packets, 4, "the sum goes on");
}
