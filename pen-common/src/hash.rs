//! The keyed hash that chooses a slot, and the slot index. Keyed by the cluster secret, so that no
//! client can aim at one backend, and the same on all nodes of a CARP group, so that a fail-over
//! keeps the choice.

use crate::net::{Addr, Be16};

/// The cluster secret as the two key words of SipHash.
pub type Secret = [u64; 2];

/// SipHash-1-3 of exactly three words (a message of 24 bytes), in the little-endian convention of
/// the reference implementation. A fixed length needs no loop; about 7 rounds, some 20 ns in the
/// kernel's JIT.
#[must_use]
#[inline(always)]
pub const fn siphash(secret: Secret, words: [u64; 3]) -> u64 {
    let [key0, key1] = secret;
    let mut state = [
        key0 ^ 0x736f_6d65_7073_6575,
        key1 ^ 0x646f_7261_6e64_6f6d,
        key0 ^ 0x6c79_6765_6e65_7261,
        key1 ^ 0x7465_6462_7974_6573,
    ];
    let [first, second, third] = words;
    state = compress(state, first);
    state = compress(state, second);
    state = compress(state, third);
    // The last block holds the length modulo 256 in its top byte.
    state = compress(state, 24 << 56);
    state[2] ^= 0xff;
    state = round(round(round(state)));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

#[inline(always)]
const fn compress(mut state: [u64; 4], word: u64) -> [u64; 4] {
    state[3] ^= word;
    state = round(state);
    state[0] ^= word;
    state
}

#[inline(always)]
const fn round(state: [u64; 4]) -> [u64; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

/// Hash of a client: its address only, cut to a prefix of `prefix` bits (of 128; an IPv4 prefix
/// counts from the start of the mapped address, so /32 is 128).
#[must_use]
#[inline(always)]
pub const fn client(secret: Secret, source: &Addr, prefix: u8) -> u64 {
    let (high, low) = masked(source, prefix).halves();
    siphash(secret, [high, low, 0])
}

/// Hash of a flow: source address and both ports. The destination address and the protocol are
/// left out because the table is already that of one service.
#[must_use]
#[inline(always)]
pub const fn flow(secret: Secret, source: &Addr, source_port: Be16, port: Be16) -> u64 {
    let (high, low) = source.halves();
    // The set bit 32 keeps flows apart from clients: a word of a flow is never 0.
    let ports = 1 << 32 | (source_port.value() as u64) << 16 | port.value() as u64;
    siphash(secret, [high, low, ports])
}

/// An address cut to a prefix of `prefix` bits (of 128).
#[must_use]
#[inline(always)]
pub const fn masked(addr: &Addr, prefix: u8) -> Addr {
    let (high, low) = addr.halves();
    if prefix >= 128 {
        *addr
    } else if prefix > 64 {
        Addr::from_halves(high, low & !(u64::MAX >> (prefix - 64)))
    } else if prefix == 64 {
        Addr::from_halves(high, 0)
    } else if prefix > 0 {
        Addr::from_halves(high & !(u64::MAX >> prefix), 0)
    } else {
        Addr::from_halves(0, 0)
    }
}

/// Index of the slot, `0..slots`, that a hash selects: the high half of the hash scaled by a
/// multiplication, because BPF has no cheap division.
#[must_use]
#[inline(always)]
pub const fn slot_index(hash: u64, slots: u32) -> u32 {
    let scaled = (hash >> 32) * slots as u64;
    (scaled >> 32) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().expect("literal"))
    }

    proptest! {
        #[test]
        fn siphash_is_the_published_siphash_1_3(secret: [u64; 2], words: [u64; 3]) {
            let mut reference = SipHasher13::new_with_keys(secret[0], secret[1]);
            for word in words {
                reference.write(&word.to_le_bytes());
            }
            prop_assert_eq!(siphash(secret, words), reference.finish());
        }

        #[test]
        fn a_slot_index_is_always_inside_the_table(hash: u64, slots in 1_u32..) {
            prop_assert!(slot_index(hash, slots) < slots);
        }

        #[test]
        fn masking_keeps_exactly_the_prefix(bytes: [u8; 16], prefix in 0_u8..=128) {
            let (high, low) = masked(&Addr::v6(bytes), prefix).halves();
            let whole = u128::from_be_bytes(bytes);
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            let mask = if prefix == 0 { 0 } else { mask };
            prop_assert_eq!(u128::from(high) << 64 | u128::from(low), whole & mask);
        }
    }

    #[test]
    fn a_client_is_its_address_or_its_prefix() {
        let secret = [1, 2];
        let (one, two) = (addr("198.51.100.1"), addr("198.51.100.2"));
        assert_ne!(client(secret, &one, 128), client(secret, &two, 128));
        assert_eq!(client(secret, &one, 120), client(secret, &two, 120), "the same /24");
        assert_ne!(client(secret, &one, 128), client([1, 3], &one, 128), "another secret");
    }

    #[test]
    fn a_flow_depends_on_both_ports_in_order() {
        let source = addr("2001:db8::1");
        let hash = |from, to| flow([7, 9], &source, Be16::new(from), Be16::new(to));
        assert_ne!(hash(1000, 80), hash(1001, 80));
        assert_ne!(hash(80, 1000), hash(1000, 80));
        assert_ne!(hash(0, 0), client([7, 9], &source, 128));
    }
}
