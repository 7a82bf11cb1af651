//! What `penctl flows` and `penctl clients` ask for and get: the kernel's records of who went where.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use pen_common::hash;
use pen_common::net::Addr;
use serde::{Deserialize, Serialize};

/// Rows of an answer unless a number is asked for.
pub const DEFAULT_LIMIT: usize = 100;
/// Most rows of an answer.
pub const MAX_LIMIT: usize = 100_000;

/// Which records are wanted. Of more than `limit` the ones that were used last are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordQuery {
    /// Only those of this service.
    pub service: Option<String>,
    /// Only those of the backends of this name.
    pub backend: Option<String>,
    /// Only those of clients in this network.
    pub client: Option<Cidr>,
    /// Rows at most, 1..=[`MAX_LIMIT`].
    pub limit: usize,
}

impl Default for RecordQuery {
    fn default() -> Self {
        Self { service: None, backend: None, client: None, limit: DEFAULT_LIMIT }
    }
}

/// A network of clients: `198.51.100.0/24`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: Addr,
    /// Counted in the 128 bits of [`Addr`].
    bits: u8,
}

impl Cidr {
    /// The network of an address, `bits` of 128 long.
    #[must_use]
    pub const fn of(addr: Addr, bits: u8) -> Self {
        Self { first: hash::masked(&addr, bits), bits }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, addr: &Addr) -> bool {
        hash::masked(addr, self.bits) == self.first
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, bits) = (IpAddr::from(self.first), self.bits);
        match address {
            IpAddr::V4(_) if bits == 128 => address.fmt(f),
            // Shorter than the mapping's own prefix: no network of IPv4 alone.
            IpAddr::V4(_) => write!(f, "{address}/{}", bits.saturating_sub(96)),
            IpAddr::V6(_) if bits == 128 => address.fmt(f),
            IpAddr::V6(_) => write!(f, "{address}/{bits}"),
        }
    }
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCidr(String);

impl fmt::Display for BadCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no network: write 198.51.100.0/24, 2001:db8::/32 or an address", self.0)
    }
}

impl std::error::Error for BadCidr {}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = length.map_or(Ok(most), str::parse).map_err(|_| bad())?;
        if length > most {
            return Err(bad());
        }
        Ok(Self::of(Addr::from(address), 128 - most + length))
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;

    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// Answer to `penctl flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Those that were used last, newest first.
    pub flows: Vec<Flow>,
    /// So many others fit the question.
    pub more: u64,
    /// All records were seen. Otherwise time was up before, and there may be yet more.
    pub complete: bool,
}

/// A flow that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `record`: to which backend it belongs while its slot is unsettled. `nat`: how its addresses
    /// are translated.
    pub kind: String,
    /// Name of the service; none if that is gone.
    pub service: Option<String>,
    /// The client.
    pub client: SocketAddr,
    /// What the client talks to; none if the service is gone.
    pub vip: Option<SocketAddr>,
    /// Name of the backend; none if that is gone.
    pub backend: Option<String>,
    /// The backend's address.
    pub address: Option<SocketAddr>,
    /// What the backend takes for the client, if addresses are translated.
    pub seen_as: Option<SocketAddr>,
    /// Milliseconds since it was used, exact to a second.
    pub age_ms: u64,
    /// It still counts.
    pub live: bool,
    /// Why not.
    pub why: Option<String>,
}

/// Answer to `penctl clients`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Those that were seen last, newest first.
    pub clients: Vec<Client>,
    /// So many others fit the question.
    pub more: u64,
    /// All records were seen. Otherwise time was up before, and there may be yet more.
    pub complete: bool,
}

/// A client that the kernel remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Name of the service; none if that is gone.
    pub service: Option<String>,
    /// The client: an address, or a network if the service takes a network for one client.
    pub client: Cidr,
    /// Name of the backend; none if that is gone.
    pub backend: Option<String>,
    /// The backend's address.
    pub address: Option<SocketAddr>,
    /// Milliseconds since it was seen, exact to a second.
    pub age_ms: u64,
    /// It still counts.
    pub live: bool,
    /// Why not.
    pub why: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_reads_back_as_it_is_written() {
        for (text, shown) in [
            ("198.51.100.0/24", "198.51.100.0/24"),
            ("198.51.100.7/24", "198.51.100.0/24"),
            ("198.51.100.7", "198.51.100.7"),
            ("198.51.100.7/32", "198.51.100.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().map(|cidr| cidr.to_string()), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn nonsense_is_no_network() {
        for text in ["", "198.51.100.0/33", "2001:db8::/129", "198.51.100/24", "x/8", "::/-1"] {
            let error = text.parse::<Cidr>().expect_err(text);
            assert!(error.to_string().contains("is no network"), "{error}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            let network: Cidr = network.parse().expect(network);
            network.contains(&Addr::from(address.parse::<IpAddr>().expect(address)))
        };
        assert!(contains("198.51.100.0/24", "198.51.100.255"));
        assert!(!contains("198.51.100.0/24", "198.51.101.0"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"), "the other family");
        assert!(contains("2001:db8::/64", "2001:db8::ffff:1"));
    }
}
