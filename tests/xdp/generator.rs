//! The generator of the bench. What it sends must be frames that pen balances, each of the flow
//! whose turn it is, whatever a program under test has left in the page: a mistake here would
//! measure something else than it says.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use pen_common::bench::{Frame, Template, permute};
use pen_common::net::protocol;
use pen_tests::paths;

use crate::frame::{IP, checksum, pseudo_header};
use crate::world::{VIP_MAC, VIP4, VIP6};

/// XDP actions.
const ABORTED: u32 = 0;
const TX: u32 = 3;

fn load() -> Ebpf {
    let object = paths::program("bench.bpf.o").expect("the object is built");
    let mut bench = Ebpf::load(&fs::read(object).expect("read")).expect("the kernel takes it");
    program(&mut bench).load().expect("the kernel takes the program");
    bench
}

fn program(bench: &mut Ebpf) -> &mut Xdp {
    bench.program_mut("generate").expect("there").try_into().expect("an XDP program")
}

fn set_template(bench: &mut Ebpf, template: &Template) {
    let map = bench.map_mut("TEMPLATE").expect("there");
    let mut map: Array<_, Template> = map.try_into().expect("an array");
    map.set(0, template, 0).expect("the kernel takes it");
}

/// What becomes of these bytes.
fn run(bench: &mut Ebpf, bytes: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(bytes);
    options.data_out = Some(&mut out);
    let result = program(bench).test_run(options).expect("the kernel runs it");
    out.truncate(usize::try_from(result.data_size_out).expect("short"));
    (result.return_value, out)
}

fn frames() -> Vec<Frame> {
    let mut frames = Vec::new();
    for destination in [IpAddr::from(VIP4), VIP6.into()] {
        for protocol in [protocol::TCP, protocol::UDP] {
            let (station, destination) = (VIP_MAC, destination.into());
            frames.push(Frame { station, destination, port: 80, protocol, tcp_flags: 0x10 });
        }
    }
    frames
}

/// Source address, destination address and transport of a frame whose IP header is right.
fn parse(frame: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
    let packet = &frame[IP..];
    if packet[0] >> 4 == 4 {
        assert_eq!(usize::from(packet[2]) << 8 | usize::from(packet[3]), packet.len());
        assert_eq!(checksum(&packet[..20]), [0, 0], "checksum of the IPv4 header");
        let at = |at| Ipv4Addr::from(*packet[at..].first_chunk::<4>().expect("a whole header"));
        (at(12).into(), at(16).into(), packet[9], &packet[20..])
    } else {
        assert_eq!(usize::from(packet[4]) << 8 | usize::from(packet[5]), packet.len() - 40);
        let at = |at| Ipv6Addr::from(*packet[at..].first_chunk::<16>().expect("a whole header"));
        (at(8).into(), at(24).into(), packet[6], &packet[40..])
    }
}

#[test]
fn every_frame_is_whole_and_right_whatever_was_in_the_page() {
    let mut bench = load();
    for frame in frames() {
        let template = Template::new(&frame, 1000);
        set_template(&mut bench, &template);
        for round in 0..20 {
            let dirt = vec![0xa0 | round; template.length as usize];
            let (action, out) = run(&mut bench, &dirt);
            assert_eq!((action, out.len()), (TX, dirt.len()));
            assert_eq!(out[..6], VIP_MAC.0);
            let (source, destination, protocol, transport) = parse(&out);
            assert_eq!((destination, protocol), (frame.destination.into(), frame.protocol));
            assert_eq!(transport[2..4], 80_u16.to_be_bytes());
            let pseudo = pseudo_header(source, destination, protocol, transport.len());
            assert_eq!(checksum(&[&pseudo, transport].concat()), [0, 0], "{frame:?}");
        }
    }
}

#[test]
fn flows_take_turns_in_the_order_that_userspace_expects() {
    const FLOWS: u32 = 100;
    let mut bench = load();
    for frame in frames() {
        let template = Template::new(&frame, FLOWS);
        set_template(&mut bench, &template);
        let dirt = vec![0; template.length as usize];
        let mut seen = Vec::new();
        for _ in 0..FLOWS {
            let (_, out) = run(&mut bench, &dirt);
            let (source, _, _, transport) = parse(&out);
            let low = |bytes: &[u8]| u32::from_be_bytes(*bytes.last_chunk::<4>().unwrap());
            let number = match source {
                IpAddr::V4(source) => low(&source.octets()) - 0x0a10_0000,
                IpAddr::V6(source) => low(&source.octets()[..8]),
            };
            let port = u16::from_be_bytes([transport[0], transport[1]]);
            assert_eq!(u32::from(port), 0x8000 | number);
            seen.push(number);
        }
        let expected: Vec<u32> =
            (0..FLOWS).map(|position| permute(position, FLOWS, template.bits)).collect();
        assert_eq!(seen, expected);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    }
}

#[test]
fn a_frame_of_another_length_than_the_template_is_not_sent() {
    let mut bench = load();
    let template = Template::new(&frames()[0], 1);
    set_template(&mut bench, &template);
    for length in [60, 65, 84] {
        assert_eq!(run(&mut bench, &vec![0; length]).0, ABORTED, "{length}");
    }
}
