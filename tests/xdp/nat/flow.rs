//! How long a flow's answers are translated, and what else wants the same place.

use std::net::IpAddr;

use pen_common::abi::{Service, Translation};
use pen_common::nat::LINGER_NS;
use pen_common::net::{Be16, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;

use super::{ACK, FIN, MODES, RST, SYN, Site, flagged, set_mode, with_site, with_tables};
use crate::frame::{Packet, usual_packets};
use crate::parse::Parsed;
use crate::world::{HOUR_NS, VIP4, VIP6, add_service};

/// Requests and answers of TCP with these flags, after a SYN; what went on, and the answer.
fn talk(site: &mut Site, packet: &Packet, requests: &[u8], answers: &[u8]) -> (Parsed, Vec<u8>) {
    let sent = site.request(&packet.frame());
    let answer = site.answer_to(&sent).frame();
    for flags in answers {
        site.returned(&flagged(&answer, *flags));
    }
    for flags in requests {
        site.request(&flagged(&packet.frame(), *flags));
    }
    (sent, flagged(&answer, ACK))
}

#[test]
fn a_flow_lives_as_long_as_its_flags_say() {
    // What the client and the backend send, and how long the flow lives.
    let cases: [(&str, &[u8], &[u8], u64); 6] = [
        ("unanswered", &[], &[], LINGER_NS),
        ("open", &[ACK], &[SYN | ACK], HOUR_NS),
        ("closed by the client", &[FIN], &[ACK], HOUR_NS),
        ("closed by the backend", &[ACK], &[FIN], HOUR_NS),
        ("closed", &[FIN], &[FIN, ACK], LINGER_NS),
        ("reset", &[RST], &[ACK], LINGER_NS),
    ];
    for mode in MODES {
        with_site(mode, |site| {
            let mut ports = 20_000..;
            for (what, requests, answers, lifetime) in cases {
                for packet in [Packet::tcp(VIP4, 80), Packet::tcp(VIP6, 80)] {
                    let mut next = || {
                        let port = ports.next().expect("endless");
                        packet.clone().from(packet.source, port)
                    };
                    let (_, answer) = talk(site, &next(), requests, answers);
                    // A second of slack: the kernel's clock goes on.
                    site.age(lifetime - 1_000_000_000);
                    site.returned(&answer);
                    site.age(HOUR_NS);
                    assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs, "{what}");
                    let (_, answer) = talk(site, &next(), requests, answers);
                    site.age(lifetime);
                    assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs, "{what}");
                }
            }
        });
    }
}

#[test]
fn a_datagram_flow_lives_as_long_as_its_service_says() {
    for mode in MODES {
        let ttl = 60_000_000_000;
        let change = |tables: &mut pen_ctl::engine::tables::Tables| {
            set_mode(tables, mode);
            for service in tables.services.values_mut() {
                service.flow_ttl_ns = ttl;
            }
        };
        with_tables(change, |site| {
            for packet in [Packet::udp(VIP4, 53), Packet::udp(VIP6, 53)] {
                let sent = site.request(&packet.frame());
                let answer = site.answer_to(&sent).frame();
                site.age(ttl - 1_000_000_000);
                // Each use begins it anew.
                site.returned(&answer);
                site.age(ttl - 1_000_000_000);
                site.request(&packet.frame());
                site.age(ttl - 1_000_000_000);
                site.returned(&answer);
                site.age(ttl);
                assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs);
            }
        });
    }
}

#[test]
fn an_entry_is_written_when_it_is_missing_and_stamped_once_a_second() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let sent = site.request(&packet.frame());
                let answer = site.answer_to(&sent).frame();
                site.returned(&answer);
                let request = if packet.protocol == protocol::TCP {
                    flagged(&packet.frame(), ACK)
                } else {
                    packet.frame()
                };
                let seen = |site: &Site| -> Vec<u64> {
                    let entries = site.entries();
                    entries.iter().map(|entry| entry.expect("readable").1.last_seen_ns).collect()
                };
                let before = seen(site);
                site.request(&request);
                site.returned(&answer);
                assert_eq!(seen(site), before, "{what}: twice within a second");
                site.age(1_000_000_000);
                site.request(&request);
                assert!(seen(site).iter().min() > before.iter().min(), "{what}: a second later");
                // All entries go, as if others had needed the room.
                let mut entries = site.entries();
                for key in entries.keys().collect::<Result<Vec<_>, _>>().expect("readable") {
                    entries.remove(&key).expect("it is there");
                }
                assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs, "{what}");
                let again = site.request(&request);
                assert_eq!(again.source_port, sent.source_port, "{what}");
                site.returned(&answer);
                for key in entries.keys().collect::<Result<Vec<_>, _>>().expect("readable") {
                    entries.remove(&key).expect("it is there");
                }
            }
        });
    }
}

#[test]
fn entries_say_whose_they_are() {
    for mode in MODES {
        with_site(mode, |site| {
            let sent = site.request(&Packet::tcp(VIP4, 80).frame());
            let answer = site.answer_to(&sent).frame();
            site.returned(&flagged(&answer, FIN));
            let id = crate::world::backend_at(&sent.to.0);
            for entry in site.entries().iter() {
                let (key, entry) = entry.expect("readable");
                assert_eq!((entry.service, entry.backend), (0, id));
                let returns = key.source == sent.destination.into();
                let flags = Translation::RETURN | Translation::ANSWERED | Translation::BACKEND_FIN;
                assert_eq!(entry.flags, if returns { flags } else { 0 });
            }
            assert_eq!(site.entries().iter().count(), if mode == Service::NAT { 1 } else { 2 });
        });
    }
}

#[test]
fn the_same_ports_through_two_services_to_one_backend_are_refused_until_one_is_over() {
    let second = Packet::tcp(VIP4, 81);
    with_tables(
        |tables| {
            let id = add_service(tables, VIP4.into(), 81, protocol::TCP, &[1]);
            set_mode(tables, Service::NAT);
            // Both have one backend, and it is the same one.
            tables.slots.insert(0, crate::world::uniform(1));
            let (addr, mac) = (tables.backends[&1].addr, tables.backends[&1].mac);
            for backend in tables.backends.values_mut().filter(|backend| backend.service == id) {
                (backend.addr, backend.mac) = (addr, mac);
                backend.source_mac = crate::world::new_backend(1, 0, 1).source_mac;
            }
        },
        |site| {
            let first = Packet::tcp(VIP4, 80);
            let sent = site.request(&first.frame());
            let answer = site.answer_to(&sent).frame();
            for flags in [SYN, ACK, FIN, RST] {
                let frame = flagged(&second.frame(), flags);
                let outcome = site.bench.run_on(site.front, &frame);
                assert_eq!(outcome.counter, Counter::DropNatConflict, "{flags}");
            }
            assert_eq!(site.returned(&answer).source_port, 80, "it stays the first one's");
            // Another port of the client is another flow.
            let other = second.clone().from(second.source, 40001);
            let sent = site.request(&other.frame());
            let other = site.answer_to(&sent).frame();
            assert_eq!(site.returned(&other).source_port, 81);
            site.request(&flagged(&first.frame(), RST));
            site.age(LINGER_NS);
            site.request(&second.frame());
            assert_eq!(site.returned(&answer).source_port, 81);
        },
    );
}

#[test]
fn a_reset_of_a_flow_that_nobody_knows_makes_no_entry() {
    let reset = flagged(&Packet::tcp(VIP4, 80).frame(), RST);
    with_site(Service::NAT, |site| {
        // The backend may know it.
        site.request(&reset);
        assert_eq!(site.entries().iter().count(), 0);
    });
    with_site(Service::MASQUERADE, |site| {
        let outcome = site.bench.run_on(site.front, &reset);
        assert_eq!(outcome.counter, Counter::DropNoEntry);
        assert_eq!(site.entries().iter().count(), 0);
    });
}

#[test]
fn beyond_the_valve_new_flows_are_refused_and_old_ones_go_on() {
    for mode in MODES {
        with_site(mode, |site| {
            let packet = Packet::udp(VIP4, 53);
            let sent = site.request(&packet.frame());
            let cfg = pen_common::abi::Cfg { records_per_second: 0, ..site.bench.tables().cfg };
            site.bench.write(Write::SetCfg(cfg));
            let other = packet.clone().from(packet.source, 40001).frame();
            let outcome = site.bench.run_on(site.front, &other);
            assert_eq!(outcome.counter, Counter::DropNoEntry);
            site.request(&packet.frame());
            let answer = site.answer_to(&sent).frame();
            site.returned(&answer);
        });
    }
}

#[test]
fn a_service_that_is_removed_takes_its_flows_along() {
    with_site(Service::NAT, |site| {
        let sent = site.request(&Packet::tcp(VIP4, 80).frame());
        let answer = site.answer_to(&sent).frame();
        site.returned(&answer);
        let key = pen_common::abi::ServiceKey::new(IpAddr::from(VIP4).into(), Be16::new(80), 6);
        site.bench.write(Write::RemoveService(key));
        site.age(1_000_000_000);
        assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs);
    });
}
