//! Reads what concerns this node: its name, the cluster's secret, the control socket and the
//! interfaces.

use std::path::Path;
use std::time::Duration;

use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::probe::duration;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::{Control, Interface, Node, Ports, Sizes, XdpMode, resolvers, unix};

const NODE: Spec = Spec {
    name: "node",
    title: "[node]",
    keys: &[
        "name",
        "secret_file",
        "masquerade_ports",
        "flows",
        "clients",
        "translations",
        DRAIN,
        "resolvers",
    ],
};
const DRAIN: &str = "drain_at_exit";
const DAY: Duration = Duration::from_secs(24 * 3600);
const CONTROL: Spec = Spec { name: "control", title: "[control]", keys: &["socket"] };
const INTERFACE: Spec = Spec { name: "interface", title: "[[interface]]", keys: &["name", "xdp"] };

/// Ports for masquerading: below those that Linux gives its own connections by default, and above
/// those of most servers.
const MASQUERADE_PORTS: Ports = Ports { first: 10240, last: 32767 };

/// `[node]`.
pub(super) fn node(roots: &Roots<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Node> {
    let table = roots.one(&NODE, report)?;
    let name = node_name(table.as_ref(), system, report);
    let Some(table) = table else {
        let (masquerade_ports, sizes) = (MASQUERADE_PORTS, Sizes::default());
        return Ok(Node {
            name: name?,
            secret: None,
            masquerade_ports,
            sizes,
            drain_at_exit: None,
            resolvers: Vec::new(),
        });
    };
    let secret = secret(&table, system, report);
    let masquerade_ports = masquerade_ports(&table, system, report);
    let sizes = sizes(&table, report);
    let drain_at_exit = duration(&table, DRAIN, Duration::ZERO, DAY, report);
    let resolvers = resolvers::resolvers(&table, report);
    Ok(Node {
        name: name?,
        secret: secret?,
        masquerade_ports: masquerade_ports?,
        sizes: sizes?,
        drain_at_exit: drain_at_exit?.map(|found| found.value),
        resolvers: resolvers?,
    })
}

fn sizes(table: &Table<'_>, report: &mut Report<'_>) -> Read<Sizes> {
    let mut size = |key| table.integer(key, 1024..=1 << 24, report);
    let (flows, clients, translations) = (size("flows"), size("clients"), size("translations"));
    let default = Sizes::default();
    Ok(Sizes {
        flows: flows?.unwrap_or(default.flows),
        clients: clients?.unwrap_or(default.clients),
        translations: translations?.unwrap_or(default.translations),
    })
}

fn masquerade_ports(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Ports> {
    const KEY: &str = "masquerade_ports";
    let Some(At { place, value: text }) = table.text(KEY, report)? else {
        return Ok(MASQUERADE_PORTS);
    };
    let Some(ports) = Ports::parse(text).filter(|ports| ports.first >= 1024) else {
        let kind = ErrorKind::InvalidPorts { key: KEY, text: text.to_owned() };
        return Err(report.add(place, kind));
    };
    separate(ports, place, system, report)
}

/// Ports that the machine does not give its own connections: it would get answers to flows of
/// clients.
pub(super) fn separate(
    ports: Ports,
    place: Place,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Ports> {
    match system.local_ports() {
        Ok(local) if local.overlaps(ports) => {
            Err(report.add(place, ErrorKind::PortsOfTheMachine { ports, local }))
        }
        // A machine that does not tell has not been asked for ports either.
        Ok(_) | Err(_) => Ok(ports),
    }
}

fn node_name(
    table: Option<&Table<'_>>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<String> {
    if let Some(table) = table
        && let Some(name) = table.text("name", report)?
    {
        return Ok(raw::name(name, report)?.value);
    }
    let place = table.map_or(Place::START, |table| table.place);
    let name = system.host_name().map_err(|error| {
        report.add(place, ErrorKind::HostNameUnknown { reason: error.to_string() })
    })?;
    Ok(raw::name(At { place, value: &name }, report)?.value)
}

fn secret(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<[u64; 2]>> {
    let Some(At { place, value: path }) = table.text("secret_file", report)? else {
        return Ok(None);
    };
    let file = report.beside(place, path);
    read_secret(&file, system).map(Some).map_err(|kind| report.add(place, kind))
}

fn read_secret(path: &Path, system: &dyn System) -> Result<[u64; 2], ErrorKind> {
    let file = path.to_owned();
    let secret = match system.secret(path) {
        Ok(secret) => secret,
        Err(error) => {
            return Err(ErrorKind::SecretUnreadable { file, reason: error.to_string() });
        }
    };
    if !secret.regular {
        return Err(ErrorKind::SecretNotRegular { file });
    }
    if secret.mode & 0o077 != 0 {
        return Err(ErrorKind::SecretPermissions { file, mode: secret.mode });
    }
    parse_secret(&secret.content).ok_or(ErrorKind::SecretMalformed { file })
}

/// 32 hexadecimal digits as two big-endian words: what `openssl rand -hex 16` prints.
fn parse_secret(content: &[u8]) -> Option<[u64; 2]> {
    let digits = str::from_utf8(content.trim_ascii_end()).ok()?;
    // `from_str_radix` would take a sign for a digit.
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let (high, low) = digits.split_at(16);
    Some([u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?])
}

/// `[control]`.
pub(super) fn control(roots: &Roots<'_>, report: &mut Report<'_>) -> Read<Control> {
    let default = Control { socket: "/run/pen/pend.sock".into() };
    let Some(table) = roots.one(&CONTROL, report)? else { return Ok(default) };
    let Some(At { place, value: path }) = table.text("socket", report)? else {
        return Ok(default);
    };
    if !path.starts_with('/') {
        return Err(report.add(place, ErrorKind::SocketNotAbsolute { path: path.to_owned() }));
    }
    if path.len() > unix::MAX_PATH {
        let kind = ErrorKind::SocketTooLong { length: path.len(), max: unix::MAX_PATH };
        return Err(report.add(place, kind));
    }
    Ok(Control { socket: path.into() })
}

/// `[[interface]]`, and the names that VIPs may refer to.
pub(super) fn interfaces(
    roots: &Roots<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> (Read<Vec<Interface>>, Names<String>) {
    let mut names = Names::new("interface");
    let tables = roots.all(&INTERFACE, report);
    let interfaces: Vec<_> =
        tables.into_iter().map(|table| interface(table, &mut names, system, report)).collect();
    (interfaces.into_iter().collect(), names)
}

fn interface(
    table: Read<Table<'_>>,
    names: &mut Names<String>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Interface> {
    let name = table
        .and_then(|table| table.required_text("name", "\"eth0\"", report))
        .and_then(|name| interface_name(name, report));
    let name = names.claim(name, report);
    let xdp = table?.word("xdp", report);
    let name = existing(name?, system, report)?.value;
    Ok(Interface { name, xdp: xdp?.unwrap_or(XdpMode::Auto) })
}

/// The name of an interface of this machine.
pub(super) fn existing_interface(
    name: At<&str>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<At<String>> {
    let name = interface_name(name, report)?;
    existing(name, system, report)
}

fn existing(
    At { place, value: name }: At<String>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<At<String>> {
    if !system.interface_exists(&name) {
        let existing = system.interfaces();
        let near = raw::nearest(&name, &existing);
        return Err(report.add(place, ErrorKind::AbsentInterface { name, near, existing }));
    }
    Ok(At { place, value: name })
}

fn interface_name(at: At<&str>, report: &mut Report<'_>) -> Read<At<String>> {
    let At { place, value } = at;
    let name = value.to_owned();
    // As `dev_valid_name` of the kernel has it, in net/core/dev.c.
    let invalid = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(invalid) {
        return Err(report.add(place, ErrorKind::InvalidInterfaceName { name }));
    }
    Ok(At { place, value: name })
}
