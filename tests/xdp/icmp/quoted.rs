//! ICMP errors about packets that backends sent: they come from any router and go to the backend
//! that holds the flow, as they are.

use std::sync::Arc;

use pen_common::abi::{ACL_DENY, Backend, Service, ServiceKey, Slot};
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Prefix, Tables};

use super::{CLIENT_PORT, FAMILIES, Family, ROUTER4, V4, V6, with_tags};
use crate::bench::Bench;
use crate::frame::{IP, IPV4, Packet, ethernet, ipv4, ipv6, patch};
use crate::tunnel::{TUNNELS, is_tunnelled, through_tunnels};
use crate::world::{CLIENT_MAC, CLIENT4, CLIENT6, VIP_MAC, VIP4, VIP6, by_client, usual};

/// Services of the usual world: protocol, port.
const SERVICES: [(u8, u16); 2] = [(protocol::TCP, 80), (protocol::UDP, 53)];

/// A packet of the flow to this service.
fn request(family: &Family, protocol: u8, port: u16, client_port: u16) -> Vec<u8> {
    let packet = match protocol {
        protocol::TCP => Packet::tcp(family.vip, port),
        _ => Packet::udp(family.vip, port),
    };
    packet.from(family.client, client_port).frame()
}

#[test]
fn an_error_of_any_kind_reaches_the_backend_of_the_flow_that_it_quotes() {
    for tables in [usual(), by_client(usual())] {
        let mut bench = Bench::new(tables);
        for family in FAMILIES {
            for (protocol, port) in SERVICES {
                for client_port in 0..60 {
                    let client_port = CLIENT_PORT + 7 * client_port;
                    let id = bench.forwarded(&request(&family, protocol, port, client_port));
                    let quote = family.answer(protocol, port, client_port);
                    for kind in family.errors {
                        let error = family.error(*kind, &quote).frame();
                        assert_eq!(bench.forwarded(&error), id, "{kind:?} {client_port}");
                    }
                }
            }
        }
        let counts = bench.counts();
        let total: u64 = counts.services.values().map(|count| count.packets).sum();
        assert_eq!(total, 2 * 2 * 60 + 2 * 60 * (9 + 8), "errors are counted for their service");
    }
}

/// The usual services with all slots unsettled: flows without a record belong to the `base`th of
/// their backends, new ones to the `current`th.
fn unsettled(affinity: u8, [base, current]: [u16; 2]) -> Tables {
    let mut tables = usual();
    for service in tables.services.values_mut() {
        service.affinity = affinity;
    }
    for (service, slots) in &mut tables.slots {
        let first = u16::try_from(3 * service + 1).expect("few backends");
        *slots = vec![Slot::new(first + base, first + current, true); slots.len()].into();
    }
    tables
}

#[test]
fn an_error_follows_the_record_of_its_flow_and_makes_none() {
    let nth = |id: u32| (id - 1) % 3;
    for affinity in [Service::FLOW, Service::CLIENT] {
        let mut bench = Bench::new(unsettled(affinity, [0, 1]));
        for family in FAMILIES {
            let stranger = Family { client: family.router, ..family };
            let error = |family: &Family, (protocol, port)| {
                let quote = family.answer(protocol, port, CLIENT_PORT);
                family.error(family.errors[0], &quote).frame()
            };
            let [tcp, udp] = SERVICES;
            for service in SERVICES {
                let frame = error(&stranger, service);
                assert_eq!(nth(bench.forwarded(&frame)), 0, "no record: the base");
            }
            let known = [tcp, udp].map(|(protocol, port)| {
                nth(bench.forwarded(&request(&family, protocol, port, CLIENT_PORT)))
            });
            assert_eq!(known, [1, 0], "a SYN is new, of a datagram nobody knows");
            bench.change(unsettled(affinity, [2, 1]));
            let errors = [tcp, udp].map(|service| nth(bench.forwarded(&error(&family, service))));
            assert_eq!(errors, known, "the record");
            for (protocol, port) in SERVICES {
                let frame = error(&stranger, (protocol, port));
                assert_eq!(nth(bench.forwarded(&frame)), 2, "the errors before made no record");
            }
            bench.change(unsettled(affinity, [0, 1]));
        }
    }
}

#[test]
fn an_error_goes_through_the_tunnel_of_its_flow() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for family in FAMILIES {
            for (protocol, port) in SERVICES {
                let mut through = |frame: &[u8]| {
                    let outcome = bench.run(frame);
                    assert_eq!(outcome.counter, Counter::Transmit);
                    is_tunnelled(bench.tables(), frame, &outcome.frame, mode, to)
                };
                let id = through(&request(&family, protocol, port, CLIENT_PORT));
                let quote = family.answer(protocol, port, CLIENT_PORT);
                for kind in family.errors {
                    for (_, error) in with_tags(&family.error(*kind, &quote).frame()) {
                        assert_eq!(through(&error), id, "{kind:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn neither_access_list_nor_rate_hold_an_error_back() {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.acl = 1;
        entry.syn_interval_ns = 2_000_000_000;
    }
    Arc::make_mut(&mut tables.prefixes)
        .insert(Prefix { list: 1, addr: Addr::default(), bits: 0 }, ACL_DENY);
    let mut bench = Bench::new(tables);
    for family in FAMILIES {
        let quote = family.answer(protocol::TCP, 80, CLIENT_PORT);
        bench.forwarded(&family.error(family.errors[0], &quote).frame());
    }
}

#[test]
fn an_error_about_a_service_on_any_port_finds_it() {
    let mut tables = usual();
    let services = tables.services.clone();
    tables.services = services
        .into_iter()
        .map(|(key, service)| (ServiceKey { port: Be16::new(0), ..key }, service))
        .collect();
    let mut bench = Bench::new(tables);
    for family in FAMILIES {
        let quote = family.answer(protocol::TCP, 4711, CLIENT_PORT);
        let id = bench.forwarded(&request(&family, protocol::TCP, 4711, CLIENT_PORT));
        assert_eq!(bench.forwarded(&family.error(family.errors[0], &quote).frame()), id);
    }
}

#[test]
fn other_types_pass() {
    let mut bench = Bench::new(usual());
    for family in FAMILIES {
        let quote = family.answer(protocol::TCP, 80, CLIENT_PORT);
        for kind in 0..=255 {
            if family.errors.iter().any(|(error, _)| *error == kind) {
                continue;
            }
            // Neighbour discovery is answered or passes, for reasons of its own.
            if family.vip.is_ipv6() && (133..=137).contains(&kind) {
                continue;
            }
            let frame = family.error((kind, 0), &quote).frame();
            bench.ends_in(Counter::PassProtocol, &frame, &format!("{family:?} type {kind}"));
        }
    }
}

#[test]
fn an_error_about_what_is_no_flow_of_ours_passes() {
    let mut bench = Bench::new(usual());
    for family in FAMILIES {
        let kind = family.errors[0];
        let answer = |port| family.answer(protocol::TCP, port, CLIENT_PORT);
        let mut end = |quote: &[u8], what: &str| {
            let counter = bench.run(&family.error(kind, quote).frame()).counter;
            (counter, what.to_owned())
        };
        let right = answer(80);
        let no_service = end(&answer(81), "no service on this port");
        assert_eq!(no_service.0, Counter::PassNoService, "{}", no_service.1);
        let client_side = request(&family, protocol::TCP, 80, CLIENT_PORT);
        let other = Family { vip: family.router, ..family };
        let at = if family.vip.is_ipv4() { 9 } else { 6 };
        let sctp = patch(&right, at, &[132]);
        for (quote, what, expected) in [
            (&client_side[IP..], "a packet to the address", Counter::PassMalformed),
            (&other.answer(6, 80, CLIENT_PORT), "of another address", Counter::PassMalformed),
            (&patch(&right, 0, &[0x00]), "version 0", Counter::PassMalformed),
            (&patch(&right, 0, &[0x44]), "neither version", Counter::PassMalformed),
            (&sctp, "SCTP", Counter::PassProtocol),
        ] {
            let (counter, what) = end(quote, what);
            assert_eq!(counter, expected, "{family:?}: {what}");
        }
        let flooded = family.error(kind, &right).at_station(MacAddr([2; 6])).frame();
        bench.ends_in(Counter::PassOtherStation, &flooded, "another station");
        let message = &family.error(kind, &right).frame()[IP + family.header..];
        let elsewhere = Packet::other(family.router, family.protocol, message).frame();
        bench.ends_in(Counter::PassNotOurs, &elsewhere, "to another address");
    }
}

#[test]
fn an_error_that_is_cut_short_anywhere_passes() {
    let mut bench = Bench::new(usual());
    for family in FAMILIES {
        let kind = family.errors[0];
        // As short as RFC 792 allows: header and eight bytes.
        let least = family.header + 8;
        let quote = family.answer(protocol::TCP, 80, CLIENT_PORT);
        let whole = family.error(kind, &quote[..least]).frame();
        for end in IP..whole.len() {
            let expected = if end < IP + family.header {
                Counter::PassNotOurs
            } else {
                Counter::PassMalformed
            };
            bench.ends_in(expected, &whole[..end], &format!("{family:?}, {end} bytes"));
        }
        bench.forwarded(&whole);
        for length in 0..least {
            let frame = family.error(kind, &quote[..length]).frame();
            let what = format!("{family:?}, {length} bytes quoted");
            bench.ends_in(Counter::PassMalformed, &frame, &what);
            // Padding is no quote.
            let padded = [&frame[..], &quote[length..]].concat();
            bench.ends_in(Counter::PassMalformed, &padded, &what);
        }
    }
}

#[test]
fn an_error_in_fragments_passes() {
    let mut bench = Bench::new(usual());
    let quote = V4.answer(protocol::TCP, 80, CLIENT_PORT);
    let error = V4.error((3, 4), &quote).frame();
    for field in [[0x20, 0], [0, 1], [0x20, 0xb9]] {
        bench.ends_in(Counter::PassFragment, &patch(&error, IP + 6, &field), "a fragment");
    }
    bench.forwarded(&patch(&error, IP + 6, &[0x40, 0]));
}

#[test]
fn of_a_quoted_fragment_only_the_first_has_ports() {
    let mut bench = Bench::new(usual());
    let id = bench.forwarded(&request(&V4, protocol::UDP, 53, CLIENT_PORT));
    let quote = V4.answer(protocol::UDP, 53, CLIENT_PORT);
    let first = V4.error((11, 1), &patch(&quote, 6, &[0x20, 0])).frame();
    assert_eq!(bench.forwarded(&first), id);
    let later = V4.error((11, 1), &patch(&quote, 6, &[0, 0xb9])).frame();
    bench.ends_in(Counter::PassFragment, &later, "IPv4");

    let id = bench.forwarded(&request(&V6, protocol::UDP, 53, CLIENT_PORT));
    let udp = &V6.answer(protocol::UDP, 53, CLIENT_PORT)[40..];
    let with_fragment = |field: [u8; 2]| {
        let header = [protocol::UDP, 0, field[0], field[1], 0, 0, 0, 9];
        let quote = ipv6(VIP6, CLIENT6, 44, 64, &[&header, udp].concat());
        V6.error((3, 1), &quote).frame()
    };
    assert_eq!(bench.forwarded(&with_fragment([0, 1])), id);
    bench.ends_in(Counter::PassFragment, &with_fragment([0, 9]), "IPv6");
}

#[test]
fn options_of_the_error_and_of_its_quote_are_stepped_over() {
    let mut bench = Bench::new(usual());
    let id = bench.forwarded(&request(&V4, protocol::TCP, 80, CLIENT_PORT));
    let tcp = &V4.answer(protocol::TCP, 80, CLIENT_PORT)[20..];
    for words in [0, 1, 10] {
        let quote = ipv4(VIP4, CLIENT4, protocol::TCP, &vec![1; 4 * words], tcp);
        let error = V4.error((3, 4), &quote).frame();
        assert_eq!(bench.forwarded(&error), id, "{words} words in the quote");
        let packet = ipv4(ROUTER4, VIP4, 1, &vec![1; 4 * words], &error[IP + 20..]);
        let error = ethernet(VIP_MAC, CLIENT_MAC, IPV4, &packet);
        assert_eq!(bench.forwarded(&error), id, "{words} words before the error, too");
    }
    // Options that the quote has no room for.
    let quote = ipv4(VIP4, CLIENT4, protocol::TCP, &[1; 40], &tcp[..7]);
    bench.ends_in(Counter::PassMalformed, &V4.error((3, 4), &quote).frame(), "cut");
}

#[test]
fn an_error_about_a_flow_whose_backend_is_down_goes_where_the_flow_goes() {
    let mut bench = Bench::new(usual());
    for family in FAMILIES {
        let frame = request(&family, protocol::TCP, 80, CLIENT_PORT);
        let first = bench.forwarded(&frame);
        bench.set_state(first, Backend::DOWN);
        let quote = family.answer(protocol::TCP, 80, CLIENT_PORT);
        let error = family.error(family.errors[0], &quote).frame();
        assert_eq!(bench.forwarded(&error), bench.forwarded(&frame));
    }
}
