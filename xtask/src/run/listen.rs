//! What `--listen` and `--backend` mean, and the configuration that they make. Pure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Result, bail};
use pen_tests::{ConfigText, Protocol, ServiceText};

/// One `--listen`: an address, a port and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    /// Virtual address and port.
    pub(super) address: SocketAddr,
    /// TCP if none is given.
    pub(super) protocol: Protocol,
}

/// Why a `--listen` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadListen {
    Address,
    PortZero,
    Protocol,
}

impl fmt::Display for BadListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => {
                "expected an address and a port, as in 192.0.2.10:80/tcp or [2001:db8::10]:80/udp"
            }
            Self::PortZero => {
                "port 0 (any port) cannot be probed; write a configuration file for it"
            }
            Self::Protocol => "the protocol is /tcp or /udp",
        })
    }
}

impl std::error::Error for BadListen {}

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        let (address, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((address, "udp")) => (address, Protocol::Udp),
            Some(_) => return Err(BadListen::Protocol),
        };
        let address: SocketAddr = address.parse().map_err(|_| BadListen::Address)?;
        if address.port() == 0 {
            return Err(BadListen::PortZero);
        }
        Ok(Self { address, protocol })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.protocol)
    }
}

/// One service for each `listen`, with all backends of its family.
pub(super) fn configuration(
    interface: &str,
    listens: &[Listen],
    backends: &[IpAddr],
) -> Result<ConfigText> {
    let mut config = ConfigText::on(interface);
    for (index, listen) in listens.iter().enumerate() {
        if listens[..index].contains(listen) {
            bail!("--listen {listen} is given twice");
        }
        let vip = listen.address.ip();
        let mut fitting = backends.iter().filter(|ip| ip.is_ipv4() == vip.is_ipv4()).peekable();
        if fitting.peek().is_none() {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            bail!("no --backend is {family}, but --listen {listen} is");
        }
        if !config.vips.iter().any(|(known, _)| *known == vip) {
            config = config.vip(vip);
        }
        config =
            config.service(fitting.fold(service(listen), |service, ip| service.backend(None, *ip)));
    }
    if let Some(unused) =
        backends.iter().find(|ip| listens.iter().all(|listen| is_other(listen, ip)))
    {
        bail!("--backend {unused} fits no --listen: none is of its family");
    }
    Ok(config)
}

fn is_other(listen: &Listen, ip: &IpAddr) -> bool {
    listen.address.is_ipv4() != ip.is_ipv4()
}

fn service(listen: &Listen) -> ServiceText {
    // Names have to differ, and people type them into penctl: no character that a shell would care
    // about.
    let name = format!("{}-{}-{}", listen.protocol, listen.address.port(), listen.address.ip());
    let mut service = ServiceText::dsr(
        &name.replace([':', '.'], "-"),
        listen.address,
        listen.protocol,
        listen.address.port(),
    );
    // On a real network clients are many: stay with the server that knows them, and probe gently.
    service.affinity = "client".to_owned();
    service.check = match listen.protocol {
        Protocol::Tcp => Some(
            r#"{ type = "tcp", interval = "1s", timeout = "500ms", rise = 2, fall = 3 }"#
                .to_owned(),
        ),
        // Whether a UDP server lives only its own protocol can tell.
        Protocol::Udp => None,
    };
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(texts: &[&str]) -> Vec<Listen> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_listen_is_an_address_a_port_and_a_protocol() {
        for (text, shown) in [
            ("192.0.2.10:80/tcp", "192.0.2.10:80/tcp"),
            ("192.0.2.10:80", "192.0.2.10:80/tcp"),
            ("[2001:db8::10]:80/udp", "[2001:db8::10]:80/udp"),
        ] {
            assert_eq!(
                text.parse::<Listen>().map(|listen| listen.to_string()),
                Ok(shown.to_owned())
            );
        }
    }

    #[test]
    fn every_fault_of_a_listen_is_told_apart() {
        for (text, fault) in [
            ("192.0.2.10", BadListen::Address),
            ("2001:db8::10:80/tcp", BadListen::Address),
            ("web:80/tcp", BadListen::Address),
            ("192.0.2.10:80/sctp", BadListen::Protocol),
            ("192.0.2.10:80/tcp/tcp", BadListen::Protocol),
            ("192.0.2.10:0/tcp", BadListen::PortZero),
        ] {
            assert_eq!(text.parse::<Listen>(), Err(fault), "{text}");
        }
    }

    #[test]
    fn each_listen_gets_the_backends_of_its_family() {
        let listens = listens(&["192.0.2.10:80/tcp", "192.0.2.10:53/udp", "[2001:db8::10]:80/tcp"]);
        let backends = ips(&["10.0.0.11", "2001:db8::11", "10.0.0.12"]);
        let config = configuration("eth9", &listens, &backends).unwrap();
        assert_eq!(config.vips.len(), 2, "a VIP is named once");
        let shown: Vec<_> = config
            .services
            .iter()
            .map(|service| {
                let at: Vec<_> = service.backends.iter().map(|(_, at)| at.to_string()).collect();
                (&*service.name, at.join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("tcp-80-192-0-2-10", "10.0.0.11:80 10.0.0.12:80".to_owned()),
                ("udp-53-192-0-2-10", "10.0.0.11:53 10.0.0.12:53".to_owned()),
                ("tcp-80-2001-db8--10", "[2001:db8::11]:80".to_owned()),
            ]
        );
        assert_eq!(config.services[1].check, None);
    }

    #[test]
    fn what_fits_nowhere_is_refused() {
        for (listen, backend, said) in [
            (&["192.0.2.10:80"][..], &["2001:db8::11"][..], "no --backend is IPv4"),
            (&["192.0.2.10:80"], &["10.0.0.11", "2001:db8::11"], "2001:db8::11 fits no --listen"),
            (&["192.0.2.10:80", "192.0.2.10:80/tcp"], &["10.0.0.11"], "given twice"),
        ] {
            let error = configuration("eth9", &listens(listen), &ips(backend)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
