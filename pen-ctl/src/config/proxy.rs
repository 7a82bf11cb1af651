//! Reads what only services of mode `proxy` have: how a backend is chosen, for how long a connection
//! may be silent, and how many there may be.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::config::backend::{self, RawBackend};
use crate::config::error::ErrorKind;
use crate::config::probe::duration;
use crate::config::raw::{self, At, Names, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::tls::routes::RawRoutes;
use crate::config::{Backend, Mode, Protocol, Proxy, Scheduler, Timeouts, TlsError, tls};

/// Keys of a service that belong here.
pub(super) const KEYS: [&str; 20] = [
    "abuse",
    "accept_proxy",
    "acl",
    "backend_tls",
    "eject",
    "eject_max",
    "eject_resets",
    "fast_close",
    "forwarded_for",
    "listen_mode",
    "listen_owner",
    "max_connections",
    "max_per_source",
    "queue",
    "routes",
    "scheduler",
    "send_proxy",
    "timeouts",
    "tls",
    "transparent",
];

const TIMEOUTS: Spec = Spec {
    name: "timeouts",
    title: "`timeouts`",
    keys: &["client", "connect", "half_closed", "header", "queue", "server", "tunnel", "udp"],
};

/// Most connections that a limit may speak of.
pub(super) const MAX_LIMIT: u32 = 1_000_000;
/// Flows of UDP that a service may have if it does not say. Each needs a descriptor and, on the side
/// of the backends, a port of this machine, of which Linux gives out 28 thousand.
const USUAL_FLOWS: u32 = 16_384;
/// Keys that mean nothing for datagrams.
const ONLY_TCP: [&str; 8] = [
    "accept_proxy",
    "backend_tls",
    "fast_close",
    "forwarded_for",
    "queue",
    "routes",
    "send_proxy",
    "tls",
];
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// What was read of a service of mode `proxy`.
pub(super) struct RawProxy {
    pub(super) proxy: Proxy,
    /// The server for clients that the access list denies.
    pub(super) abuse: Option<RawBackend>,
    /// Which backends are for which names.
    pub(super) routes: RawRoutes,
}

/// So many times the first ejection is the longest one, if nothing is said.
pub(super) const USUAL_DOUBLING: u32 = 30;

impl Proxy {
    /// What a service has that says nothing of it.
    #[must_use]
    pub const fn usual() -> Self {
        Self {
            socket: None,
            scheduler: Scheduler::Maglev,
            timeouts: Timeouts {
                connect: Duration::from_secs(3),
                client: Duration::from_secs(300),
                server: Duration::from_secs(300),
                tunnel: Duration::from_secs(3600),
                half_closed: Duration::from_secs(30),
                queue: Duration::from_secs(10),
                header: Duration::from_secs(10),
                udp: Duration::from_secs(30),
            },
            eject: Duration::from_secs(10),
            eject_max: Duration::from_secs(300),
            eject_resets: 5,
            max_connections: None,
            max_per_source: None,
            queue: 0,
            acl: None,
            abuse: None,
            accept_proxy: None,
            send_proxy: None,
            forwarded_for: None,
            fast_close: false,
            transparent: false,
            tls: None,
            backend_tls: None,
            routes: Vec::new(),
        }
    }
}

/// Reads the keys of a service; `None` if its mode is another one.
pub(super) fn read(
    table: &Table<'_>,
    mode: Read<Mode>,
    protocol: Read<Protocol>,
    acls: &Names<String>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<RawProxy>> {
    let mode = mode?;
    if mode != Mode::Proxy {
        return foreign(table, mode, report).map(|()| None);
    }
    let usual = Proxy::usual();
    let scheduler = table.word("scheduler", report);
    let of_protocol = of_protocol(table, protocol, report);
    let timeouts = timeouts(table, usual.timeouts, protocol, report);
    let eject = duration(table, "eject", Duration::ZERO, DAY, report);
    let eject_max = duration(table, "eject_max", Duration::ZERO, DAY, report);
    let eject_resets = table.integer("eject_resets", 0..=MAX_LIMIT, report);
    let max_connections = table.integer("max_connections", 1..=MAX_LIMIT, report);
    let max_per_source = table.integer("max_per_source", 1..=MAX_LIMIT, report);
    let queue = table.integer("queue", 0..=MAX_LIMIT, report);
    let acl = list(table, "acl", acls, report);
    let accept_proxy = list(table, "accept_proxy", acls, report);
    let send_proxy = table.word("send_proxy", report);
    let forwarded_for = table.word("forwarded_for", report);
    let fast_close = table.boolean("fast_close", report);
    let transparent = table.boolean("transparent", report);
    let abuse = backend::single(table, "abuse", report);
    let tls = tls::read(table, system, report);
    let backend_tls = tls::read_backend(table, system, report);
    let routes = tls::routes::read(table, report);
    let sealed = sealed(table, report);
    of_protocol?;
    sealed?;
    let eject = eject?.map_or(usual.eject, |eject| eject.value);
    let usual_most = (protocol? == Protocol::Udp).then_some(USUAL_FLOWS);
    Ok(Some(RawProxy {
        proxy: Proxy {
            socket: None,
            scheduler: scheduler?.unwrap_or(usual.scheduler),
            timeouts: timeouts?,
            eject,
            eject_max: eject_max?.map_or(eject * USUAL_DOUBLING, |most| most.value.max(eject)),
            eject_resets: eject_resets?.unwrap_or(usual.eject_resets),
            max_connections: max_connections?.or(usual_most),
            max_per_source: max_per_source?,
            queue: queue?.unwrap_or(usual.queue),
            acl: acl?,
            accept_proxy: accept_proxy?,
            send_proxy: send_proxy?,
            forwarded_for: forwarded_for?,
            fast_close: fast_close?.unwrap_or(usual.fast_close),
            transparent: transparent?.unwrap_or(usual.transparent),
            abuse: None,
            tls: tls?,
            backend_tls: backend_tls?,
            routes: Vec::new(),
        },
        routes: routes?,
        abuse: abuse?,
    }))
}

/// Reports a server of a transparent service that can see no client's address: of another family.
pub(super) fn of_families(
    table: &Table<'_>,
    proxy: Option<&Proxy>,
    listen: IpAddr,
    servers: &[Backend],
    report: &mut Report<'_>,
) -> Read<()> {
    let Some(At { place, .. }) = table.get("transparent") else { return Ok(()) };
    // `::` has clients of both families.
    let both = listen == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if !proxy.is_some_and(|proxy| proxy.transparent) {
        return Ok(());
    }
    let own = proxy.and_then(|proxy| proxy.socket.as_ref()).map(|file| &file.path);
    if let Some(socket) = own.or_else(|| servers.iter().find_map(|server| server.socket.as_ref())) {
        let kind = ErrorKind::TransparentSocket { socket: socket.clone() };
        return Err(report.add(place, kind));
    }
    let mut addresses = servers.iter().map(|server| server.address);
    match addresses.find(|address| !both && address.is_ipv4() != listen.is_ipv4()) {
        Some(backend) => Err(report.add(place, ErrorKind::TransparentFamily { backend, listen })),
        None => Ok(()),
    }
}

/// Reports the keys that mean nothing in this mode.
fn foreign(table: &Table<'_>, mode: Mode, report: &mut Report<'_>) -> Read<()> {
    let scheduler = table.word::<Scheduler>("scheduler", report)?;
    let mut found = Ok(());
    for key in KEYS {
        let means_nothing = match key {
            // In the kernel there is only this one.
            "scheduler" => scheduler.is_some_and(|found| found != Scheduler::Maglev),
            // Some other modes have these two as well: see `judgement`.
            "eject" | "eject_max" => false,
            _ => true,
        };
        if let Some(At { place, .. }) = table.get(key).filter(|_| means_nothing) {
            found = Err(report.add(place, ErrorKind::OnlyProxied { key, mode }));
        }
    }
    found
}

/// Reports what has to read what clients say, and could not.
fn sealed(table: &Table<'_>, report: &mut Report<'_>) -> Read<()> {
    let with = ["tls", "routes"].into_iter().find(|key| table.has(key));
    match (table.get("forwarded_for"), with) {
        (Some(At { place, .. }), Some(with)) => {
            Err(report.add(place, ErrorKind::Tls(TlsError::Sealed { with })))
        }
        _ => Ok(()),
    }
}

/// Reports the keys that mean nothing for this protocol.
fn of_protocol(table: &Table<'_>, protocol: Read<Protocol>, report: &mut Report<'_>) -> Read<()> {
    let mut found = Ok(());
    for key in ONLY_TCP.into_iter().filter(|_| protocol.is_ok_and(|found| found == Protocol::Udp)) {
        if let Some(At { place, .. }) = table.get(key) {
            let needs = "`protocol = \"tcp\"`";
            found = Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
    }
    found
}

fn timeouts(
    table: &Table<'_>,
    usual: Timeouts,
    protocol: Read<Protocol>,
    report: &mut Report<'_>,
) -> Read<Timeouts> {
    const MIN: Duration = Duration::from_millis(10);
    let Some(table) = table.table("timeouts", &TIMEOUTS, report)? else { return Ok(usual) };
    let mut read = |key, usual| {
        let needs = match protocol {
            Ok(Protocol::Udp) if key != "udp" => Some("`protocol = \"tcp\"`"),
            Ok(Protocol::Tcp) if key == "udp" => Some("`protocol = \"udp\"`"),
            _ => None,
        };
        if let (Some(needs), Some(At { place, .. })) = (needs, table.get(key)) {
            return Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
        let found = duration(&table, key, MIN, DAY, report);
        found.map(|found| found.map_or(usual, |found| found.value))
    };
    let connect = read("connect", usual.connect);
    let client = read("client", usual.client);
    let server = read("server", usual.server);
    let tunnel = read("tunnel", usual.tunnel);
    let half_closed = read("half_closed", usual.half_closed);
    let queue = read("queue", usual.queue);
    let header = read("header", usual.header);
    let udp = read("udp", usual.udp);
    Ok(Timeouts {
        connect: connect?,
        client: client?,
        server: server?,
        tunnel: tunnel?,
        half_closed: half_closed?,
        queue: queue?,
        header: header?,
        udp: udp?,
    })
}

/// The name of an access list that was declared.
pub(super) fn list(
    table: &Table<'_>,
    key: &'static str,
    acls: &Names<String>,
    report: &mut Report<'_>,
) -> Read<Option<String>> {
    let Some(At { place, value }) = table.text(key, report)? else { return Ok(None) };
    let name = value.to_owned();
    if acls.find(&name).is_some() {
        return Ok(Some(name));
    }
    let kind = || ErrorKind::UndeclaredAcl { near: raw::nearest(&name, &acls.in_order()), name };
    Err(acls.missing(place, kind, report))
}
