//! Long frames, which drivers hand over in fragments, and the program for them: it does with every
//! frame what the other one does.

use pen_common::verdict::Counter;
use pen_ctl::io::dataplane::Build;

use crate::bench::Bench;
use crate::frame::{IP, Packet, patch, usual_packets};
use crate::icmp::replies::{assert_told, narrow};
use crate::icmp::{FAMILIES, with_echo};
use crate::pass::all_frames;
use crate::world::{empty, usual};

/// Bytes of data in a frame of an Ethernet with jumbo frames: more than two pages.
const DATA: usize = 8900;

/// Bytes of which no page is like another.
fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).expect("below 251")).collect()
}

/// Steps of the verifier; with one million the kernel refuses a program.
const MOST_STEPS: u32 = 250_000;

#[test]
fn both_programs_are_far_from_the_limits_of_the_verifier() {
    let mut bench = Bench::new(empty());
    for build in [Build::Linear, Build::Frags] {
        let program = bench.dataplane().program(build).expect("the kernel takes it");
        let info = program.info().expect("the kernel tells");
        let steps = info.verified_instruction_count().expect("kernels since 5.16 tell");
        println!("{build:?}: {steps} steps, {:?} bytes", info.size_translated());
        assert!(steps < MOST_STEPS, "{build:?}: {steps} steps");
    }
}

#[test]
fn the_program_for_fragments_does_with_short_frames_what_the_other_does() {
    for tables in [with_echo(usual()), empty()] {
        let mut linear = Bench::new(tables.clone());
        let mut frags = Bench::with_frags(tables);
        for (what, frame, _) in all_frames() {
            let [one, other] = [&mut linear, &mut frags].map(|bench| bench.run(&frame));
            assert_eq!((one.counter, one.frame), (other.counter, other.frame), "{what}");
        }
    }
}

#[test]
fn frames_longer_than_a_page_are_forwarded_as_they_are() {
    let mut bench = Bench::with_frags(usual());
    for (what, packet) in usual_packets() {
        for length in [3400, 3500, 4096, 4097, DATA] {
            let frame = packet.clone().data(&data(length)).frame();
            assert!(bench.forwarded(&frame) > 0, "{what}, {length} bytes");
        }
    }
    let counts = bench.counts();
    let forwarded = |counts: &std::collections::BTreeMap<u32, pen_common::abi::Count>| {
        counts.values().map(|count| count.bytes).sum::<u64>()
    };
    assert_eq!(
        forwarded(&counts.backends),
        counts.verdicts[Counter::Transmit as usize].bytes,
        "all bytes are counted, also those in fragments"
    );
}

#[test]
fn a_long_frame_that_is_shorter_than_its_packet_passes() {
    let mut bench = Bench::with_frags(usual());
    for (what, packet) in usual_packets() {
        let frame = packet.clone().data(&data(DATA)).frame();
        for end in [frame.len() - 1, 8192, 5000, 4096, 3000] {
            let what = format!("{what}, {end} bytes");
            bench.ends_in(Counter::PassMalformed, &frame[..end], &what);
        }
    }
}

#[test]
fn a_long_frame_for_another_address_passes() {
    let mut bench = Bench::with_frags(empty());
    for (what, packet) in usual_packets() {
        let frame = packet.clone().data(&data(DATA)).frame();
        bench.ends_in(Counter::PassNotOurs, &frame, what);
        bench.ends_in(Counter::PassEthertype, &patch(&frame, 12, &[0x88, 0x47]), what);
    }
}

#[test]
fn a_long_echo_request_is_answered_with_all_its_data() {
    let mut bench = Bench::with_frags(with_echo(usual()));
    for family in FAMILIES {
        let request = family.ping(&data(DATA)).frame();
        let outcome = bench.run(&request);
        assert_eq!(outcome.counter, Counter::EchoReply);
        crate::icmp::assert_right(&family, &outcome.frame[IP..]);
        let message = IP + family.header;
        assert_eq!(outcome.frame[message + 4..], request[message + 4..]);
    }
}

#[test]
fn a_long_frame_that_is_too_big_is_answered_like_a_short_one() {
    let mut bench = Bench::with_frags(narrow(1500));
    for family in FAMILIES {
        let frame = Packet::udp(family.vip, 53).data(&data(DATA)).frame();
        let outcome = bench.run(&frame);
        assert_eq!(outcome.counter, Counter::TooBigReply);
        assert_told(&family, IP, &frame, &outcome.frame, 1500);
    }
}
