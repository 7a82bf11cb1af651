//! Makes backends of names and of what the DNS said of them. Addresses that no backend can have are left
//! out, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pen_common::abi::MAX_BACKENDS;

use super::{Answer, Names, Query, Srv, Target, list};
use crate::config::{Backend, MAX_WEIGHT, Mode, Named, Scheduler, Service};

/// Most backends of one service, as in a configuration.
const MAX_PER_SERVICE: usize = 1000;

/// The services as written, with the servers that their names stand for, and what was left out.
pub(in crate::engine) fn fill(
    names: &Names,
    vips: &BTreeSet<IpAddr>,
) -> (Vec<Service>, Vec<String>) {
    let mut services = names.written.clone();
    let written: usize = services.iter().map(|service| service.all_backends().count()).sum();
    let mut room = (MAX_BACKENDS as usize - 1).saturating_sub(written);
    let mut left_out = Vec::new();
    for service in &mut services {
        for named in service.names.clone() {
            let Some(answer) = names.answer(&Query::of(service, &named)) else { continue };
            let mut own = Vec::new();
            let mut refused: BTreeMap<_, Vec<String>> = BTreeMap::new();
            for backend in backends(service, &named, answer) {
                let why = match refusal(service, &backend, vips) {
                    Some(why) => why,
                    None if room == 0 || service.backends.len() >= MAX_PER_SERVICE => {
                        "there is no room for more backends"
                    }
                    None => {
                        room -= 1;
                        own.push(backend.name.clone());
                        service.backends.push(backend);
                        continue;
                    }
                };
                refused.entry(why).or_default().push(backend.address.to_string());
            }
            let (host, name) = (&named.host, &service.name);
            left_out.extend(refused.iter().map(|(why, addresses)| {
                format!("service {name} leaves {} of {host} out: {why}", list(addresses))
            }));
            route(service, &named.name, &own);
        }
    }
    (services, left_out)
}

/// Routes that lead to a name lead to its servers.
fn route(service: &mut Service, name: &str, own: &[String]) {
    let routes = service.proxy.iter_mut().flat_map(|proxy| &mut proxy.routes);
    for route in routes.filter(|route| route.backends.iter().any(|found| found == name)) {
        route.backends.extend_from_slice(own);
    }
}

fn backends(service: &Service, named: &Named, answer: &Answer) -> Vec<Backend> {
    let by_prio = service.proxy.as_ref().is_some_and(|proxy| proxy.scheduler == Scheduler::Prio);
    let records = || answer.targets.iter().filter_map(|target| target.srv);
    let preferred = records().map(|srv| srv.priority).min();
    let weights: Vec<u16> = records().map(|srv| srv.weight).collect();
    let one = |Target { address, srv }: &Target| {
        let address = address.to_canonical();
        let mut backend = Backend {
            name: format!("{}/{address}", named.name),
            address,
            port: named.port,
            socket: None,
            weight: named.weight,
            limits: named.limits,
        };
        if let Some(Srv { priority, weight, port }) = *srv {
            backend.name = format!("{}/{}", named.name, SocketAddr::new(address, port));
            backend.port = port;
            backend.limits.prio = u32::from(priority);
            // Those of other priorities are for clients that can choose among servers themselves.
            let rests = !by_prio && Some(priority) != preferred;
            backend.weight = if rests { 0 } else { scaled(weight, &weights) };
        }
        backend
    };
    answer.targets.iter().map(one).collect()
}

/// A weight of a record as one of ours: as it is if all are ours, otherwise in proportion. One of 0
/// beside others has the smallest that there is (RFC 2782).
fn scaled(weight: u16, all: &[u16]) -> u32 {
    let most = u32::from(all.iter().copied().max().unwrap_or(0));
    let (weight, has_zero) = (u32::from(weight), all.contains(&0));
    match most {
        0 => 1,
        _ if most > MAX_WEIGHT || has_zero => (weight * MAX_WEIGHT / most).max(1),
        _ => weight,
    }
}

/// Why a server cannot be one of a service.
fn refusal(service: &Service, backend: &Backend, vips: &BTreeSet<IpAddr>) -> Option<&'static str> {
    let (address, mode) = (backend.address, service.mode);
    let vip = service.listen.address;
    let proxy = service.proxy.as_deref();
    let both = mode.takes_families() && !proxy.is_some_and(|proxy| proxy.transparent)
        || vip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let same = |other: &Backend| {
        other.address == address && (!mode.takes_ports() || other.port == backend.port)
    };
    let abuse = proxy.and_then(|proxy| proxy.abuse.as_ref());
    if address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST {
        Some("it is no address of a host")
    } else if address.is_loopback() && mode != Mode::Proxy {
        Some("it is a loopback address")
    } else if vips.contains(&address) {
        Some("it is a virtual address, which would be a loop")
    } else if address.is_ipv4() != vip.is_ipv4() && !both {
        Some("it is of another family than the virtual address")
    } else if backend.port == 0 && mode.takes_ports() && service.listen.ports.single().is_some() {
        Some("0 is no port")
    } else if service.all_backends().chain(abuse).any(same) {
        Some("another backend is the same server")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pen_common::moment::Moment;

    use super::*;
    use crate::engine::sim::{VIP, named};

    /// An address; priority, weight and port.
    type Said<'a> = (&'a str, Option<(u16, u16, u16)>);

    fn filled(service: Service, targets: &[Said<'_>]) -> (Service, Vec<String>) {
        let query = Query::of(&service, &service.names[0]);
        let targets = targets.iter().map(|(address, srv)| Target {
            address: address.parse().expect("literal"),
            srv: srv.map(|(priority, weight, port)| Srv { priority, weight, port }),
        });
        let answer = Answer { targets: targets.collect(), ttl: Duration::from_secs(1) };
        let mut names = Names::default();
        names.follow(&[service], Moment(0));
        names.answered(&query, Ok(answer), Moment(0));
        let (mut services, left_out) = fill(&names, &BTreeSet::from([VIP]));
        (services.remove(0), left_out)
    }

    #[test]
    fn an_address_is_a_backend_that_is_called_by_the_name_and_itself() {
        let (service, _) = filled(named(false).services.remove(0), &[("10.0.0.11", None)]);
        let [backend] = &service.backends[..] else { panic!("one: {:?}", service.backends) };
        assert_eq!((&*backend.name, backend.port, backend.weight), ("app/10.0.0.11", 80, 3));
    }

    #[test]
    fn records_say_port_and_weight_and_only_the_preferred_ones_take_new_clients() {
        let weights = |records: &[(u16, u16)]| {
            let mut service = named(true).services.remove(0);
            service.mode = Mode::Nat;
            let record = |(priority, weight): &(u16, u16)| Some((*priority, *weight, 8080));
            let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
            let targets: Vec<_> = addresses.into_iter().zip(records.iter().map(record)).collect();
            let (service, left_out) = filled(service, &targets);
            assert_eq!(left_out, [""; 0]);
            assert_eq!(service.backends[0].name, "app/10.0.0.1:8080");
            service.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>()
        };
        for (records, expected) in [
            (&[(0, 1), (0, 3)][..], &[1, 3][..]),
            (&[(0, 0), (0, 0)], &[1, 1]),
            (&[(0, 0), (0, 10)], &[1, 256]),
            (&[(0, 1000), (0, 500), (0, 1)], &[256, 128, 1]),
            (&[(1, 5), (2, 5)], &[5, 0]),
        ] {
            assert_eq!(weights(records), expected, "{records:?}");
        }
    }

    #[test]
    fn who_cannot_be_a_backend_is_left_out_in_words() {
        for (address, why) in [
            ("0.0.0.0", "it is no address of a host"),
            ("127.0.0.1", "it is a loopback address"),
            ("192.0.2.10", "it is a virtual address, which would be a loop"),
            ("2001:db8::1", "it is of another family than the virtual address"),
        ] {
            let (service, left_out) = filled(named(false).services.remove(0), &[(address, None)]);
            assert_eq!(service.backends, []);
            assert_eq!(
                left_out,
                [format!("service web leaves {address} of app.example out: {why}")]
            );
        }
        let twice = [("10.0.0.1", None), ("10.0.0.1", None)];
        let (service, left_out) = filled(named(false).services.remove(0), &twice);
        assert_eq!(service.backends.len(), 1);
        assert!(left_out[0].ends_with("another backend is the same server"));
        let mut srv = named(true).services.remove(0);
        srv.mode = Mode::Nat;
        assert!(filled(srv, &[("10.0.0.1", Some((0, 0, 0)))]).1[0].ends_with("0 is no port"));
        let many: Vec<String> =
            (0..1020_u32).map(|i| Ipv4Addr::from_bits(0x0a01_0000 + i).to_string()).collect();
        let many: Vec<_> = many.iter().map(|address| (&**address, None)).collect();
        let (service, left_out) = filled(named(false).services.remove(0), &many);
        assert_eq!((service.backends.len(), left_out.len()), (1000, 1));
        let text = "10.1.3.239 and 12 more of app.example out: there is no room for more backends";
        assert!(left_out[0].ends_with(text), "{left_out:?}");
    }
}
