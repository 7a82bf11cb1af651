//! Intervals, and who is preferred. The interval that a node announces is its rank: the shorter one
//! goes first. What failed on a node, and what an operator ordered, lengthens or shortens it.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Duration;

use pen_common::net::Addr;

use super::packet::Advert;
use super::settings::{Accept, Auth, Settings, TieBreak};

/// More skew than this is not given for what failed (FreeBSD's limit).
pub(super) const MAX_DEMOTED_SKEW: u32 = 240;
/// Part of a second that advskew counts.
const TICKS: u32 = 256;
/// Two masters with the same demotion and ten thousand others: the rank wait has this many steps.
const RANK_STEP: u32 = 16;

/// However fast advertisements are, a node that starts listens for so long.
const FIRST_LISTENING: Duration = Duration::from_secs(1);

/// What a node says of itself, as far as it decides who is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// Interval by CARP's bytes, in 1/256 s.
    pub(super) ticks: u32,
    /// Interval by the trailer, in microseconds.
    pub(super) exact_us: Option<u32>,
    /// By the trailer.
    pub(super) promoted: bool,
    /// By CARP's byte (`bsd`) or the trailer.
    pub(super) demotion: u32,
}

impl Announced {
    /// The interval, as exactly as it is known; never none (OpenBSD means 1/256 s by 0/0).
    pub(super) fn interval(&self) -> Duration {
        self.exact_us.map_or_else(
            || ticks(self.ticks.max(1)),
            |micros| Duration::from_micros(u64::from(micros).max(1000)),
        )
    }
}

/// Intervals that follow from the settings and the demotion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rank<'a> {
    pub(super) settings: &'a Settings,
    /// Sum of the weights of what failed.
    pub(super) demotion: u32,
    /// An operator ordered it.
    pub(super) promoted: bool,
}

impl Rank<'_> {
    /// advskew with what failed.
    pub(super) fn skew(&self) -> u32 {
        let own = u32::from(self.settings.advskew);
        own.max(MAX_DEMOTED_SKEW.min(own.saturating_add(self.demotion)))
    }

    /// What one step of advskew is, of an advbase: a part of it where that is below a second, or the
    /// skews of nodes that advertise every 10 ms would be longer than all the rest.
    fn skew_of(&self, base: Duration) -> Duration {
        let whole = if self.strong() { base.min(Duration::from_secs(1)) } else { TICK_BASE };
        whole * self.skew() / TICKS
    }

    fn strong(&self) -> bool {
        matches!(self.settings.auth, Auth::Sha256(_))
    }

    /// Our packets have a trailer.
    pub(super) fn signs(&self) -> bool {
        matches!(&self.settings.auth, Auth::Sha256(strong) if strong.accept != Accept::ReceiveOnly)
    }

    /// Time between two advertisements.
    pub(super) fn interval(&self) -> Duration {
        let base = self.settings.advbase;
        (base + self.skew_of(base)).max(Duration::from_millis(1))
    }

    /// What of the interval counts per missed advertisement. With advbase 0, UCarp's formula gives a
    /// time below its own interval; ours scales.
    fn missed(&self) -> Duration {
        if self.settings.advbase.is_zero() { self.interval() } else { self.settings.advbase }
    }

    /// Silence after which this node takes over. With trailers it follows the interval that the
    /// master announced, so that nodes with different settings do not take each other for dead.
    pub(super) fn down(&self, master: Option<&Announced>) -> Duration {
        let ratio = self.settings.deadratio.max(1);
        if !self.strong() {
            let skew = if self.settings.advbase.is_zero() {
                Duration::ZERO
            } else {
                self.skew_of(TICK_BASE)
            };
            return self.missed() * ratio + skew;
        }
        let base = match master {
            None => self.missed(),
            Some(master) if master.exact_us.is_some() => master.interval(),
            // Without a trailer the bytes may say less than is meant: rank, not interval.
            Some(master) => master.interval().max(self.missed()),
        };
        let base = base.max(Duration::from_millis(1));
        base * ratio + self.skew_of(base)
    }

    /// For how long the role of master holds after an advertisement: long enough to be renewed, and in
    /// no case longer than the down time of a peer, its skew not counted, nor than one listens that has
    /// started right after the advertisement. With a `deadratio` of 1 the one is as long as the other.
    pub(super) fn lease(&self) -> Duration {
        let missed = if self.strong() { self.interval() } else { self.missed() };
        let down = missed * self.settings.deadratio.max(1);
        let least = self.interval() + self.interval() / 4;
        let lease = (down - down / 20).max(least).min(down);
        if !self.strong() {
            return lease;
        }
        let listening = self.first_listening();
        lease.min((listening - listening / 20).max(least))
    }

    /// Least time in which a node that starts listens where advertisements may be signed: it does not
    /// know the master's interval yet, which may be longer than its own, and neither does the master
    /// know the node's skew.
    pub(super) fn first_listening(&self) -> Duration {
        let base = self.settings.advbase;
        let longest = base + base.min(TICK_BASE);
        (base * self.settings.deadratio.max(1)).max(longest + longest / 4).max(FIRST_LISTENING)
    }

    /// For how long to wait after a bow-out, so that several backups do not all take over.
    pub(super) fn rank_wait(&self) -> Duration {
        let step = Duration::from_millis(5).min(self.interval() / 16);
        step * (self.skew() / RANK_STEP)
    }

    /// advbase and advskew as they stand in CARP's bytes.
    pub(super) fn wire(&self) -> (u8, u8) {
        if self.promoted {
            // Shorter than anyone's: peers of any kind give way.
            return (0, 1);
        }
        let (mut base, mut skew) = if self.strong() {
            let micros = self.interval().as_micros();
            let ticks = ((micros * 256 + 500_000) / 1_000_000).max(1);
            (ticks / 256, ticks % 256)
        } else {
            (u128::from(self.settings.advbase.as_secs()), u128::from(self.skew()))
        };
        if base >= 255 {
            // 255/255 would be a bow-out.
            (base, skew) = (255, skew.min(254));
        }
        (byte(base), byte(skew))
    }

    /// OpenBSD's byte for what failed. It counts there before the interval: an operator who promotes
    /// the node nonetheless wants none of it.
    pub(super) fn demote_byte(&self) -> u8 {
        match self.settings.auth {
            Auth::Bsd { .. } if !self.promoted => byte(u128::from(self.demotion)),
            Auth::Bsd { .. } | Auth::Ucarp { .. } | Auth::Sha256(_) => 0,
        }
    }

    /// What this node says of itself.
    pub(super) fn announced(&self) -> Announced {
        let (base, skew) = self.wire();
        let signs = self.signs();
        let exact = u32::try_from(self.interval().as_micros()).unwrap_or(u32::MAX);
        let demotion = match self.settings.auth {
            Auth::Sha256(_) => u32::from(u16::try_from(self.demotion).unwrap_or(u16::MAX)),
            Auth::Ucarp { .. } | Auth::Bsd { .. } => u32::from(self.demote_byte()),
        };
        Announced {
            ticks: u32::from(base) * TICKS + u32::from(skew),
            exact_us: signs.then_some(exact),
            promoted: signs && self.promoted,
            demotion,
        }
    }

    /// How this node compares with a peer: less is preferred. Both sides come to the same answer.
    pub(super) fn compare(&self, peer: &Announced) -> Ordering {
        let own = self.announced();
        match (own.exact_us, peer.exact_us) {
            (Some(own_us), Some(peer_us)) => {
                (!own.promoted, own_us, own.demotion).cmp(&(!peer.promoted, peer_us, peer.demotion))
            }
            // OpenBSD's order: first what failed.
            _ if matches!(self.settings.auth, Auth::Bsd { .. }) => {
                (own.demotion, own.ticks).cmp(&(peer.demotion, peer.ticks))
            }
            _ => own.ticks.cmp(&peer.ticks),
        }
    }
}

const TICK_BASE: Duration = Duration::from_secs(1);

fn byte(number: u128) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn ticks(ticks: u32) -> Duration {
    TICK_BASE * ticks / TICKS
}

/// Interval in CARP's bytes, in 1/256 s.
pub(super) fn wire_ticks(advert: &Advert) -> u32 {
    u32::from(advert.advbase) * TICKS + u32::from(advert.advskew)
}

/// Which address goes before the other if intervals are equal: less is preferred.
pub(super) fn compare_addresses(rule: TieBreak, own: IpAddr, peer: IpAddr) -> Ordering {
    match (rule, own, peer) {
        // As UCarp compares them on little-endian machines: the last octet counts most.
        (TieBreak::UcarpLe, IpAddr::V4(own), IpAddr::V4(peer)) => {
            u32::from_le_bytes(own.octets()).cmp(&u32::from_le_bytes(peer.octets()))
        }
        _ => Addr::from(own).bytes().cmp(&Addr::from(peer).bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{self, strong};
    use super::*;

    fn rank(settings: &Settings) -> Rank<'_> {
        Rank { settings, demotion: 0, promoted: false }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn ucarps_formula_exactly() {
        let mut settings = fixtures::ucarp(1);
        assert_eq!(rank(&settings).interval(), ms(1000));
        assert_eq!(rank(&settings).down(None), ms(3000));
        settings.advskew = 128;
        assert_eq!(rank(&settings).interval(), ms(1500));
        assert_eq!(rank(&settings).down(None), ms(3500));
        settings.advbase = Duration::from_secs(2);
        assert_eq!(rank(&settings).interval(), ms(2500));
        assert_eq!(rank(&settings).down(None), ms(6500));
        settings.deadratio = 1;
        assert_eq!(rank(&settings).down(None), ms(2500));
    }

    #[test]
    fn without_advbase_the_down_time_is_still_longer_than_the_interval() {
        let mut settings = fixtures::ucarp(1);
        (settings.advbase, settings.advskew) = (Duration::ZERO, 64);
        assert_eq!(rank(&settings).interval(), ms(250));
        assert_eq!(rank(&settings).down(None), ms(750));
    }

    #[test]
    fn a_lease_ends_before_any_peer_takes_over_and_lasts_until_it_is_renewed() {
        let mut settings = fixtures::ucarp(1);
        assert_eq!(rank(&settings).lease(), ms(2850));
        settings.advskew = 100;
        assert_eq!(rank(&settings).lease(), ms(2850), "a peer may have no skew");
        (settings.advskew, settings.deadratio) = (0, 1);
        assert_eq!(rank(&settings).lease(), ms(1000));
        (settings.advskew, settings.deadratio) = (240, 2);
        assert_eq!(rank(&settings).lease(), ms(2000), "the interval is 1938 ms");
        let mut settings = strong(1);
        settings.advbase = ms(10);
        assert_eq!(rank(&settings).lease(), Duration::from_micros(28_500));
    }

    #[test]
    fn a_signed_lease_is_no_longer_than_one_listens_who_has_just_started() {
        let mut settings = Settings { advskew: 240, ..strong(1) };
        assert_eq!(rank(&settings).interval(), ms(1000) + ms(1000) * 240 / 256);
        assert_eq!(rank(&settings).lease(), ms(2850), "others listen for three seconds");
        settings.deadratio = 2;
        assert_eq!(rank(&settings).first_listening(), ms(2500));
        assert!(rank(&settings).lease() < ms(2500));
        assert!(rank(&settings).lease() > rank(&settings).interval());
        settings.advbase = ms(100);
        assert_eq!(rank(&settings).first_listening(), ms(1000));
        assert!(rank(&settings).lease() > rank(&settings).interval() * 3 / 2);
    }

    #[test]
    fn skew_is_a_part_of_a_short_advbase() {
        let mut settings = strong(1);
        (settings.advbase, settings.advskew) = (ms(100), 128);
        assert_eq!(rank(&settings).interval(), ms(150));
        assert_eq!(rank(&settings).down(None), ms(350));
        settings.advbase = Duration::from_secs(10);
        assert_eq!(rank(&settings).interval(), ms(10_500));
    }

    #[test]
    fn the_down_time_follows_the_interval_that_a_signed_packet_announces() {
        let settings = strong(1);
        let mut slow =
            Announced { ticks: 512, exact_us: Some(2_000_000), promoted: false, demotion: 0 };
        assert_eq!(rank(&settings).down(Some(&slow)), ms(6000));
        slow.exact_us = Some(10_000);
        assert_eq!(rank(&settings).down(Some(&slow)), ms(30));
        slow.exact_us = None;
        assert_eq!(rank(&settings).down(Some(&slow)), ms(6000));
        slow.ticks = 1;
        assert_eq!(rank(&settings).down(Some(&slow)), ms(3000), "a promoted one without trailer");
    }

    #[test]
    fn what_failed_adds_to_the_skew_up_to_240() {
        let mut settings = fixtures::ucarp(1);
        settings.advskew = 100;
        let demoted = |demotion| Rank { settings: &settings, demotion, promoted: false }.skew();
        assert_eq!([0, 50, 140, 141, 9999].map(demoted), [100, 150, 240, 240, 240]);
        settings.advskew = 250;
        assert_eq!(Rank { settings: &settings, demotion: 9, promoted: false }.skew(), 250);
    }

    #[test]
    fn the_wire_says_the_nearest_256th_and_never_a_bow_out() {
        let mut settings = strong(1);
        let cases = [
            (ms(10), 0, (0, 3)),
            (ms(100), 0, (0, 26)),
            (ms(1000), 100, (1, 100)),
            (ms(1500), 0, (1, 128)),
            (ms(255_000), 255, (255, 254)),
        ];
        for (base, skew, wire) in cases {
            (settings.advbase, settings.advskew) = (base, skew);
            assert_eq!(rank(&settings).wire(), wire, "{base:?} {skew}");
        }
        let mut settings = fixtures::ucarp(1);
        (settings.advbase, settings.advskew) = (Duration::from_secs(255), 255);
        assert_eq!(rank(&settings).wire(), (255, 254));
    }

    #[test]
    fn a_promoted_node_goes_before_all_others() {
        let settings = strong(1);
        let promoted = Rank { settings: &settings, demotion: 99, promoted: true };
        let mut peer = rank(&settings).announced();
        assert_eq!(promoted.compare(&peer), Ordering::Less);
        peer.exact_us = None;
        assert_eq!(promoted.compare(&peer), Ordering::Less);
        assert_eq!(promoted.interval(), ms(1000) + ms(1000) * 99 / 256, "timers stay");
    }

    #[test]
    fn of_the_bsds_what_failed_counts_before_the_interval() {
        let mut settings = fixtures::bsd(1);
        settings.advskew = 200;
        let mut peer = Announced { ticks: 256, exact_us: None, promoted: false, demotion: 1 };
        assert_eq!(rank(&settings).compare(&peer), Ordering::Less);
        peer.demotion = 0;
        assert_eq!(rank(&settings).compare(&peer), Ordering::Greater);
        let demoted = Rank { settings: &settings, demotion: 3, promoted: false };
        assert_eq!(demoted.announced().demotion, 3);
    }

    #[test]
    fn the_lower_address_goes_first_by_either_rule() {
        let own: IpAddr = "10.77.0.2".parse().unwrap();
        // Measured with the real ucarp, which is 10.77.0.2.
        let cases = [
            ("11.0.0.1", Ordering::Greater, Ordering::Less),
            ("10.77.1.1", Ordering::Greater, Ordering::Less),
            ("10.77.0.1", Ordering::Greater, Ordering::Greater),
            ("9.255.255.3", Ordering::Less, Ordering::Greater),
            ("10.77.0.9", Ordering::Less, Ordering::Less),
        ];
        for (peer, ucarp, numeric) in cases {
            let peer = peer.parse().unwrap();
            assert_eq!(compare_addresses(TieBreak::UcarpLe, own, peer), ucarp, "{peer}");
            assert_eq!(compare_addresses(TieBreak::Numeric, own, peer), numeric, "{peer}");
        }
    }

    #[test]
    fn the_less_preferred_of_several_backups_wait_longer_but_not_long() {
        let mut settings = fixtures::ucarp(1);
        assert_eq!(rank(&settings).rank_wait(), Duration::ZERO);
        settings.advskew = 100;
        assert_eq!(rank(&settings).rank_wait(), ms(30));
        settings.advskew = 255;
        assert_eq!(rank(&settings).rank_wait(), ms(75));
        let mut settings = strong(1);
        (settings.advbase, settings.advskew) = (ms(10), 240);
        assert!(rank(&settings).rank_wait() < ms(20));
    }
}
