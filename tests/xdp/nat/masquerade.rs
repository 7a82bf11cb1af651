//! Mode `masquerade`: the ports of ours that make flows different.

use std::collections::BTreeSet;

use pen_common::abi::{Backend, Service};
use pen_common::nat::LINGER_NS;
use pen_common::net::Be16;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Tables, Write};

use super::{ACK, RST, flagged, set_mode, with_site, with_tables};
use crate::frame::Packet;
use crate::world::{VIP4, VIP6, backend_at, uniform};

/// One backend for each service, and so many ports.
fn few_ports(tables: &mut Tables, ports: u16) {
    set_mode(tables, Service::MASQUERADE);
    for (service, backend) in [(0, 1), (1, 4), (2, 7), (3, 10)] {
        tables.slots.insert(service, uniform(backend));
    }
    tables.cfg.last_port = Be16::new(tables.cfg.first_port.value() + ports - 1);
}

#[test]
fn every_flow_has_a_port_of_its_own_at_its_backend_and_keeps_it() {
    with_site(Service::MASQUERADE, |site| {
        for packet in [Packet::tcp(VIP4, 80), Packet::tcp(VIP6, 80)] {
            let mut ends = BTreeSet::new();
            for number in 0..500 {
                let packet = packet.clone().from(packet.source, 20_000 + number);
                let sent = site.request(&packet.frame());
                assert!(ends.insert((sent.destination, sent.source_port)), "{sent:?}");
                let again = site.request(&flagged(&packet.frame(), ACK));
                assert_eq!(again.source_port, sent.source_port);
                let answer = site.answer_to(&sent).frame();
                let returned = site.returned(&answer);
                assert_eq!((returned.destination, returned.port), (packet.source, 20_000 + number));
            }
        }
    });
}

#[test]
fn when_all_ports_are_in_use_new_flows_are_refused_and_counted() {
    with_tables(
        |tables| few_ports(tables, 5),
        |site| {
            for packet in [
                Packet::tcp(VIP4, 80),
                Packet::udp(VIP4, 53),
                Packet::tcp(VIP6, 80),
                Packet::udp(VIP6, 53),
            ] {
                let from = |number: u16| packet.clone().from(packet.source, 20_000 + number);
                let sent: Vec<_> = (0..5).map(|n| site.request(&from(n).frame())).collect();
                let refused = site.bench.run_on(site.front, &from(5).frame());
                assert_eq!(refused.counter, Counter::DropNoPort);
                for (number, sent) in (0..).zip(&sent) {
                    let answer = site.answer_to(sent).frame();
                    assert_eq!(site.returned(&answer).port, 20_000 + number);
                }
                if packet.protocol == 6 {
                    site.request(&flagged(&from(3).frame(), RST));
                    site.age(LINGER_NS);
                    let taken = site.request(&from(5).frame());
                    assert_eq!(taken.source_port, sent[3].source_port);
                    let answer = site.answer_to(&taken).frame();
                    assert_eq!(site.returned(&answer).port, 20_005);
                }
            }
        },
    );
}

#[test]
fn a_flow_that_goes_to_another_backend_gets_a_port_there() {
    with_tables(
        |tables| few_ports(tables, 1000),
        |site| {
            let packet = Packet::tcp(VIP4, 80);
            let first = site.request(&packet.frame());
            assert_eq!(backend_at(&first.to.0), 1);
            site.bench.set_state(1, Backend::DOWN);
            site.bench.write(Write::SetTable(0, uniform(2)));
            let second = site.request(&flagged(&packet.frame(), ACK));
            assert_eq!(backend_at(&second.to.0), 2);
            let answer = site.answer_to(&second).frame();
            assert_eq!(site.returned(&answer).port, packet.source_port);
        },
    );
}

#[test]
fn without_a_range_of_ports_nothing_is_masqueraded() {
    let none = |tables: &mut Tables| {
        set_mode(tables, Service::MASQUERADE);
        (tables.cfg.first_port, tables.cfg.last_port) = Default::default();
    };
    with_tables(none, |site| {
        let outcome = site.bench.run_on(site.front, &Packet::tcp(VIP4, 80).frame());
        assert_eq!(outcome.counter, Counter::DropNoPort);
    });
}
