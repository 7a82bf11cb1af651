//! Reads where services listen: an address, and a port, a range of ports, or any port. Two services
//! of one protocol share no port; "any port" is what the others leave.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use pen_common::abi::MAX_LISTENS;

use crate::config::error::ErrorKind;
use crate::config::ports::Ports;
use crate::config::raw::{At, Place, Read, Report};
use crate::config::vip::{socket_address, usable};
use crate::config::{Listen, Protocol, UnixPath, unix};

impl Listen {
    /// Reads `ADDRESS:PORT` or `ADDRESS:FIRST-LAST`, an IPv6 address in brackets.
    fn parse(text: &str) -> Option<Self> {
        let (address, ports) = text.rsplit_once(':')?;
        let ports = Ports::parse(ports)?;
        // No port is part of a range with others: 0 is all of them.
        if ports.first == 0 && ports.last != 0 {
            return None;
        }
        let address = socket_address(&format!("{address}:0"))?.ip();
        Some(Self { address, ports })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}", self.ports),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.ports),
        }
    }
}

/// Reads the value of `listen`; of a Unix socket also the path, for which the address stands.
pub(super) fn listen(
    At { place, value: text }: At<&str>,
    proxied: bool,
    report: &mut Report<'_>,
) -> Read<(At<Listen>, Option<UnixPath>)> {
    if let Some(path) = unix::path(At { place, value: text }, report)? {
        let listen = Listen { address: path.stand_in(), ports: Ports::ANY };
        return Ok((At { place, value: listen }, Some(path)));
    }
    let Some(listen) = Listen::parse(text) else {
        return Err(report.add(place, ErrorKind::InvalidListen { text: text.to_owned() }));
    };
    // A proxy may listen for this machine only, or on all of its addresses.
    let anywhere = listen.address.is_loopback() || listen.address.is_unspecified();
    let address = match proxied && anywhere {
        true => listen.address,
        false => usable(place, listen.address, report)?,
    };
    Ok((At { place, value: Listen { address, ..listen } }, None))
}

/// Where services listen, and where that was written.
#[derive(Debug, Default)]
pub(super) struct Listens {
    /// By the first port.
    taken: BTreeMap<(IpAddr, Protocol, u16), (Ports, Place)>,
    ports: usize,
}

impl Listens {
    /// Takes the ports for a service, or reports who has them.
    pub(super) fn claim(
        &mut self,
        listen: At<Listen>,
        protocol: Protocol,
        report: &mut Report<'_>,
    ) {
        let At { place, value: Listen { address, ports } } = listen;
        // Ranges that are taken share no port, so that one that shares one with us is the last of
        // those that begin at our last port or before.
        let before = self.taken.range(..=(address, protocol, ports.last)).next_back();
        let before = before.filter(|((found, of, _), _)| (*found, *of) == (address, protocol));
        if let Some((_, (taken, at))) = before.filter(|(_, (taken, _))| taken.overlaps(ports)) {
            let name = |ports| format!("{} {protocol}", Listen { address, ports });
            let (listen, first) = (name(ports), report.position(*at));
            report.add(
                place,
                match *taken == ports {
                    true => ErrorKind::Duplicate { what: "listen", name: listen, first },
                    false => ErrorKind::ListenOverlap { listen, other: name(*taken), first },
                },
            );
            return;
        }
        self.taken.insert((address, protocol, ports.first), (ports, place));
        let before = self.ports;
        self.ports += ports.count();
        let max = MAX_LISTENS as usize;
        if before <= max && self.ports > max {
            report.add(place, ErrorKind::TooMany { what: "ports of all services", max });
        }
    }
}
