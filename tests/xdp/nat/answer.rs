//! The way back: what changes, where it goes, and what is left alone.

use pen_common::abi::Service;
use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;

use super::{ACK, FRONT_MAC, MODES, Site, flagged, with_site, with_tables};
use crate::frame::{
    BROADCAST, IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, checksum, patch, tagged, usual_packets,
};
use crate::icmp::{
    Family, V4, V6,
    replies::{assert_expired, assert_told},
};
use crate::parse::Parsed;
use crate::world::{CLIENT_MAC, CLIENT4, NIC, VIP4};

/// What has to become of an answer to this request.
fn expected(request: &[u8], answer: &[u8]) -> Parsed {
    let (request, answer) = (Parsed::of_any(request), Parsed::of_any(answer));
    Parsed {
        to: CLIENT_MAC,
        from: FRONT_MAC,
        source: request.destination,
        source_port: request.port,
        destination: request.source,
        port: request.source_port,
        ttl: answer.ttl - 1,
        ..answer
    }
}

/// Each usual request, and the backend's answer to it.
fn conversations(site: &mut Site) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    usual_packets()
        .into_iter()
        .map(|(what, packet)| {
            let request = packet.frame();
            let sent = site.request(&request);
            (what, request, site.answer_to(&sent).frame())
        })
        .collect()
}

#[test]
fn an_answer_comes_to_the_client_as_from_the_service() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let request = packet.frame();
                let sent = site.request(&request);
                for length in [0, 1, 2, 3, 100, 1400] {
                    let answer = site.answer_to(&sent).data(&vec![0x5a; length]).frame();
                    let returned = site.returned(&answer);
                    assert_eq!(returned, expected(&request, &answer), "{what}, {length} bytes");
                }
            }
        });
    }
}

#[test]
fn an_answer_leaves_where_the_kernel_routes_it() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, request, answer) in conversations(site) {
                // The backend is on the clients' network, by a way of its own.
                let outcome = site.bench.run_on(site.front, &answer);
                assert_eq!(outcome.counter, Counter::ReturnTransmit, "{what}");
                assert_eq!(Parsed::of(&outcome.frame), expected(&request, &answer), "{what}");
            }
            // An interface that frames cannot be redirected to: the kernel does it.
            site.bench.write(Write::RemoveEgress(site.front));
            stack_gets_answers(site);
            site.bench.write(Write::AddEgress(site.front));
            site.netns.ip("neigh flush dev front nud permanent").expect("ip does it");
            stack_gets_answers(site);
        });
    }
}

/// The kernel gets the answer translated, still addressed to us and with all its hops.
#[track_caller]
fn stack_gets_answers(site: &mut Site) {
    for (what, request, answer) in conversations(site) {
        let outcome = site.answer(&answer);
        assert_eq!(outcome.counter, Counter::ReturnStack, "{what}");
        let came = Parsed::of(&answer);
        let expected =
            Parsed { to: came.to, from: came.from, ttl: came.ttl, ..expected(&request, &answer) };
        assert_eq!(Parsed::of(&outcome.frame), expected, "{what}");
    }
}

#[test]
fn where_the_kernel_does_not_route_it_gets_the_answers() {
    for mode in MODES {
        with_site(mode, |site| {
            site.netns.sysctl("net/ipv4/conf/back/forwarding", "0").expect("it exists");
            site.netns.sysctl("net/ipv6/conf/all/forwarding", "0").expect("it exists");
            stack_gets_answers(site);
        });
    }
}

#[test]
fn an_answer_keeps_its_tags_on_the_interface_that_it_came_from() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, request, answer) in conversations(site) {
                let twice = tagged(&tagged(&answer, 0x8100), 0x88a8);
                for answer in [tagged(&answer, 0x8100), twice] {
                    let outcome = site.bench.run_on(site.front, &answer);
                    assert_eq!(outcome.counter, Counter::ReturnTransmit, "{what}");
                    assert_eq!(Parsed::of(&outcome.frame), expected(&request, &answer), "{what}");
                    let outcome = site.answer(&answer);
                    assert_eq!(outcome.counter, Counter::ReturnStack, "{what}");
                    assert_eq!(Parsed::of(&outcome.frame).tags, Parsed::of(&answer).tags);
                }
            }
        });
    }
}

#[test]
fn options_extension_headers_and_padding_of_an_answer_stay() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let request = packet.frame();
                let sent = site.request(&request);
                let answer = site.answer_to(&sent);
                let answer = if packet.destination.is_ipv4() {
                    answer.options(&[1; 12])
                } else {
                    answer.extended(&[(0, &[0; 6]), (60, &[0; 14])])
                };
                let answer = [answer.frame(), vec![0xee; 5]].concat();
                assert_eq!(site.returned(&answer), expected(&request, &answer), "{what}");
            }
        });
    }
}

#[test]
fn an_answer_without_a_checksum_stays_without() {
    for mode in MODES {
        with_site(mode, |site| {
            for (_, request, answer) in conversations(site) {
                let parsed = Parsed::of(&answer);
                if parsed.protocol != protocol::UDP {
                    continue;
                }
                let at = if parsed.source.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
                let answer = patch(&answer, at + 6, &[0, 0]);
                let returned = site.returned(&answer);
                assert!(returned.without_checksum);
                assert_eq!(returned, expected(&request, &answer));
            }
        });
    }
}

/// The family of an error that tells the backend that sent `answer`, in our own name.
fn telling(answer: &Parsed) -> Family {
    let mut family = if answer.source.is_ipv4() { V4 } else { V6 };
    (family.vip, family.client) = (answer.destination, answer.source);
    family
}

/// What comes to us is ours to refuse; the rest the kernel routes, and refuses, by itself.
#[test]
fn an_answer_on_its_last_hop_goes_no_further() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, _, answer) in conversations(site) {
                let parsed = Parsed::of(&answer);
                let at = if parsed.source.is_ipv4() { IP + 8 } else { IP + 7 };
                let last = with_sum(&patch(&answer, at, &[1]));
                let outcome = site.answer(&last);
                if mode == Service::NAT {
                    assert_eq!(outcome.counter, Counter::PassNotOurs, "{what}");
                } else {
                    assert_eq!(outcome.counter, Counter::TtlReply, "{what}");
                    assert_expired(&telling(&parsed), IP, &last, &outcome.frame);
                }
            }
        });
    }
}

/// The frame with the checksum of its IPv4 header right, if it has one.
fn with_sum(frame: &[u8]) -> Vec<u8> {
    if frame[IP] >> 4 == 6 {
        return frame.to_vec();
    }
    let frame = patch(frame, IP + 10, &[0, 0]);
    patch(&frame, IP + 10, &checksum(&frame[IP..IPV4_PAYLOAD]))
}

#[test]
fn what_a_backend_says_to_others_passes() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let sent = site.request(&packet.frame());
                let answer = site.answer_to(&sent);
                let direct = |packet: Packet| packet.frame();
                let frames = [
                    ("another port of the backend", {
                        direct(answer.clone().from(sent.destination, super::PORT + 1))
                    }),
                    ("another backend", {
                        let near: std::net::IpAddr = match sent.destination {
                            std::net::IpAddr::V4(v4) => (v4.to_bits() ^ 0x40).to_be_bytes().into(),
                            std::net::IpAddr::V6(v6) => (v6.to_bits() ^ 0x40).to_be_bytes().into(),
                        };
                        direct(answer.clone().from(near, super::PORT))
                    }),
                    ("another port of the client, directly", {
                        let mut packet = answer.clone();
                        packet.port ^= 0x4000;
                        direct(packet)
                    }),
                    ("the other protocol", {
                        let (to, port) = (sent.source, sent.source_port);
                        let other = match sent.protocol {
                            protocol::TCP => Packet::udp(to, port),
                            _ => Packet::tcp(to, port),
                        };
                        direct(other.from(sent.destination, super::PORT))
                    }),
                ];
                for (how, frame) in frames {
                    let counter = site.answer(&frame).counter;
                    assert_eq!(counter, Counter::PassNotOurs, "{what}: {how}");
                }
                let counter = site.answer(&answer.frame()).counter;
                assert_eq!(counter, Counter::ReturnRedirect, "{what}");
            }
        });
    }
}

#[test]
fn a_request_is_not_taken_for_an_answer_nor_the_other_way_round() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let frame = packet.frame();
                let sent = site.request(&frame);
                // To the backend directly, from the same port.
                let mut direct = packet.clone().at_station(FRONT_MAC);
                (direct.destination, direct.port) = (sent.destination, sent.port);
                let counter = site.bench.run_on(site.front, &direct.frame()).counter;
                assert_eq!(counter, Counter::PassNotOurs, "{what}");
                // The answer as the client gets it.
                let mut answer = site.answer_to(&sent).from(packet.destination, packet.port);
                (answer.destination, answer.port) = (packet.source, packet.source_port);
                let counter = site.answer(&answer.frame()).counter;
                assert_eq!(counter, Counter::PassNotOurs, "{what}");
            }
        });
    }
}

#[test]
fn a_flooded_answer_is_somebody_elses() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, _, answer) in conversations(site) {
                for station in
                    [MacAddr([2, 0, 0, 0, 0, 9]), BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])]
                {
                    let counter = site.answer(&patch(&answer, 0, &station.0)).counter;
                    assert_eq!(counter, Counter::PassNotOurs, "{what}, {station}");
                }
                // On another network we do not know which station is ours; and a group of ours may
                // be the backends' router.
                let station = MacAddr([2, 0, 0, 0, 0, 9]);
                let counter = site.bench.run_on(site.front, &patch(&answer, 0, &station.0)).counter;
                assert_eq!(counter, Counter::ReturnTransmit, "{what}");
                let group = patch(&answer, 0, &[0, 0, 0x5e, 0, 1, 9]);
                assert_eq!(site.answer(&group).counter, Counter::ReturnRedirect, "{what}");
                // The kernel does not know that station: it gets the interface's own.
                site.bench.write(Write::RemoveEgress(site.front));
                let outcome = site.answer(&group);
                site.bench.write(Write::AddEgress(site.front));
                assert_eq!(outcome.counter, Counter::ReturnStack, "{what}");
                assert_eq!(outcome.frame[..6], answer[..6], "{what}");
            }
        });
    }
}

#[test]
fn an_answer_that_is_cut_short_anywhere_passes() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, _, answer) in conversations(site) {
                for end in 14..answer.len() {
                    let counter = site.answer(&answer[..end]).counter;
                    assert_eq!(counter, Counter::PassNotOurs, "{what}, {end} bytes");
                }
            }
        });
    }
}

#[test]
fn an_answer_too_big_for_the_clients_network_is_refused_or_split() {
    for mode in MODES {
        with_site(mode, |site| {
            site.netns.ip("link set dev front mtu 1280").expect("ip does it");
            for (what, packet) in usual_packets() {
                let sent = site.request(&packet.frame());
                let big = site.answer_to(&sent).data(&[7; 1300]).frame();
                let outcome = site.answer(&big);
                if mode == Service::NAT {
                    // The kernel routes it, and refuses it by itself.
                    assert_eq!(outcome.counter, Counter::PassNotOurs, "{what}");
                } else {
                    assert_eq!(outcome.counter, Counter::TooBigReply, "{what}");
                    assert_told(&telling(&Parsed::of(&big)), IP, &big, &outcome.frame, 1280);
                }
                if packet.destination.is_ipv4() {
                    let may = with_sum(&patch(&big, IP + 6, &[0]));
                    assert_eq!(site.answer(&may).counter, Counter::ReturnStack, "{what}");
                }
            }
        });
    }
}

#[test]
fn without_a_service_that_translates_nothing_is_looked_up() {
    for mode in MODES {
        with_site(mode, |site| {
            let answers = conversations(site);
            let cfg = pen_common::abi::Cfg { flags: 0, ..site.bench.tables().cfg };
            site.bench.write(Write::SetCfg(cfg));
            for (what, _, answer) in answers {
                assert_eq!(site.answer(&answer).counter, Counter::PassNotOurs, "{what}");
            }
        });
    }
}

#[test]
fn a_service_beside_them_in_another_mode_is_not_disturbed() {
    with_tables(
        |tables| {
            for (key, service) in &mut tables.services {
                if key.protocol == protocol::TCP {
                    service.mode = Service::NAT;
                }
            }
        },
        |site| {
            let frame = Packet::udp(VIP4, 53).frame();
            let outcome = site.bench.run_on(site.front, &frame);
            assert_eq!(outcome.counter, Counter::Redirect);
            site.bench.backend_of(&frame, &outcome.frame);
            let sent = site.request(&flagged(&Packet::tcp(VIP4, 80).frame(), ACK));
            assert_eq!(sent.port, super::PORT);
            let frame = Packet::tcp(CLIENT4, 80).frame();
            assert_eq!(site.bench.run_on(NIC, &frame).counter, Counter::PassNotOurs);
        },
    );
}
