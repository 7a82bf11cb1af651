//! Fragments: all of a datagram go where its first one goes, in every mode and both ways, and can be
//! put together there.

use aya::maps::{HashMap, Map, MapData};
use pen_common::ABI_VERSION;
use pen_common::abi::{Backend, Frag, FragKey, Service, map};
use pen_common::frag::LIFETIME_NS;
use pen_common::verdict::Counter;

use crate::bench::Bench;
use crate::frame::{
    IP, IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, be16, checksum, patch, tagged, usual_packets,
};
use crate::nat::{MODES, with_site};
use crate::parse::Parsed;
use crate::tunnel::{TUNNELS, is_tunnelled, through_tunnels};
use crate::world::{VIP4, VIP6, backend_at, usual};

/// The fragments of an untagged frame without options, each with so many bytes of payload; the last
/// has the rest.
fn split(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    assert_eq!(size % 8, 0, "only the last one may end anywhere");
    let is_v4 = frame[IP] >> 4 == 4;
    let (head, payload) = frame.split_at(if is_v4 { IPV4_PAYLOAD } else { IPV6_PAYLOAD });
    let count = payload.len().div_ceil(size);
    (0..count)
        .map(|index| {
            let part = &payload[index * size..payload.len().min((index + 1) * size)];
            let (offset, more) = (index * size, index + 1 < count);
            if is_v4 {
                let field = u16::try_from(offset / 8).expect("13 bits") | u16::from(more) << 13;
                let head = patch(head, IP + 2, &be16(20 + part.len()));
                let head = patch(&head, IP + 4, &id.to_be_bytes());
                [with_sum(&patch(&head, IP + 6, &field.to_be_bytes())), part.to_vec()].concat()
            } else {
                let field = u16::try_from(offset).expect("16 bits") | u16::from(more);
                let head = patch(head, IP + 4, &be16(8 + part.len()));
                let [a, b] = field.to_be_bytes();
                let [c, d] = id.to_be_bytes();
                let extension = [head[IP + 6], 0, a, b, 0, 0, c, d];
                [&patch(&head, IP + 6, &[44])[..], &extension, part].concat()
            }
        })
        .collect()
}

/// The frame of the whole packet, as its receiver puts it together.
fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = fragments[0][IP] >> 4 == 4;
    let first = &fragments[0];
    if is_v4 {
        let payload: Vec<u8> =
            fragments.iter().flat_map(|frame| frame[IPV4_PAYLOAD..].to_vec()).collect();
        let head = patch(&first[..IPV4_PAYLOAD], IP + 2, &be16(20 + payload.len()));
        [with_sum(&patch(&head, IP + 6, &[0, 0])), payload].concat()
    } else {
        let payload: Vec<u8> =
            fragments.iter().flat_map(|frame| frame[IPV6_PAYLOAD + 8..].to_vec()).collect();
        let head = patch(&first[..IPV6_PAYLOAD], IP + 4, &be16(payload.len()));
        [patch(&head, IP + 6, &[first[IPV6_PAYLOAD]]), payload].concat()
    }
}

/// The header of IPv4 with its checksum right.
fn with_sum(head: &[u8]) -> Vec<u8> {
    let head = patch(head, IP + 10, &[0, 0]);
    patch(&head, IP + 10, &checksum(&head[IP..IPV4_PAYLOAD]))
}

/// Each usual packet in fragments, named.
fn usual_fragments() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    usual_packets()
        .into_iter()
        .map(|(what, packet)| {
            let data: Vec<u8> = (0..=u8::MAX).cycle().take(2501).collect();
            (what, split(&packet.data(&data).frame(), 0x1234, 1000))
        })
        .collect()
}

fn records(bench: &Bench) -> HashMap<MapData, FragKey, Frag> {
    let pin = bench.pins().0.join(format!("v{ABI_VERSION}")).join(map::FRAGS);
    let map = MapData::from_pin(pin).expect("it is pinned");
    HashMap::try_from(Map::LruHashMap(map)).expect("it is a hash")
}

#[test]
fn all_fragments_of_a_datagram_go_to_one_backend_unchanged() {
    let mut bench = Bench::new(usual());
    for (what, fragments) in usual_fragments() {
        let ids: Vec<_> = fragments.iter().map(|frame| bench.forwarded(frame)).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| *id == ids[0]), "{what}: {ids:?}");
        // Those of the same flow that is not fragmented go there as well.
        assert_eq!(bench.forwarded(&join(&fragments)), ids[0], "{what}");
    }
}

#[test]
fn fragments_keep_their_tags_options_and_padding() {
    let mut bench = Bench::new(usual());
    for (_, fragments) in usual_fragments() {
        for frame in fragments {
            bench.forwarded(&tagged(&frame, 0x8100));
            bench.forwarded(&tagged(&tagged(&frame, 0x8100), 0x88a8));
            bench.forwarded(&[frame, vec![0xee; 9]].concat());
        }
    }
    let id: (u8, &[u8]) = (44, &[0, 1, 0, 0, 0, 9]);
    let later: (u8, &[u8]) = (44, &[0, 64, 0, 0, 0, 9]);
    let hop: (u8, &[u8]) = (0, &[1, 4, 0, 0, 0, 0]);
    let packet = Packet::udp(VIP6, 53).data(&[5; 56]);
    bench.forwarded(&packet.clone().extended(&[hop, id]).frame());
    bench.forwarded(&packet.extended(&[hop, later]).frame());
    let packet = Packet::udp(VIP4, 53).options(&[1; 8]).frame();
    bench.forwarded(&patch(&packet, IP + 6, &[0x20, 0]));
    bench.forwarded(&patch(&packet, IP + 6, &[0, 2]));
}

#[test]
fn all_fragments_go_through_the_tunnel_to_one_backend() {
    for (mode, to) in TUNNELS {
        let mut bench = Bench::new(through_tunnels(usual(), mode, to));
        for (what, fragments) in usual_fragments() {
            let ids: Vec<_> = fragments
                .iter()
                .map(|frame| {
                    let out = bench.run(frame).frame;
                    is_tunnelled(bench.tables(), frame, &out, mode, to)
                })
                .collect();
            assert!(ids.iter().all(|id| *id == ids[0]), "{what}: {ids:?}");
        }
    }
}

#[test]
fn translated_fragments_make_the_translated_datagram_both_ways() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, fragments) in usual_fragments() {
                let mut run = |frames: &[Vec<u8>], ingress: u32, counter: Counter| -> Vec<_> {
                    let run = |frame: &Vec<u8>| {
                        let outcome = site.bench.run_on(ingress, frame);
                        assert_eq!(outcome.counter, counter, "{what}");
                        outcome.frame
                    };
                    frames.iter().map(run).collect()
                };
                let (front, back) = (site.front, site.back);
                let sent = run(&fragments, front, Counter::Redirect);
                let came = Parsed::of(&join(&fragments));
                let joined = Parsed::of(&join(&sent));
                assert_eq!(joined.payload, came.payload, "{what}");
                for frame in &sent {
                    assert_eq!(backend_at(frame), backend_at(&sent[0]), "{what}");
                }
                let answer = site.answer_to(&joined).data(&[3; 2000]).frame();
                let fragments = split(&answer, 0x4321, 800);
                let mut run = |frames: &[Vec<u8>]| -> Vec<_> {
                    let run = |frame: &Vec<u8>| {
                        let outcome = site.bench.run_on(back, frame);
                        assert_eq!(outcome.counter, Counter::ReturnRedirect, "{what}");
                        outcome.frame
                    };
                    frames.iter().map(run).collect()
                };
                let returned = Parsed::of(&join(&run(&fragments)));
                assert_eq!(returned.source, came.destination, "{what}");
                assert_eq!(returned.destination, came.source, "{what}");
                assert_eq!((returned.source_port, returned.port), (came.port, came.source_port));
                assert_eq!(returned.payload, Parsed::of(&answer).payload, "{what}");
            }
        });
    }
}

#[test]
fn a_fragment_on_its_last_hop_is_not_translated() {
    with_site(Service::NAT, |site| {
        for ((what, fragments), at) in
            usual_fragments().into_iter().zip([IP + 8, IP + 8, IP + 7, IP + 7])
        {
            site.request(&fragments[0]);
            let outcome = site.bench.run_on(site.front, &patch(&fragments[1], at, &[1]));
            assert_eq!(outcome.counter, Counter::DropTtl, "{what}");
        }
    });
}

#[test]
fn a_fragment_of_an_answer_to_others_passes() {
    for mode in MODES {
        with_site(mode, |site| {
            for (what, packet) in usual_packets() {
                let sent = site.request(&packet.frame());
                let mut other = site.answer_to(&sent).data(&[3; 2000]);
                other.port ^= 0x4000;
                for frame in split(&other.frame(), 77, 800) {
                    assert_eq!(site.answer(&frame).counter, Counter::PassNotOurs, "{what}");
                }
            }
        });
    }
}

#[test]
fn a_fragment_whose_first_is_not_known_passes() {
    let mut bench = Bench::new(usual());
    for (what, fragments) in usual_fragments() {
        bench.ends_in(Counter::PassFragment, &fragments[1], what);
        bench.forwarded(&fragments[0]);
        bench.forwarded(&fragments[1]);
        // Another datagram, another client, another protocol, another address of ours.
        let at = if fragments[1][IP] >> 4 == 4 { IP + 4 } else { IPV6_PAYLOAD + 6 };
        let source = if at == IP + 4 { IP + 12 } else { IP + 8 };
        for (at, bytes) in [(at, [0x12, 0x35]), (source, [0x20, 0x02])] {
            bench.ends_in(Counter::PassFragment, &patch(&fragments[1], at, &bytes), what);
        }
        bench.forwarded(&fragments[2]);
    }
}

#[test]
fn a_record_holds_for_half_a_minute() {
    let mut bench = Bench::new(usual());
    for (what, fragments) in usual_fragments() {
        let age = |bench: &Bench, time_ns: u64| {
            let mut records = records(bench);
            let old: Vec<_> = records.iter().collect::<Result<_, _>>().expect("readable");
            for (key, frag) in old {
                let frag = Frag { seen_ns: frag.seen_ns - time_ns, ..frag };
                records.insert(key, frag, 0).expect("writable");
            }
        };
        bench.forwarded(&fragments[0]);
        age(&bench, LIFETIME_NS - 5_000_000_000);
        bench.forwarded(&fragments[1]);
        age(&bench, LIFETIME_NS);
        bench.ends_in(Counter::PassFragment, &fragments[2], what);
        // A new datagram of the same identification.
        bench.forwarded(&fragments[0]);
        bench.forwarded(&fragments[2]);
    }
}

#[test]
fn a_fragment_never_goes_to_a_backend_that_went_down() {
    let mut bench = Bench::new(usual());
    for (what, fragments) in usual_fragments() {
        let id = bench.forwarded(&fragments[0]);
        bench.set_state(id, Backend::DOWN);
        assert_ne!(bench.forwarded(&fragments[1]), id, "{what}");
    }
}

#[test]
fn a_fragment_that_is_cut_short_anywhere_passes() {
    for mode in [Service::DSR, Service::NAT, Service::MASQUERADE] {
        with_site(mode, |site| {
            for packet in [Packet::udp(VIP4, 53), Packet::tcp(VIP6, 80)] {
                let fragments = split(&packet.data(&[5; 80]).frame(), 9, 40);
                for frame in &fragments[..2] {
                    for end in 14..frame.len() {
                        let counter = site.bench.run_on(site.front, &frame[..end]).counter;
                        let passes =
                            [Counter::PassNotOurs, Counter::PassMalformed, Counter::PassFragment];
                        assert!(passes.contains(&counter), "{end} bytes: {counter:?}");
                    }
                    let counter = site.bench.run_on(site.front, frame).counter;
                    assert_eq!(counter, Counter::Redirect);
                }
            }
        });
    }
}

#[test]
fn a_first_fragment_without_the_whole_transport_header_passes() {
    let mut bench = Bench::new(usual());
    for packet in [Packet::tcp(VIP4, 80), Packet::tcp(VIP6, 80)] {
        let fragments = split(&packet.data(&[5; 80]).frame(), 9, 16);
        bench.ends_in(Counter::PassFragment, &fragments[0], "sixteen bytes of TCP");
        bench.ends_in(Counter::PassFragment, &fragments[1], "the next sixteen");
    }
    for packet in [Packet::udp(VIP4, 53), Packet::udp(VIP6, 53)] {
        let fragments = split(&packet.data(&[5; 80]).frame(), 9, 8);
        for frame in &fragments {
            bench.forwarded(frame);
        }
    }
}

#[test]
fn a_single_fragment_is_a_whole_packet() {
    let mut bench = Bench::new(usual());
    let frame = &split(&Packet::udp(VIP6, 53).frame(), 9, 1000)[0];
    bench.forwarded(frame);
    with_site(Service::MASQUERADE, |site| {
        let sent = site.request(frame);
        let answer = &split(&site.answer_to(&sent).frame(), 9, 1000)[0];
        assert_eq!(site.returned(answer).port, 40000);
    });
}
