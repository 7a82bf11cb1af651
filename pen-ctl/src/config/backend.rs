//! Reads `backends`. A list may belong to a pool and so to several services: [`RawBackend`] is what
//! was written, [`Binder::bind`] makes it the backends of one service, where names become addresses
//! and the rules of the service's mode apply.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::de::DeValue;

use crate::config::error::ErrorKind;
use crate::config::proxy::MAX_LIMIT;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::vip::{socket_address, usable};
use crate::config::{Backend, Limits, Listen, Mode, Protocol, UnixPath, unix};

const BACKEND: Spec = Spec {
    name: "backend",
    title: "a backend",
    keys: &["address", "max_connections", "max_known", "name", "prio", "weight"],
};

/// It takes everything or nothing: a weight would say nothing.
const EMERGENCY: Spec =
    Spec { name: "emergency", title: "`emergency`", keys: &["address", "name"] };

/// The same of the server for clients that an access list denies.
const ABUSE: Spec = Spec { name: "abuse", title: "`abuse`", keys: &["address", "name"] };

/// Most backends of one service: a Maglev table of default size still shares fairly among them.
const MAX_PER_SERVICE: usize = 1000;

const EXPECTED: &str = "a backend, written \"10.0.0.11:80\" or `{ address = \"10.0.0.11:80\" }`";

/// A backend as written.
#[derive(Clone, Debug)]
pub(super) struct RawBackend {
    place: Place,
    name: At<String>,
    host: Host,
    port: Option<u16>,
    weight: u32,
    limits: Limits,
    /// The first key that only a proxy knows, and its place.
    proxied: Option<At<&'static str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
    Unix(UnixPath),
}

/// Reads the key `backends` of a service or pool.
///
/// What is wrong with one does not keep the others from being checked.
pub(super) fn list(
    owner: &Table<'_>,
    report: &mut Report<'_>,
) -> Read<Option<Vec<Read<RawBackend>>>> {
    let Some(At { place, value: elements }) = owner.array("backends", report)? else {
        return Ok(None);
    };
    if elements.is_empty() {
        return Err(report.add(place, ErrorKind::NoBackends));
    }
    if let Some(element) = elements.get(MAX_PER_SERVICE) {
        let kind = ErrorKind::TooMany { what: "backends in one list", max: MAX_PER_SERVICE };
        report.add(element.place, kind);
    }
    let backends: Vec<_> =
        elements.into_iter().map(|element| backend(element, &BACKEND, report)).collect();
    let rests = |backend: &Read<RawBackend>| matches!(backend, Ok(RawBackend { weight: 0, .. }));
    if backends.iter().all(rests) {
        return Err(report.add(place, ErrorKind::AllWeightsZero));
    }
    Ok(Some(backends))
}

/// Reads the key `emergency` of a service.
pub(super) fn emergency(owner: &Table<'_>, report: &mut Report<'_>) -> Read<Option<RawBackend>> {
    owner.get("emergency").map(|value| backend(value, &EMERGENCY, report)).transpose()
}

/// Reads the key `abuse` of a service.
pub(super) fn single(
    owner: &Table<'_>,
    key: &str,
    report: &mut Report<'_>,
) -> Read<Option<RawBackend>> {
    owner.get(key).map(|value| backend(value, &ABUSE, report)).transpose()
}

fn backend(
    At { place, value }: At<&DeValue<'_>>,
    spec: &'static Spec,
    report: &mut Report<'_>,
) -> Read<RawBackend> {
    match value {
        DeValue::Table(entries) => detailed(&Table::open(spec, place, entries, report), report),
        _ => {
            let text = raw::text(At { place, value }, EXPECTED, report)?;
            let (host, port) = endpoint(text, report)?;
            Ok(RawBackend {
                place,
                name: default_name(text, &host, report)?,
                host,
                port,
                weight: 1,
                limits: Limits::default(),
                proxied: None,
            })
        }
    }
}

fn detailed(table: &Table<'_>, report: &mut Report<'_>) -> Read<RawBackend> {
    let weight = table.integer("weight", 0..=256, report);
    let limits = limits(table, report);
    let of_proxies = ["max_connections", "max_known", "prio"].into_iter();
    let proxied = of_proxies
        .filter_map(|key| table.get(key).map(|found| At { place: found.place, value: key }))
        .next();
    let name = table
        .text("name", report)
        .and_then(|name| name.map(|name| raw::name(name, report)).transpose());
    let text = table.required_text("address", "\"10.0.0.11:80\"", report)?;
    let (host, port) = endpoint(text, report)?;
    let name = match name? {
        Some(name) => name,
        None => default_name(text, &host, report)?,
    };
    let weight = weight?.unwrap_or(1);
    let limits = limits?;
    Ok(RawBackend { place: text.place, name, host, port, weight, limits, proxied })
}

/// What a proxy grants a backend.
fn limits(table: &Table<'_>, report: &mut Report<'_>) -> Read<Limits> {
    let max_connections = table.integer("max_connections", 1..=MAX_LIMIT, report);
    let max_known = table.integer("max_known", 1..=MAX_LIMIT, report);
    let prio = table.integer("prio", 0..=u32::MAX, report);
    let (max_connections, max_known) = (max_connections?, max_known?);
    if let (Some(known), place) = (max_known, table.get("max_known"))
        && max_connections.is_none_or(|all| known < all)
    {
        let place = place.map_or(table.place, |found| found.place);
        return Err(report.add(place, ErrorKind::KnownBelowAll { known, all: max_connections }));
    }
    Ok(Limits { max_connections, max_known, prio: prio?.unwrap_or(0) })
}

/// A backend without a name is called by its address as written.
fn default_name(text: At<&str>, host: &Host, report: &mut Report<'_>) -> Read<At<String>> {
    match host {
        Host::Address(_) | Host::Unix(_) => {
            Ok(At { place: text.place, value: text.value.to_owned() })
        }
        Host::Name(_) => raw::name(text, report),
    }
}

fn endpoint(
    At { place, value: text }: At<&str>,
    report: &mut Report<'_>,
) -> Read<(Host, Option<u16>)> {
    if let Some(path) = unix::path(At { place, value: text }, report)? {
        return Ok((Host::Unix(path), None));
    }
    let Some((host, port)) = parse_endpoint(text) else {
        return Err(report.add(place, ErrorKind::InvalidBackend { text: text.to_owned() }));
    };
    match host {
        // Whether this machine will do depends on the service's mode.
        Host::Address(address) if address.to_canonical().is_loopback() => {
            Ok((Host::Address(address.to_canonical()), port))
        }
        Host::Address(address) => Ok((Host::Address(usable(place, address, report)?), port)),
        Host::Name(_) | Host::Unix(_) => Ok((host, port)),
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `HOST` or `HOST:PORT`, an IPv6 address with a port in brackets.
fn parse_endpoint(text: &str) -> Option<(Host, Option<u16>)> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Some((Host::Address(address), None));
    }
    if let Some(address) = socket_address(text) {
        return Some((Host::Address(address.ip()), Some(address.port())));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text, None),
    };
    is_host_name(host).then(|| (Host::Name(host.to_owned()), port))
}

/// As RFC 1123 has it, with the underscore that some networks use.
fn is_host_name(host: &str) -> bool {
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    // No top-level domain is a number: `10.0.0.300` is an address with an error, not a host.
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253
        && host.split('.').all(valid)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

// === Binder ===

/// A service as its backends see it.
pub(super) struct Owner {
    pub(super) listen: Listen,
    /// The Unix socket that it listens on.
    pub(super) socket: Option<UnixPath>,
    pub(super) protocol: Protocol,
    pub(super) mode: Mode,
}

/// The backends of one service.
pub(super) struct Bound {
    pub(super) backends: Vec<Backend>,
    pub(super) emergency: Option<Backend>,
    pub(super) abuse: Option<Backend>,
}

/// Makes lists of backends those of services.
pub(super) struct Binder<'a> {
    vips: &'a Names<IpAddr>,
    system: &'a dyn System,
    /// Hosts that have been asked for: a pool's are needed once for each service.
    resolved: HashMap<String, Result<Vec<IpAddr>, String>>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(vips: &'a Names<IpAddr>, system: &'a dyn System) -> Self {
        Self { vips, system, resolved: HashMap::new() }
    }

    /// The backends of a service, the one for emergencies, and the one for clients that it denies.
    pub(super) fn bind(
        &mut self,
        list: &[Read<RawBackend>],
        emergency: Option<&RawBackend>,
        abuse: Option<&RawBackend>,
        owner: &Owner,
        report: &mut Report<'_>,
    ) -> Read<Bound> {
        let mode = owner.mode;
        let mut names = Names::new("backend name");
        let mut addresses = Names::new("backend");
        let mut endpoints = Names::new("backend");
        let all = list.iter().map(|raw| raw.as_ref().map_err(|reported| *reported));
        let backends: Vec<_> = all
            .chain(emergency.map(Ok))
            .chain(abuse.map(Ok))
            .map(|raw| {
                let raw = raw?;
                let backend = self.backend(raw, owner, report)?;
                let place = raw.place;
                if let Some(At { place, value: key }) = raw.proxied
                    && mode != Mode::Proxy
                {
                    return Err(report.add(place, ErrorKind::OnlyProxied { key, mode }));
                }
                if mode.takes_ports() {
                    let value = backend.endpoint();
                    endpoints.claim(Ok(At { place, value }), report)?;
                } else {
                    // The port decides nothing: the same address is the same server.
                    addresses.claim(Ok(At { place, value: backend.address }), report)?;
                }
                names.claim(Ok(raw.name.clone()), report)?;
                Ok(backend)
            })
            .collect();
        let mut backends: Vec<_> = backends.into_iter().collect::<Read<_>>()?;
        let abuse = abuse.and_then(|_| backends.pop());
        let emergency = emergency.and_then(|_| backends.pop());
        Ok(Bound { backends, emergency, abuse })
    }

    fn backend(
        &mut self,
        raw: &RawBackend,
        owner: &Owner,
        report: &mut Report<'_>,
    ) -> Read<Backend> {
        let Owner { listen, mode, .. } = *owner;
        let (vip, place) = (listen.address, raw.place);
        let address = match &raw.host {
            Host::Address(address) if mode == Mode::Proxy => *address,
            Host::Address(address) => usable(place, *address, report)?,
            Host::Name(host) => self.resolve(host, vip, mode, place, report)?,
            Host::Unix(path) => return unix_backend(raw, path, owner, report),
        };
        if let Some(declared) = self.vips.find(&address) {
            let kind = ErrorKind::BackendIsVip { address, vip: report.position(declared) };
            return Err(report.add(place, kind));
        }
        if address.is_ipv4() != vip.is_ipv4() && !mode.takes_families() {
            let kind = ErrorKind::FamilyMismatch { backend: address, vip, mode };
            return Err(report.add(place, kind));
        }
        // As in `listen`, 0 is no port.
        let port = match (raw.port.filter(|port| *port != 0), listen.ports.single()) {
            (None, None) if owner.socket.is_some() => {
                return Err(report.add(place, ErrorKind::BackendWithoutPort { address }));
            }
            (Some(port), None) if owner.socket.is_some() => port,
            (None, own) => own.unwrap_or(0),
            // To give all of them one port would mix up flows of one client to several of them: its
            // answers would all come from that port.
            (Some(port), None) => {
                return Err(report.add(place, ErrorKind::PortOfMany { port, listen }));
            }
            (Some(port), Some(own)) if port != own && !mode.takes_ports() => {
                return Err(report.add(place, ErrorKind::PortMismatch { port, listen, mode }));
            }
            (Some(port), Some(_)) => port,
        };
        let RawBackend { weight, limits, .. } = *raw;
        let name = raw.name.value.clone();
        Ok(Backend { name, address, port, socket: None, weight, limits })
    }

    /// The first address of a host that has the family of the VIP; of the other family only if
    /// there is none, and the mode takes it.
    fn resolve(
        &mut self,
        host: &str,
        vip: IpAddr,
        mode: Mode,
        place: Place,
        report: &mut Report<'_>,
    ) -> Read<IpAddr> {
        let ask = || self.system.resolve(host).map_err(|error| error.to_string());
        let answer = self.resolved.entry(host.to_owned()).or_insert_with(ask);
        let host = host.to_owned();
        let addresses = match answer {
            Ok(addresses) => addresses,
            Err(reason) => {
                let kind = ErrorKind::UnresolvableName { host, reason: reason.clone() };
                return Err(report.add(place, kind));
            }
        };
        let mut addresses = addresses.iter().map(IpAddr::to_canonical);
        let any = addresses.clone().next().filter(|_| mode.takes_families());
        match addresses.find(|address| address.is_ipv4() == vip.is_ipv4()).or(any) {
            Some(address) => usable(place, address, report),
            None => Err(report.add(place, ErrorKind::NoAddressOfFamily { host, vip })),
        }
    }
}

/// A backend that is a Unix socket.
fn unix_backend(
    raw: &RawBackend,
    path: &UnixPath,
    owner: &Owner,
    report: &mut Report<'_>,
) -> Read<Backend> {
    let (place, socket) = (raw.place, path.clone());
    let wrong = match (owner.mode, owner.protocol) {
        (Mode::Proxy, Protocol::Udp) => Some(ErrorKind::SocketOfUdp { socket }),
        (Mode::Proxy, Protocol::Tcp) if owner.socket.as_ref() == Some(path) => {
            Some(ErrorKind::BackendIsListener { socket })
        }
        (Mode::Proxy, Protocol::Tcp) => None,
        (mode, _) => Some(ErrorKind::OnlyProxied { key: "unix:", mode }),
    };
    if let Some(wrong) = wrong {
        return Err(report.add(place, wrong));
    }
    let RawBackend { weight, limits, .. } = *raw;
    let (name, address) = (raw.name.value.clone(), path.stand_in());
    Ok(Backend { name, address, port: 0, socket: Some(path.clone()), weight, limits })
}
