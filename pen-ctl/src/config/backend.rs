//! Reads `backends`. A list may belong to a pool and so to several services: [`RawBackend`] is what
//! was written, [`Binder::bind`] makes it the backends of one service, where the rules of the
//! service's mode apply. Names of hosts stay names: nobody is asked here.

use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use crate::config::error::ErrorKind;
use crate::config::proxy::MAX_LIMIT;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::vip::{socket_address, usable};
use crate::config::{Backend, Endpoint, Limits, Listen, Mode, Named, Protocol, UnixPath, unix};

const BACKEND: Spec = Spec {
    name: "backend",
    title: "a backend",
    keys: &[
        "address",
        "host",
        "max_connections",
        "max_known",
        "name",
        "port",
        "prio",
        "srv",
        "weight",
    ],
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
    /// A name that records SRV belong to.
    Srv(String),
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
    let (text, host, port) = server(table, report)?;
    let name = match name? {
        Some(name) => name,
        None => default_name(text, &host, report)?,
    };
    let weight = weight?.unwrap_or(1);
    let limits = limits?;
    Ok(RawBackend { place: text.place, name, host, port, weight, limits, proxied })
}

/// Which server, or which servers, by one of three keys.
fn server<'d>(
    table: &Table<'d>,
    report: &mut Report<'_>,
) -> Read<(At<&'d str>, Host, Option<u16>)> {
    let mut ways = ["address", "host", "srv"].into_iter().filter_map(|key| table.get(key));
    if let (Some(_), Some(At { place, .. })) = (ways.next(), ways.next()) {
        return Err(report.add(place, ErrorKind::OneWayToServer));
    }
    let (is_host, srv) = (table.has("host"), table.text("srv", report)?);
    for (key, means_nothing, needs) in [
        ("port", !is_host, "`host = \"app.example\"`"),
        ("weight", srv.is_some(), "`address` or `host` instead of `srv`"),
        ("prio", srv.is_some(), "`address` or `host` instead of `srv`"),
    ] {
        if let Some(At { place, .. }) = table.get(key).filter(|_| means_nothing) {
            return Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
    }
    if let Some(text) = srv {
        let name = host_name(text, "_http._tcp.app.example", report)?;
        return Ok((text, Host::Srv(name), None));
    }
    if let Some(text) = table.text("host", report)? {
        let port = table.integer("port", 1..=65535, report)?;
        let port = port.map(|port| u16::try_from(port).expect("of the range"));
        return Ok((text, Host::Name(host_name(text, "app.example", report)?), port));
    }
    let text = table.required_text("address", "\"10.0.0.11:80\"", report)?;
    let (host, port) = endpoint(text, report)?;
    Ok((text, host, port))
}

/// The name of a host, and nothing else.
fn host_name(
    At { place, value: text }: At<&str>,
    example: &'static str,
    report: &mut Report<'_>,
) -> Read<String> {
    if !is_host_name(text) {
        return Err(report.add(place, ErrorKind::InvalidHost { text: text.to_owned(), example }));
    }
    Ok(plain(text))
}

/// One spelling for each name.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
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
        Host::Name(_) | Host::Srv(_) => raw::name(text, report),
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
        Host::Name(_) | Host::Srv(_) | Host::Unix(_) => Ok((host, port)),
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
    is_host_name(host).then(|| (Host::Name(plain(host)), port))
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
    pub(super) names: Vec<Named>,
    pub(super) emergency: Option<Backend>,
    pub(super) abuse: Option<Backend>,
}

/// Makes lists of backends those of services.
pub(super) struct Binder<'a> {
    vips: &'a Names<IpAddr>,
}

/// What backends of one service have already.
struct Taken {
    names: Names<String>,
    addresses: Names<IpAddr>,
    endpoints: Names<Endpoint>,
}

/// One of a list.
enum Server {
    Known(Backend),
    Named(Named),
}

impl<'a> Binder<'a> {
    pub(super) const fn new(vips: &'a Names<IpAddr>) -> Self {
        Self { vips }
    }

    /// The backends of a service, the one for emergencies, and the one for clients that it denies.
    pub(super) fn bind(
        &self,
        list: &[Read<RawBackend>],
        emergency: Option<&RawBackend>,
        abuse: Option<&RawBackend>,
        owner: &Owner,
        report: &mut Report<'_>,
    ) -> Read<Bound> {
        let mut taken = Taken {
            names: Names::new("backend name"),
            addresses: Names::new("backend"),
            endpoints: Names::new("backend"),
        };
        let mut server = |raw: &RawBackend| self.server(raw, owner, &mut taken, report);
        let servers: Vec<_> =
            list.iter().map(|raw| server(raw.as_ref().map_err(|reported| *reported)?)).collect();
        let singles = [emergency, abuse].map(|raw| raw.map(|raw| (raw.place, server(raw))));
        let (mut backends, mut names) = (Vec::new(), Vec::new());
        for server in servers.into_iter().collect::<Read<Vec<_>>>()? {
            match server {
                Server::Known(backend) => backends.push(backend),
                Server::Named(named) => names.push(named),
            }
        }
        let [emergency, abuse] = singles.map(|single| {
            let Some((place, server)) = single else { return Ok(None) };
            match server? {
                Server::Known(backend) => Ok(Some(backend)),
                Server::Named(Named { host, .. }) => {
                    Err(report.add(place, ErrorKind::NamedAlone { host }))
                }
            }
        });
        Ok(Bound { backends, names, emergency: emergency?, abuse: abuse? })
    }

    fn server(
        &self,
        raw: &RawBackend,
        owner: &Owner,
        taken: &mut Taken,
        report: &mut Report<'_>,
    ) -> Read<Server> {
        let (mode, place) = (owner.mode, raw.place);
        let server = match &raw.host {
            Host::Name(host) => Server::Named(named(raw, host, false, owner, report)?),
            Host::Srv(host) => Server::Named(named(raw, host, true, owner, report)?),
            Host::Address(address) => Server::Known(self.backend(raw, *address, owner, report)?),
            Host::Unix(path) => Server::Known(unix_backend(raw, path, owner, report)?),
        };
        if let Some(At { place, value: key }) = raw.proxied
            && mode != Mode::Proxy
        {
            return Err(report.add(place, ErrorKind::OnlyProxied { key, mode }));
        }
        match &server {
            Server::Known(backend) if mode.takes_ports() => {
                let value = backend.endpoint();
                taken.endpoints.claim(Ok(At { place, value }), report)?;
            }
            Server::Known(backend) => {
                // The port decides nothing: the same address is the same server.
                taken.addresses.claim(Ok(At { place, value: backend.address }), report)?;
            }
            Server::Named(_) => {}
        }
        taken.names.claim(Ok(raw.name.clone()), report)?;
        Ok(server)
    }

    fn backend(
        &self,
        raw: &RawBackend,
        address: IpAddr,
        owner: &Owner,
        report: &mut Report<'_>,
    ) -> Read<Backend> {
        let Owner { listen, mode, .. } = *owner;
        let (vip, place) = (listen.address, raw.place);
        let address = match mode {
            Mode::Proxy => address,
            _ => usable(place, address, report)?,
        };
        if let Some(declared) = self.vips.find(&address) {
            let kind = ErrorKind::BackendIsVip { address, vip: report.position(declared) };
            return Err(report.add(place, kind));
        }
        if address.is_ipv4() != vip.is_ipv4() && !mode.takes_families() {
            let kind = ErrorKind::FamilyMismatch { backend: address, vip, mode };
            return Err(report.add(place, kind));
        }
        let example = || SocketAddr::new(address, 80).to_string();
        let port = port(raw, &address.to_string(), example, owner, report)?;
        let RawBackend { weight, limits, .. } = *raw;
        let name = raw.name.value.clone();
        Ok(Backend { name, address, port, socket: None, weight, limits })
    }
}

/// Servers that the DNS names.
fn named(
    raw: &RawBackend,
    host: &str,
    srv: bool,
    owner: &Owner,
    report: &mut Report<'_>,
) -> Read<Named> {
    let Owner { listen, mode, .. } = *owner;
    let has_port =
        mode.takes_ports() && (owner.socket.is_some() || listen.ports.single().is_some());
    let port = match srv {
        true if !has_port => {
            return Err(report.add(raw.place, ErrorKind::SrvPorts { listen, mode }));
        }
        true => 0,
        false => port(raw, host, || format!("{host}:80"), owner, report)?,
    };
    let RawBackend { weight, limits, .. } = *raw;
    let (name, host) = (raw.name.value.clone(), host.to_owned());
    Ok(Named { name, host, srv, port, weight, limits })
}

/// The port of a backend.
fn port(
    raw: &RawBackend,
    backend: &str,
    example: impl FnOnce() -> String,
    owner: &Owner,
    report: &mut Report<'_>,
) -> Read<u16> {
    let Owner { listen, mode, .. } = *owner;
    let place = raw.place;
    // As in `listen`, 0 is no port.
    match (raw.port.filter(|port| *port != 0), listen.ports.single()) {
        (None, None) if owner.socket.is_some() => {
            let (backend, example) = (backend.to_owned(), example());
            Err(report.add(place, ErrorKind::BackendWithoutPort { backend, example }))
        }
        (Some(port), None) if owner.socket.is_some() => Ok(port),
        (None, own) => Ok(own.unwrap_or(0)),
        // To give all of them one port would mix up flows of one client to several of them: its
        // answers would all come from that port.
        (Some(port), None) => Err(report.add(place, ErrorKind::PortOfMany { port, listen })),
        (Some(port), Some(own)) if port != own && !mode.takes_ports() => {
            Err(report.add(place, ErrorKind::PortMismatch { port, listen, mode }))
        }
        (Some(port), Some(_)) => Ok(port),
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
