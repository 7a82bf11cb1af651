//! What SYNs tell of backends whose answers do not come this way.

use std::net::IpAddr;
use std::time::Duration;

use pen_common::abi::{Service, Signals};
use pen_common::verdict::Counter;
use pen_tests::wait_until;

use crate::bench::Bench;
use crate::frame::{IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch, tagged};
use crate::nat::{ACK, FIN, RST, SYN};
use crate::tunnel::{To, through_tunnels};
use crate::world::{VIP4, VIP6, by_client, usual};

const NONE: Signals = Signals { refused: 0, unanswered: 0, unreachable: 0, answered: 0 };

/// A TCP packet with this sequence number, its checksum nobody's business here.
fn segment(to: impl Into<IpAddr>, flags: u8, sequence: u32) -> Vec<u8> {
    let to = to.into();
    let at = if to.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
    let packet = Packet::tcp(to, 80).frame();
    patch(&patch(&packet, at + 4, &sequence.to_be_bytes()), at + 13, &[flags])
}

fn all(bench: &mut Bench) -> u64 {
    let ids: Vec<u32> = bench.tables().backends.keys().copied().collect();
    let signals = ids.into_iter().map(|id| bench.signals(id));
    let counts = signals.map(|signals| {
        assert_eq!(signals, Signals { unanswered: signals.unanswered, ..NONE });
        signals.unanswered
    });
    counts.sum()
}

/// Runs a SYN until it counts as repeated, as it would be sent after a second.
fn repeat(bench: &mut Bench, syn: &[u8], before: u64) {
    wait_until(Duration::from_secs(20), "a repeated SYN is counted", || {
        bench.run(syn);
        (all(bench) > before).then_some(())
    })
    .expect("it is");
    assert_eq!(all(bench), before + 1, "once");
}

#[test]
fn a_syn_that_is_repeated_is_counted_for_its_backend_in_each_mode() {
    let dsr = Bench::new(usual());
    let remembering = Bench::new(by_client(usual()));
    let frags = Bench::with_frags(usual());
    let tunnels = [Service::IPIP, Service::GUE]
        .map(|mode| Bench::new(through_tunnels(usual(), mode, To::V4)));
    for mut bench in [dsr, remembering, frags].into_iter().chain(tunnels) {
        for (count, to) in (0..).zip([IpAddr::from(VIP4), VIP6.into()]) {
            let syn = segment(to, SYN, 7);
            for _ in 0..3 {
                assert_eq!(bench.run(&syn).counter, Counter::Transmit);
            }
            repeat(&mut bench, &syn, count);
        }
    }
}

#[test]
fn a_syn_with_tags_or_options_is_as_good_as_another_one() {
    let mut bench = Bench::new(usual());
    let tagged_once = tagged(&segment(VIP6, SYN, 1), 0x8100);
    let tagged_twice = tagged(&tagged(&segment(VIP4, SYN, 1), 0x8100), 0x88a8);
    let with_options = Packet::tcp(VIP4, 80).options(&[1; 8]).frame();
    let with_options = patch(&with_options, IPV4_PAYLOAD + 8 + 13, &[SYN]);
    for (count, syn) in (0..).zip([tagged_once, tagged_twice, with_options]) {
        bench.run(&syn);
        repeat(&mut bench, &syn, count);
    }
}

#[test]
fn it_is_counted_for_the_backend_that_it_goes_to() {
    let mut bench = Bench::new(usual());
    let syn = segment(VIP4, SYN, 7);
    let id = bench.forwarded(&syn);
    repeat(&mut bench, &syn, 0);
    assert_eq!(bench.signals(id), Signals { unanswered: 1, ..NONE });
}

#[test]
fn new_connections_and_packets_of_open_ones_tell_nothing() {
    let mut bench = Bench::new(usual());
    let witness = segment(VIP6, SYN, 1);
    bench.run(&witness);
    let mut sequence = 0;
    let open = [ACK, FIN, RST, RST | ACK, SYN | ACK].map(|flags| segment(VIP4, flags, 9));
    // For as long as it takes a SYN to count as repeated.
    wait_until(Duration::from_secs(20), "the witness is counted", || {
        sequence += 1;
        bench.run(&segment(VIP4, SYN, sequence));
        open.iter().for_each(|frame| drop(bench.run(frame)));
        bench.run(&Packet::udp(VIP4, 53).frame());
        bench.run(&witness);
        (all(&mut bench) > 0).then_some(())
    })
    .expect("it is");
    assert_eq!(all(&mut bench), 1, "the witness alone");
}
