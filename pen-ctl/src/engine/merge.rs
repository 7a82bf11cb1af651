//! From the configuration, and from what the maps held at the start, to the engine's run-time state.
//! What was there before keeps its health, the operator's wishes and its numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pen_common::abi::{self, ServiceKey};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, protocol};

use super::access::Lists;
use super::agent::Agent;
use super::desired::admin_of_word;
use super::draining::Drain;
use super::ejection::Ejection;
use super::health::{Health, State};
use super::network::Hop;
use super::probing::Asked;
use super::signals::Suspicion;
use super::slots::Table;
use super::slow::Ramp;
use super::{Backend, BackendKey, Engine, SPREAD, START_WINDOW, Service};
use crate::api::Admin;
use crate::config::{self, CheckKind, Init, Protocol, UnixPath};

impl Engine {
    /// Numbers given by the controller before this one stay, so that no packet in between meets a
    /// slot whose number changed its meaning.
    pub(super) fn adopt_ids(&mut self) {
        let mut keys = BTreeMap::new();
        for (addr, entry) in &self.applied.addrs {
            self.addr_ids.adopt(*addr, entry.id);
        }
        // In the order of the ports: the first one is the service's identity.
        for (key, service) in &self.applied.services {
            self.service_ids.adopt(*key, service.id);
            keys.entry(service.id).or_insert(*key);
        }
        for (id, backend) in &self.applied.backends {
            self.last_generation = self.last_generation.max(backend.generation);
            if let Some(key) = keys.get(&backend.service) {
                self.backend_ids.adopt((*key, backend.addr, backend.port), *id);
            }
        }
    }

    pub(super) fn adopt_hops(&mut self) {
        for backend in self.applied.backends.values() {
            if backend.state == abi::Backend::DOWN {
                continue;
            }
            let address = IpAddr::from(backend.addr);
            let source = Some(backend.source).filter(|source| *source != Addr::default());
            let hop = Hop {
                ifindex: backend.ifindex,
                source_mac: backend.source_mac,
                // Whether it is a router's, the kernel will say.
                next: address,
                mac: backend.mac,
                source: source.map(IpAddr::from),
                mtu: backend.mtu,
            };
            self.network.adopt(address, hop);
        }
    }

    /// Builds the run-time state that the configuration asks for; what was there before keeps its
    /// health, operator's wishes, numbers and slots. Backends that are no longer asked for stay
    /// until their flows have ended.
    pub(super) fn merge_config(&mut self, now: Moment) {
        self.receivers.configure(&self.config.notify);
        let mut before: BTreeMap<ServiceKey, Service> = std::mem::take(&mut self.services)
            .into_iter()
            .map(|found| (found.key, found))
            .collect();
        let wanted: BTreeSet<BackendKey> = self
            .config
            .services
            .iter()
            .flat_map(|service| {
                let key = service_key(service);
                service.all_backends().map(move |backend| backend_key(key, backend))
            })
            .collect();
        let services: BTreeSet<ServiceKey> = wanted.iter().map(|(service, ..)| *service).collect();
        self.service_ids.make_room(&services);
        self.backend_ids.make_room(&wanted);
        let mut first_probe = now;
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX).max(1);
        for config in self.config.services.clone() {
            let key = service_key(&config);
            let (id, _) =
                self.service_ids.assign(&key).expect("config has no more services than ids");
            // What was asked for until now; `None` at the start.
            let mut old = None;
            let mut service = match before.remove(&key) {
                Some(kept) => {
                    old = Some(kept.config.clone());
                    Service { config, members: None, ..kept }
                }
                None => self.new_service(config, key, id, now),
            };
            let mut kept: BTreeMap<BackendKey, Backend> = std::mem::take(&mut service.backends)
                .into_iter()
                .map(|backend| (backend_key(key, &backend.config), backend))
                .collect();
            for backend in service.config.all_backends() {
                let identity = backend_key(key, backend);
                // Who is asked in turn as before takes no place among those that begin now.
                let mut begins = true;
                service.backends.push(match kept.remove(&identity) {
                    Some(mut kept) => {
                        self.names.wishes.forget(&identity);
                        if let Some(old) = &old {
                            kept.follow(old, &service.config, backend, first_probe);
                            begins = old.check != service.config.check
                                || old.mode != service.config.mode;
                        }
                        Backend { config: backend.clone(), leaving: false, ..kept }
                    }
                    None => {
                        let init = service.config.check.init;
                        let mut new = self.new_backend(backend, &identity, init, now, first_probe);
                        self.names.wishes.restore(&identity, &mut new, now);
                        new
                    }
                });
                if begins {
                    first_probe = first_probe + SPREAD.min(service.config.check.interval / count);
                }
            }
            for (identity, backend) in kept {
                if !backend.leaving && service.config.is_named(&backend.config) {
                    self.names.wishes.keep(identity, &backend, now);
                }
                // Its number may have been needed by others.
                let keeps_id = self.backend_ids.number(&identity) == Some(backend.id);
                if backend.state != abi::Backend::DOWN && keeps_id {
                    service.backends.push(Backend { leaving: true, ..backend });
                }
            }
            service.unnamed = self.names.awaited(&service.config);
            self.services.push(service);
        }
        self.share_probes();
        self.free_ids();
        self.number_addresses();
        self.number_groups();
        self.lists = Lists::new(&self.config.acls, &self.config.vips);
        self.merge_interfaces(now);
        self.watch_backends(now);
        self.note_deadlines();
        self.dirty = true;
    }

    fn number_addresses(&mut self) {
        let addrs = self.config.vips.iter().map(|vip| Addr::from(vip.address)).collect();
        self.addr_ids.make_room(&addrs);
        for addr in &addrs {
            self.addr_ids.assign(addr).expect("config has no more addresses than ids");
        }
        self.addr_ids.retain(&addrs);
    }

    /// Watches the ways to all backends.
    pub(super) fn watch_backends(&mut self, now: Moment) {
        // A proxy leaves the ways to its backends to the kernel.
        let in_kernel = |service: &&Service| service.config.mode != config::Mode::Proxy;
        let addresses = self.services.iter().filter(in_kernel);
        let addresses = addresses.flat_map(|service| &service.backends);
        self.network.watch(addresses.map(|backend| backend.config.address), now);
    }

    /// Frees the numbers of services and backends that are no more.
    pub(super) fn free_ids(&mut self) {
        let services = self.services.iter().map(|service| service.key).collect();
        self.service_ids.retain(&services);
        let backends = self.services.iter().flat_map(|service| {
            service.backends.iter().map(|backend| backend_key(service.key, &backend.config))
        });
        let backends = backends.collect();
        self.backend_ids.retain(&backends);
    }

    /// A service with what the maps held of it: its slots, and backends that were leaving.
    fn new_service(
        &mut self,
        config: config::Service,
        key: ServiceKey,
        id: u32,
        now: Moment,
    ) -> Service {
        let known = self.applied.services.get(&key).filter(|known| known.id == id);
        let slots = known.and_then(|known| self.applied.slots.get(&known.id));
        let table = slots.map_or_else(Table::empty, |slots| Table::adopt(Arc::clone(slots), now));
        let adopted: Vec<abi::Backend> = self
            .applied
            .backends
            .values()
            .filter(|backend| known.is_some() && backend.service == id)
            .filter(|backend| backend.state != abi::Backend::DOWN)
            // Of a Unix socket the maps do not have the path.
            .filter(|backend| !UnixPath::is_stand_in(&IpAddr::from(backend.addr)))
            .copied()
            .collect();
        let mut backends = Vec::new();
        for backend in adopted {
            let address = IpAddr::from(backend.addr);
            let config = config::Backend {
                name: address.to_string(),
                address,
                port: backend.port.value(),
                socket: None,
                weight: 0,
                limits: config::Limits::default(),
            };
            let identity = backend_key(key, &config);
            backends.push(self.new_backend(&config, &identity, Init::First, now, now));
        }
        let fresh = table.slots().is_empty();
        Service {
            config,
            key,
            id,
            backends,
            members: None,
            table,
            inherited: None,
            usable_there: BTreeSet::new(),
            held: false,
            lost: false,
            ask_until: Moment::NEVER,
            fresh,
            start_by: if fresh { now + START_WINDOW } else { Moment::NEVER },
            unnamed: false,
            panicking: false,
            quorum: None,
            down: None,
        }
    }

    fn new_backend(
        &mut self,
        config: &config::Backend,
        identity: &BackendKey,
        init: Init,
        now: Moment,
        first_probe: Moment,
    ) -> Backend {
        let (id, is_new) =
            self.backend_ids.assign(identity).expect("config has no more backends than ids");
        let adopted = self.applied.backends.get(&id).filter(|_| !is_new);
        let generation = match adopted {
            Some(adopted) => adopted.generation,
            None => {
                self.last_generation = self.last_generation.wrapping_add(1);
                self.last_generation
            }
        };
        let was_up = adopted.is_some_and(|adopted| adopted.state != abi::Backend::DOWN);
        let state = match init {
            _ if was_up => State::Up,
            Init::First => State::Checking,
            Init::Up => State::Up,
            Init::Down => State::Down,
        };
        Backend {
            config: config.clone(),
            id,
            generation,
            incarnation: generation,
            life_there: None,
            state: adopted.map_or(abi::Backend::DOWN, |adopted| adopted.state),
            leaving: false,
            draining_since: now,
            drain: Drain::default(),
            drained: adopted.is_some_and(|adopted| adopted.state == abi::Backend::DRAINED),
            admin: adopted.map_or(Admin::Ready, |adopted| admin_of_word(adopted.admin)),
            weight: adopted.and_then(|adopted| adopted.weight.checked_sub(1)),
            health: Health::new(state, first_probe),
            agent: Agent::new(first_probe),
            asked: Asked::alone(config),
            ejection: Ejection::default(),
            ramp: Ramp::default(),
            suspicion: Suspicion::default(),
            usable: was_up,
            usable_since: now,
        }
    }
}

impl Backend {
    /// Its service or itself is configured otherwise from now on.
    fn follow(
        &mut self,
        old: &config::Service,
        new: &config::Service,
        backend: &config::Backend,
        first_probe: Moment,
    ) {
        // What the operator set at run time holds until the file says otherwise.
        if self.config.weight != backend.weight {
            self.weight = None;
        }
        if old.check.agent != new.check.agent {
            self.agent.restart(first_probe);
        }
        // Probes through a tunnel are those of the mode.
        if old.check == new.check && (old.mode == new.mode || !new.check.tunnel) {
            return;
        }
        // Whatever was known holds until the new check contradicts it.
        let state = match (&old.check.kind, self.state) {
            (CheckKind::None, abi::Backend::DOWN) => State::Checking,
            (CheckKind::None, _) => State::Up,
            (_, _) => self.health.state(),
        };
        self.health.restart(state, first_probe);
    }
}

/// Identity of a service: its first port stands for all of them.
pub(super) fn service_key(service: &config::Service) -> ServiceKey {
    let listen = service.listen;
    let protocol = match service.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    };
    ServiceKey::new(Addr::from(listen.address), Be16::new(listen.ports.first), protocol)
}

fn backend_key(service: ServiceKey, backend: &config::Backend) -> BackendKey {
    (service, Addr::from(backend.address), Be16::new(backend.port))
}
