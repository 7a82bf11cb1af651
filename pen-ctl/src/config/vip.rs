//! Reads the virtual addresses, and addresses in general: which ones can be a host's, and how the
//! two spellings of an IPv4 address become one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pen_common::abi::MAX_ADDRS;

use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::proxy;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::{Interface, MAX_SYN_RATE, Vip, XdpMode};

const VIP: Spec = Spec {
    name: "vip",
    title: "[[vip]]",
    keys: &["address", "interface", "echo", "acl", "syn_rate"],
};

/// `[[vip]]`, and the addresses that services may listen on.
pub(super) fn vips(
    roots: &Roots<'_>,
    interfaces: &Names<String>,
    valid: &[Interface],
    acls: &Names<String>,
    report: &mut Report<'_>,
) -> (Read<Vec<Vip>>, Names<IpAddr>) {
    let mut addresses = Names::new("VIP");
    let tables = roots.all(&VIP, report);
    let max = MAX_ADDRS as usize;
    if let Some(Ok(table)) = tables.get(max) {
        report.add(table.place, ErrorKind::TooMany { what: "VIPs", max });
    }
    let vips: Vec<_> = tables
        .into_iter()
        .map(|table| vip(table, interfaces, valid, acls, &mut addresses, report))
        .collect();
    (vips.into_iter().collect(), addresses)
}

fn vip(
    table: Read<Table<'_>>,
    interfaces: &Names<String>,
    valid: &[Interface],
    acls: &Names<String>,
    addresses: &mut Names<IpAddr>,
    report: &mut Report<'_>,
) -> Read<Vip> {
    let address = table
        .and_then(|table| table.required_text("address", "\"192.0.2.10\"", report))
        .and_then(|text| address(text, report));
    let address = addresses.claim(address, report);
    let table = table?;
    let interface = interface(&table, interfaces, valid, report);
    let echo = table.boolean("echo", report);
    let acl = proxy::list(&table, "acl", acls, report);
    let syn_rate = table.integer("syn_rate", 1..=MAX_SYN_RATE, report);
    Ok(Vip {
        address: address?.value,
        interface: interface?,
        echo: echo?.unwrap_or(false),
        acl: acl?,
        syn_rate: syn_rate?,
    })
}

fn interface(
    table: &Table<'_>,
    interfaces: &Names<String>,
    valid: &[Interface],
    report: &mut Report<'_>,
) -> Read<String> {
    let At { place, value } = table.required_text("interface", "\"eth0\"", report)?;
    let name = value.to_owned();
    if valid.iter().any(|interface| interface.name == name && interface.xdp == XdpMode::Off) {
        return Err(report.add(place, ErrorKind::VipWithoutXdp { name }));
    }
    if interfaces.find(&name).is_some() {
        return Ok(name);
    }
    let kind = || {
        let near = raw::nearest(&name, &interfaces.in_order());
        ErrorKind::UndeclaredInterface { name, near }
    };
    Err(interfaces.missing(place, kind, report))
}

fn address(at: At<&str>, report: &mut Report<'_>) -> Read<At<IpAddr>> {
    let At { place, value: text } = at;
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(At { place, value: usable(place, address, report)? }),
        Err(_) => Err(report.add(place, ErrorKind::InvalidAddress { text: text.to_owned() })),
    }
}

/// Reads an address with a port. None if it is not that, or has a zone: the maps have no room for
/// one, and to drop it silently could mean another host.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.parse().ok()? {
        SocketAddr::V6(address) if address.scope_id() != 0 => None,
        address => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
    }
}

/// An address that one host can have, in its shorter spelling: `::ffff:192.0.2.1` is the same as
/// `192.0.2.1` in the maps.
pub(super) fn usable(place: Place, address: IpAddr, report: &mut Report<'_>) -> Read<IpAddr> {
    let address = address.to_canonical();
    let why = match address {
        _ if address.is_unspecified() => "no address of a host",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        _ => return Ok(address),
    };
    Err(report.add(place, ErrorKind::UnusableAddress { address, why }))
}
