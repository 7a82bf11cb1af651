//! Fragments. Only the first one of a datagram has the ports that say where it belongs. They are
//! recorded, and with them the others are decided about like whole packets. A fragment that overtakes
//! the first is not known; it passes, and the datagram is lost.

use crate::abi::Frag;
use crate::moment::Moment;
use crate::net::Be16;

/// A datagram whose fragments are not all there after this time will not be put together any more,
/// in nanoseconds (the kernel's `ipfrag_time`); another one may have its identification then.
pub const LIFETIME_NS: u64 = 30_000_000_000;

impl Frag {
    /// What the first fragment says at this time.
    #[must_use]
    #[inline(always)]
    pub const fn new(source_port: Be16, port: Be16, now: Moment) -> Self {
        Self { source_port, port, _pad: 0, seen_ns: now.0 }
    }

    /// Whether later fragments still belong to it.
    #[must_use]
    #[inline(always)]
    pub const fn is_live(&self, now: Moment) -> bool {
        now.0.saturating_sub(self.seen_ns) < LIFETIME_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_for_half_a_minute() {
        let frag = Frag::new(Be16::new(1), Be16::new(2), Moment(1000));
        assert!(frag.is_live(Moment(999)), "made on another CPU just now");
        assert!(frag.is_live(Moment(999 + LIFETIME_NS)));
        assert!(!frag.is_live(Moment(1000 + LIFETIME_NS)));
    }
}
