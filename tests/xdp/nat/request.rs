//! The way to the backend: what changes, and that nothing else does.

use pen_common::abi::Service;
use pen_common::net::protocol;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;

use super::{MODES, PORT, PORTS, Site, own, with_site, with_tables};
use crate::frame::{IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch, tagged, usual_packets};
use crate::icmp::{V4, V6, replies::assert_expired};
use crate::parse::Parsed;
use crate::shapes::{TAGS, with_tags};
use crate::world::{VIP4, VIP6, backend_at};

/// What has to become of a request, given what became of it; only the source port is free.
fn expected(site: &Site, mode: u8, frame: &[u8], sent: &Parsed) -> Parsed {
    let came = Parsed::of_any(frame);
    let backend = site.bench.tables().backends[&backend_at(&sent.to.0)];
    let masquerades = mode == Service::MASQUERADE;
    let v4 = came.source.is_ipv4();
    Parsed {
        to: backend.mac,
        from: backend.source_mac,
        source: if masquerades { own(v4) } else { came.source },
        source_port: if masquerades { sent.source_port } else { came.source_port },
        destination: backend.addr.into(),
        port: PORT,
        ttl: came.ttl - 1,
        ..came
    }
}

#[test]
fn a_request_reaches_a_backend_of_its_service_under_the_backends_address() {
    for mode in MODES {
        with_site(mode, |site| {
            for ((what, packet), service) in usual_packets().into_iter().zip(0..) {
                for length in [0, 1, 2, 3, 100, 1400] {
                    let frame = packet.clone().data(&vec![0xa5; length]).frame();
                    let sent = site.request(&frame);
                    assert_eq!(sent, expected(site, mode, &frame, &sent), "{what}, {length} bytes");
                    let backend = site.bench.tables().backends[&backend_at(&sent.to.0)];
                    assert_eq!(backend.service, service, "{what}");
                    if mode == Service::MASQUERADE {
                        assert!(PORTS.contains(&sent.source_port), "{what}");
                    }
                }
            }
            let counts = site.bench.counts();
            let of = |counts: std::collections::BTreeMap<u32, pen_common::abi::Count>| {
                counts.values().map(|count| count.packets).sum::<u64>()
            };
            assert_eq!((of(counts.services), of(counts.backends)), (24, 24));
        });
    }
}

#[test]
fn a_backend_on_the_interface_of_the_request_is_reached_there() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let frame = packet.frame();
                let outcome = site.bench.run_on(site.back, &frame);
                assert_eq!(outcome.counter, Counter::Transmit, "{what}");
                let sent = Parsed::of(&outcome.frame);
                assert_eq!(sent, expected(site, mode, &frame, &sent), "{what}");
            }
        });
    }
}

#[test]
fn tags_options_extension_headers_and_padding_stay() {
    let options = Packet::tcp(VIP4, 80).options(&[1; 8]).frame();
    let extended = Packet::udp(VIP6, 53).extended(&[(60, &[0; 6]), (0, &[0; 14])]).frame();
    for mode in MODES {
        with_site(mode, |site| {
            let usual = usual_packets().map(|(_, packet)| packet.frame());
            for frame in usual.into_iter().chain([options.clone(), extended.clone()]) {
                let padded = [frame.clone(), vec![0xee; 7]].concat();
                let twice = tagged(&tagged(&frame, 0x8100), 0x88a8);
                for frame in [tagged(&frame, 0x8100), twice, padded, frame] {
                    let sent = site.request(&frame);
                    assert_eq!(sent, expected(site, mode, &frame, &sent), "{frame:02x?}");
                }
            }
        });
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    for mode in MODES {
        with_site(mode, |site| {
            for (packet, at) in
                [(Packet::udp(VIP4, 53), IPV4_PAYLOAD), (Packet::udp(VIP6, 53), IPV6_PAYLOAD)]
            {
                let frame = patch(&packet.frame(), at + 6, &[0, 0]);
                let sent = site.request(&frame);
                assert!(sent.without_checksum);
                assert_eq!(sent, expected(site, mode, &frame, &sent));
            }
        });
    }
}

#[test]
fn a_computed_checksum_is_never_none() {
    with_site(Service::NAT, |site| {
        // All values of one word of the payload: one of them has a sum of zero.
        let mut seen = false;
        for word in 0..=u16::MAX {
            let mut frame = Packet::udp(VIP4, 53).data(&word.to_be_bytes()).frame();
            if frame[IPV4_PAYLOAD + 6..IPV4_PAYLOAD + 8] == [0, 0] {
                // The client computes none that looks like none, either.
                frame[IPV4_PAYLOAD + 6..IPV4_PAYLOAD + 8].fill(0xff);
            }
            let (action, out) = site.bench.send(Some(site.front), &frame);
            assert_eq!(action, crate::bench::Action::Redirect);
            let checksum = &out[IPV4_PAYLOAD + 6..IPV4_PAYLOAD + 8];
            assert_ne!(checksum, [0, 0], "payload {word:#x}");
            seen |= checksum == [0xff, 0xff];
        }
        assert!(seen);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for mode in MODES {
        with_site(mode, |site| {
            for ((what, packet), at) in usual_packets().into_iter().zip([
                IPV4_PAYLOAD + 16,
                IPV4_PAYLOAD + 6,
                IPV6_PAYLOAD + 16,
                IPV6_PAYLOAD + 6,
            ]) {
                let frame = packet.frame();
                let spoilt = patch(&frame, at, &[frame[at] ^ 0x55, frame[at + 1]]);
                let outcome = site.bench.run_on(site.front, &spoilt);
                assert_eq!(outcome.counter, Counter::Redirect, "{what}");
                assert!(!Parsed::of_any(&outcome.frame).is_right, "{what}");
            }
        });
    }
}

/// As [`a_wrong_checksum_stays_wrong`], for the header of IPv4: the backend has to see it.
#[test]
fn a_wrong_header_checksum_stays_wrong() {
    with_site(Service::NAT, |site| {
        let frame = Packet::tcp(VIP4, 80).frame();
        let outcome = site.bench.run_on(site.front, &patch(&frame, IP + 10, &[0xde, 0xad]));
        assert_eq!(outcome.counter, Counter::Redirect);
        assert_ne!(crate::frame::checksum(&outcome.frame[IP..IPV4_PAYLOAD]), [0, 0]);
    });
}

#[test]
fn a_request_on_its_last_hop_goes_no_further_and_its_sender_is_told() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let family = if packet.destination.is_ipv4() { V4 } else { V6 };
                let ttl_at = if packet.destination.is_ipv4() { IP + 8 } else { IP + 7 };
                for (ttl, length) in [(0, 0), (1, 3), (1, 700), (1, 1400)] {
                    let frame =
                        patch(&packet.clone().data(&vec![7; length]).frame(), ttl_at, &[ttl]);
                    for tags in TAGS {
                        let frame = with_tags(&frame, tags);
                        let outcome = site.bench.run_on(site.front, &frame);
                        assert_eq!(outcome.counter, Counter::TtlReply, "{what}, {ttl}");
                        assert_expired(&family, IP + 4 * tags.len(), &frame, &outcome.frame);
                    }
                }
            }
            assert_eq!(site.entries().iter().count(), 0);
        });
    }
}

#[test]
fn a_request_that_is_cut_short_anywhere_passes() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let frame = packet.frame();
                for end in 14..frame.len() {
                    let counter = site.bench.run_on(site.front, &frame[..end]).counter;
                    let passes = [Counter::PassNotOurs, Counter::PassMalformed];
                    assert!(passes.contains(&counter), "{what}, {end} bytes: {counter:?}");
                }
            }
            assert_eq!(site.entries().iter().count(), 0);
        });
    }
}

#[test]
fn a_backend_of_the_other_family_or_behind_no_interface_is_not_reached() {
    for mode in MODES {
        with_site(mode, |site| {
            let backends = site.bench.tables().backends.clone();
            for (id, backend) in &backends {
                let other = if backend.addr.is_v4() { 7 } else { 1 };
                let stranger = pen_common::abi::Backend { addr: backends[&other].addr, ..*backend };
                site.bench.write(Write::SetBackend(*id, stranger));
            }
            for (what, packet) in usual_packets() {
                let counter = site.bench.run_on(site.front, &packet.frame()).counter;
                assert_eq!(counter, Counter::DropRewrite, "{what}");
            }
        });
        let no_egress = |tables: &mut pen_ctl::engine::tables::Tables| {
            super::set_mode(tables, mode);
            tables.egress.clear();
        };
        with_tables(no_egress, |site| {
            for (what, packet) in usual_packets() {
                let counter = site.bench.run_on(site.front, &packet.frame()).counter;
                assert_eq!(counter, Counter::DropRewrite, "{what}");
            }
            assert!(site.bench.counts().backends.values().all(|count| count.packets == 0));
        });
    }
}

#[test]
fn a_service_on_every_port_keeps_the_port() {
    with_tables(
        |tables| {
            super::set_mode(tables, Service::NAT);
            for (key, service) in tables.services.clone() {
                if key.protocol == protocol::TCP {
                    let any = pen_common::abi::ServiceKey { port: Default::default(), ..key };
                    tables.services.remove(&key);
                    tables.services.insert(any, service);
                }
            }
            for backend in tables.backends.values_mut() {
                backend.port = Default::default();
            }
        },
        |site| {
            for port in [1, 80, 443, 65535] {
                for packet in [Packet::tcp(VIP4, port), Packet::tcp(VIP6, port)] {
                    let frame = packet.frame();
                    let sent = site.request(&frame);
                    let expected = Parsed { port, ..expected(site, Service::NAT, &frame, &sent) };
                    assert_eq!(sent, expected);
                    let answer = site.answer_to(&sent).frame();
                    assert_eq!(site.returned(&answer).source_port, port);
                }
            }
        },
    );
}
