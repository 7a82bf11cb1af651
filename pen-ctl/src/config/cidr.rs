//! Networks in the notation of RFC 4632: `192.0.2.0/24`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::config::error::ErrorKind;
use crate::config::raw::{At, Read, Report};

/// A network. IPv4 and IPv6 are apart: `::/0` has no IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// Its first address.
    pub address: IpAddr,
    /// Length of the prefix that its addresses share, in bits of its own family.
    pub bits: u8,
}

impl Cidr {
    /// The length of an address of this family.
    const fn longest(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// The network of this length around an address.
    fn around(address: IpAddr, bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - bits)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { address, bits }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Reads a network.
pub(super) fn cidr(At { place, value: text }: At<&str>, report: &mut Report<'_>) -> Read<At<Cidr>> {
    let Some((address, bits)) = parse(text) else {
        return Err(report.add(place, ErrorKind::InvalidNetwork { text: text.to_owned() }));
    };
    let network = Cidr::around(address, bits);
    if network.address != address {
        let text = text.to_owned();
        return Err(report.add(place, ErrorKind::NotFirstAddress { text, network }));
    }
    Ok(At { place, value: network })
}

fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = Cidr::longest(address);
    let bits = match bits {
        None => longest,
        // `parse` alone would take a sign.
        Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => bits.parse().ok()?,
        Some(_) => return None,
    };
    if bits > longest {
        return None;
    }
    // What was mapped is an IPv4 network.
    match address {
        IpAddr::V6(v6) if bits >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => Some((v4.into(), bits - 96)),
            None => Some((address, bits)),
        },
        // A shorter prefix of mapped addresses has none but addresses that no packet bears.
        IpAddr::V6(v6) if is_mapped(v6) => None,
        _ => Some((address, bits)),
    }
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_many_spellings() {
        for (text, network) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            let (address, bits) = parse(text).expect(text);
            assert_eq!(Cidr::around(address, bits).to_string(), network);
            assert_eq!(Cidr { address, bits }.to_string(), network, "its first address");
        }
        for text in ["", "192.0.2.0/33", "::/129", "192.0.2.0/+8", "192.0.2/24", "a/8", "1.2.3.4/"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_begins_at_its_first_address() {
        let around = |text: &str, bits| Cidr::around(text.parse().expect("literal"), bits);
        assert_eq!(around("192.0.2.77", 24).to_string(), "192.0.2.0/24");
        assert_eq!(around("192.0.2.77", 0).to_string(), "0.0.0.0/0");
        assert_eq!(around("2001:db8:1:2::3", 48).to_string(), "2001:db8:1::/48");
        assert_eq!(around("2001:db8::1", 0).to_string(), "::/0");
    }
}
