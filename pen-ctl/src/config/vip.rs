//! Reads the virtual addresses, and addresses in general: which ones can be a host's, and how the
//! two spellings of an IPv4 address become one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pen_common::abi::MAX_ADDRS;

use crate::config::carp::{Groups, Member};
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::proxy;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::{CarpMac, Interface, MAX_SYN_RATE, Vip, XdpMode};

const VIP: Spec = Spec {
    name: "vip",
    title: "[[vip]]",
    keys: &["address", "interface", "carp", "echo", "acl", "syn_rate"],
};

/// What an address may refer to.
pub(super) struct Known<'a> {
    pub(super) interfaces: &'a Names<String>,
    /// Those that could be read.
    pub(super) valid: &'a [Interface],
    pub(super) acls: &'a Names<String>,
    pub(super) groups: &'a Groups,
}

/// `[[vip]]`, the addresses that services may listen on, and which group each belongs to.
pub(super) fn vips(
    roots: &Roots<'_>,
    known: &Known<'_>,
    report: &mut Report<'_>,
) -> (Read<Vec<Vip>>, Names<IpAddr>, Vec<Member>) {
    let mut addresses = Names::new("VIP");
    let mut members = Vec::new();
    let tables = roots.all(&VIP, report);
    let max = MAX_ADDRS as usize;
    if let Some(Ok(table)) = tables.get(max) {
        report.add(table.place, ErrorKind::TooMany { what: "VIPs", max });
    }
    let vips: Vec<_> = tables
        .into_iter()
        .map(|table| vip(table, known, &mut addresses, &mut members, report))
        .collect();
    (vips.into_iter().collect(), addresses, members)
}

fn vip(
    table: Read<Table<'_>>,
    known: &Known<'_>,
    addresses: &mut Names<IpAddr>,
    members: &mut Vec<Member>,
    report: &mut Report<'_>,
) -> Read<Vip> {
    let address = table
        .and_then(|table| table.required_text("address", "\"192.0.2.10\"", report))
        .and_then(|text| address(text, report));
    let address = addresses.claim(address, report);
    let table = table?;
    let carp = carp(&table, known.groups, report);
    let interface = interface(&table, known, carp.as_ref().ok(), report);
    let echo = table.boolean("echo", report);
    let acl = proxy::list(&table, "acl", known.acls, report);
    let syn_rate = table.integer("syn_rate", 1..=MAX_SYN_RATE, report);
    let (address, carp, interface) = (address?.value, carp?, interface?);
    if let Some(At { place, value: group }) = &carp {
        let (place, group, interface) = (*place, group.clone(), interface.clone());
        members.push(Member { group, address, interface, place });
    }
    Ok(Vip {
        address,
        interface,
        carp: carp.map(|carp| carp.value),
        echo: echo?.unwrap_or(false),
        acl: acl?,
        syn_rate: syn_rate?,
    })
}

fn carp(table: &Table<'_>, groups: &Groups, report: &mut Report<'_>) -> Read<Option<At<String>>> {
    let Some(At { place, value }) = table.text("carp", report)? else { return Ok(None) };
    let name = value.to_owned();
    if groups.names.find(&name).is_some() {
        return Ok(Some(At { place, value: name }));
    }
    let near = || raw::nearest(&name, &groups.names.in_order());
    let kind = || ErrorKind::UndeclaredCarp { near: near(), name: name.clone() };
    Err(groups.names.missing(place, kind, report))
}

/// The interface of an address: one with XDP, which answers for it, unless the address is the
/// machine's own while this node is master of its group.
fn interface(
    table: &Table<'_>,
    known: &Known<'_>,
    carp: Option<&Option<At<String>>>,
    report: &mut Report<'_>,
) -> Read<String> {
    let name = interface_name(table, known.interfaces, report)?;
    let off = |interface: &Interface| interface.name == name && interface.xdp == XdpMode::Off;
    if known.valid.iter().any(off) {
        let place = table.get("interface").map_or(table.place, |value| value.place);
        let group = carp.and_then(Option::as_ref).and_then(|carp| known.groups.find(&carp.value));
        return match group {
            None if table.has("carp") => Ok(name),
            Some(group) if group.mac != CarpMac::Virtual => Ok(name),
            Some(group) => {
                let carp = group.name.clone();
                Err(report.add(place, ErrorKind::VirtualMacWithoutXdp { name, carp }))
            }
            None => Err(report.add(place, ErrorKind::VipWithoutXdp { name })),
        };
    }
    Ok(name)
}

/// The key `interface`: one of those that are declared.
pub(super) fn interface_name(
    table: &Table<'_>,
    interfaces: &Names<String>,
    report: &mut Report<'_>,
) -> Read<String> {
    let At { place, value } = table.required_text("interface", "\"eth0\"", report)?;
    let name = value.to_owned();
    if interfaces.find(&name).is_some() {
        return Ok(name);
    }
    let kind = || {
        let near = raw::nearest(&name, &interfaces.in_order());
        ErrorKind::UndeclaredInterface { name, near }
    };
    Err(interfaces.missing(place, kind, report))
}

pub(super) fn address(at: At<&str>, report: &mut Report<'_>) -> Read<At<IpAddr>> {
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
