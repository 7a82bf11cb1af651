//! ICMP errors that the program sends: a client whose packets are too big for the way to their
//! backend is told which size fits, at a bounded rate.

use std::net::IpAddr;

use pen_common::abi::Service;
use pen_common::net::protocol;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Tables;

use super::{FAMILIES, Family, V4, V6, assert_right, ends, with_tags};
use crate::bench::Bench;
use crate::frame::{IP, IPV4_PAYLOAD, Packet, checksum, patch};
use crate::interfaces::with_wires;
use crate::tunnel::{To, is_tunnelled, through_tunnels};
use crate::world::usual;

/// Longest packet that fits.
const MTU: u16 = 1300;

/// The usual services, whose packets go through tunnels in which so many bytes fit.
pub(crate) fn narrow(room: u16) -> Tables {
    let mut tables = through_tunnels(usual(), Service::IPIP, To::V4);
    for backend in tables.backends.values_mut() {
        backend.mtu = u32::from(room) + 20;
    }
    tables
}

#[track_caller]
fn fits(bench: &mut Bench, frame: &[u8]) {
    let outcome = bench.run(frame);
    assert_eq!(outcome.counter, Counter::Transmit);
    is_tunnelled(bench.tables(), frame, &outcome.frame, Service::IPIP, To::V4);
}

/// A datagram of the client whose IP packet has so many bytes.
fn datagram(family: &Family, length: u16) -> Packet {
    let data = usize::from(length) - family.header - 8;
    let data: Vec<u8> = (0..data).map(|at| u8::try_from(at % 251).expect("below 251")).collect();
    Packet::udp(family.vip, 53).data(&data)
}

/// Asserts that `frame`, whose packet begins at `l2`, was answered by the error of RFC 1191 or
/// RFC 4443 that names this MTU.
#[track_caller]
pub(crate) fn assert_told(family: &Family, l2: usize, frame: &[u8], reply: &[u8], mtu: u16) {
    let [high, low] = mtu.to_be_bytes();
    let kind = if family.vip.is_ipv4() { [3, 4] } else { [2, 0] };
    assert_answered(family, l2, frame, reply, kind);
    let message = &reply[l2 + family.header..];
    assert_eq!(message[4..8], [0, 0, high, low], "the MTU");
}

/// Asserts that `frame` was answered by an error that says that it has reached its last hop.
#[track_caller]
pub(crate) fn assert_expired(family: &Family, l2: usize, frame: &[u8], reply: &[u8]) {
    let kind = if family.vip.is_ipv4() { [11, 0] } else { [3, 0] };
    assert_answered(family, l2, frame, reply, kind);
    assert_eq!(reply[l2 + family.header..][4..8], [0; 4], "unused");
}

/// Asserts that `frame` was answered by an error of this type and code.
#[track_caller]
fn assert_answered(family: &Family, l2: usize, frame: &[u8], reply: &[u8], kind: [u8; 2]) {
    let [to, from] = [&frame[..6], &frame[6..12]];
    assert_eq!(reply[..12], [from, to].concat(), "back to the station that it came from");
    assert_eq!(reply[12..l2], frame[12..l2], "tags are kept");
    let packet = &reply[l2..];
    assert_right(family, packet);
    assert_eq!(ends(packet), (family.vip, family.client));
    let message = &packet[family.header..];
    if family.vip.is_ipv4() {
        assert_eq!(packet[1], 0xc0, "precedence");
        assert_eq!(packet[4..9], [0, 0, 0x40, 0, 64], "identification, DF, time to live");
    } else {
        assert_eq!((packet[0], packet[1], packet[7]), (0x6c, 0, 64), "class, hop limit");
    }
    assert_eq!(message[..2], kind);
    let quote = &message[8..];
    let most = if family.vip.is_ipv4() { 576 } else { 1280 };
    let whole = frame.len() - l2;
    assert_eq!(packet.len(), (whole + family.header + 8).min(most), "as much as may be");
    assert_eq!(quote, &frame[l2..l2 + quote.len()], "the packet as the client sent it");
}

#[test]
fn a_packet_that_is_too_big_is_answered_with_the_size_that_fits() {
    let mut bench = Bench::new(narrow(MTU));
    for family in FAMILIES {
        for length in [MTU + 1, MTU + 2, MTU + 3, 1500, 3000] {
            for (l2, frame) in with_tags(&datagram(&family, length).frame()) {
                let outcome = bench.run(&frame);
                assert_eq!(outcome.counter, Counter::TooBigReply, "{family:?} {length}");
                assert_told(&family, l2, &frame, &outcome.frame, MTU);
            }
        }
        let least = u16::try_from(family.header + 8).expect("small");
        for length in [least, MTU - 1, MTU] {
            fits(&mut bench, &datagram(&family, length).frame());
        }
    }
}

#[test]
fn of_a_short_packet_all_is_quoted() {
    for family in FAMILIES {
        let header = u16::try_from(family.header).expect("small");
        let mut bench = Bench::new(narrow(header));
        for length in (header + 8..header + 80).chain([200, 201, 511, 512, 513, 547, 548, 549]) {
            let mut frame = datagram(&family, length).frame();
            let outcome = bench.run(&frame);
            assert_eq!(outcome.counter, Counter::TooBigReply, "{length} bytes");
            assert_told(&family, IP, &frame, &outcome.frame, header);
            // Padding is not quoted.
            let unpadded = frame.len();
            frame.resize(unpadded + 9, 0xee);
            let padded = bench.run(&frame);
            assert_eq!(padded.frame, outcome.frame, "{length} bytes");
        }
    }
}

#[test]
fn a_tcp_segment_that_is_too_big_is_answered_whether_it_may_be_fragmented_or_not() {
    let mut bench = Bench::new(narrow(MTU));
    let frame = Packet::tcp(V4.vip, 80).data(&[7; 1400]).frame();
    for field in [0x40, 0] {
        let mut frame = patch(&frame, IP + 6, &[field]);
        frame[IP + 10..IP + 12].copy_from_slice(&[0; 2]);
        let sum = checksum(&frame[IP..IPV4_PAYLOAD]);
        frame[IP + 10..IP + 12].copy_from_slice(&sum);
        let outcome = bench.run(&frame);
        assert_eq!(outcome.counter, Counter::TooBigReply);
        assert_told(&V4, IP, &frame, &outcome.frame, MTU);
    }
}

#[test]
fn nobody_who_is_no_single_host_is_told() {
    let mut bench = Bench::new(narrow(MTU));
    let mut dropped = |vip: IpAddr, source: &str| {
        let source: IpAddr = source.parse().expect("literal");
        let frame = Packet::udp(vip, 53).from(source, 7).data(&[0; 1400]).frame();
        bench.ends_in(Counter::DropTooBig, &frame, &source.to_string());
    };
    for source in ["255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
        dropped(V4.vip, source);
    }
    for source in ["ff02::1", "::", "::1"] {
        dropped(V6.vip, source);
    }
}

#[test]
fn an_icmp_error_that_is_too_big_is_never_answered() {
    let mut bench = Bench::new(narrow(60));
    for family in FAMILIES {
        let quote = family.answer(protocol::TCP, 80, super::CLIENT_PORT);
        let error = family.error(family.errors[0], &quote).frame();
        bench.ends_in(Counter::DropTooBig, &error, "an error");
    }
}

#[test]
fn no_more_errors_are_sent_than_the_valve_lets_through() {
    let mut tables = narrow(MTU);
    tables.cfg.icmp_per_second = 10;
    let mut bench = Bench::new(tables);
    let frame = datagram(&V4, 1400).frame();
    let mut told = 0;
    for _ in 0..100 {
        match bench.run(&frame).counter {
            Counter::TooBigReply => told += 1,
            counter => assert_eq!(counter, Counter::DropTooBig),
        }
    }
    // A second may begin in between, and the test may move to another CPU.
    assert!((10..=60).contains(&told), "{told} of 100");
    let mut tables = bench.tables().clone();
    tables.cfg.icmp_per_second = 0;
    bench.change(tables);
    bench.ends_in(Counter::DropTooBig, &frame, "none is allowed");
    fits(&mut bench, &datagram(&V4, MTU).frame());
}

#[test]
fn a_packet_that_nobody_serves_is_not_too_big_for_anybody() {
    let mut bench = Bench::new(narrow(MTU));
    for family in FAMILIES {
        let frame = Packet::udp(family.vip, 54).data(&[0; 1400]).frame();
        bench.ends_in(Counter::PassNoService, &frame, "another port");
        let frame = Packet::udp(family.router, 53).data(&[0; 1400]).frame();
        bench.ends_in(Counter::PassNotOurs, &frame, "another address");
    }
}

/// Mode `dsr` adds nothing, but the way to the backend may lead through an interface with a lower
/// MTU than that on which the packet came in.
#[test]
fn a_packet_that_is_too_big_for_the_other_interface_is_answered() {
    with_wires(|wires| {
        let mut tables = usual();
        tables.egress.insert(wires.back);
        for backend in tables.backends.values_mut() {
            (backend.ifindex, backend.mtu) = (wires.back, u32::from(MTU));
        }
        let mut bench = Bench::new(tables);
        for family in FAMILIES {
            for (l2, frame) in with_tags(&datagram(&family, MTU + 1).frame()) {
                let outcome = bench.run(&frame);
                assert_eq!(outcome.counter, Counter::TooBigReply);
                assert_told(&family, l2, &frame, &outcome.frame, MTU);
                // There it came from such an interface.
                assert_eq!(bench.run_on(wires.back, &frame).counter, Counter::Transmit);
            }
            for (_, frame) in with_tags(&datagram(&family, MTU).frame()) {
                assert_eq!(bench.run(&frame).counter, Counter::Redirect);
            }
        }
    });
}
