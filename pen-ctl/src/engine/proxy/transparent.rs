//! What a transparent service does so that its servers see the addresses of clients: whose address a
//! connection to a server comes from, and which answers have to be taken in here although they are
//! addressed to clients.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::View;

/// Answers of a server: whatever comes from this address and port, whoever it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answers {
    /// The server.
    pub server: SocketAddr,
    /// Over UDP, otherwise TCP.
    pub udp: bool,
}

/// The answers that the services of a view wait for.
#[must_use]
pub fn answers(view: &View) -> BTreeSet<Answers> {
    let services = view.services.iter().filter(|service| service.proxy.transparent);
    services
        .flat_map(|service| {
            let abuse = service.proxy.abuse.as_ref();
            let abuse = abuse.and_then(|abuse| abuse.endpoint().inet());
            let servers = service.backends.iter().filter_map(|backend| backend.address.inet());
            servers.chain(abuse).map(|server| Answers { server, udp: service.is_udp() })
        })
        .collect()
}

/// The address that a connection to a server comes from if that is to see its client's; `None` if it
/// cannot see it. Its port is not the client's: that of a connection which has just ended could not
/// be used again for a minute.
#[must_use]
pub fn source(client: IpAddr, server: IpAddr) -> Option<IpAddr> {
    let client = client.to_canonical();
    // Nobody's: a trusted proxy may say anything.
    let none = client.is_unspecified() || client.is_multicast();
    let on_a_link = match client {
        IpAddr::V4(client) => client.is_link_local() || client.is_broadcast(),
        IpAddr::V6(client) => client.is_unicast_link_local(),
    };
    // What is sent to these addresses never leaves the server, or not to here.
    let elsewhere = (client.is_loopback() || client == server) && !server.is_loopback();
    let seen = client.is_ipv4() == server.is_ipv4() && !none && !on_a_link && !elsewhere;
    seen.then_some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_sees_clients_of_its_own_family_that_it_could_answer() {
        for (client, server, seen) in [
            ("192.0.2.7", "10.0.0.1", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", "10.0.0.1", Some("192.0.2.7")),
            ("2001:db8::7", "fd00::1", Some("2001:db8::7")),
            ("192.0.2.7", "127.0.0.1", Some("192.0.2.7")),
            ("127.0.0.1", "127.0.0.1", Some("127.0.0.1")),
            ("127.0.0.1", "10.0.0.1", None),
            ("::1", "fd00::1", None),
            ("2001:db8::7", "10.0.0.1", None),
            ("192.0.2.7", "fd00::1", None),
            ("169.254.0.7", "10.0.0.1", None),
            ("fe80::7", "fd00::1", None),
            ("10.0.0.1", "10.0.0.1", None),
            ("fd00::1", "fd00::1", None),
            ("0.0.0.0", "10.0.0.1", None),
            ("224.0.0.1", "10.0.0.1", None),
            ("255.255.255.255", "10.0.0.1", None),
            ("ff02::1", "fd00::1", None),
        ] {
            let [client, server] = [client, server].map(|text| text.parse().expect("literal"));
            let seen = seen.map(|text| text.parse().expect("literal"));
            assert_eq!(source(client, server), seen, "{client} at {server}");
        }
    }
}
