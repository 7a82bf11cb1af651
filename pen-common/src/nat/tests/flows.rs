//! Rules about one flow: how its packets are translated, and for how long.

extern crate std;

use super::*;

#[test]
fn a_request_goes_to_the_backend_and_its_answer_comes_from_the_service() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let maps = maps();
        let came = tuple(7, 5000, 1, if protocol == 6 { 80 } else { 53 }, protocol);
        let flags = if protocol == 6 { SYN } else { 0 };
        let sent = maps.sent(Service::NAT, came, flags);
        let to = Tuple { destination: backend(1).addr, port: Be16::new(8080), ..came };
        assert_eq!(sent, to, "the client stays the source");
        assert_eq!(maps.answer(&sent, ACK), Some(came.reversed()));

        let sent = maps.sent(Service::MASQUERADE, came, flags);
        assert_eq!((sent.source, sent.destination), (backend(1).source, backend(1).addr));
        assert!((10_000..20_000).contains(&sent.source_port.value()), "{sent:?}");
        assert_eq!(maps.answer(&sent, ACK), Some(came.reversed()));
        assert_eq!(maps.sent(Service::MASQUERADE, came, ACK), sent, "the port stays");
    }
}

#[test]
fn ipv6_is_translated_alike_and_never_into_ipv4() {
    let came = Tuple::new(
        addr("2001:db8::7"),
        Be16::new(5000),
        addr("2001:db8:1::10"),
        Be16::new(80),
        protocol::TCP,
    );
    let six = Backend { addr: addr("fd00::1"), source: addr("fd00::fe"), ..backend(1) };
    let half = Backend { source: backend(1).source, ..six };
    for mode in MODES {
        let request = |backend: &Backend| {
            let maps = maps();
            let sent = maps.carry(request(mode, came, SYN, 0, 1, backend))?;
            Ok((sent, maps.answer(&sent, ACK)))
        };
        let (sent, answer) = request(&six).expect("goes on");
        assert_eq!(sent.destination, six.addr);
        assert_eq!(answer, Some(came.reversed()));
        assert_eq!(request(&backend(1)), Err(DropReason::DropRewrite));
        let mixed = request(&half).is_err();
        assert_eq!(mixed, mode == Service::MASQUERADE, "only then our address matters");
    }
}

#[test]
fn a_backend_without_a_port_of_its_own_keeps_that_of_the_request() {
    let maps = maps();
    let any = Backend { port: Be16::new(0), ..backend(1) };
    let came = tuple(7, 5000, 2, 2222, protocol::TCP);
    for mode in MODES {
        let sent = maps.carry(request(mode, came, SYN, 4, 1, &any)).expect("goes on");
        assert_eq!(sent.port, Be16::new(2222));
        let quote = came.reversed();
        assert_eq!(maps.quoted_answer(&quote, mode, &any), Some(sent.reversed()));
        // The service on any port says how long the entry lives.
        maps.pass(29 * SECOND_NS);
        assert_eq!(maps.answer(&sent, ACK), Some(came.reversed()));
        maps.pass(HOUR_NS - 1);
        assert_eq!(maps.answer(&sent, ACK), Some(came.reversed()));
        maps.pass(HOUR_NS);
        assert_eq!(maps.answer(&sent, ACK), None);
    }
}

#[test]
fn what_the_backend_says_to_others_is_not_translated() {
    let maps = maps();
    for mode in MODES {
        let sent = maps.sent(mode, usual(), SYN);
        let near = [
            Tuple { source: client(8), ..sent },
            Tuple { source_port: Be16::new(5001), ..sent },
            Tuple { destination: backend(2).addr, ..sent },
            Tuple { port: Be16::new(8081), ..sent },
            Tuple { protocol: protocol::UDP, ..sent },
        ];
        for other in near {
            assert_eq!(maps.answer(&other, ACK), None, "{other:?}");
        }
        assert_eq!(maps.answer(&usual().reversed(), ACK), None, "a request is no answer");
    }
}

#[test]
fn a_flow_that_is_never_answered_is_void_after_half_a_minute() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.pass(LINGER_NS - 1);
        assert!(maps.answer(&sent, 0).is_some());
        let maps = self::maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.pass(LINGER_NS);
        assert_eq!(maps.answer(&sent, 0), None);
        // A datagram has its service's time.
        let sent = maps.sent(mode, tuple(7, 5000, 1, 53, 17), 0);
        maps.pass(60 * SECOND_NS - 1);
        assert!(maps.answer(&sent, 0).is_some());
        maps.pass(60 * SECOND_NS);
        assert_eq!(maps.answer(&sent, 0), None);
    }
}

#[test]
fn a_closed_flow_is_void_after_half_a_minute_and_one_that_is_open_after_its_services_time() {
    // What the client and the backend send, and whether this ends the flow.
    let cases: [(&[u8], &[u8], bool); 7] = [
        (&[ACK], &[ACK], false),
        (&[FIN], &[ACK], false),
        (&[ACK], &[FIN], false),
        (&[FIN], &[FIN], true),
        (&[FIN, FIN], &[FIN, ACK], true),
        (&[RST], &[ACK], true),
        (&[ACK], &[RST], true),
    ];
    for (mode, (requests, answers, ends)) in
        MODES.into_iter().flat_map(|mode| cases.map(|case| (mode, case)))
    {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        for flags in answers {
            assert!(maps.answer(&sent, *flags).is_some());
        }
        for flags in requests {
            assert_eq!(maps.sent(mode, usual(), *flags), sent);
        }
        let what = std::format!("{requests:?} {answers:?}");
        maps.pass(LINGER_NS - 1);
        assert!(maps.answer(&sent, 0).is_some(), "{what}");
        maps.pass(LINGER_NS);
        assert_eq!(maps.answer(&sent, 0).is_none(), ends, "{what}");
        if !ends {
            maps.pass(HOUR_NS);
            assert_eq!(maps.answer(&sent, 0), None, "{what}");
        }
    }
}

#[test]
fn a_new_connection_on_old_ports_starts_anew() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.answer(&sent, FIN);
        maps.sent(mode, usual(), FIN);
        assert_eq!(maps.sent(mode, usual(), SYN), sent);
        maps.answer(&sent, ACK);
        maps.pass(HOUR_NS - 1);
        assert!(maps.answer(&sent, ACK).is_some());
    }
}

#[test]
fn a_service_that_is_gone_takes_its_flows_along() {
    let mut maps = maps();
    let sent = maps.sent(Service::NAT, usual(), SYN);
    maps.answer(&sent, ACK);
    maps.services.clear();
    maps.pass(SECOND_NS);
    assert_eq!(maps.answer(&sent, ACK), None);
}

#[test]
fn an_entry_is_stamped_at_most_once_a_second() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.answer(&sent, ACK);
        let seen = |maps: &Maps| {
            let keys = [sent.reversed(), usual()];
            keys.map(|key| maps.entry(&key).map(|entry| entry.last_seen_ns))
        };
        let first = seen(&maps);
        maps.pass(SECOND_NS - 1);
        maps.answer(&sent, ACK);
        maps.sent(mode, usual(), ACK);
        assert_eq!(seen(&maps), first);
        maps.pass(1);
        maps.sent(mode, usual(), ACK);
        let stamped = maps.now().0;
        assert!(seen(&maps).into_iter().flatten().all(|seen| seen == stamped));
        maps.pass(SECOND_NS);
        maps.answer(&sent, ACK);
        assert_eq!(seen(&maps)[0], Some(maps.now().0));
    }
}

#[test]
fn an_entry_that_was_evicted_is_made_anew() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.evict(&sent.reversed());
        maps.pass(SECOND_NS);
        assert_eq!(maps.sent(mode, usual(), ACK), sent);
        assert_eq!(maps.answer(&sent, ACK), Some(usual().reversed()));
        // Only the other one: the flow finds its own port again.
        maps.evict(&usual());
        assert_eq!(maps.sent(mode, usual(), ACK), sent);
    }
}

#[test]
fn a_reset_makes_no_entry() {
    let maps = maps();
    let sent = maps.sent(Service::NAT, usual(), RST);
    assert_eq!(maps.answer(&sent, ACK), None, "it goes on, but there is nothing to answer");
    let refused = maps.send(Service::MASQUERADE, usual(), RST, 1);
    assert_eq!(refused, Err(DropReason::DropNoEntry));
    assert!(maps.entries.borrow().is_empty());
    // The request entry alone is enough to tell the backend.
    let sent = maps.sent(Service::MASQUERADE, usual(), SYN);
    maps.evict(&sent.reversed());
    assert_eq!(maps.sent(Service::MASQUERADE, usual(), RST), sent);
    assert_eq!(maps.entry(&sent.reversed()), None);
}

#[test]
fn beyond_the_valve_new_flows_are_refused_and_old_ones_go_on() {
    for mode in MODES {
        let maps = maps();
        maps.valve.set(1);
        let sent = maps.sent(mode, usual(), SYN);
        let other = tuple(8, 5000, 1, 80, protocol::TCP);
        assert_eq!(maps.send(mode, other, SYN, 1), Err(DropReason::DropNoEntry));
        maps.pass(SECOND_NS);
        assert_eq!(maps.sent(mode, usual(), ACK), sent);
        assert_eq!(maps.entries.borrow().len(), if mode == Service::NAT { 1 } else { 2 });
    }
}

#[test]
fn a_flow_whose_service_was_renumbered_keeps_its_entry() {
    let maps = maps();
    let sent = maps.sent(Service::NAT, usual(), SYN);
    maps.answer(&sent, FIN);
    let renumbered = request(Service::NAT, usual(), ACK, 9, 3, &backend(1));
    assert_eq!(maps.carry(renumbered), Ok(sent));
    let entry = maps.entry(&sent.reversed()).expect("it is there");
    let flags = Translation::RETURN | Translation::ANSWERED | Translation::BACKEND_FIN;
    assert_eq!((entry.service, entry.backend, entry.flags), (9, 3, flags));
}

#[test]
fn errors_are_about_packets_as_either_side_knows_them() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        assert_eq!(maps.quoted_request(&sent), Some(usual()));
        assert_eq!(maps.quoted_request(&usual()), None, "nobody sent this to a backend");
        let answer = usual().reversed();
        assert_eq!(maps.quoted_answer(&answer, mode, &backend(1)), Some(sent.reversed()));
        if mode == Service::MASQUERADE {
            assert_eq!(maps.quoted_answer(&answer, mode, &backend(2)), None);
            let strange = Tuple { destination: client(8), ..answer };
            assert_eq!(maps.quoted_answer(&strange, mode, &backend(1)), None);
        }
        maps.pass(LINGER_NS);
        assert_eq!(maps.quoted_request(&sent), None, "the flow is void");
    }
}
