//! From what is known to what the maps should hold: which backends are usable and why not, the
//! slot tables over the usable ones, and the writes that lead there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, AddrEntry, Cfg, Group, ServiceKey};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, MacAddr};

use super::event::{Action, Link};
use super::health::State;
use super::judgement::Pool;
use super::network::{Hop, Network, NoHop};
use super::scheduler::{self, Member};
use super::sync::view::Role;
use super::tables::{self, Tables};
use super::{ASK, Backend, Engine, Service, settling};
use crate::api::Admin;
use crate::config::{Affinity, CheckKind, Mode, Vip, XdpMode};

/// New records that a CPU may make in a second: the tables then hold those of the last minute at
/// least, whoever floods them.
const RECORDS_PER_SECOND: u32 = 16_000;
/// A second in nanoseconds.
const SECOND_NS: u32 = 1_000_000_000;
/// ICMP errors that a CPU may send in a second.
const ICMP_PER_SECOND: u32 = 1000;

/// Where a backend stands.
pub(super) struct Standing {
    /// The state word of the map.
    pub(super) state: u32,
    /// The way to it.
    pub(super) hop: Option<Hop>,
    /// Why it takes no new flows.
    pub(super) why: Option<String>,
}

pub(super) fn standing(service: &Service, backend: &Backend, network: &Network) -> Standing {
    let hop = way(service, backend, network);
    let checked = service.config.check.kind != CheckKind::None;
    let down = |why: String| (abi::Backend::DOWN, Some(why));
    let (state, why) = match (&hop, backend.health.state()) {
        _ if backend.admin == Admin::Maint => {
            down(backend.drain.why().unwrap_or_else(|| "in maintenance by the operator".to_owned()))
        }
        (Err(no_hop), _) => down(no_hop.to_string()),
        (Ok(_), State::Down) if checked && !service.uses_all_the_same(backend) => {
            let error = backend.health.last_error();
            down(error.map_or_else(
                || "recovering: waits for more good checks".to_owned(),
                |error| format!("check failed: {error}"),
            ))
        }
        (Ok(_), State::Checking) if checked => down("the first check has not ended".to_owned()),
        (Ok(_), _) if backend.agent.down().is_some() => (abi::Backend::DOWN, backend.agent.down()),
        (Ok(_), _) if backend.leaving => {
            (abi::Backend::DRAINED, Some("leaves: the configuration no longer has it".to_owned()))
        }
        (Ok(_), _) if backend.wish() == Admin::Drain => {
            let state = if backend.drained { abi::Backend::DRAINED } else { abi::Backend::DRAIN };
            let by = if backend.admin == Admin::Drain { "the operator" } else { "its agent" };
            (state, Some(format!("drained by {by}")))
        }
        (Ok(_), _) if backend.ejection.why().is_some() && !service.is_open() => {
            // What is in the kernel goes on; a proxy decides for itself.
            let state = match service.config.mode {
                Mode::Proxy => abi::Backend::UP,
                _ => abi::Backend::DRAINED,
            };
            let why = backend.ejection.why().map(|failure| {
                let time = humantime::format_duration(backend.ejection.lasted());
                format!("ejected for {time}: {failure}")
            });
            (state, why)
        }
        (Ok(_), _) if backend.weight() == 0 => (abi::Backend::UP, Some("weight 0".to_owned())),
        (Ok(_), _) => (abi::Backend::UP, None),
    };
    Standing { state, hop: hop.ok().flatten(), why }
}

/// The way to a backend. Connections of a proxy find theirs by the kernel's routes: none is needed.
pub(super) fn way(
    service: &Service,
    backend: &Backend,
    network: &Network,
) -> Result<Option<Hop>, NoHop> {
    if service.config.mode == Mode::Proxy {
        return Ok(None);
    }
    network.hop(backend.config.address, service.config.mode).map(Some)
}

/// Members of a service's table as things stand, with `changed` in place of the backend at that
/// index: for dry runs. Those of a stubborn service stay while they are down; the backend for
/// emergencies is alone or not at all.
pub(super) fn members(
    service: &Service,
    network: &Network,
    changed: Option<(usize, Admin, u32)>,
) -> Vec<Member> {
    Pool::of(service, network, changed).members(service)
}

/// Of an entry: what is answered for the address, and as what.
fn flags(vip: &Vip, link: &Link) -> u16 {
    let echo = if vip.echo { AddrEntry::ECHO } else { 0 };
    let router = vip.address.is_ipv6() && link.forwards_v6;
    echo | if router { AddrEntry::ROUTER } else { 0 }
}

/// Whether the first check of some backend is still to come, or its name to be resolved: nothing is known of the service then.
pub(super) fn awaits_checks(service: &Service) -> bool {
    service.unnamed
        || service.config.check.kind != CheckKind::None
            && service.backends.iter().any(|backend| {
                backend.health.state() == State::Checking
                    && backend.admin != Admin::Maint
                    && !service.is_emergency(backend)
            })
}

/// Whether something about a backend is still to be learned that is learned soon: the first check,
/// or the way to it.
fn awaits_news(service: &Service, network: &Network) -> bool {
    let unknown = |backend: &Backend| {
        let hop = way(service, backend, network);
        matches!(hop, Err(NoHop::Unknown | NoHop::Unresolved { .. }))
    };
    let mut wanted = service.backends.iter().filter(|backend| backend.admin != Admin::Maint);
    awaits_checks(service) || wanted.any(unknown)
}

/// Whether a service whose backends were all lost goes on waiting: who was cut off from everything has
/// a peer that was not, and hears of it soon; then for all backends that have flows there, for they
/// do not come back at the same moment.
fn asks(service: &mut Service, hears_peers: bool, now: Moment) -> bool {
    let has_come = match &service.inherited {
        Some(slots) => {
            let alive = settling::alive(&service.backends);
            let is_alive = |id: u16| id == 0 || alive.contains(&id);
            slots.iter().all(|slot| is_alive(slot.base()) && is_alive(slot.current()))
        }
        None => hears_peers,
    };
    if !service.lost || has_come {
        service.lost = false;
        service.ask_until = Moment::NEVER;
        return false;
    }
    service.ask_until = service.ask_until.min(now + ASK);
    true
}

/// Whether the table of a service that has no flows yet is not to be made already.
pub(super) fn waits(service: &Service, network: &Network) -> bool {
    service.fresh && service.start_by != Moment::NEVER && awaits_news(service, network)
}

impl Engine {
    /// Computes everything anew and emits the writes that are needed.
    pub(super) fn refresh(&mut self, now: Moment) {
        self.note_panics(now);
        self.refresh_members(now);
        self.note_quorums(now);
        self.refresh_solicited();
        self.refresh_warnings(now);
        self.refresh_groups();
        self.refresh_shared();
        let desired = self.desired();
        let writes = tables::diff(&self.applied, &desired);
        if !writes.is_empty() {
            self.actions.push_back(Action::WriteTables(writes));
            self.applied = desired;
        }
        self.refresh_proxies();
    }

    fn refresh_members(&mut self, now: Moment) {
        let mut outages = Vec::new();
        let mut emergencies = Vec::new();
        self.note_held();
        let roles: Vec<Role> =
            self.services.iter().map(|service| self.sharing_role(service)).collect();
        let hears_peers = self.hears_peers();
        for (service, role) in self.services.iter_mut().zip(roles) {
            let before: Vec<u32> = service.backends.iter().map(|backend| backend.state).collect();
            let deaths = note_states(service, &self.network, &mut self.last_generation, now);
            if role != Role::Backup {
                // From here on it goes its own way.
                service.usable_there.clear();
                if service.inherited.take().is_some() {
                    service.table.go_on(now);
                }
            }
            let alive_again = service.inherited.is_some()
                && service.backends.iter().map(|backend| backend.state).ne(before);
            let waits = waits(service, &self.network);
            let mut members =
                if waits { Vec::new() } else { members(service, &self.network, None) };
            if role != Role::Alone && !members.is_empty() && asks(service, hears_peers, now) {
                members.clear();
            }
            let ids: BTreeSet<u32> = members.iter().map(|member| u32::from(member.id)).collect();
            for index in 0..service.backends.len() {
                let is_emergency = service.is_emergency(&service.backends[index]);
                let backend = &mut service.backends[index];
                let usable = ids.contains(&backend.id) && backend.state == abi::Backend::UP;
                if usable != backend.usable {
                    backend.usable = usable;
                    backend.usable_since = now;
                    if is_emergency {
                        let subject = format!("{}/{}", service.config.name, backend.config.name);
                        emergencies.push((subject, usable));
                    }
                }
            }
            let down = !service.backends.iter().any(|backend| backend.usable);
            if !(down && (waits || awaits_checks(service))) && service.down != Some(down) {
                // That a service starts well is no news.
                if down || service.down == Some(true) {
                    outages.push((service.config.name.clone(), service.config.mode, down));
                }
                service.down = Some(down);
                service.lost = down;
            }
            let slots = service.config.memory.slots;
            let resized = service.table.slots().len() != slots as usize;
            let moved = service.members.as_ref() != Some(&members);
            if deaths || resized || service.fresh || alive_again || moved {
                let targets = scheduler::maglev(&members, self.secret, slots);
                let alive = settling::alive(&service.backends);
                let is_dead = |id| !alive.contains(&id);
                if let Some(inherited) = &service.inherited {
                    service.table.inherit(inherited, &targets, is_dead, now);
                    service.fresh &= waits || down;
                } else if service.fresh {
                    service.table.start(&targets);
                    service.fresh = waits || down;
                } else {
                    service.table.retarget(&targets, is_dead, now);
                }
                service.members = Some(members);
            }
        }
        for (subject, begins) in emergencies {
            if begins {
                let text = format!("{subject} takes over: no other backend is usable");
                self.warn(now, "emergency", &subject, text);
            } else {
                let text = format!("{subject} takes no new flows any more");
                self.tell(now, "emergency-over", &subject, text);
            }
        }
        for (name, mode, down) in outages {
            if down {
                let fate = match mode {
                    Mode::Proxy => "its clients are turned away",
                    _ => "its packets are dropped",
                };
                let text = format!("service {name} has no usable backend: {fate}");
                self.warn(now, "service-down", &name, text);
            } else {
                self.tell(now, "service-up", &name, format!("service {name} has usable backends"));
            }
        }
    }

    fn refresh_solicited(&mut self) {
        let mut wanted = BTreeSet::new();
        for vip in &self.config.vips {
            let link = self.network.link_by_name(&vip.interface);
            if let (IpAddr::V6(address), Some(link)) = (vip.address, link) {
                wanted.insert((link.ifindex, address));
            }
        }
        for (ifindex, address) in wanted.difference(&self.solicited).copied() {
            self.actions.push_back(Action::JoinSolicited { ifindex, address });
        }
        for (ifindex, address) in self.solicited.difference(&wanted).copied() {
            self.actions.push_back(Action::LeaveSolicited { ifindex, address });
        }
        self.solicited = wanted;
    }

    fn cfg(&self) -> Cfg {
        let translates = self.services.iter().any(|service| service.config.mode.translates());
        let ports = self.config.node.masquerade_ports;
        Cfg {
            secret: self.secret,
            flags: if translates { Cfg::NAT } else { 0 }
                | if self.config.sync.is_some() { Cfg::SYNC } else { 0 },
            records_per_second: RECORDS_PER_SECOND,
            icmp_per_second: ICMP_PER_SECOND,
            first_port: Be16::new(ports.first),
            last_port: Be16::new(ports.last),
        }
    }

    fn desired(&self) -> Tables {
        let prefixes = Arc::clone(self.lists.prefixes());
        let mut desired = Tables { cfg: self.cfg(), prefixes, ..Tables::default() };
        desired.groups.insert(0, Group::ALWAYS);
        // Written by the thread of CARP, not by us.
        desired.groups.extend(self.applied.groups.iter().filter(|(index, _)| **index != 0));
        for vip in &self.config.vips {
            // Without its interface there is no Ethernet address to answer with.
            let Some(link) = self.network.link_by_name(&vip.interface) else { continue };
            let addr = Addr::from(vip.address);
            let entry = AddrEntry {
                ifindex: link.ifindex,
                group: self.group_index(vip.carp.as_deref()),
                mac: self.vip_mac(vip, link),
                flags: flags(vip, link),
                acl: vip.acl.as_ref().map_or(0, |name| self.lists.number(name)),
                syn_interval_ns: vip.syn_rate.map_or(0, |rate| SECOND_NS / rate),
                id: self.addr_ids.number(&addr).unwrap_or(0),
                _pad: 0,
            };
            desired.addrs.insert(addr, entry);
        }
        for service in &self.services {
            let entry = service_entry(service);
            for port in service.config.listen.ports.iter() {
                let key = ServiceKey { port: Be16::new(port), ..service.key };
                desired.services.insert(key, entry);
            }
            desired.slots.insert(service.id, Arc::clone(service.table.slots()));
            for backend in &service.backends {
                let standing = standing(service, backend, &self.network);
                if let Some(hop) = standing.hop {
                    desired.egress.insert(hop.ifindex);
                }
                desired.backends.insert(backend.id, backend_entry(service, backend, &standing));
            }
        }
        if desired.cfg.flags & Cfg::NAT != 0 {
            // Answers leave where the clients are, which no backend's way tells.
            desired.egress.extend(self.with_xdp());
        }
        desired
    }

    /// Interfaces that XDP is to be attached to: without it, most drivers send nothing that is
    /// redirected to them.
    fn with_xdp(&self) -> impl Iterator<Item = u32> {
        let wanted = self.config.interfaces.iter().filter(|found| found.xdp != XdpMode::Off);
        wanted.filter_map(|found| Some(self.network.link_by_name(&found.name)?.ifindex))
    }
}

/// Notes the state words of all backends; true if one has died. Records of it are void from then on,
/// also after its return.
fn note_states(
    service: &mut Service,
    network: &Network,
    last_generation: &mut u32,
    now: Moment,
) -> bool {
    let mut deaths = false;
    for index in 0..service.backends.len() {
        let state = standing(service, &service.backends[index], network).state;
        let checked = service.config.check.kind != CheckKind::None;
        let slow_start = service.config.judgement.slow_start;
        let backend = &mut service.backends[index];
        if state != abi::Backend::DOWN && backend.state == abi::Backend::DOWN {
            backend.ramp.begin(now, slow_start);
        }
        let failed = checked && backend.health.state() == State::Down;
        if state == abi::Backend::DOWN && (failed || backend.admin == Admin::Maint) {
            backend.ramp.fail();
        }
        if state == abi::Backend::DOWN && backend.state != state {
            *last_generation = last_generation.wrapping_add(1);
            backend.incarnation = *last_generation;
            deaths = true;
        }
        backend.state = state;
    }
    deaths
}

pub(super) fn service_entry(service: &Service) -> abi::Service {
    let memory = &service.config.memory;
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    abi::Service {
        id: service.id,
        slots: memory.slots,
        affinity: match service.config.affinity {
            Affinity::Client => abi::Service::CLIENT,
            Affinity::Flow => abi::Service::FLOW,
        },
        // IPv4 addresses are mapped.
        prefix_v4: 96 + memory.prefix_v4,
        prefix_v6: memory.prefix_v6,
        mode: match service.config.mode {
            Mode::Dsr => abi::Service::DSR,
            Mode::Ipip => abi::Service::IPIP,
            Mode::Gue => abi::Service::GUE,
            Mode::Nat => abi::Service::NAT,
            Mode::Masquerade => abi::Service::MASQUERADE,
            Mode::Proxy => abi::Service::PROXY,
        },
        flags: if service.config.stubborn { abi::Service::STUBBORN } else { 0 },
        flow_ttl_ns: nanos(memory.settle),
        client_ttl_ns: nanos(memory.affinity_ttl),
    }
}

/// The operator's state as the map has it.
pub(super) const fn admin_word(admin: Admin) -> u16 {
    match admin {
        Admin::Ready => abi::Backend::READY,
        Admin::Drain => abi::Backend::DRAINING,
        Admin::Maint => abi::Backend::MAINT,
    }
}

/// The opposite.
pub(super) const fn admin_of_word(word: u16) -> Admin {
    match word {
        abi::Backend::DRAINING => Admin::Drain,
        abi::Backend::MAINT => Admin::Maint,
        _ => Admin::Ready,
    }
}

fn backend_entry(service: &Service, backend: &Backend, standing: &Standing) -> abi::Backend {
    let hop = standing.hop.as_ref();
    abi::Backend {
        addr: Addr::from(backend.config.address),
        source: service
            .config
            .source
            .or_else(|| hop.and_then(|hop| hop.source))
            .map_or_else(Addr::default, Addr::from),
        mac: hop.map_or(MacAddr::NONE, |hop| hop.mac),
        port: Be16::new(backend.config.port),
        source_mac: hop.map_or(MacAddr::NONE, |hop| hop.source_mac),
        admin: admin_word(backend.admin),
        ifindex: hop.map_or(0, |hop| hop.ifindex),
        mtu: hop.map_or(0, |hop| hop.mtu),
        state: standing.state,
        generation: backend.incarnation,
        service: service.id,
        weight: backend.weight.map_or(0, |weight| weight + 1),
    }
}
