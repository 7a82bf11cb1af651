//! ICMP errors about packets that were translated: whoever gets one reads in it the packet that it
//! sent itself, with every checksum right.

use std::net::IpAddr;

use pen_common::abi::Service;
use pen_common::nat::LINGER_NS;
use pen_common::net::MacAddr;
use pen_common::verdict::Counter;

use super::{FRONT_MAC, MODES, PORT, Site, own, with_site};
use crate::bench::Outcome;
use crate::frame::{
    IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, checksum, patch, tagged, usual_packets,
};
use crate::icmp::{Family, V4, V6, assert_right};
use crate::parse::Parsed;
use crate::world::{CLIENT_MAC, VIP_MAC, backend_at};

/// Bytes of the transport header and payload that are quoted. Half a checksum cannot be translated.
const QUOTED: [usize; 7] = [8, 9, 16, 18, 19, 20, 48];

pub(super) const fn family(address: &IpAddr) -> Family {
    if address.is_ipv4() { V4 } else { V6 }
}

/// An error about the packet of a frame, of which so much of the payload is quoted.
fn error(about: &[u8], quoted: usize, from: IpAddr, to: IpAddr, station: MacAddr) -> Vec<u8> {
    error_of(family(&to).errors[0], about, quoted, from, to, station)
}

/// The same of this type and code.
pub(super) fn error_of(
    (kind, code): (u8, u8),
    about: &[u8],
    quoted: usize,
    from: IpAddr,
    to: IpAddr,
    station: MacAddr,
) -> Vec<u8> {
    let family = family(&to);
    let quote = &about[IP..][..family.header + quoted];
    let mut message = [&[kind, code, 0, 0, 0, 0, 5, 0], quote].concat();
    let pseudo = if to.is_ipv4() {
        Vec::new()
    } else {
        crate::frame::pseudo_header(from, to, family.protocol, message.len())
    };
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum);
    Packet::other(to, family.protocol, &message).from(from, 0).at_station(station).frame()
}

/// What is quoted of a packet that its receiver knows with one hop less.
fn quote(sent: &[u8], quoted: usize) -> Vec<u8> {
    if sent[IP] >> 4 == 6 {
        let hops = patch(sent, IP + 7, &[sent[IP + 7] - 1]);
        return hops[IP..IPV6_PAYLOAD + quoted].to_vec();
    }
    let hops = patch(&patch(sent, IP + 8, &[sent[IP + 8] - 1]), IP + 10, &[0, 0]);
    let sum = checksum(&hops[IP..IPV4_PAYLOAD]);
    patch(&hops, IP + 10, &sum)[IP..IPV4_PAYLOAD + quoted].to_vec()
}

/// Asserts that an error arrives with these ends and this quote, all else as it came.
#[track_caller]
fn assert_error(came: &[u8], out: &[u8], from: IpAddr, to: IpAddr, quote: &[u8]) {
    let family = family(&to);
    assert_right(&family, &out[IP..]);
    let (before, after) = (Parsed::of(came), Parsed::of(out));
    assert_eq!((after.source, after.destination), (from, to));
    assert_eq!((after.ttl, after.rest_of_ip), (before.ttl - 1, before.rest_of_ip));
    let (before, after) = (&before.payload, &after.payload);
    assert_eq!(after[..2], before[..2], "type and code");
    assert_eq!(after[4..8], before[4..8], "the rest of the header");
    assert_eq!(after[8..], *quote, "the quote");
}

/// A request, an answer to it, and how they went on.
struct Talk {
    request: Vec<u8>,
    sent: Vec<u8>,
    answer: Vec<u8>,
    returned: Vec<u8>,
}

fn talk(site: &mut Site, packet: &Packet, without_checksum: bool) -> Talk {
    let unsum = |frame: Vec<u8>| {
        let at = if packet.destination.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
        if without_checksum { patch(&frame, at + 6, &[0, 0]) } else { frame }
    };
    let request = unsum(packet.clone().data(&[0xa5; 60]).frame());
    let sent = site.bench.run_on(site.front, &request).frame;
    let answer = unsum(site.answer_to(&Parsed::of(&sent)).data(&[0x5a; 60]).frame());
    let returned = site.answer(&answer).frame;
    Talk { request, sent, answer, returned }
}

/// Each usual flow, also of datagrams without checksums.
fn flows() -> Vec<(Packet, bool)> {
    let usual = usual_packets().map(|(_, packet)| packet);
    let without = usual.clone().into_iter().filter(|packet| packet.protocol == 17);
    let without: Vec<_> = without.map(|packet| (packet, true)).collect();
    usual.map(|packet| (packet, false)).into_iter().chain(without).collect()
}

#[test]
fn a_backend_reads_of_the_answer_that_it_sent() {
    for mode in MODES {
        with_site(mode, |site| {
            for (packet, without_checksum) in flows() {
                let Talk { sent, answer, returned, .. } = talk(site, &packet, without_checksum);
                let router = family(&packet.destination).router;
                let id = backend_at(&sent);
                let backend = site.bench.tables().backends[&id];
                for quoted in QUOTED {
                    let error = error(&returned, quoted, router, packet.destination, VIP_MAC);
                    let outcome = site.bench.run_on(site.front, &error);
                    assert_eq!(outcome.counter, Counter::Redirect, "{quoted}");
                    assert_eq!(outcome.frame[..6], backend.mac.0);
                    assert_eq!(outcome.frame[6..12], backend.source_mac.0);
                    // A backend that knows no way to the router would not take it from there.
                    let masquerades = mode == Service::MASQUERADE;
                    let from = if masquerades { own(router.is_ipv4()) } else { router };
                    let quote = quote(&answer, quoted);
                    assert_error(&error, &outcome.frame, from, backend.addr.into(), &quote);
                }
            }
            let errors = 6 * u64::try_from(QUOTED.len()).expect("few");
            let counts = site.bench.counts();
            let total: u64 = counts.services.values().map(|count| count.packets).sum();
            assert_eq!(total, errors + 6, "errors and requests");
        });
    }
}

#[test]
fn a_client_reads_of_the_request_that_it_sent_and_of_the_service_alone() {
    for mode in MODES {
        with_site(mode, |site| {
            for (packet, without_checksum) in flows() {
                let Talk { request, sent, .. } = talk(site, &packet, without_checksum);
                let station = site.bench.tables().backends[&backend_at(&sent)].source_mac;
                let (to, backend) = (Parsed::of(&sent).source, Parsed::of(&sent).destination);
                for from in [backend, family(&to).router] {
                    for quoted in QUOTED {
                        let error = error(&sent, quoted, from, to, station);
                        let outcome = site.answer(&error);
                        assert_eq!(outcome.counter, Counter::ReturnRedirect, "{quoted}");
                        assert_eq!(outcome.frame[..6], CLIENT_MAC.0);
                        assert_eq!(outcome.frame[6..12], FRONT_MAC.0);
                        let (vip, client) = (packet.destination, packet.source);
                        let quote = quote(&request, quoted);
                        assert_error(&error, &outcome.frame, vip, client, &quote);
                    }
                }
            }
        });
    }
}

#[test]
fn errors_keep_their_tags_and_padding() {
    for mode in MODES {
        with_site(mode, |site| {
            for (_, packet) in usual_packets() {
                let Talk { sent, returned, .. } = talk(site, &packet, false);
                let router = family(&packet.destination).router;
                let to_backend = error(&returned, 20, router, packet.destination, VIP_MAC);
                let station = site.bench.tables().backends[&backend_at(&sent)].source_mac;
                let to_client = error(&sent, 20, router, Parsed::of(&sent).source, station);
                for (error, ingress) in [(to_backend, site.back), (to_client, site.front)] {
                    let plain = site.bench.run_on(ingress, &error).frame;
                    let frames = [
                        tagged(&error, 0x8100),
                        tagged(&tagged(&error, 0x8100), 0x88a8),
                        [error, vec![0xee; 5]].concat(),
                    ];
                    for frame in frames {
                        let Outcome { counter, frame: out } = site.bench.run_on(ingress, &frame);
                        let same = [Counter::Transmit, Counter::ReturnTransmit];
                        assert!(same.contains(&counter), "{counter:?}");
                        let (tags, padding) = (Parsed::of(&frame).tags, Parsed::of(&frame).padding);
                        let expected = [&plain[..12], &tags, &plain[12..], &padding].concat();
                        assert_eq!(out, expected);
                    }
                }
            }
        });
    }
}

#[test]
fn an_error_about_nothing_of_ours_passes_or_is_dropped() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let Talk { sent, answer, returned, .. } = talk(site, &packet, false);
                let (vip, router) = (packet.destination, family(&packet.destination).router);
                let station = site.bench.tables().backends[&backend_at(&sent)].source_mac;
                let to = Parsed::of(&sent).source;
                let at = if vip.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
                let mut back = |frame: &[u8]| site.answer(frame).counter;
                // Another port, an answer instead of a request, another receiver than the sender.
                let other = patch(&sent, at + 2, &(PORT + 1).to_be_bytes());
                for about in [&other, &answer, &returned] {
                    let frame = error(about, 20, router, to, station);
                    assert_eq!(back(&frame), Counter::PassNotOurs, "{what}");
                }
                let frame = error(&sent, 20, router, router, station);
                assert_eq!(back(&frame), Counter::PassNotOurs, "{what}");
                let short = error(&sent, 7, router, to, station);
                assert_eq!(back(&short), Counter::PassNotOurs, "{what}");
                let flooded = error(&sent, 20, router, to, MacAddr([2, 0, 0, 0, 0, 9]));
                assert_eq!(back(&flooded), Counter::PassNotOurs, "{what}");
                let right = error(&sent, 20, router, to, station);
                assert_eq!(back(&right), Counter::ReturnRedirect, "{what}");

                // No flow of ours has this port.
                let other = patch(&returned, at + 2, &[0x27, 0x10]);
                let frame = error(&other, 20, router, vip, VIP_MAC);
                let counter = site.bench.run_on(site.front, &frame).counter;
                let expected = if mode == Service::NAT {
                    // The backend may know it.
                    Counter::Redirect
                } else {
                    Counter::DropNoEntry
                };
                assert_eq!(counter, expected, "{what}");

                site.age(LINGER_NS.max(crate::world::HOUR_NS));
                assert_eq!(site.answer(&right).counter, Counter::PassNotOurs, "{what}");
            }
        });
    }
}

#[test]
fn an_error_on_its_last_hop_or_cut_short_goes_no_further() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let Talk { sent, returned, .. } = talk(site, &packet, false);
                let router = family(&packet.destination).router;
                let station = site.bench.tables().backends[&backend_at(&sent)].source_mac;
                let to_client = error(&sent, 20, router, Parsed::of(&sent).source, station);
                let to_backend = error(&returned, 20, router, packet.destination, VIP_MAC);
                let at = if router.is_ipv4() { IP + 8 } else { IP + 7 };
                let last = site.bench.run_on(site.front, &patch(&to_backend, at, &[1]));
                assert_eq!(last.counter, Counter::DropTtl, "{what}");
                let last = site.answer(&patch(&to_client, at, &[1]));
                // Nobody is told about an error.
                let drops = mode == Service::MASQUERADE;
                let expected = if drops { Counter::DropTtl } else { Counter::PassNotOurs };
                assert_eq!(last.counter, expected, "{what}");
                for end in 14..to_client.len() {
                    let counter = site.answer(&to_client[..end]).counter;
                    assert_eq!(counter, Counter::PassNotOurs, "{what}, {end} bytes");
                }
                for end in 14..to_backend.len() {
                    let counter = site.bench.run_on(site.front, &to_backend[..end]).counter;
                    let passes =
                        [Counter::PassNotOurs, Counter::PassMalformed, Counter::PassProtocol];
                    assert!(passes.contains(&counter), "{what}, {end} bytes: {counter:?}");
                }
            }
        });
    }
}
