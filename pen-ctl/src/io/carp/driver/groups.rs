//! The groups of the configuration: what becomes of those that were there before, their addresses on
//! interfaces, and their programs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pen_common::abi;
use pen_common::moment::Moment;

use super::{Driver, HOOK_LIMIT};
use crate::engine::carp::{Event as CarpEvent, Hook, Role};
use crate::engine::event::Group;
use crate::io::carp::addresses::Change;
use crate::io::carp::hooks::Run;
use crate::io::carp::taken::Taken;
use crate::io::clock;

impl Driver {
    pub(super) fn configure(&mut self, groups: Vec<Group>) {
        let now = clock::now();
        let groups: BTreeMap<u32, Group> =
            groups.into_iter().map(|group| (group.settings.group, group)).collect();
        let all_settings = |groups: &BTreeMap<u32, Group>| {
            groups.values().map(|group| group.settings.clone()).collect::<Vec<_>>()
        };
        // Those that go, or become other ones, go by what was said of them before.
        let all = self.groups.len();
        let mut staying = self.groups.clone();
        staying.retain(|index, old| groups.get(index).is_some_and(|new| is_same(old, new)));
        if staying.len() < all {
            self.carp.configure(now, all_settings(&staying));
            self.carry_out();
        }
        let old = std::mem::replace(&mut self.groups, groups);
        self.carp.configure(now, all_settings(&self.groups));
        self.change_addresses(&old);
        if self.nics.is_empty() {
            self.follow_links();
        }
        self.remove_leftovers();
        for (group, found) in std::mem::take(&mut self.adopted) {
            let until = Moment(found.lease_ns);
            if !self.groups.contains_key(&group) {
                self.write(group, Role::Backup, Moment(0));
            } else if found.role == abi::Group::MASTER && until > now {
                self.adopting.insert(group);
                self.carp.handle(now, CarpEvent::LeaseFound { group, until });
            }
        }
    }

    /// Removes, once, addresses that an earlier run of this daemon has added and that no group has now.
    fn remove_leftovers(&mut self) {
        let mark = std::mem::take(&mut self.mark);
        if mark == 0 {
            return;
        }
        let held =
            |address: &IpAddr| self.groups.values().any(|group| group.local.contains(address));
        let mut changes = Vec::new();
        for (ifindex, nic) in &self.nics {
            let left = nic.marked.iter().filter(|(address, by)| *by == mark && !held(address));
            let addresses: Vec<_> = left.map(|(address, _)| *address).collect();
            changes.push(Change { group: 0, ifindex: *ifindex, add: false, addresses });
        }
        for change in changes.into_iter().filter(|change| !change.addresses.is_empty()) {
            self.change(change);
        }
    }

    /// Gives groups that have taken their addresses those of the new configuration instead.
    fn change_addresses(&mut self, old: &BTreeMap<u32, Group>) {
        let (mut gone, mut new, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        for (index, taken) in &mut self.taken {
            let (Some(found), Some(old)) = (self.groups.get(index), old.get(index)) else {
                continue;
            };
            let (group, ifindex) = (*index, taken.ifindex);
            let (less, more) = taken.change_to(&found.local);
            gone.push(Change { group, ifindex, add: false, addresses: less });
            new.push(Change { group, ifindex, add: true, addresses: more });
            // Programs are told likewise, each as it was told before.
            if self.roles.get(index).is_some_and(|role| *role != Role::Backup) {
                let (less, more) = (&old.settings.vips, &found.settings.vips);
                let gone = less.iter().filter(|vip| !more.contains(vip));
                runs.extend(gone.map(|vip| (old, Hook::Down, *vip)));
                let new = more.iter().filter(|vip| !less.contains(vip));
                runs.extend(new.map(|vip| (found, Hook::Up, *vip)));
            }
        }
        for (group, hook, vip) in runs {
            self.run_hook_for(group, hook, vip);
        }
        // An address may go from one group to another.
        for change in gone.into_iter().chain(new).filter(|change| !change.addresses.is_empty()) {
            self.change(change);
        }
    }

    /// Groups that turned out not to go on from the lease that was found.
    pub(super) fn end_adoption(&mut self) {
        let taken = &self.taken;
        let given_up: Vec<u32> =
            self.adopting.iter().filter(|group| !taken.contains_key(group)).copied().collect();
        for group in given_up {
            self.adopting.remove(&group);
            self.write(group, Role::Backup, Moment(0));
            self.give_back(group);
            if self.groups.get(&group).is_some_and(|found| !found.settings.neutral) {
                self.run_hook(group, Hook::Down);
            }
        }
    }

    /// Whether the group goes on from where the daemon before this one was, as far as is known.
    pub(super) fn goes_on(&self, group: u32) -> bool {
        self.adopting.contains(&group) && !self.taken.contains_key(&group)
    }

    pub(super) fn take(&mut self, group: u32) {
        let Some(found) = self.groups.get(&group) else { return };
        let unknown = || Err("the data plane is not ready".to_owned());
        let usable = self.usable.get(&group).cloned().unwrap_or_else(unknown);
        let nic = self.nics.iter().find(|(_, nic)| nic.name == found.settings.interface);
        let (result, ifindex) = match (usable, nic) {
            (Ok(()), Some((ifindex, _))) => (Ok(()), *ifindex),
            (Ok(()), None) => (Err(format!("there is no {}", found.settings.interface)), 0),
            (error, nic) => (error, nic.map_or(0, |(ifindex, _)| *ifindex)),
        };
        let addresses = found.local.clone();
        let result = result.and_then(|()| self.hears(ifindex));
        match self.taken.get_mut(&group).filter(|taken| taken.ifindex == ifindex) {
            Some(taken) => drop(taken.change_to(&addresses)),
            None => drop(self.taken.insert(group, Taken::new(ifindex, addresses.clone()))),
        }
        if result.is_err() || addresses.is_empty() {
            self.carp.handle(clock::now(), CarpEvent::AddressesReady { group, result });
        } else {
            self.change(Change { group, ifindex, add: true, addresses });
        }
    }

    fn change(&mut self, change: Change) {
        let (group, add) = (change.group, change.add);
        if self.addresses.change(change) {
            if add && let Some(taken) = self.taken.get_mut(&group) {
                taken.add();
            }
        } else if add {
            let result = Err("too many changes of addresses wait".to_owned());
            self.carp.handle(clock::now(), CarpEvent::AddressesReady { group, result });
        } else {
            let text = format!("addresses of group {group} stay: too many changes wait");
            self.telling.tell(true, "carp-address-failed", "addresses", text);
        }
    }

    pub(super) fn give_back(&mut self, group: u32) {
        // What an earlier daemon has added is this group's as well.
        let taken = self.taken.remove(&group).map(|taken| (taken.ifindex, taken.addresses));
        let taken = taken.or_else(|| {
            let found = self.groups.get(&group)?;
            let mut nics = self.nics.iter();
            let (ifindex, _) = nics.find(|(_, nic)| nic.name == found.settings.interface)?;
            Some((*ifindex, found.local.clone()))
        });
        if let Some((ifindex, addresses)) = taken
            && !addresses.is_empty()
        {
            self.change(Change { group, ifindex, add: false, addresses });
        }
    }

    pub(super) fn run_hook(&self, group: u32, hook: Hook) {
        let Some(found) = self.groups.get(&group) else { return };
        for vip in &found.settings.vips {
            self.run_hook_for(found, hook, *vip);
        }
    }

    fn run_hook_for(&self, found: &Group, hook: Hook, vip: IpAddr) {
        let (hooks, settings) = (&found.hooks, &found.settings);
        let program = match hook {
            Hook::Up => &hooks.up,
            Hook::Down => &hooks.down,
        };
        let Some(program) = program else { return };
        // As ucarp calls them: interface, address, and the parameter if there is one.
        let mut words = vec![program.display().to_string(), settings.interface.clone()];
        words.push(vip.to_string());
        words.extend(hooks.xparam.clone());
        let run = Run { group: settings.name.clone(), vip, words, limit: HOOK_LIMIT };
        if !self.hooks.run(run) {
            let text = format!("{} is not run: too many programs wait", program.display());
            self.telling.tell(true, "carp-hook-failed", &settings.name, text);
        }
    }
}

/// Whether a group goes on as another one of the configuration, as `Carp` sees it.
fn is_same(old: &Group, new: &Group) -> bool {
    let (old, new) = (&old.settings, &new.settings);
    (&old.interface, old.vhid) == (&new.interface, new.vhid)
}
