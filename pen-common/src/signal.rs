//! What the packets of clients and servers tell of servers that fail: a connection that was refused, a
//! SYN that had to be repeated, an ICMP error that says that nobody is there. The program only counts,
//! by backend; the controller decides what follows.
//!
//! Nothing of this is asked of a packet of a connection that is established. Who may forge what:
//! [`Signal::Unanswered`] is said by clients, that is by anybody; the others come from where the
//! backend is.

use crate::abi::Signals;
use crate::moment::Moment;

/// Something that a packet tells of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It answered a SYN with a RST.
    Refused,
    /// A client repeats a SYN.
    Unanswered,
    /// An ICMP error says that it, or its port, cannot be reached.
    Unreachable,
    /// It gave the first answer of a flow.
    Answered,
}

impl Signals {
    /// Counts one more.
    #[inline(always)]
    pub const fn add(&mut self, signal: Signal) {
        match signal {
            Signal::Refused => self.refused += 1,
            Signal::Unanswered => self.unanswered += 1,
            Signal::Unreachable => self.unreachable += 1,
            Signal::Answered => self.answered += 1,
        }
    }
}

/// A SYN that comes again sooner than this was not repeated by its sender: networks duplicate frames.
const SOONEST_MS: u32 = 200;
/// One that comes again later than this says nothing: Linux waits 1, 2, 4, 8, 16 s.
const LATEST_MS: u32 = 20_000;

/// Whether a SYN that comes again after this time was sent again because nobody had answered.
#[must_use]
#[inline(always)]
pub const fn is_repeated(idle_ns: u64) -> bool {
    // About milliseconds, without a division.
    let millis = idle_ns >> 20;
    millis >= SOONEST_MS as u64 && millis <= LATEST_MS as u64
}

/// A SYN that was seen, in one word: what tells it from others, and when that was. Flows that are
/// not recorded are remembered by nothing else, and only until another SYN takes the place.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening(pub u64);

impl Opening {
    /// Binary logarithm of the number of places.
    pub const BITS: u32 = 13;

    /// A SYN with this sequence number, of a flow of these ports (source in the high half) and this
    /// hash, which covers the client at least.
    #[must_use]
    #[inline(always)]
    pub const fn new(hash: u64, ports: u32, sequence: u32, now: Moment) -> Self {
        let mark = (mixed(hash, ports) & 0xffff_ffff) ^ sequence as u64;
        Self(mark << 32 | (now.0 >> 20) & 0xffff_ffff)
    }

    /// Where it is remembered.
    #[must_use]
    #[inline(always)]
    pub const fn place(hash: u64, ports: u32) -> u32 {
        (mixed(hash, ports) >> (64 - Self::BITS)) as u32
    }

    /// What is remembered in place of the one that was seen `before`, and whether this one repeats
    /// it. What a network has duplicated does not count as the last time.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, before: Self) -> (Self, bool) {
        let idle = (self.0 & 0xffff_ffff).wrapping_sub(before.0 & 0xffff_ffff) & 0xffff_ffff;
        if self.0 >> 32 != before.0 >> 32 {
            (self, false)
        } else if idle < SOONEST_MS as u64 {
            (before, false)
        } else {
            (self, is_repeated(idle << 20))
        }
    }
}

/// Some hashes do not cover ports. The factor is the golden section, which spreads them.
#[inline(always)]
const fn mixed(hash: u64, ports: u32) -> u64 {
    hash ^ (ports as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const HASH: u64 = 0x0123_4567_89ab_cdef;
    const PORTS: u32 = 5000 << 16 | 80;

    fn syn(sequence: u32, at: u64) -> Opening {
        Opening::new(HASH, PORTS, sequence, Moment(at))
    }

    #[test]
    fn a_syn_that_comes_again_after_as_long_as_senders_wait_is_repeated() {
        let first = syn(7, 5 * SECOND_NS);
        for (millis, repeated) in
            [(0, false), (100, false), (250, true), (1000, true), (16_000, true), (40_000, false)]
        {
            let again = syn(7, 5 * SECOND_NS + millis * 1_000_000);
            let kept = if millis < 200 { first } else { again };
            assert_eq!(again.after(first), (kept, repeated), "{millis} ms");
        }
        assert!(!first.after(syn(7, 6 * SECOND_NS)).1, "not one of the future");
        assert!(!syn(7, SECOND_NS).after(Opening::default()).1, "not of none");
    }

    #[test]
    fn another_connection_on_the_same_ports_is_no_repetition() {
        let again = syn(8, 2 * SECOND_NS);
        assert_eq!(again.after(syn(7, SECOND_NS)), (again, false));
        for (hash, ports) in [(HASH ^ 1, PORTS), (HASH, PORTS + 1)] {
            let other = Opening::new(hash, ports, 7, Moment(2 * SECOND_NS));
            assert_eq!(other.after(syn(7, SECOND_NS)), (other, false));
        }
    }

    #[test]
    fn the_clock_of_a_machine_that_runs_for_long_goes_round() {
        let end = (1 << 52) - SECOND_NS / 2;
        assert!(syn(7, end + SECOND_NS).after(syn(7, end)).1);
    }

    #[test]
    fn places_are_spread_over_all_of_them() {
        assert_eq!(Opening::place(u64::MAX, 0), (1 << Opening::BITS) - 1);
        assert_eq!(Opening::place(u64::MAX >> Opening::BITS, 0), 0);
        // One client, ports as Linux takes them.
        let mut used = [false; 1 << Opening::BITS];
        for port in 0..4096 {
            used[Opening::place(HASH, (32_768 + 2 * port) << 16 | 80) as usize] = true;
        }
        assert!(used.iter().filter(|used| **used).count() > 3000);
    }

    #[test]
    fn each_signal_has_a_count_of_its_own() {
        let mut signals = Signals::default();
        for (signal, times) in [
            (Signal::Refused, 1),
            (Signal::Unanswered, 2),
            (Signal::Unreachable, 3),
            (Signal::Answered, 4),
        ] {
            (0..times).for_each(|_| signals.add(signal));
        }
        let expected = Signals { refused: 1, unanswered: 2, unreachable: 3, answered: 4 };
        assert_eq!(signals, expected);
    }
}
