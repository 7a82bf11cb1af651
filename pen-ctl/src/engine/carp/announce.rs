//! Tells neighbours where the VIPs are: gratuitous ARP and unsolicited neighbour advertisements, and
//! when to send them. In rounds after a take-over, because the first may be lost while switches
//! learn; and again when neighbours may have been told otherwise, but not as often as someone who
//! provokes it likes.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use pen_common::csum::Checksum;
use pen_common::moment::Moment;
use pen_common::net::MacAddr;

use super::packet::sum;

/// Rounds after a take-over.
const ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(2)];
/// Least time between two rounds for other reasons.
const APART: Duration = Duration::from_secs(1);

/// Rounds at once for bow-outs that crossed with the take-over: one that leaves sends three.
const ANSWERS: u8 = 3;

/// When to tell the neighbours.
#[derive(Debug)]
pub(super) struct Announcer {
    rounds: VecDeque<Moment>,
    /// A round for another reason that is to come.
    again_at: Moment,
    /// No such round before this.
    not_before: Moment,
    refresh_at: Moment,
    /// Rounds for bow-outs since the take-over.
    answers: u8,
}

impl Announcer {
    pub(super) const fn new() -> Self {
        Self {
            rounds: VecDeque::new(),
            again_at: Moment::NEVER,
            not_before: Moment(0),
            refresh_at: Moment::NEVER,
            answers: 0,
        }
    }

    /// The node became master.
    pub(super) fn start(&mut self, now: Moment, refresh: Option<Duration>) {
        self.rounds = ROUNDS.iter().map(|after| now + *after).collect();
        self.answers = 0;
        self.refresh_at = refresh.map_or(Moment::NEVER, |refresh| now + refresh);
    }

    /// The node stays master, though it had stopped to tell.
    pub(super) fn go_on(&mut self, now: Moment, refresh: Option<Duration>) {
        self.again(now);
        self.refresh_at = refresh.map_or(Moment::NEVER, |refresh| now + refresh);
    }

    /// Neighbours may have been told otherwise.
    pub(super) fn again(&mut self, now: Moment) {
        self.again_at = self.again_at.min(now.max(self.not_before));
    }

    /// A node that leaves was still heard: switches have learned from it that the virtual address is
    /// there. At once, as often as a node does that which has not heard us yet.
    pub(super) fn answer(&mut self, now: Moment) {
        if self.answers < ANSWERS {
            self.answers += 1;
            self.again_at = now;
        } else {
            self.again(now);
        }
    }

    /// The node is no longer master. That it was told not to repeat itself so soon remains.
    pub(super) fn stop(&mut self) {
        *self = Self { not_before: self.not_before, ..Self::new() };
    }

    /// Whether a round is due; it then counts as sent.
    pub(super) fn due(&mut self, now: Moment, refresh: Option<Duration>) -> bool {
        let mut due = false;
        while self.rounds.front().is_some_and(|at| *at <= now) {
            self.rounds.pop_front();
            due = true;
        }
        if self.again_at <= now {
            self.again_at = Moment::NEVER;
            self.not_before = now + APART;
            due = true;
        }
        if self.refresh_at <= now {
            self.refresh_at = refresh.map_or(Moment::NEVER, |refresh| now + refresh);
            due = true;
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Moment {
        let round = self.rounds.front().copied().unwrap_or(Moment::NEVER);
        round.min(self.again_at).min(self.refresh_at)
    }
}

/// The frame that says that a VIP is at a MAC, and of IPv6 whether a router has it.
pub(super) fn frame(vip: IpAddr, mac: MacAddr, router: bool) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => gratuitous_arp(vip.octets(), mac),
        IpAddr::V6(vip) => neighbour_advertisement(vip, mac, router),
    }
}

/// A request for the own address, as UCarp has it: RFC 5227 section 3 names it an announcement.
fn gratuitous_arp(vip: [u8; 4], mac: MacAddr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(vip);
    frame.extend(mac.0);
    frame.extend(vip);
    frame
}

/// Unsolicited, with Override, to all nodes of the link (RFC 4861 section 7.2.6).
fn neighbour_advertisement(vip: Ipv6Addr, mac: MacAddr, router: bool) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const LENGTH: u16 = 32;
    const ICMPV6: u8 = 58;
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    let mut icmp = [0; LENGTH as usize];
    icmp[0] = 136;
    icmp[4] = OVERRIDE | if router { ROUTER } else { 0 };
    icmp[8..24].copy_from_slice(&vip.octets());
    icmp[24..26].copy_from_slice(&[2, 1]); // target link-layer address, of one unit
    icmp[26..].copy_from_slice(&mac.0);
    let (source, destination) = (IpAddr::V6(vip).into(), IpAddr::V6(ALL_NODES).into());
    let start = Checksum::ipv6_pseudo_header(&source, &destination, LENGTH, ICMPV6);
    let checksum = sum(&icmp, start);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(LENGTH.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::unhex;
    use super::*;

    fn ms(millis: u64) -> Moment {
        Moment(0) + Duration::from_millis(millis)
    }

    fn times(announcer: &mut Announcer, until: Moment, refresh: Option<Duration>) -> Vec<u64> {
        let mut times = Vec::new();
        while announcer.next_deadline() <= until {
            let now = announcer.next_deadline();
            assert!(announcer.due(now, refresh));
            times.push(now.0 / 1_000_000);
        }
        times
    }

    #[test]
    fn a_take_over_is_told_four_times() {
        let mut announcer = Announcer::new();
        announcer.start(ms(5000), None);
        assert_eq!(times(&mut announcer, ms(900_000), None), [5000, 5100, 6000, 7000]);
    }

    #[test]
    fn a_refresh_goes_on_until_the_end() {
        let (mut announcer, minute) = (Announcer::new(), Some(Duration::from_secs(60)));
        announcer.start(ms(0), minute);
        let all = times(&mut announcer, ms(130_000), minute);
        assert_eq!(all, [0, 100, 1000, 2000, 60_000, 120_000]);
        announcer.stop();
        assert_eq!(announcer.next_deadline(), Moment::NEVER);
    }

    #[test]
    fn provocations_are_answered_once_a_second_and_the_last_one_too() {
        let mut announcer = Announcer::new();
        let mut sent = Vec::new();
        for at in (0..2000).step_by(5) {
            announcer.again(ms(at));
            if announcer.due(ms(at), None) {
                sent.push(at);
            }
        }
        assert_eq!(sent, [0, 1000]);
        assert_eq!(announcer.next_deadline(), ms(2000));
        announcer.stop();
        announcer.again(ms(1999));
        assert_eq!(announcer.next_deadline(), ms(2000), "the limit outlives a change of role");
    }

    #[test]
    fn bow_outs_that_cross_with_the_take_over_are_answered_at_once_and_a_flood_of_them_is_not() {
        let mut announcer = Announcer::new();
        announcer.start(ms(0), None);
        assert!(announcer.due(ms(0), None));
        let mut sent = Vec::new();
        for at in (1..99).step_by(2) {
            announcer.answer(ms(at));
            if announcer.due(ms(at), None) {
                sent.push(at);
            }
        }
        assert_eq!(sent, [1, 3, 5]);
        announcer.start(ms(200), None);
        assert!(announcer.due(ms(200), None));
        announcer.answer(ms(201));
        assert!(announcer.due(ms(201), None), "another take-over, another node that leaves");
    }

    #[test]
    fn a_gratuitous_arp_is_what_ucarp_sends() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let expected = "ffffffffffff0200000000010806000108000604000102000000\
                        00010a4d00640200000000010a4d0064";
        assert_eq!(
            frame("10.77.0.100".parse().unwrap(), mac, true),
            unhex(&expected.replace(' ', ""))
        );
    }

    #[test]
    fn an_advertisement_of_a_neighbour_has_override_and_a_right_checksum() {
        let mac = MacAddr([0, 0, 0x5e, 0, 1, 42]);
        let told = |router| frame("2001:db8::100".parse().unwrap(), mac, router);
        assert_eq!(told(true)[58], 0xa0, "of a router");
        let frame = told(false);
        assert_eq!(frame.len(), 86);
        assert_eq!(frame[21], 255, "hop limit");
        let icmp = &frame[54..];
        assert_eq!((icmp[0], icmp[4]), (136, 0x20));
        assert_eq!(icmp[24..], [2, 1, 0, 0, 0x5e, 0, 1, 42]);
        let addresses = frame[22..54].chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let start =
            addresses.fold(Checksum::new().add(32).add(58), |sum, word| sum.add(u32::from(word)));
        assert_eq!(sum(icmp, start), 0);
    }
}
