//! Random numbers that are the same in every run: SplitMix64. A test that fails names its seed and
//! fails again.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Packet;

/// The generator.
pub(crate) struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits");
        usize::try_from(self.bits() % end).expect("below a usize")
    }

    /// A byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.bits().to_be_bytes()[0]
    }

    /// A port.
    pub(crate) fn port(&mut self) -> u16 {
        let [high, low, ..] = self.bits().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The same packet, from another client anywhere.
    pub(crate) fn moved(&mut self, packet: &Packet) -> Packet {
        let port = self.port();
        if packet.destination.is_ipv4() {
            let [a, b, c, d, ..] = self.bits().to_be_bytes();
            packet.clone().from(Ipv4Addr::new(a, b, c, d), port)
        } else {
            let low = u128::from(self.bits());
            let bits = u128::from(self.bits()) << 64 | low;
            // 2000::/3, where clients are.
            let global = bits & (u128::MAX >> 3) | 1 << 125;
            packet.clone().from(Ipv6Addr::from_bits(global), port)
        }
    }
}
