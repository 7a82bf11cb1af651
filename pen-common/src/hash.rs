//! The keyed hash that chooses a slot, and the slot index. Keyed by the cluster secret, so that no
//! client can aim at one backend, and the same on all nodes of a CARP group, so that a fail-over
//! keeps the choice.

use crate::abi::{LISTEN_BITS, ServiceKey};
use crate::net::{Addr, Be16};

/// The cluster secret as the two key words of SipHash.
pub type Secret = [u64; 2];

/// SipHash-1-3 of exactly three words (a message of 24 bytes).
#[must_use]
#[inline(always)]
pub const fn siphash(secret: Secret, words: [u64; 3]) -> u64 {
    message(secret, words, 0, 24)
}

/// SipHash-1-3, in the little-endian convention of the reference implementation, of a message of
/// `length` bytes: whole words, and the up to seven bytes of `rest`. A fixed length needs no loop. It
/// costs a round for each word and four more, some 3 ns each in the kernel's JIT.
#[inline(always)]
const fn message<const N: usize>(secret: Secret, words: [u64; N], rest: u64, length: u64) -> u64 {
    let [key0, key1] = secret;
    let mut state = [
        key0 ^ 0x736f_6d65_7073_6575,
        key1 ^ 0x646f_7261_6e64_6f6d,
        key0 ^ 0x6c79_6765_6e65_7261,
        key1 ^ 0x7465_6462_7974_6573,
    ];
    let mut index = 0;
    while index < N {
        state = compress(state, words[index]);
        index += 1;
    }
    // The last block holds the length modulo 256 in its top byte.
    state = compress(state, rest | length << 56);
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
    if source.is_v4() {
        message(secret, [], low & V4, 4)
    } else {
        message(secret, [high, low], 0, 16)
    }
}

/// Hash of a flow: source address and both ports. The destination address and the protocol are
/// left out because the table is already that of one service.
#[must_use]
#[inline(always)]
pub const fn flow(secret: Secret, source: &Addr, source_port: Be16, port: Be16) -> u64 {
    let (high, low) = source.halves();
    let ports = (source_port.value() as u64) << 16 | port.value() as u64;
    if source.is_v4() {
        message(secret, [low << 32 | ports], 0, 8)
    } else {
        message(secret, [high, low], ports, 20)
    }
}

/// The bits of the low half of a mapped address that are the IPv4 address.
const V4: u64 = 0xffff_ffff;

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

/// Where a port that is listened on stands in `LISTENS`. Not keyed: the operator chooses it.
#[must_use]
#[inline(always)]
pub const fn listen_index(key: &ServiceKey) -> u32 {
    // 2^64 over the golden ratio (Knuth, The Art of Computer Programming 3, section 6.4).
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (high, low) = key.vip.halves();
    let port = (key.port.value() as u64) << 8 | key.protocol as u64;
    let mixed = (high ^ low ^ port << 32).wrapping_mul(FACTOR);
    (mixed >> (u64::BITS - LISTEN_BITS)) as u32
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
        fn flows_and_clients_are_hashed_by_siphash_1_3(
            secret: [u64; 2], source: [u8; 16], v4: [u8; 4], ports: [u16; 2],
        ) {
            let reference = |parts: &[&[u8]]| {
                let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
                parts.iter().for_each(|part| hasher.write(part));
                hasher.finish()
            };
            let [from, to] = ports;
            let both = [to.to_le_bytes(), from.to_le_bytes()].concat();
            let [high, low] = [0, 8].map(|at| {
                u64::from_be_bytes(source[at..at + 8].try_into().expect("8")).to_le_bytes()
            });
            let (v6, mut reversed) = (Addr::v6(source), v4);
            reversed.reverse();
            let (from, to) = (Be16::new(from), Be16::new(to));
            prop_assume!(!v6.is_v4());
            prop_assert_eq!(flow(secret, &v6, from, to), reference(&[&high, &low, &both]));
            prop_assert_eq!(client(secret, &v6, 128), reference(&[&high, &low]));
            let v4 = Addr::v4(v4);
            prop_assert_eq!(flow(secret, &v4, from, to), reference(&[&both, &reversed]));
            prop_assert_eq!(client(secret, &v4, 128), reference(&[&reversed]));
        }

        #[test]
        fn a_slot_index_is_always_inside_the_table(hash: u64, slots in 1_u32..) {
            prop_assert!(slot_index(hash, slots) < slots);
        }

        #[test]
        fn a_port_has_a_place_among_the_fast_ones(vip: [u8; 16], port: u16, protocol: u8) {
            let key = ServiceKey::new(Addr::v6(vip), Be16::new(port), protocol);
            prop_assert!(listen_index(&key) < crate::abi::MAX_FAST_LISTENS);
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
