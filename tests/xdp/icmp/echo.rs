//! "ping" to a virtual address: answered where the address is set to, and left to the kernel
//! otherwise.

use std::sync::Arc;

use pen_common::abi::{ACL_DENY, AddrEntry};
use pen_common::net::{Addr, MacAddr};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Prefix;

use super::{FAMILIES, V4, V6, assert_right, ends, with_echo, with_tags};
use crate::bench::Bench;
use crate::frame::{IP, IPV4, Packet, ethernet, ipv4, patch};
use crate::interfaces::with_wires;
use crate::world::{CLIENT_MAC, CLIENT4, VIP_MAC, VIP4, be_backup, usual};

#[test]
fn an_echo_request_is_answered_with_its_data_from_the_virtual_address() {
    let mut bench = Bench::new(with_echo(usual()));
    for family in FAMILIES {
        for length in [0, 1, 8, 56, 57, 1400] {
            let data: Vec<u8> = (0..length).map(|byte: u32| byte.to_be_bytes()[3]).collect();
            let request = family.ping(&data).frame();
            for (l2, request) in with_tags(&request) {
                let outcome = bench.run(&request);
                assert_eq!(outcome.counter, Counter::EchoReply, "{family:?}, {length}");
                let reply = outcome.frame;
                assert_eq!(reply[..6], CLIENT_MAC.0);
                assert_eq!(reply[6..12], VIP_MAC.0);
                assert_eq!(reply[12..l2], request[12..l2], "tags are kept");
                let packet = &reply[l2..];
                assert_right(&family, packet);
                assert_eq!(ends(packet), (family.vip, family.client));
                let ttl = if family.vip.is_ipv4() { packet[8] } else { packet[7] };
                assert_eq!(ttl, 64);
                let message = &packet[family.header..];
                assert_eq!(message[..2], [family.echo[1], 0]);
                assert_eq!(message[4..], request[l2 + family.header + 4..], "id, number and data");
            }
        }
    }
}

#[test]
fn a_checksum_that_was_wrong_stays_wrong() {
    let mut bench = Bench::new(with_echo(usual()));
    for family in FAMILIES {
        let request = family.ping(&[1; 32]).frame();
        let spoilt = patch(&request, IP + family.header + 8, &[2]);
        let [right, wrong] = [request, spoilt].map(|frame| bench.run(&frame).frame);
        let at = IP + family.header + 2;
        assert_eq!(right[at..at + 2], wrong[at..at + 2], "the receiver will notice");
    }
}

#[test]
fn a_padded_echo_request_is_answered_with_its_padding() {
    let mut bench = Bench::new(with_echo(usual()));
    let mut request = V4.ping(&[]).frame();
    request.resize(60, 0xaa);
    let outcome = bench.run(&request);
    assert_eq!(outcome.counter, Counter::EchoReply);
    assert_eq!(outcome.frame.len(), 60);
    assert_right(&V4, &outcome.frame[IP..IP + 28]);
}

#[test]
fn without_the_flag_and_to_other_addresses_echo_requests_pass() {
    let mut quiet = Bench::new(usual());
    let mut bench = Bench::new(with_echo(usual()));
    for family in FAMILIES {
        let request = family.ping(&[0; 56]).frame();
        quiet.ends_in(Counter::PassProtocol, &request, "no flag");
        let other = Packet::other(family.router, family.protocol, &request[IP + family.header..]);
        bench.ends_in(Counter::PassNotOurs, &other.frame(), "another address");
        let flooded = family.ping(&[]).at_station(MacAddr([2; 6])).frame();
        bench.ends_in(Counter::PassOtherStation, &flooded, "another station");
        let reply = family.message(family.client, (family.echo[1], 0), [0; 4], &[]);
        bench.ends_in(Counter::PassProtocol, &reply.frame(), "a reply");
        let coded = family.message(family.client, (family.echo[0], 1), [0; 4], &[]);
        bench.ends_in(Counter::PassProtocol, &coded.frame(), "a request with a code");
    }
}

#[test]
fn a_backup_answers_nothing() {
    let mut tables = with_echo(usual());
    be_backup(&mut tables);
    let mut bench = Bench::new(tables);
    for family in FAMILIES {
        bench.ends_in(Counter::PassNotMaster, &family.ping(&[]).frame(), "backup");
    }
}

#[test]
fn nobody_who_is_no_single_host_is_answered() {
    let mut bench = Bench::new(with_echo(usual()));
    for source in ["255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
        let source = source.parse().expect("literal");
        let request = V4.message(source, (8, 0), [0; 4], &[]).frame();
        bench.ends_in(Counter::PassProtocol, &request, "a source that is no host");
    }
    for source in ["ff02::1", "::", "::1"] {
        let source = source.parse().expect("literal");
        let request = V6.message(source, (128, 0), [0; 4], &[]).frame();
        bench.ends_in(Counter::PassProtocol, &request, "a source that is no host");
    }
}

#[test]
fn the_access_list_holds_for_echo_requests_too() {
    let mut tables = with_echo(usual());
    for entry in tables.addrs.values_mut() {
        entry.acl = 3;
    }
    Arc::make_mut(&mut tables.prefixes)
        .insert(Prefix { list: 3, addr: Addr::from(V4.client), bits: 128 }, ACL_DENY);
    let mut bench = Bench::new(tables);
    bench.ends_in(Counter::DropAcl, &V4.ping(&[]).frame(), "denied");
    bench.ends_in(Counter::EchoReply, &V6.ping(&[]).frame(), "another address");
}

#[test]
fn echo_requests_in_fragments_or_with_options_pass() {
    let mut bench = Bench::new(with_echo(usual()));
    let request = V4.ping(&[7; 64]).frame();
    for field in [[0x20, 0], [0, 1], [0x20, 0xb9]] {
        bench.ends_in(Counter::PassFragment, &patch(&request, IP + 6, &field), "a fragment");
    }
    let packet = ipv4(CLIENT4, VIP4, 1, &[1; 4], &request[IP + 20..]);
    let options = ethernet(VIP_MAC, CLIENT_MAC, IPV4, &packet);
    bench.ends_in(Counter::PassProtocol, &options, "with options");
}

#[test]
fn an_echo_request_that_is_cut_short_passes() {
    let mut bench = Bench::new(with_echo(usual()));
    for family in FAMILIES {
        let request = family.ping(&[7; 16]).frame();
        for end in IP + family.header..request.len() {
            let what = format!("{family:?}, {end} bytes");
            bench.ends_in(Counter::PassMalformed, &request[..end], &what);
        }
        bench.ends_in(Counter::EchoReply, &request, "whole");
        // The IP header may be shorter than the frame, but not than the message's own header.
        for length in 0..8_u8 {
            let (at, bytes) =
                if family.vip.is_ipv4() { (2, [0, 20 + length]) } else { (4, [0, length]) };
            let short = patch(&request, IP + at, &bytes);
            bench.ends_in(Counter::PassMalformed, &short, &format!("{family:?}, {length} bytes"));
        }
    }
}

#[test]
fn an_echo_request_that_came_through_another_interface_is_answered_by_its_station() {
    with_wires(|wires| {
        let mut tables = with_echo(usual());
        for entry in tables.addrs.values_mut() {
            assert_eq!(entry.flags, AddrEntry::ECHO);
            entry.ifindex = wires.front;
        }
        let mut bench = Bench::new(tables);
        for family in FAMILIES {
            let back = MacAddr([2, 0, 0, 0, 0, 0xb]);
            let request = family.ping(&[]).at_station(back).frame();
            let outcome = bench.run_on(wires.back, &request);
            assert_eq!(outcome.counter, Counter::EchoReply);
            assert_eq!(outcome.frame[6..12], back.0);
        }
    });
}
