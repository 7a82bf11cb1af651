//! Checks groups together with the addresses that belong to them.

use std::net::IpAddr;

use super::read::Groups;
use super::{Carp, CarpAuth, CarpKey};
use crate::config::Service;
use crate::config::error::ErrorKind;
use crate::config::raw::{self, Names, Place, Report};

/// An address of a group.
pub(in crate::config) struct Member {
    pub(in crate::config) group: String,
    pub(in crate::config) address: IpAddr,
    pub(in crate::config) interface: String,
    /// Where the address says which group it belongs to.
    pub(in crate::config) place: Place,
}

/// Reports what is wrong between groups and `members`; `complete` if no address is missing that
/// could not be read.
pub(in crate::config) fn check(
    groups: &Groups,
    members: &[Member],
    vips: &Names<IpAddr>,
    complete: bool,
    report: &mut Report<'_>,
) {
    for (place, group) in &groups.list {
        let Ok(group) = group else { continue };
        let members: Vec<_> = members.iter().filter(|member| member.group == group.name).collect();
        for member in &members {
            if member.interface != group.interface {
                let (vip, interface) = (member.interface.clone(), group.interface.clone());
                let kind = ErrorKind::VipElsewhere { vip, carp: group.name.clone(), interface };
                report.add(member.place, kind);
            }
        }
        number(group, *place, &members, complete, report);
        own_addresses(group, *place, vips, report);
    }
    for (at, (place, group)) in groups.list.iter().enumerate() {
        let earlier = groups.list.iter().take(at);
        let mut earlier = earlier.filter_map(|(_, earlier)| earlier.as_ref().ok());
        if let Ok(group) = group
            && let Some(other) = earlier.find(|earlier| share_a_key(group, earlier))
        {
            let (vhid, other) = (group.vhid, other.name.clone());
            report.add(*place, ErrorKind::KeyOfTwoGroups { vhid, other });
        }
    }
}

/// Reports services whose quorum a group depends on and that do not exist.
pub(in crate::config) fn check_services(
    groups: &Groups,
    services: &[Service],
    report: &mut Report<'_>,
) {
    let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
    for (place, group) in &groups.list {
        let Ok(group) = group else { continue };
        for (name, _) in &group.demotion.services {
            if !names.contains(&name.as_str()) {
                let near = raw::nearest(name, &names);
                report.add(*place, ErrorKind::UndeclaredService { name: name.clone(), near });
            }
        }
    }
}

/// What was signed for one group on its interface would be genuine for the other one on another.
fn share_a_key(one: &Carp, other: &Carp) -> bool {
    let (CarpAuth::Sha256 { keys, .. }, CarpAuth::Sha256 { keys: others, .. }) =
        (&one.auth, &other.auth)
    else {
        return false;
    };
    let is_known = |key: &CarpKey| others.iter().any(|other| other == key);
    one.vhid == other.vhid && one.interface != other.interface && keys.iter().any(is_known)
}

/// How many addresses the group may have, and of which family.
fn number(
    group: &Carp,
    place: Place,
    members: &[&Member],
    complete: bool,
    report: &mut Report<'_>,
) {
    let name = || group.name.clone();
    if members.is_empty() {
        if complete {
            report.add(place, ErrorKind::CarpWithoutVip { name: name() });
        }
        return;
    }
    if !matches!(group.auth, CarpAuth::Ucarp { .. }) {
        return;
    }
    for member in members.iter().filter(|member| member.address.is_ipv6()) {
        report.add(member.place, ErrorKind::UcarpIpv6 { name: name(), address: member.address });
    }
    let mut v4 = members.iter().filter(|member| member.address.is_ipv4());
    if let (Some(_), Some(second)) = (v4.next(), v4.next()) {
        report.add(second.place, ErrorKind::UcarpManyVips { name: name() });
    }
}

/// Neither this node nor its peers send from an address that moves.
fn own_addresses(group: &Carp, place: Place, vips: &Names<IpAddr>, report: &mut Report<'_>) {
    let legacy = match &group.auth {
        CarpAuth::Sha256 { legacy_peers, .. } => legacy_peers.as_slice(),
        CarpAuth::Ucarp { .. } | CarpAuth::Bsd { .. } => &[],
    };
    let named = group.sources.iter().map(|address| ("source", address));
    let named = named.chain(group.peers.iter().map(|address| ("peers", address)));
    for (key, address) in named.chain(legacy.iter().map(|address| ("legacy_peers", address))) {
        if let Some(vip) = vips.find(address) {
            let vip = report.position(vip);
            report.add(place, ErrorKind::NodeIsVip { key, address: *address, vip });
        }
    }
}
