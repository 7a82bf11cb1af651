//! Reads services and the pools that they share. A service is read to its end even if its first
//! key is wrong; only what depends on a wrong key is left unchecked.

use std::collections::HashMap;
use std::net::IpAddr;

use pen_common::abi::{MAX_BACKENDS, MAX_SERVICES};

use crate::config::backend::{self, Binder, Bound, Owner, RawBackend};
use crate::config::error::ErrorKind;
use crate::config::judgement;
use crate::config::listen::{self, Listens};
use crate::config::load::Roots;
use crate::config::memory;
use crate::config::probe::RawCheck;
use crate::config::proxy;
use crate::config::raw::{self, At, Names, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::tls::{self, routes};
use crate::config::{
    Affinity, Listen, Mode, Ports, Protocol, Proxy, Service, UnixPath, node, unix, vip,
};

const OWN: [&str; 11] = [
    "name",
    "listen",
    "protocol",
    "mode",
    "affinity",
    "backends",
    "pool",
    "check",
    "emergency",
    "stubborn",
    "source",
];
const KEYS: [&str; OWN.len() + memory::KEYS.len() + proxy::KEYS.len() + judgement::KEYS.len()] =
    raw::joined(&[&OWN, &memory::KEYS, &proxy::KEYS, &judgement::KEYS]);
const SERVICE: Spec = Spec { name: "service", title: "[[service]]", keys: &KEYS };
const POOL: Spec = Spec { name: "pool", title: "[[pool]]", keys: &["name", "backends", "check"] };

const MAX_SERVICE_COUNT: usize = MAX_SERVICES as usize - 1;
// Id 0 is no backend.
const MAX_BACKEND_COUNT: usize = MAX_BACKENDS as usize - 1;

/// `[[service]]`.
pub(super) fn services(
    roots: &Roots<'_>,
    vips: &Names<IpAddr>,
    acls: &Names<String>,
    masquerade_ports: Option<Ports>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Vec<Service>> {
    let mut reader = Reader {
        vips,
        acls,
        system,
        masquerade_ports,
        pools: Pools::read(roots, system, report),
        binder: Binder::new(vips),
        names: Names::new("service"),
        listens: Listens::default(),
        sockets: Names::new("listen"),
    };
    let tables = roots.all(&SERVICE, report);
    if let Some(Ok(table)) = tables.get(MAX_SERVICE_COUNT) {
        let kind = ErrorKind::TooMany { what: "services", max: MAX_SERVICE_COUNT };
        report.add(table.place, kind);
    }
    let services: Vec<_> = tables.iter().map(|table| reader.service(&(*table)?, report)).collect();
    let mut services: Vec<_> = services.into_iter().collect::<Read<_>>()?;
    judgement::follow(&tables, &mut services, &reader.names, report)?;
    if let Some(ports) = masquerade_ports {
        leave_room_for_answers(&tables, &services, ports, report);
    }
    let mut backends = 0;
    for (table, service) in tables.iter().zip(&services) {
        backends += service.backends.len() + usize::from(service.emergency.is_some());
        if backends > MAX_BACKEND_COUNT {
            let what = "backends in all services";
            let kind = ErrorKind::TooMany { what, max: MAX_BACKEND_COUNT };
            return Err(report.add((*table)?.place, kind));
        }
    }
    Ok(services)
}

/// Answers to masqueraded packets come to a port of their source: a service there would get them.
fn leave_room_for_answers(
    tables: &[Read<Table<'_>>],
    services: &[Service],
    ports: Ports,
    report: &mut Report<'_>,
) {
    for (table, service) in tables.iter().zip(services) {
        let Listen { address, ports: taken } = service.listen;
        let mut others = services.iter();
        let masquerades =
            |other: &&Service| (other.source, other.protocol) == (Some(address), service.protocol);
        let Some(other) = others.find(masquerades) else { continue };
        if let Ok(table) = table
            && (taken == Ports::ANY || taken.overlaps(ports))
        {
            let place = table.get("listen").map_or(table.place, |listen| listen.place);
            let service = other.name.clone();
            let kind = ErrorKind::PortsOfAnswers { taken, ports, address, service };
            report.add(place, kind);
        }
    }
}

/// Reads services one after the other.
struct Reader<'a> {
    vips: &'a Names<IpAddr>,
    acls: &'a Names<String>,
    system: &'a dyn System,
    /// Until a service needs them and they have been checked.
    masquerade_ports: Option<Ports>,
    pools: Pools,
    binder: Binder<'a>,
    names: Names<String>,
    listens: Listens,
    sockets: Names<UnixPath>,
}

impl Reader<'_> {
    fn service(&mut self, table: &Table<'_>, report: &mut Report<'_>) -> Read<Service> {
        let name = required_name(table, report);
        let name = self.names.claim(name, report);
        let protocol = table.word("protocol", report).map(|word| word.unwrap_or(Protocol::Tcp));
        let mode = self.mode(table, report);
        let listen = self.listen(table, protocol, mode, report);
        let proxy = proxy::read(table, mode, protocol, self.acls, self.system, report);
        let affinity = table.word("affinity", report).map(|word| word.unwrap_or(Affinity::Client));
        let memory = memory::read(table, protocol, report);
        let own_check = RawCheck::read(table, self.system, report);
        let stubborn = table.boolean("stubborn", report);
        let judgement = judgement::read(table, mode, report);
        let pool = self.pool(table, report);
        let emergency = backend::emergency(table, report);

        let vip = listen.as_ref().map(|(listen, _)| *listen).map_err(|reported| *reported);
        let source = self.source(table, mode, vip, report);
        let ((listen, socket), mode) = (listen?, mode?);
        let file = match mode {
            Mode::Proxy => unix::file(table, socket.clone(), self.system, report),
            _ => Ok(None),
        };
        let Pool { backends, check } = pool?;
        let emergency = emergency?;
        let abuse = proxy.as_ref().ok().and_then(Option::as_ref);
        let abuse = abuse.and_then(|proxy| proxy.abuse.as_ref());
        let protocol = protocol?;
        let single_port = socket.is_some() || listen.ports.single().is_some();
        let owner = Owner { listen, socket, protocol, mode };
        let backends = self.binder.bind(&backends, emergency.as_ref(), abuse, &owner, report);
        // The service's own check replaces the pool's as a whole.
        let check = own_check?.or(check).unwrap_or_else(RawCheck::absent);
        let place = check.place();
        let check = check.of_service(protocol, single_port, mode, report);
        let Bound { backends, names, emergency, abuse } = backends?;
        let (check, file) = (check?, file?);
        let mut probed = backends.iter().chain(&emergency);
        if let Some(socket) = probed.find_map(|backend| backend.socket.clone()) {
            check.fits_socket(socket).map_err(|error| report.add(place, error.into()))?;
        }
        let servers = [&backends[..], emergency.as_slice(), abuse.as_slice()].concat();
        let proxy = match proxy? {
            None => None,
            Some(raw) => {
                let known = backends.iter().map(|backend| &*backend.name);
                let known: Vec<&str> =
                    known.chain(names.iter().map(|named| &*named.name)).collect();
                let routes = routes::bind(raw.routes, &known, report)?;
                Some(Box::new(Proxy { abuse, routes, socket: file, ..raw.proxy }))
            }
        };
        proxy::of_families(table, proxy.as_deref(), listen.address, &servers, report)?;
        tls::of_sockets(table, proxy.as_deref(), &servers, report)?;
        Ok(Service {
            name: name?.value,
            listen,
            protocol,
            mode,
            source: source?,
            affinity: affinity?,
            memory: memory?,
            backends,
            names,
            emergency,
            stubborn: stubborn?.unwrap_or(false),
            check,
            judgement: judgement?,
            proxy,
        })
    }

    fn mode(&mut self, table: &Table<'_>, report: &mut Report<'_>) -> Read<Mode> {
        let mode = table.word("mode", report)?.unwrap_or(Mode::Dsr);
        if mode == Mode::Masquerade
            && let Some(ports) = self.masquerade_ports.take()
        {
            let place = table.get("mode").map_or(table.place, |word| word.place);
            node::separate(ports, place, self.system, report)?;
        }
        Ok(mode)
    }

    /// The address that masqueraded packets come from.
    fn source(
        &self,
        table: &Table<'_>,
        mode: Read<Mode>,
        listen: Read<Listen>,
        report: &mut Report<'_>,
    ) -> Read<Option<IpAddr>> {
        let Some(text) = table.text("source", report)? else { return Ok(None) };
        let At { place, value: address } = vip::address(text, report)?;
        if mode? != Mode::Masquerade {
            let kind = ErrorKind::NoEffect { key: "source", needs: "`mode = \"masquerade\"`" };
            return Err(report.add(place, kind));
        }
        if self.vips.find(&address).is_none() {
            let declared = || self.vips.in_order().into_iter().copied().collect();
            let kind = || ErrorKind::SourceNoVip { address, declared: declared() };
            return Err(self.vips.missing(place, kind, report));
        }
        let vip = listen?.address;
        if vip.is_ipv4() != address.is_ipv4() {
            return Err(report.add(place, ErrorKind::SourceFamily { source: address, vip }));
        }
        Ok(Some(address))
    }

    fn listen(
        &mut self,
        table: &Table<'_>,
        protocol: Read<Protocol>,
        mode: Read<Mode>,
        report: &mut Report<'_>,
    ) -> Read<(Listen, Option<UnixPath>)> {
        let proxied = mode.is_ok_and(|mode| mode == Mode::Proxy);
        let listen = table.required_text("listen", "\"192.0.2.10:80\"", report)?;
        let (listen, socket) = listen::listen(listen, proxied, report)?;
        if let Some(socket) = socket {
            return self.socket(At { place: listen.place, value: socket }, protocol, mode, report);
        }
        // Neither this nor a duplicate ends the reading: the backends can be checked all the same.
        let address = listen.value.address;
        if proxied && listen.value.ports.single().is_none() {
            report.add(listen.place, ErrorKind::ProxiedPorts { listen: listen.value });
        }
        // A proxy also listens on addresses of the machine, which the kernel's stack already gets.
        if !proxied && mode.is_ok() && self.vips.find(&address).is_none() {
            let kind = || {
                let declared = self.vips.in_order().into_iter().copied().collect();
                ErrorKind::UndeclaredVip { address, declared }
            };
            self.vips.missing(listen.place, kind, report);
        }
        if let Ok(protocol) = protocol {
            self.listens.claim(listen, protocol, report);
        }
        Ok((listen.value, None))
    }

    /// The Unix socket that a service listens on. As with addresses, the backends can be checked all
    /// the same.
    fn socket(
        &mut self,
        socket: At<UnixPath>,
        protocol: Read<Protocol>,
        mode: Read<Mode>,
        report: &mut Report<'_>,
    ) -> Read<(Listen, Option<UnixPath>)> {
        let At { place, value: path } = socket.clone();
        let listen = Listen { address: path.stand_in(), ports: Ports::ANY };
        if let Some(mode) = mode.ok().filter(|mode| *mode != Mode::Proxy) {
            return Err(report.add(place, ErrorKind::OnlyProxied { key: "unix:", mode }));
        }
        if protocol.is_ok_and(|found| found == Protocol::Udp) {
            return Err(report.add(place, ErrorKind::SocketOfUdp { socket: path }));
        }
        if self.sockets.claim(Ok(socket), report).is_ok() {
            // It has an entry among the ports of all services.
            self.listens.claim(At { place, value: listen }, Protocol::Tcp, report);
        }
        Ok((listen, Some(path)))
    }

    /// The backends of a service: its own, or those of the pool that it names.
    fn pool(&self, table: &Table<'_>, report: &mut Report<'_>) -> Read<Pool> {
        let own = backend::list(table, report);
        let name = table.text("pool", report);
        if table.has("backends") && table.has("pool") {
            return Err(report.add(table.place, ErrorKind::BackendsAndPool));
        }
        match (own?, name?) {
            (Some(backends), _) => Ok(Pool { backends, check: None }),
            (None, Some(name)) => self.pools.find(name, report),
            (None, None) => Err(table
                .misspelt("backends")
                .or_else(|| table.misspelt("pool"))
                .unwrap_or_else(|| report.add(table.place, ErrorKind::NeitherBackendsNorPool))),
        }
    }
}

// === Pools ===

/// Backends and how they are probed.
#[derive(Clone)]
struct Pool {
    backends: Vec<Read<RawBackend>>,
    check: Option<RawCheck>,
}

/// `[[pool]]`.
struct Pools {
    names: Names<String>,
    pools: HashMap<String, Read<Pool>>,
}

impl Pools {
    fn read(roots: &Roots<'_>, system: &dyn System, report: &mut Report<'_>) -> Self {
        let mut all = Self { names: Names::new("pool"), pools: HashMap::new() };
        for table in roots.all(&POOL, report) {
            let pool = table.and_then(|table| pool(&table, system, report));
            let name = table.and_then(|table| required_name(&table, report));
            if let Ok(At { value: name, .. }) = all.names.claim(name, report) {
                all.pools.insert(name, pool);
            }
        }
        all
    }

    fn find(&self, At { place, value }: At<&str>, report: &mut Report<'_>) -> Read<Pool> {
        let kind = || {
            let near = raw::nearest(value, &self.names.in_order());
            ErrorKind::UndeclaredPool { name: value.to_owned(), near }
        };
        match self.pools.get(value) {
            Some(pool) => pool.clone(),
            None => Err(self.names.missing(place, kind, report)),
        }
    }
}

fn required_name(table: &Table<'_>, report: &mut Report<'_>) -> Read<At<String>> {
    raw::name(table.required_text("name", "\"web\"", report)?, report)
}

fn pool(table: &Table<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Pool> {
    let backends = backend::list(table, report);
    let check = RawCheck::read(table, system, report);
    match backends? {
        Some(backends) => Ok(Pool { backends, check: check? }),
        None => Err(table.lacks("backends", "[\"10.0.0.11:80\"]", report)),
    }
}
