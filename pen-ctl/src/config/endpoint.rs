//! Ends of connections: an address with a port, or the path of a Unix socket. All that counts and
//! remembers goes by addresses; a path has one that stands for it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a path begins with where an address could be as well.
pub(super) const PREFIX: &str = "unix:";

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixPath {
    path: Arc<Path>,
    stand_in: Ipv6Addr,
}

impl UnixPath {
    /// As it was written: two spellings of one file are two paths.
    #[must_use]
    pub fn new(path: &str) -> Self {
        // One of the multicast addresses, which no listener and no backend can have: 120 bits of a hash
        // that all nodes and all versions share.
        let mut octets = [0xff; 16];
        octets[1..].copy_from_slice(&Sha256::digest(path)[..15]);
        Self { path: Path::new(path).into(), stand_in: octets.into() }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The address that stands for it in tables and hashes.
    #[must_use]
    pub const fn stand_in(&self) -> IpAddr {
        IpAddr::V6(self.stand_in)
    }

    /// Whether an address stands for some path.
    #[must_use]
    pub const fn is_stand_in(address: &IpAddr) -> bool {
        matches!(address, IpAddr::V6(address) if address.is_multicast())
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.path.display())
    }
}

/// An end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Endpoint {
    /// On a network.
    Inet(SocketAddr),
    /// Within a machine.
    Unix(UnixPath),
}

impl Endpoint {
    /// The address, if it has one.
    #[must_use]
    pub const fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The address, or what stands for it.
    #[must_use]
    pub const fn key(&self) -> SocketAddr {
        match self {
            Self::Inet(address) => *address,
            Self::Unix(path) => SocketAddr::new(path.stand_in(), 0),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl FromStr for Endpoint {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(PREFIX) {
            Some(path) => Ok(Self::Unix(UnixPath::new(path))),
            None => text.parse().map(Self::Inet),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = std::net::AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_it_is_written() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:80", "unix:/run/app.sock"] {
            let endpoint: Endpoint = text.parse().expect("an endpoint");
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(String::from(endpoint.clone()), text);
            assert_eq!(Endpoint::try_from(text.to_owned()), Ok(endpoint));
        }
        assert!("/run/app.sock".parse::<Endpoint>().is_err());
    }

    #[test]
    fn what_stands_for_a_path_is_the_same_everywhere_and_no_address_of_a_host() {
        let [one, other] = ["/run/a.sock", "/run/b.sock"].map(UnixPath::new);
        // Kernel maps and peers of another version have it.
        assert_eq!(one.stand_in().to_string(), "ff93:d3f0:3ac9:1aaf:913e:286c:a073:481f");
        assert_ne!(one.stand_in(), other.stand_in());
        assert!(UnixPath::is_stand_in(&one.stand_in()));
        for host in ["192.0.2.1", "224.0.0.1", "::1", "fe80::1", "2001:db8::1"] {
            assert!(!UnixPath::is_stand_in(&host.parse().expect("literal")), "{host}");
        }
        let endpoint = Endpoint::Unix(one.clone());
        assert_eq!((endpoint.key().ip(), endpoint.inet()), (one.stand_in(), None));
    }
}
