//! The internet checksum (RFC 1071): one's complement sum of 16-bit words.

use crate::net::{Addr, Be16};

/// A sum in progress. Words may be added in any order.
#[derive(Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Starts with the pseudo-header of IPv6 (RFC 8200 section 8.1).
    #[must_use]
    #[inline(always)]
    pub fn ipv6_pseudo_header(
        source: &Addr,
        destination: &Addr,
        length: u16,
        protocol: u8,
    ) -> Self {
        Self::default()
            .add_addr(source)
            .add_addr(destination)
            .add(u32::from(length))
            .add(u32::from(protocol))
    }

    /// Adds a number in host order; a 32-bit one counts as its two 16-bit words.
    #[must_use]
    #[inline(always)]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds the four bytes of a packet that stand at an even offset.
    #[must_use]
    #[inline(always)]
    pub const fn add_bytes(self, bytes: [u8; 4]) -> Self {
        self.add(u32::from_be_bytes(bytes))
    }

    /// Adds an address.
    #[must_use]
    #[inline(always)]
    pub const fn add_addr(self, addr: &Addr) -> Self {
        let (high, low) = addr.halves();
        Self(self.0 + (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff))
    }

    /// The checksum to put into a header whose checksum field was taken as zero, or 0 if the field
    /// was included and is right.
    #[must_use]
    #[inline(always)]
    pub const fn finish(self) -> Be16 {
        // Three folds: 64 bits of sum -> at most 33 -> at most 18 -> 16 and a carry.
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        let [.., high, low] = sum.to_be_bytes();
        Be16([!high, !low])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn checksum(bytes: &[u8]) -> u16 {
        bytes
            .chunks(4)
            .map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                word
            })
            .fold(Checksum::default(), Checksum::add_bytes)
            .finish()
            .value()
    }

    /// The definition, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !u16::try_from(sum).expect("folded at each step")
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, !0xddf2);
    }

    #[test]
    fn a_neighbour_solicitation_as_the_kernel_sends_it() {
        // fe80::1 -> ff02::1:ff00:2, asks for fe80::2, with the source link-layer option.
        let source = Addr::from(std::net::IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1_u16]));
        let group = Addr::from(std::net::IpAddr::from([0xff02, 0, 0, 0, 0, 1, 0xff00, 2_u16]));
        let sum = Checksum::ipv6_pseudo_header(&source, &group, 32, 58)
            .add_bytes([135, 0, 0, 0])
            .add_addr(&Addr::from(std::net::IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2_u16])))
            .add_bytes([1, 1, 2, 0])
            .add_bytes([0, 0, 0, 1]);
        let filled = sum.add(u32::from(sum.finish().value()));
        assert_eq!(filled.finish().value(), 0, "a packet with its checksum in place sums to zero");
    }

    proptest! {
        #[test]
        fn any_bytes_sum_as_the_definition_says(bytes: Vec<u8>) {
            prop_assert_eq!(checksum(&bytes) % 0xffff, plain(&bytes) % 0xffff);
        }
    }
}
