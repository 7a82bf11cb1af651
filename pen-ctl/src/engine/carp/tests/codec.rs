//! The wire format against what the real ucarp sent, byte for byte, and against chance.

use std::net::IpAddr;

use pen_common::net::MacAddr;
use proptest::prelude::*;

use super::vectors::VECTORS;
use crate::engine::carp::digest::Digests;
use crate::engine::carp::event::Family;
use crate::engine::carp::fixtures::{key, unhex};
use crate::engine::carp::packet::{Advert, Envelope, GROUP_V6, HEADER, Packet};
use crate::engine::carp::reject::RejectReason;
use crate::engine::carp::settings::{CARP_GROUP, Secret};
use crate::engine::carp::trailer::{Keys, Trailer};
use crate::engine::carp::vips::VipSet;

#[test]
fn what_ucarp_sends_is_understood() {
    for vector in &VECTORS {
        let frame = unhex(vector.frame);
        let packet = Packet::parse(Family::V4, &frame[14..]).expect(vector.name);
        assert_eq!(packet.source, IpAddr::from(vector.source), "{}", vector.name);
        assert_eq!(packet.destination, CARP_GROUP, "{}", vector.name);
        let advert = packet.advert;
        assert_eq!(
            (advert.vhid, advert.advbase, advert.advskew, advert.demote, advert.counter),
            (vector.vhid, vector.advbase, vector.advskew, 0, vector.counter),
            "{}",
            vector.name
        );
        let digests = Digests::new(&Secret::new(vector.password), vector.vhid, &vector.vips());
        assert!(digests.verify(advert.counter, &advert.digest), "{}", vector.name);
        assert!(!digests.verify(advert.counter.wrapping_add(1), &advert.digest));
        assert!(packet.rest.is_empty());
    }
}

#[test]
fn what_ucarp_sends_is_what_we_send() {
    for vector in &VECTORS {
        let frame = unhex(vector.frame);
        let digests = Digests::new(&Secret::new(vector.password), vector.vhid, &vector.vips());
        let advert = Advert {
            vhid: vector.vhid,
            advskew: vector.advskew,
            demote: 0,
            advbase: vector.advbase,
            counter: vector.counter,
            digest: digests.sign(vector.counter),
        };
        let envelope = Envelope {
            mac: MacAddr([0, 0, 0x5e, 0, 0, vector.vhid]),
            source: vector.source.into(),
            destination: CARP_GROUP.into(),
            id: u16::from_be_bytes([frame[18], frame[19]]), // random
            broadcast: vector.broadcast,
        };
        assert_eq!(envelope.frame(&advert.encode(), &[]), frame, "{}", vector.name);
    }
}

#[test]
fn a_frame_of_ipv6_goes_to_its_group_with_hop_limit_255() {
    let source: IpAddr = "fe80::2".parse().unwrap();
    let envelope = Envelope {
        mac: MacAddr([0, 0, 0x5e, 0, 1, 42]),
        source,
        destination: GROUP_V6.into(),
        id: 0,
        broadcast: false,
    };
    let frame = envelope.frame(&advert(42, 0).encode(), b"rest");
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    let packet = Packet::parse(Family::V6, &frame[14..]).unwrap();
    assert_eq!((packet.source, packet.ttl, packet.rest), (source, 255, &b"rest"[..]));
    assert_eq!(packet.destination, IpAddr::from(GROUP_V6));
}

#[test]
fn a_frame_to_a_peer_leaves_the_ethernet_address_open() {
    let envelope = Envelope {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        source: "10.77.0.1".parse().unwrap(),
        destination: "10.77.0.2".parse().unwrap(),
        id: 0,
        broadcast: false,
    };
    assert_eq!(envelope.frame(&advert(42, 0).encode(), &[])[..6], [0; 6]);
}

#[test]
fn what_is_cut_off_anywhere_is_truncated() {
    let frame = unhex(VECTORS[0].frame);
    for length in 0..frame.len() - 14 {
        let packet = &frame[14..14 + length];
        assert_eq!(Packet::parse(Family::V4, packet), Err(RejectReason::Truncated), "{length}");
    }
    let envelope = Envelope {
        mac: MacAddr::NONE,
        source: "fe80::2".parse().unwrap(),
        destination: GROUP_V6.into(),
        id: 0,
        broadcast: false,
    };
    let frame = envelope.frame(&advert(42, 0).encode(), &[]);
    for length in 0..frame.len() - 14 {
        let packet = &frame[14..14 + length];
        assert_eq!(Packet::parse(Family::V6, packet), Err(RejectReason::Truncated), "{length}");
    }
}

#[test]
fn padding_of_the_frame_is_no_part_of_the_packet() {
    let mut frame = unhex(VECTORS[0].frame);
    frame.extend([0xaa; 64]);
    assert!(Packet::parse(Family::V4, &frame[14..]).unwrap().rest.is_empty());
}

/// The trailer's layout is a public interface: other versions of pen read it.
#[test]
fn a_trailer_stands_as_it_is_documented() {
    let header = advert(42, 7).encode();
    let fields = Trailer {
        key: 3,
        flags: Trailer::BOW_OUT | Trailer::PROMOTED,
        demotion: 0x0102,
        node: 0x1112_1314_1516_1718,
        sequence: 0x2122_2324_2526_2728,
        interval_us: 0x3132_3334,
        vips: VipSet::decode(0x4142_4344_4546_4748, &[0x61, 0x62, 0x63, 0x64]).unwrap(),
        config: 0x5152_5354_5556_5758,
    };
    let (source, group) = ("10.77.0.1".parse().unwrap(), CARP_GROUP.into());
    let bytes = Keys::new(&[key(3)]).sign(&fields, source, group, &header).unwrap();
    let expected = "50430101030501021112131415161718212223242526272831323334\
                    4142434445464748515253545556575861626364";
    assert_eq!(bytes[..48], unhex(&expected.replace(' ', "")));
    // python3: hmac.new(bytes([3]) * 32, b"pen carp advertisement 1" + bytes([4, 1])
    //   + bytes(10) + b"\xff\xff" + bytes([10, 77, 0, 1]) + header + trailer[:48], "sha256")
    let expected = "3f861fc5fd66339121b1c7333e9f796d64092f3e239de5eae9d5ceb4261c0109";
    assert_eq!(bytes[48..], unhex(expected));
    assert_eq!(Keys::new(&[key(2)]).sign(&fields, source, group, &header), None);
}

fn advert(vhid: u8, counter: u64) -> Advert {
    Advert { vhid, advskew: 0, demote: 0, advbase: 1, counter, digest: [7; 20] }
}

prop_compose! {
    fn any_advert()(
        vhid: u8, advskew: u8, demote: u8, advbase: u8, counter: u64, digest: [u8; 20]
    ) -> Advert {
        Advert { vhid, advskew, demote, advbase, counter, digest }
    }
}

prop_compose! {
    fn any_trailer()(
        flags in 0u8..8, demotion: u16, node: u64, sequence: u64, interval_us: u32, hash: u64,
        each in prop::collection::vec(any::<[u8; 4]>(), 0..=16), config: u64
    ) -> Trailer {
        let vips = VipSet::decode(hash, &each.concat()).unwrap();
        Trailer { key: 1, flags, demotion, node, sequence, interval_us, vips, config }
    }
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let addresses = prop_oneof![v4, v6];
    (any::<[u8; 6]>(), addresses, any::<u16>(), any::<bool>()).prop_map(
        |(mac, (source, destination), id, broadcast)| Envelope {
            mac: MacAddr(mac),
            source,
            destination,
            id,
            broadcast,
        },
    )
}

fn family(envelope: &Envelope) -> Family {
    if envelope.source.is_ipv4() { Family::V4 } else { Family::V6 }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(v6: bool, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        if let Ok(packet) = Packet::parse(family, &bytes) {
            let _ = Keys::new(&[key(1)]).verify(&packet);
        }
    }

    /// Nearly right packets get further than random ones.
    #[test]
    fn no_damage_makes_the_decoder_panic(
        envelope in any_envelope(),
        advert in any_advert(),
        trailer in any_trailer(),
        damage in prop::collection::vec((0usize..180, any::<u8>()), 0..4),
        cut in 0usize..180,
    ) {
        let (header, keys) = (advert.encode(), Keys::new(&[key(1)]));
        let bytes = keys.sign(&trailer, envelope.source, envelope.destination, &header).unwrap();
        let mut frame = envelope.frame(&header, &bytes);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let packet = &frame[14..];
        if let Ok(packet) = Packet::parse(family(&envelope), &packet[..cut.min(packet.len())]) {
            let _ = keys.verify(&packet);
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(
        envelope in any_envelope(),
        advert in any_advert(),
        trailer in any_trailer(),
    ) {
        let (header, keys) = (advert.encode(), Keys::new(&[key(1)]));
        let bytes = keys.sign(&trailer, envelope.source, envelope.destination, &header).unwrap();
        let frame = envelope.frame(&header, &bytes);
        let packet = Packet::parse(family(&envelope), &frame[14..]).unwrap();
        prop_assert_eq!(packet.advert, advert);
        prop_assert_eq!((packet.source, packet.destination), (envelope.source, envelope.destination));
        prop_assert_eq!(keys.verify(&packet), Ok(trailer));
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed(at in 0usize..(HEADER + 80) * 8) {
        let source = "10.77.0.1".parse().unwrap();
        let (header, keys) = (advert(42, 9).encode(), Keys::new(&[key(1)]));
        let vips = VipSet::of(&[[10, 77, 0, 100].into()]);
        let fields = Trailer { key: 1, vips, ..Trailer::default() };
        let bytes = keys.sign(&fields, source, CARP_GROUP.into(), &header).unwrap();
        let mut all = [&header[..], &bytes[..]].concat();
        prop_assert_eq!(all.len(), HEADER + 80);
        all[at / 8] ^= 1 << (at % 8);
        let (header, rest) = all.split_first_chunk::<HEADER>().unwrap();
        let packet = Packet {
            source,
            destination: CARP_GROUP.into(),
            ttl: 255,
            advert: advert(42, 9),
            header: *header,
            rest,
        };
        prop_assert!(keys.verify(&packet).is_err());
    }
}
