//! The internet checksum (RFC 1071): one's complement sum of 16-bit words, from scratch or brought up
//! to date when some of the words change (RFC 1624).

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

/// What becomes different in the bytes that a checksum covers. Their old values count as well: the
/// new checksum is made of the old one, so that one that was wrong stays wrong (RFC 1624, equation
/// 3).
#[derive(Clone, Copy, Default)]
pub struct Change(Checksum);

impl Change {
    /// A 16-bit word at an even offset.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, old: Be16, new: Be16) -> Self {
        Self(self.0.add(!old.value() as u32).add(new.value() as u32))
    }

    /// An address of either family; both of the same one.
    #[must_use]
    #[inline(always)]
    pub const fn addr(self, old: &Addr, new: &Addr) -> Self {
        let (high, low) = old.halves();
        Self(self.0.add_addr(&Addr::from_halves(!high, !low)).add_addr(new))
    }

    /// The checksum of a header, of TCP or of ICMP, after the change.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        self.0.add(!checksum.value() as u32).finish()
    }

    /// The checksum of UDP after the change: none (RFC 768: zero) stays none, and none that is
    /// computed looks like it.
    #[must_use]
    #[inline(always)]
    pub const fn apply_to_udp(self, checksum: Be16) -> Be16 {
        if checksum.value() == 0 {
            return checksum;
        }
        let changed = self.apply(checksum);
        if changed.value() == 0 { Be16::new(0xffff) } else { changed }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;
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
        let source = Addr::from(IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1_u16]));
        let group = Addr::from(IpAddr::from([0xff02, 0, 0, 0, 0, 1, 0xff00, 2_u16]));
        let sum = Checksum::ipv6_pseudo_header(&source, &group, 32, 58)
            .add_bytes([135, 0, 0, 0])
            .add_addr(&Addr::from(IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2_u16])))
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
    /// A pseudo-header of either family with ports behind it, which is all that NAT changes.
    #[derive(Clone, Debug)]
    struct Ends {
        addrs: [IpAddr; 2],
        ports: [u16; 2],
    }

    impl Ends {
        fn bytes(&self, rest: &[u8]) -> Vec<u8> {
            let mut bytes = Vec::new();
            for addr in self.addrs {
                match addr {
                    IpAddr::V4(v4) => bytes.extend(v4.octets()),
                    IpAddr::V6(v6) => bytes.extend(v6.octets()),
                }
            }
            bytes.extend([0, 17]);
            bytes.extend(self.ports.into_iter().flat_map(u16::to_be_bytes));
            bytes.extend(rest);
            bytes
        }

        fn change(&self, new: &Self) -> Change {
            let mut change = Change::default();
            for (old, new) in self.addrs.into_iter().zip(new.addrs) {
                change = change.addr(&Addr::from(old), &Addr::from(new));
            }
            for (old, new) in self.ports.into_iter().zip(new.ports) {
                change = change.word(Be16::new(old), Be16::new(new));
            }
            change
        }
    }

    /// Ends before and after, of one family. Words of all zeros and all ones are frequent: there the
    /// two zeros of one's complement hide.
    fn ends() -> impl Strategy<Value = (Ends, Ends)> {
        fn word() -> impl Strategy<Value = u16> + Clone {
            prop_oneof![Just(0), Just(0xffff), any::<u16>()]
        }
        fn addr(v4: bool, words: [u16; 8]) -> IpAddr {
            let [a, b, ..] = words;
            let [[a, b], [c, d]] = [a.to_be_bytes(), b.to_be_bytes()];
            if v4 { [a, b, c, d].into() } else { words.into() }
        }
        let words = proptest::array::uniform8(word());
        let half = (words.clone(), words, word(), word());
        (any::<bool>(), half.clone(), half).prop_map(|(v4, old, new)| {
            let ends = |(source, destination, from, to)| Ends {
                addrs: [addr(v4, source), addr(v4, destination)],
                ports: [from, to],
            };
            (ends(old), ends(new))
        })
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_that_of_the_changed_bytes((old, new) in ends(), rest: Vec<u8>) {
            let before = Be16::new(plain(&old.bytes(&rest)));
            let after = plain(&new.bytes(&rest));
            prop_assert_eq!(old.change(&new).apply(before).value(), after);
        }

        #[test]
        fn a_changed_udp_checksum_is_never_zero((old, new) in ends(), rest: Vec<u8>) {
            let mut before = plain(&old.bytes(&rest));
            let mut after = plain(&new.bytes(&rest));
            for sum in [&mut before, &mut after] {
                *sum = if *sum == 0 { 0xffff } else { *sum };
            }
            let changed = old.change(&new).apply_to_udp(Be16::new(before));
            prop_assert_eq!(changed.value(), after);
        }

        #[test]
        fn no_udp_checksum_stays_none((old, new) in ends()) {
            prop_assert_eq!(old.change(&new).apply_to_udp(Be16::new(0)).value(), 0);
        }

        #[test]
        fn a_wrong_checksum_stays_wrong((old, new) in ends(), rest: Vec<u8>, off in 1_u16..0xffff) {
            let before = plain(&old.bytes(&rest)).wrapping_add(off);
            let after = old.change(&new).apply(Be16::new(before)).value();
            let right = plain(&new.bytes(&rest));
            // 0 and 0xffff are the same number; a receiver takes either.
            prop_assume!(before % 0xffff != plain(&old.bytes(&rest)) % 0xffff);
            prop_assert_ne!(after % 0xffff, right % 0xffff);
        }
    }

    /// RFC 1624 section 4: the update that RFC 1141 gets wrong.
    #[test]
    fn the_example_of_rfc_1624() {
        let change = Change::default().word(Be16::new(0x5555), Be16::new(0x3285));
        assert_eq!(change.apply(Be16::new(0xdd2f)).value(), 0x0000);
    }
}
