//! The old digest: HMAC-SHA1 with the bare password as key, over version, type, vhid, the addresses
//! and the counter. Not over advbase, advskew and the source, so that anyone on the link can rewrite
//! these (carp.c of UCarp, `ip_carp.c` of the BSDs); that is what the trailer is for.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::packet::TYPE_AND_VERSION;
use super::settings::Secret;

/// Length of the digest.
pub(super) const DIGEST: usize = 20;

/// Everything that a digest covers but the counter.
pub(super) struct Digests {
    /// As our own packets have it.
    own: Hmac<Sha1>,
    /// OpenBSD leaves link-local addresses out, FreeBSD does not: both are accepted.
    other: Option<Hmac<Sha1>>,
}

impl Digests {
    pub(super) fn new(password: &Secret, vhid: u8, vips: &[IpAddr]) -> Self {
        let mut sorted = vips.to_vec();
        // IPv4 before IPv6, each ascending: the order of `IpAddr`.
        sorted.sort_unstable();
        sorted.dedup();
        let global: Vec<_> = sorted.iter().copied().filter(|vip| !link_local(*vip)).collect();
        let other = (global.len() != sorted.len()).then(|| keyed(password, vhid, &sorted));
        Self { own: keyed(password, vhid, &global), other }
    }

    /// The digest of a packet of our own.
    pub(super) fn sign(&self, counter: u64) -> [u8; DIGEST] {
        self.own.clone().chain_update(counter.to_be_bytes()).finalize().into_bytes().into()
    }

    /// Whether the digest of a peer's packet is right, in constant time.
    pub(super) fn verify(&self, counter: u64, digest: &[u8; DIGEST]) -> bool {
        [Some(&self.own), self.other.as_ref()].into_iter().flatten().any(|keyed| {
            let hmac = keyed.clone().chain_update(counter.to_be_bytes());
            hmac.verify_slice(digest).is_ok()
        })
    }
}

fn keyed(password: &Secret, vhid: u8, vips: &[IpAddr]) -> Hmac<Sha1> {
    let hmac = <Hmac<Sha1> as KeyInit>::new_from_slice(password.bytes());
    let mut hmac = hmac.expect("HMAC takes keys of any length");
    // The digest has version and type in two bytes, the packet in one.
    hmac.update(&[TYPE_AND_VERSION >> 4, TYPE_AND_VERSION & 0xf, vhid]);
    for vip in vips {
        match vip {
            IpAddr::V4(vip) => hmac.update(&vip.octets()),
            IpAddr::V6(vip) => hmac.update(&vip.octets()),
        }
    }
    hmac
}

fn link_local(vip: IpAddr) -> bool {
    matches!(vip, IpAddr::V6(vip) if vip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(vips: &[&str]) -> Digests {
        let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        Digests::new(&Secret::new("love"), 42, &vips)
    }

    #[test]
    fn the_order_of_the_addresses_does_not_matter() {
        let one = digests(&["2001:db8::1", "10.0.0.9", "9.0.0.1"]);
        let other = digests(&["9.0.0.1", "2001:db8::1", "10.0.0.9"]);
        assert_eq!(one.sign(7), other.sign(7));
    }

    #[test]
    fn another_address_password_vhid_or_counter_is_another_digest() {
        let digest = digests(&["10.0.0.9"]).sign(7);
        assert!(digests(&["10.0.0.9"]).verify(7, &digest));
        assert!(!digests(&["10.0.0.9"]).verify(8, &digest));
        assert!(!digests(&["10.0.0.8"]).verify(7, &digest));
        let vips = ["10.0.0.9".parse().unwrap()];
        assert!(!Digests::new(&Secret::new("live"), 42, &vips).verify(7, &digest));
        assert!(!Digests::new(&Secret::new("love"), 41, &vips).verify(7, &digest));
    }

    #[test]
    fn link_local_addresses_may_count_or_not() {
        let both = digests(&["10.0.0.9", "fe80::9"]);
        let without = digests(&["10.0.0.9"]).sign(7);
        assert_eq!(both.sign(7), without, "sent as OpenBSD does");
        assert!(both.verify(7, &without));
        let mut hmac = <Hmac<Sha1> as KeyInit>::new_from_slice(b"love").unwrap();
        hmac.update(&[2, 1, 42, 10, 0, 0, 9]);
        hmac.update(&"fe80::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        hmac.update(&7u64.to_be_bytes());
        assert!(both.verify(7, &hmac.finalize().into_bytes().into()), "FreeBSD");
    }
}
