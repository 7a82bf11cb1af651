//! Groups of virtual addresses that nodes share, as the rest of the engine sees them: which number each
//! has, whether this node can serve its addresses, and what makes it a worse one. Who has the
//! addresses is decided by [`super::carp`], in a thread of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pen_common::abi;
use pen_common::moment::Moment;
use pen_common::net::{Addr, MacAddr};

use super::carp::{self, Role, VipMac};
use super::event::{Action, Group, Link};
use super::ids::Ids;
use super::{Engine, Service};
use crate::api::CarpRole;
use crate::config::{self, AddressesBy, CarpMac, XdpMode};

/// What was told to CARP so far.
#[derive(Debug)]
pub(super) struct Groups {
    ids: Ids<String>,
    told: Vec<Group>,
    usable: BTreeMap<u32, Result<(), String>>,
    demoted: BTreeMap<(u32, String), u16>,
    /// What keeps CARP from being as quick as it could be.
    pub(super) hindered: Vec<String>,
    /// Other nodes that have the name of this one, by the group in which they are heard.
    pub(super) twins: BTreeMap<u32, Option<IpAddr>>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            // 0 is "no group".
            ids: Ids::new(1, abi::MAX_GROUPS),
            told: Vec::new(),
            usable: BTreeMap::new(),
            demoted: BTreeMap::new(),
            hindered: Vec::new(),
            twins: BTreeMap::new(),
        }
    }
}

impl Engine {
    /// Numbers that the controller before this one gave stay: entries of the map are written at once,
    /// before the addresses that refer to them.
    pub(super) fn adopt_groups(&mut self) {
        for vip in &self.config.vips {
            let entry = self.applied.addrs.get(&Addr::from(vip.address));
            if let (Some(name), Some(entry)) = (&vip.carp, entry) {
                self.groups.ids.adopt(name.clone(), entry.group);
            }
        }
    }

    pub(super) fn number_groups(&mut self) {
        let names = self.config.carp.iter().map(|group| group.name.clone()).collect();
        self.groups.ids.make_room(&names);
        for name in &names {
            self.groups.ids.assign(name).expect("config has no more groups than ids");
        }
        self.groups.ids.retain(&names);
    }

    /// Index of a group in the map; 0 is none.
    pub(super) fn group_index(&self, name: Option<&str>) -> u32 {
        name.and_then(|name| self.groups.ids.number(&name.to_owned())).unwrap_or(0)
    }

    /// Tells CARP what has changed for it.
    pub(super) fn refresh_groups(&mut self) {
        let mut usable = BTreeMap::new();
        let mut demoted = BTreeMap::new();
        for group in &self.config.carp {
            let index = self.group_index(Some(&group.name));
            usable.insert(index, self.can_serve(group));
            let reasons = self.reasons(group).into_iter();
            demoted.extend(reasons.map(|(reason, weight)| ((index, reason), weight)));
        }
        for (group, result) in &usable {
            if self.groups.usable.get(group) != Some(result) {
                let (group, result) = (*group, result.clone());
                self.actions.push_back(Action::CarpUsable { group, result });
            }
        }
        self.groups.usable = usable;
        let groups = self.wanted_groups();
        if groups != self.groups.told {
            self.groups.told.clone_from(&groups);
            self.actions.push_back(Action::ConfigureCarp(groups));
        }
        let before = std::mem::replace(&mut self.groups.demoted, demoted);
        let over = before.keys().filter(|key| !self.groups.demoted.contains_key(*key));
        let over = over.map(|key| (key, 0));
        let begun = self.groups.demoted.iter().map(|(key, weight)| (key, *weight));
        for ((group, reason), weight) in over.chain(begun) {
            if before.get(&(*group, reason.clone())) != Some(&weight) {
                let (group, reason) = (*group, reason.clone());
                self.actions.push_back(Action::DemoteCarp { group, reason, weight });
            }
        }
    }

    fn wanted_groups(&self) -> Vec<Group> {
        let index = |name: &str| self.group_index(Some(name));
        let settings = carp::from_config::settings(&self.config, self.secret, index);
        let groups = settings.into_iter().zip(&self.config.carp);
        groups
            .map(|(mut settings, group)| {
                if settings.mac == VipMac::Virtual && !self.has_virtual_mac(group) {
                    settings.mac = VipMac::Interface;
                }
                let (local, hooks) = (self.local_addresses(group), group.hooks.clone());
                Group { settings, local, hooks }
            })
            .collect()
    }

    /// Whether the addresses of a group have an Ethernet address of their own. The kernel takes no
    /// frame for another one than the interface's, so that it cannot be if its programs or the proxies
    /// serve one of them.
    fn has_virtual_mac(&self, group: &config::Carp) -> bool {
        group.mac == CarpMac::Virtual
            && self.local_addresses(group).is_empty()
            && !carp::from_config::vips(&self.config, &group.name).any(|vip| self.is_proxied(vip))
    }

    /// Addresses that the kernel has to have: those that no XDP program answers for, and those that
    /// the machine's own programs serve. The proxies' have a route instead, see [`super::proxied`].
    fn local_addresses(&self, group: &config::Carp) -> Vec<IpAddr> {
        if group.addresses == AddressesBy::Hooks {
            return Vec::new();
        }
        let with_xdp = self.has_xdp(&group.interface);
        let is_forwarded = |address: &IpAddr| {
            self.config.services.iter().any(|service| {
                service.listen.address == *address || service.source == Some(*address)
            })
        };
        carp::from_config::vips(&self.config, &group.name)
            .filter(|address| !with_xdp || !is_forwarded(address))
            .collect()
    }

    fn has_xdp(&self, interface: &str) -> bool {
        self.interfaces.get(interface).is_some_and(|found| found.mode != XdpMode::Off)
    }

    /// Whether packets to the addresses of a group would be answered if this node had them.
    fn can_serve(&self, group: &config::Carp) -> Result<(), String> {
        if group.addresses == AddressesBy::Hooks || !self.has_xdp(&group.interface) {
            return Ok(());
        }
        let attached =
            |name: &String| self.interfaces.get(name).is_some_and(|found| found.attached.is_some());
        if attached(&group.interface) {
            Ok(())
        } else {
            Err(format!("XDP is not attached to {}", group.interface))
        }
    }

    /// What makes this node a worse one now, with its weight.
    fn reasons(&self, group: &config::Carp) -> Vec<(String, u16)> {
        let demotion = &group.demotion;
        let mut reasons = Vec::new();
        let interface = self.interfaces.get(&group.interface);
        // Not before the first attempt has ended.
        if interface.is_some_and(|found| found.error.is_some() && found.attached.is_none()) {
            let reason = format!("XDP is not attached to {}", group.interface);
            reasons.push((reason, demotion.xdp_detached));
        }
        let is_of_group = |service: &Service| {
            let address = service.config.listen.address;
            carp::from_config::vips(&self.config, &group.name).any(|vip| vip == address)
        };
        let down = |service: &Service| service.down == Some(true);
        if self.services.iter().any(|service| down(service) && is_of_group(service)) {
            reasons.push(("a service has no usable backend".to_owned(), demotion.no_backend));
        }
        // Who is cut off from everything is master all the same, and has to give way to who has the
        // flows before it has heard anything else of it.
        let asks = |service: &Service| service.lost || down(service);
        // Who can use fewer backends than the holder would send the flows of the others elsewhere.
        let lacks = |service: &Service| asks(service) || service.lags();
        let is_cut_off = self.config.sync.is_some()
            && self.services.iter().any(|service| lacks(service) && is_of_group(service));
        if is_cut_off || !self.is_complete() {
            reasons.push(("peers have not told everything".to_owned(), demotion.sync_incomplete));
        }
        for (name, weight) in &demotion.services {
            let mut services = self.services.iter();
            if services.any(|service| service.config.name == *name && service.quorum == Some(false))
            {
                reasons.push((format!("service {name} has lost its quorum"), *weight));
            }
        }
        for (name, weight) in &demotion.interfaces {
            if !self.network.link_by_name(name).is_some_and(|link| link.up) {
                reasons.push((format!("interface {name} is down"), *weight));
            }
        }
        reasons
            .into_iter()
            .map(|(reason, weight)| (reason, u16::from(weight)))
            .filter(|(_, weight)| *weight > 0)
            .collect()
    }

    /// Ethernet address that neighbours are told for a virtual address: RFC 3768 section 7.3 for one
    /// that moves with it.
    pub(super) fn vip_mac(&self, vip: &config::Vip, link: &Link) -> MacAddr {
        let group = self.config.carp.iter().find(|group| Some(&group.name) == vip.carp.as_ref());
        match group {
            Some(group) if self.has_virtual_mac(group) => MacAddr([0, 0, 0x5e, 0, 1, group.vhid]),
            _ => link.mac,
        }
    }

    /// Takes note of what the map of roles holds; group 0 is the engine's own.
    pub fn note_groups(&mut self, groups: BTreeMap<u32, abi::Group>) {
        self.applied.groups.retain(|index, _| *index == 0);
        self.applied.groups.extend(groups.into_iter().filter(|(index, _)| *index != 0));
    }

    /// Indexes of all groups of the configuration.
    pub fn group_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.config.carp.iter().map(|group| self.group_index(Some(&group.name)))
    }

    pub(super) fn note_role(&mut self, group: u32, role: Role) {
        let word = match role {
            Role::Backup => abi::Group::BACKUP,
            Role::Master => abi::Group::MASTER,
            Role::Leaving => abi::Group::LEAVING,
        };
        // Whether its lease still holds is in the kernel's map, and asked for when it matters.
        let entry = abi::Group { role: word, _pad: 0, lease_ns: Moment::NEVER.0 };
        self.applied.groups.insert(group, entry);
    }

    /// The role of a group, by its index.
    pub(super) fn role(&self, group: u32, now: Moment) -> &'static str {
        match self.applied.groups.get(&group) {
            Some(found) if now.0 >= found.lease_ns && found.lease_ns != Moment::NEVER.0 => "backup",
            Some(found) if found.role == abi::Group::MASTER => "master",
            Some(found) if found.role == abi::Group::LEAVING => "leaving",
            _ => "backup",
        }
    }

    pub(super) fn carp_roles(&self, now: Moment) -> Vec<CarpRole> {
        let groups = self.config.carp.iter();
        groups
            .map(|group| CarpRole {
                name: group.name.clone(),
                role: self.role(self.group_index(Some(&group.name)), now).to_owned(),
            })
            .collect()
    }
}
