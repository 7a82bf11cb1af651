//! Every reason to refuse a packet, with a packet that is refused for it: it is counted, and no timer
//! takes notice.

use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::MacAddr;

use super::vectors::REACTIONS;
use crate::api::carp::CarpState;
use crate::engine::carp::digest::Digests;
use crate::engine::carp::fixtures::{IFINDEX, bsd, key, link, strong, strong_with, ucarp, unhex};
use crate::engine::carp::packet::{Advert, Envelope};
use crate::engine::carp::trailer::{Keys, Trailer};
use crate::engine::carp::vips::VipSet;
use crate::engine::carp::{
    Accept, Action, Auth, CARP_GROUP, Carp, Event, Family, RejectReason, Secret, Settings, Start,
    Transport,
};

/// Node 10.77.0.2 with one group, and what another node sends to it.
struct Bench {
    carp: Carp,
    now: Moment,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Moment(1_000_000_000_000);
        let mut carp = Carp::new(Start { node: 2, random: 7, sequence: 1 }, now);
        carp.configure(now, vec![settings]);
        carp.handle(now, Event::LinkChanged(link(2)));
        Self { carp, now }
    }

    fn master(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.pass(Duration::from_secs(3));
        bench.carp.handle(bench.now, Event::AddressesReady { group: 1, result: Ok(()) });
        assert_eq!(bench.state(), CarpState::Master);
        bench
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.carp.handle(self.now, Event::TimePassed);
    }

    fn state(&self) -> CarpState {
        self.carp.snapshot(self.now)[0].state
    }

    fn receive(&mut self, frame: &[u8]) {
        let family = if frame[12] == 0x86 { Family::V6 } else { Family::V4 };
        let packet = frame[14..].to_vec();
        self.carp.handle(self.now, Event::Received { ifindex: IFINDEX, family, packet });
        self.carp.handle(self.now, Event::TimePassed);
    }

    /// Reasons that were counted, with how often.
    fn refused(&self) -> Vec<(String, u64)> {
        let group = self.carp.snapshot(self.now).remove(0);
        group.drops.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// An advertisement as another node sends it.
#[derive(Clone)]
struct Peer {
    source: IpAddr,
    destination: IpAddr,
    advert: Advert,
    password: &'static str,
    vips: Vec<IpAddr>,
    trailer: Option<Trailer>,
    key: u8,
}

impl Peer {
    fn new() -> Self {
        let vips: Vec<IpAddr> = vec![[10, 77, 0, 100].into()];
        Self {
            source: [10, 77, 0, 9].into(),
            destination: CARP_GROUP.into(),
            advert: Advert {
                vhid: 42,
                advskew: 0,
                demote: 0,
                advbase: 1,
                counter: 77,
                digest: [0; 20],
            },
            password: "love",
            trailer: None,
            key: 1,
            vips,
        }
    }

    fn signed(sequence: u64) -> Self {
        let fields = Trailer {
            key: 1,
            node: 9,
            sequence,
            interval_us: 1_000_000,
            vips: VipSet::of(&Self::new().vips),
            ..Trailer::default()
        };
        Self { trailer: Some(fields), ..Self::new() }
    }

    /// With these virtual addresses.
    fn having(mut self, vips: &[[u8; 4]]) -> Self {
        self.vips = vips.iter().map(|vip| IpAddr::from(*vip)).collect();
        let vips = VipSet::of(&self.vips);
        self.trailer = self.trailer.map(|fields| Trailer { vips, ..fields });
        self
    }

    fn frame(&self) -> Vec<u8> {
        let mut advert = self.advert;
        let digests = Digests::new(&Secret::new(self.password), advert.vhid, &self.vips);
        advert.digest = digests.sign(advert.counter);
        let header = advert.encode();
        let trailer = self.trailer.map(|fields| {
            let mut key = key(self.key);
            key.id = fields.key;
            Keys::new(&[key]).sign(&fields, self.source, self.destination, &header).unwrap()
        });
        let envelope = Envelope {
            mac: MacAddr([0, 0, 0x5e, 0, 0, 42]),
            source: self.source,
            destination: self.destination,
            id: 1,
            broadcast: false,
        };
        envelope.frame(&header, trailer.as_ref().map_or(&[], |bytes| bytes))
    }

    /// With bytes of the IPv4 packet changed, and its header's checksum right.
    fn with(&self, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut frame = self.frame();
        for (at, value) in changes {
            frame[14 + at] = *value;
        }
        right_ip_checksum(&mut frame);
        frame
    }
}

fn right_ip_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = !((sum >> 16) + (sum & 0xffff));
    frame[24..26].copy_from_slice(&folded.to_be_bytes()[2..]);
}

fn right_carp_checksum(frame: &mut [u8]) {
    frame[40..42].fill(0);
    let words = frame[34..70].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    frame[40..42].copy_from_slice(&(!((sum >> 16) + sum)).to_be_bytes()[2..]);
}

#[test]
fn the_real_ucarps_reactions_are_ours_but_where_we_are_stricter() {
    let reasons = [
        ("wrong-password", "bad-digest"),
        ("wrong-vip-set", "bad-digest"),
        ("ttl-254", "bad-ttl"),
        ("version-3", "bad-version"),
        ("type-2", "bad-type"),
        ("authlen-0", "bad-auth-len"),
        ("other-vhid", "other-vhid"),
        ("other-group", "other-destination"),
        ("bad-ip-checksum", "bad-ip-checksum"),
        ("bad-carp-checksum", "bad-checksum"),
        ("bad-hmac", "bad-digest"),
        ("own-source-address", "own-source"),
    ];
    let stricter = ["type-2", "authlen-0"];
    for (name, ucarp_yields, frame) in REACTIONS {
        let mut bench = Bench::master(ucarp(1));
        bench.receive(&unhex(frame));
        let yields = bench.state() == CarpState::Backup;
        assert_eq!(yields, ucarp_yields && !stricter.contains(&name), "{name}");
        let reason = reasons.iter().find(|(case, _)| *case == name);
        let expected: Vec<_> = reason.iter().map(|(_, why)| ((*why).to_owned(), 1)).collect();
        assert_eq!(bench.refused(), expected, "{name}");
    }
}

/// Settings, frames that are sent, and how often the reason is counted then.
fn example(reason: RejectReason) -> (Settings, Vec<Vec<u8>>) {
    use RejectReason as R;
    let peer = Peer::new();
    let one = |frame| (ucarp(1), vec![frame]);
    let signed = |peer: Peer| (strong(1), vec![peer.frame()]);
    match reason {
        R::Truncated => one(peer.frame()[..60].to_vec()),
        R::BadIpHeader => one(peer.with(&[(9, 17)])),
        R::BadIpChecksum => {
            let mut frame = peer.frame();
            frame[24] ^= 1;
            one(frame)
        }
        R::Fragment => one(peer.with(&[(6, 0x20)])),
        R::BadTtl => one(peer.with(&[(8, 254)])),
        R::Foreign => one(vrrp(2)),
        R::BadVersion => {
            let mut frame = peer.with(&[(20, 0x41)]);
            right_carp_checksum(&mut frame);
            one(frame)
        }
        R::BadType => {
            let mut frame = peer.with(&[(20, 0x22)]);
            right_carp_checksum(&mut frame);
            one(frame)
        }
        R::BadAuthLen => one(peer.with(&[(23, 6)])),
        R::BadChecksum => one(peer.with(&[(26, 0x55)])),
        R::OtherVhid => one(Peer { advert: Advert { vhid: 43, ..peer.advert }, ..peer }.frame()),
        R::OtherFamily => {
            let (source, destination) = ("fe80::9".parse().unwrap(), "ff02::12".parse().unwrap());
            one(Peer { source, destination, ..peer }.frame())
        }
        R::OtherDestination => one(Peer { destination: [224, 0, 0, 19].into(), ..peer }.frame()),
        R::OwnSource => one(Peer { source: [10, 77, 0, 2].into(), ..peer }.frame()),
        R::BadSource => one(Peer { source: [10, 77, 0, 100].into(), ..peer }.frame()),
        R::UnknownPeer => {
            let settings = Settings { peers: vec![[10, 77, 0, 8].into()], ..ucarp(1) };
            (settings, vec![peer.frame()])
        }
        R::BadDigest => one(Peer { password: "hate", ..peer }.frame()),
        R::Repeated => {
            let moved = Peer { source: [10, 77, 0, 8].into(), ..peer.clone() };
            (ucarp(1), vec![peer.frame(), moved.frame()])
        }
        R::NoTrailer => signed(peer),
        R::BadTrailer => {
            let mut frame = Peer::signed(5).frame();
            frame[14 + 20 + 36 + 2] = 9;
            (strong(1), vec![frame])
        }
        R::UnknownKey => {
            let mut peer = Peer::signed(5);
            peer.trailer = peer.trailer.map(|fields| Trailer { key: 2, ..fields });
            signed(peer)
        }
        R::BadTag => signed(Peer { key: 2, ..Peer::signed(5) }),
        R::OtherVips => signed(Peer::signed(5).having(&[[10, 77, 0, 101]])),
        R::Replayed => (strong(1), vec![Peer::signed(5).frame(), Peer::signed(5).frame()]),
        R::Late => (strong(1), vec![Peer::signed(5).frame(), Peer::signed(4).frame()]),
    }
}

/// A genuine VRRP advertisement of one address.
fn vrrp(version: u8) -> Vec<u8> {
    let mut payload = vec![version << 4 | 1, 42, 100, 1, 0, 1, 0, 0, 10, 77, 0, 100];
    let mut sum: u32 = 0;
    if version == 2 {
        payload.extend([0; 8]);
    } else {
        let pseudo = [0x0a4d, 9, 0xe000, 0x12, 112, u32::try_from(payload.len()).unwrap()];
        sum = pseudo.iter().sum();
    }
    let words = payload.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    sum += words.sum::<u32>();
    payload[6..8].copy_from_slice(&(!((sum >> 16) + (sum & 0xffff))).to_be_bytes()[2..]);
    let mut frame = Peer::new().frame()[..34].to_vec();
    frame[17] = u8::try_from(20 + payload.len()).unwrap();
    right_ip_checksum(&mut frame);
    [frame, payload].concat()
}

#[test]
fn every_reason_refuses_a_packet_and_moves_no_timer() {
    for reason in RejectReason::ALL {
        let (settings, frames) = example(reason);
        let mut bench = Bench::new(settings);
        let mut before = None;
        for frame in &frames {
            before = Some(bench.carp.next_deadline());
            bench.pass(Duration::from_millis(500));
            bench.receive(frame);
            if frames.len() > 1 && before != Some(bench.carp.next_deadline()) {
                // The first of two is genuine.
                assert_eq!(bench.refused(), [], "{reason:?}");
            }
        }
        assert_eq!(bench.refused(), [(reason.name().to_owned(), 1)], "{reason:?}");
        assert_eq!(bench.state(), CarpState::Backup, "{reason:?}");
        assert_eq!(before, Some(bench.carp.next_deadline()), "{reason:?}");
    }
}

#[test]
fn vrrp_of_either_version_is_foreign() {
    for version in [2, 3] {
        let mut bench = Bench::new(ucarp(1));
        bench.receive(&vrrp(version));
        assert_eq!(bench.refused(), [("foreign".to_owned(), 1)], "{version}");
    }
}

/// Behaviour 10.
#[test]
fn a_backup_takes_over_on_time_whatever_is_thrown_at_it() {
    for settings in [ucarp(1), bsd(1)] {
        let mut bench = Bench::new(settings);
        bench.receive(&Peer::new().frame());
        let due = bench.carp.next_deadline();
        assert_eq!(due, bench.now + Duration::from_secs(3));
        let genuine = Peer::new();
        for reason in RejectReason::ALL {
            let (settings, frames) = example(reason);
            if matches!(settings.auth, Auth::Ucarp { .. }) && frames.len() == 1 {
                bench.pass(Duration::from_millis(10));
                let two_families = reason == RejectReason::OtherFamily;
                if !two_families && settings.peers.is_empty() {
                    bench.receive(&frames[0]);
                }
            }
        }
        let mut other = genuine.clone();
        other.vips = vec![[10, 77, 0, 101].into()];
        bench.receive(&other.frame());
        for length in 14..genuine.frame().len() {
            bench.receive(&genuine.frame()[..length]);
        }
        assert_eq!(bench.carp.next_deadline(), due);
        bench.now = due;
        bench.carp.handle(due, Event::TimePassed);
        let mut actions = std::iter::from_fn(|| bench.carp.poll_action());
        assert!(actions.any(|action| action == Action::TakeAddresses { group: 1 }));
        let counted: Vec<_> = bench.refused().into_iter().map(|(name, _)| name).collect();
        for name in ["bad-digest", "bad-ttl", "bad-version", "bad-type", "bad-auth-len"] {
            assert!(counted.contains(&name.to_owned()), "{name}");
        }
        for name in ["bad-ip-checksum", "bad-checksum", "other-vhid", "fragment", "truncated"] {
            assert!(counted.contains(&name.to_owned()), "{name}");
        }
    }
}

#[test]
fn a_constant_counter_is_no_replay_from_a_bsd() {
    let mut bench = Bench::new(bsd(1));
    bench.receive(&Peer::new().frame());
    bench.receive(&Peer::new().frame());
    assert_eq!(bench.refused(), []);
}

#[test]
fn our_own_packet_with_another_source_is_a_replay() {
    let mut bench = Bench::master(ucarp(1));
    let actions = std::iter::from_fn(|| bench.carp.poll_action());
    let sent = actions.filter_map(|action| match action {
        Action::Send { frame, .. } if frame[12..14] == [8, 0] => Some(frame),
        _ => None,
    });
    let mut frame = sent.last().unwrap();
    frame[29] = 9;
    frame[36] = 0;
    right_ip_checksum(&mut frame);
    bench.receive(&frame);
    assert_eq!(bench.refused(), [("repeated".to_owned(), 1)]);
}

#[test]
fn a_unicast_peer_is_heard_from_as_far_as_it_is_allowed_to_be() {
    let transport = Transport::Unicast { min_ttl: 250 };
    let peers = vec![[10, 77, 0, 9].into()];
    let settings = Settings { transport, peers, ..strong(1) };
    let own: IpAddr = [10, 77, 0, 2].into();
    let peer = Peer { destination: own, ..Peer::signed(5) };
    let cases = [
        (peer.frame(), None),
        (peer.with(&[(8, 250)]), None),
        (peer.with(&[(8, 249)]), Some("bad-ttl")),
        (Peer::signed(5).frame(), Some("other-destination")),
    ];
    for (frame, refused) in cases {
        let mut bench = Bench::new(settings.clone());
        bench.receive(&frame);
        let expected: Vec<_> = refused.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(bench.refused(), expected);
    }
}

/// What each step of going over to signatures takes: a signed packet, one of a listed peer without,
/// and one of another.
#[test]
fn each_step_to_signatures_takes_what_it_says() {
    let listed: Option<&[&str]> = Some(&["10.77.0.9"]);
    let cases = [
        (Accept::Enforce, listed, [None, Some("no-trailer"), Some("no-trailer")]),
        (Accept::Permissive, listed, [None, None, Some("no-trailer")]),
        (Accept::ReceiveOnly, listed, [None, None, Some("no-trailer")]),
        (Accept::Permissive, Some(&[]), [None, None, None]),
        (Accept::Permissive, None, [None, Some("no-trailer"), Some("no-trailer")]),
    ];
    let other = Peer { source: [10, 77, 0, 8].into(), ..Peer::new() };
    for (accept, legacy, expected) in cases {
        let frames = [Peer::signed(5).frame(), Peer::new().frame(), other.frame()];
        for (frame, expected) in frames.iter().zip(expected) {
            let mut bench = Bench::new(strong_with(1, accept, legacy));
            bench.receive(frame);
            let expected: Vec<_> = expected.iter().map(|name| ((*name).to_owned(), 1)).collect();
            assert_eq!(bench.refused(), expected, "{accept:?}");
        }
    }
    // A wrong password is no way around it.
    let mut bench = Bench::new(strong_with(1, Accept::Permissive, listed));
    bench.receive(&Peer { password: "hate", ..Peer::new() }.frame());
    assert_eq!(bench.refused(), [("bad-digest".to_owned(), 1)]);
    // Nor is a broken trailer.
    let mut bench = Bench::new(strong_with(1, Accept::Permissive, listed));
    bench.receive(&Peer { key: 2, ..Peer::signed(5) }.frame());
    assert_eq!(bench.refused(), [("bad-tag".to_owned(), 1)]);
}

#[test]
fn a_node_with_our_number_is_a_peer_unless_it_has_our_address_as_well() {
    let mut bench = Bench::new(strong(1));
    let mut peer = Peer::signed(5);
    peer.trailer = peer.trailer.map(|fields| Trailer { node: 2, ..fields });
    bench.receive(&peer.frame());
    bench.receive(&Peer { source: [10, 77, 0, 2].into(), ..peer }.frame());
    assert_eq!(bench.refused(), [("own-source".to_owned(), 1)]);
    assert_eq!(bench.carp.snapshot(bench.now)[0].peers[0].same_name, Some(true));
}

#[test]
fn other_addresses_of_a_signed_peer_are_told_as_such() {
    let mut bench = Bench::new(strong(1));
    let peer = Peer::signed(5).having(&[[10, 77, 0, 99], [10, 77, 0, 100]]);
    bench.receive(&peer.frame());
    assert_eq!(bench.refused(), []);
    let group = bench.carp.snapshot(bench.now).remove(0);
    assert_eq!(group.peers[0].same_vips, Some(false));
    let told: Vec<_> = std::iter::from_fn(|| bench.carp.poll_action())
        .filter_map(|action| match action {
            Action::Tell { kind: "carp-peer-vips", text, .. } => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["g1: 10.77.0.9 has other addresses"]);
}

/// Its numbers are those of its node, whose real advertisements are to be heard afterwards.
#[test]
fn an_advertisement_of_another_group_of_a_peer_uses_up_no_number() {
    let mut bench = Bench::new(strong(1));
    bench.receive(&Peer::signed(9).having(&[[10, 77, 0, 101]]).frame());
    bench.receive(&Peer::signed(5).frame());
    assert_eq!(bench.refused(), [("other-vips".to_owned(), 1)]);
    assert_eq!(bench.carp.snapshot(bench.now)[0].received, 1);
}

#[test]
fn refusals_are_told_once_a_minute() {
    let mut bench = Bench::new(ucarp(1));
    let mut told = 0;
    for _ in 0..130 {
        bench.pass(Duration::from_secs(1));
        bench.receive(&Peer { password: "hate", ..Peer::new() }.frame());
        told += std::iter::from_fn(|| bench.carp.poll_action())
            .filter(|action| matches!(action, Action::Tell { kind: "carp-refused", .. }))
            .count();
    }
    assert_eq!(told, 3);
}
