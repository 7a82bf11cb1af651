//! Whatever bytes arrive: the program says PASS, DROP, TX or REDIRECT, never ABORTED, and answers or
//! forwards only what names one of our addresses in its place. The seed is fixed, so that a failure
//! comes again.

use pen_common::net::protocol;

use crate::bench::{Action, Bench};
use crate::frame::{
    ARP, Arp, IP, IPV4, IPV6, IPV6_PAYLOAD, NONCE, Packet, Solicitation, tagged, usual_packets,
};
use crate::icmp::{FAMILIES, V4, V6, replies::narrow, with_echo};
use crate::rng::Rng;
use crate::tunnel::{TUNNELS, through_tunnels};
use crate::world::{VIP_MAC, VIP4, VIP6, by_client, usual};

/// Frames in each mode of each test: a million together.
const FRAMES: u64 = 60_000;

/// Whether a frame names a virtual address where its kind of frame names whom it is for.
fn is_for_us(frame: &[u8]) -> bool {
    let at = |offset: usize, bytes: &[u8]| frame.get(offset..offset + bytes.len()) == Some(bytes);
    let ethertype = |at: usize| {
        frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let mut l2 = IP;
    while l2 < IP + 8 && [0x8100, 0x88a8].contains(&ethertype(l2 - 2)) {
        l2 += 4;
    }
    match ethertype(l2 - 2) {
        IPV4 => at(l2 + 16, &VIP4.octets()),
        ARP => l2 == IP && at(IP + 24, &VIP4.octets()),
        IPV6 if l2 == IP && at(IP + 6, &[protocol::ICMPV6]) && at(IPV6_PAYLOAD, &[135]) => {
            at(IPV6_PAYLOAD + 8, &VIP6.octets())
        }
        IPV6 => at(l2 + 24, &VIP6.octets()),
        _ => false,
    }
}

/// Runs frames made by `make`, part of them in each mode, and returns how many did something else
/// than pass.
fn fuzz(seed: u64, mut make: impl FnMut(&mut Rng) -> Vec<u8>) -> u64 {
    let mut rng = Rng::new(seed);
    let modes = TUNNELS.map(|(mode, to)| through_tunnels(usual(), mode, to));
    [by_client(usual())]
        .into_iter()
        .chain(modes)
        .map(|tables| run(Bench::new(with_echo(tables)), seed, &mut rng, &mut make))
        .sum()
}

/// `seed` is what `rng` began with.
fn run(
    mut bench: Bench,
    seed: u64,
    rng: &mut Rng,
    make: &mut impl FnMut(&mut Rng) -> Vec<u8>,
) -> u64 {
    let before = bench.total();
    let mut handled = 0;
    for number in 0..FRAMES {
        let frame = make(rng);
        let (action, out) = bench.send(None, &frame);
        let context = || format!("seed {seed:#x}, frame {number}: {action:?} {frame:02x?}");
        match action {
            Action::Pass => assert_eq!(out, frame, "{}", context()),
            Action::Drop | Action::Tx | Action::Redirect => {
                assert!(is_for_us(&frame), "{}", context());
                handled += 1;
            }
            Action::Aborted => panic!("{}", context()),
        }
    }
    assert_eq!(bench.total() - before, FRAMES, "every frame in one counter");
    handled
}

/// Right frames of all kinds.
fn templates() -> Vec<Vec<u8>> {
    let mut frames: Vec<_> =
        usual_packets().iter().map(|(_, packet)| packet.clone().data(&[7; 40]).frame()).collect();
    let ask = Solicitation::who_has(VIP6);
    frames.extend([
        Arp::who_has(VIP4).frame(),
        ask.frame(),
        ask.clone().options(&[]).frame(),
        ask.options(&[NONCE; 2].concat()).frame(),
        Packet::other(VIP4, 1, &[8; 64]).frame(),
        V4.ping(&[7; 40]).frame(),
        tagged(&V6.ping(&[7; 40]).frame(), 0x8100),
        tagged(&Packet::tcp(VIP4, 80).frame(), 0x8100),
        tagged(&tagged(&Packet::udp(VIP6, 53).frame(), 0x8100), 0x88a8),
        Packet::tcp(VIP4, 80).options(&[1; 40]).frame(),
        Packet::tcp(VIP6, 80).extended(&[(0, &[0; 6]), (43, &[0; 22]), (60, &[0; 6])]).frame(),
        tagged(&Packet::udp(VIP6, 53).extended(&[(60, &[0_u8; 6][..]); 8]).frame(), 0x8100),
    ]);
    for family in FAMILIES {
        for (protocol, port) in [(protocol::TCP, 80), (protocol::UDP, 53)] {
            let quote = family.answer(protocol, port, 40000);
            frames.push(family.error(family.errors[0], &quote).frame());
        }
    }
    frames
}

#[test]
fn random_bytes_never_abort() {
    fuzz(0x70e4, |rng| {
        let length = IP + rng.below(300);
        let mut frame: Vec<u8> = (0..length).map(|_| rng.byte()).collect();
        // Most look like something, for us.
        let ethertype = [IPV4, IPV6, ARP, 0x8100, 0][rng.below(5)];
        if ethertype != 0 {
            frame[..6].copy_from_slice(&VIP_MAC.0);
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        for (offset, bytes) in
            [(IP + 16, &VIP4.octets()[..]), (IP + 24, &VIP4.octets()), (IP + 24, &VIP6.octets())]
        {
            if rng.below(3) == 0 && frame.len() >= offset + bytes.len() {
                frame[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
        frame
    });
}

/// One of the templates with up to three faults.
fn spoilt(templates: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut frame = templates[rng.below(templates.len())].clone();
    for _ in 0..rng.below(4) {
        let at = rng.below(frame.len());
        match rng.below(4) {
            0 => frame[at] = rng.byte(),
            1 => frame[at] ^= 1 << rng.below(8),
            2 => frame.truncate(at.max(IP)),
            _ => frame.extend((0..at).map(|_| 0)),
        }
    }
    frame
}

#[test]
fn right_frames_with_random_faults_never_abort() {
    let templates = templates();
    let handled = fuzz(0xb1a5, |rng| spoilt(&templates, rng));
    assert!(handled > FRAMES, "only {handled} frames were forwarded or answered");
}

#[test]
fn nor_do_they_in_the_program_for_fragments_where_some_are_too_big() {
    let templates = templates();
    let bench = Bench::with_frags(with_echo(narrow(90)));
    let seed = 0xf7a6;
    let handled = run(bench, seed, &mut Rng::new(seed), &mut |rng| {
        let mut frame = spoilt(&templates, rng);
        if rng.below(8) == 0 {
            frame.extend((0..rng.below(9000)).map(|_| 0));
        }
        frame
    });
    assert!(handled > FRAMES / 4, "only {handled} frames were forwarded or answered");
}

#[test]
fn random_faults_in_frames_for_others_change_nothing() {
    let others: Vec<_> = [
        Packet::tcp([203, 0, 113, 9], 80).frame(),
        Packet::udp([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9], 53).frame(),
        Arp::who_has([203, 0, 113, 9].into()).frame(),
        Solicitation::who_has([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into()).frame(),
    ]
    .into();
    let handled = fuzz(0x07e5, |rng| {
        let mut frame = others[rng.below(others.len())].clone();
        for _ in 0..rng.below(6) {
            let at = rng.below(frame.len());
            frame[at] = rng.byte();
        }
        frame
    });
    assert_eq!(handled, 0);
}
