//! What the operator sees: the engine's state in the words of [`crate::api`].

use pen_common::abi::Count;
use pen_common::moment::Moment;
use pen_common::verdict::Counter;

use super::desired::standing;
use super::health::State;
use super::operator::percent;
use super::{Backend, Engine, Service};
use crate::api::{self, Refusal};
use crate::config::{CheckKind, Mode, XdpMode};

/// Why a backend for emergencies takes nothing.
const IDLE: &str = "waits for an emergency: others are usable";

impl Engine {
    /// Answers a question that changes nothing, except about the process itself.
    #[must_use]
    pub fn status(&self, now: Moment, pid: u32) -> api::Status {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let unusable = |service: &&Service| service.backends.iter().all(|backend| !backend.usable);
        api::Status {
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started_at).as_secs(),
            pid,
            interfaces: self.interfaces(),
            warnings: self.warnings().into_iter().chain(self.failing_receivers()).collect(),
            services: self.services.len(),
            backends: backends.clone().count(),
            backends_usable: backends.filter(|backend| backend.usable).count(),
            services_down: self
                .services
                .iter()
                .filter(unusable)
                .map(|service| service.config.name.clone())
                .collect(),
            carp: self.carp_roles(now),
            peers: self.sync().map(|sync| sync.peers).unwrap_or_default(),
        }
    }

    /// Names of the interfaces that are attached.
    #[must_use]
    pub fn attached(&self) -> Vec<String> {
        let attached = self.interfaces.iter().filter(|(_, found)| found.attached.is_some());
        attached.map(|(name, _)| name.clone()).collect()
    }

    fn interfaces(&self) -> Vec<api::Interface> {
        self.interfaces
            .iter()
            .map(|(name, interface)| {
                let xdp = match &interface.attached {
                    Some(attachment) if attachment.native => "native",
                    Some(_) => "generic",
                    None => "off",
                };
                let attached = interface.attached.as_ref();
                let warning = attached.and_then(|found| found.warning.clone());
                let frags = attached.is_some_and(|found| found.frags);
                api::Interface {
                    name: name.clone(),
                    xdp: xdp.to_owned(),
                    wanted: match interface.mode {
                        XdpMode::Auto => "auto",
                        XdpMode::Native => "native",
                        XdpMode::Generic => "generic",
                        XdpMode::Off => "off",
                    }
                    .to_owned(),
                    up: self.network.link_by_name(name).is_some_and(|link| link.up),
                    note: interface
                        .error
                        .clone()
                        .or(warning)
                        .or_else(|| frags.then(|| "frames in fragments (jumbo)".to_owned())),
                }
            })
            .collect()
    }

    /// All services.
    #[must_use]
    pub fn services(&self, now: Moment, counts: &api::Counts) -> Vec<api::Service> {
        let list = self.services.iter().map(|service| {
            let listen = service.config.listen;
            let count = counts.services.get(&service.id).copied().unwrap_or_default();
            api::Service {
                name: service.config.name.clone(),
                listen: service.config.listens(),
                last_port: listen.ports.last,
                protocol: service.config.protocol,
                mode: service.config.mode.to_string(),
                affinity: service.config.affinity.to_string(),
                usable: service.backends.iter().filter(|backend| backend.usable).count(),
                total: service.backends.len(),
                settled: percent(service.table.settled(), service.table.slots().len()),
                settled_in_ms: service
                    .table
                    .settles_at(service.config.memory.settle)
                    .map(|at| millis(at.since(now))),
                packets: count.packets,
                bytes: count.bytes,
                proxy: None,
            }
        });
        list.collect()
    }

    /// All backends of all services.
    #[must_use]
    pub fn backends(&self, now: Moment, counts: &api::Counts) -> Vec<api::Backend> {
        self.services.iter().flat_map(|service| self.backends_of(service, now, counts)).collect()
    }

    /// How the last probes of a backend ended.
    ///
    /// # Errors
    ///
    /// If there is no such backend.
    pub fn probes(
        &self,
        now: Moment,
        wanted: &api::OneBackend,
        counts: &api::Counts,
    ) -> Result<api::Probes, Refusal> {
        let (service, backend) = self.find(&wanted.service, &wanted.backend)?;
        let service = &self.services[service];
        let backend = &service.backends[backend];
        let results = backend.health.tried().rev().map(|tried| api::Probe {
            ago_ms: millis(now.since(tried.at)),
            took_us: u64::try_from(tried.took.as_micros()).unwrap_or(u64::MAX),
            error: tried.outcome.as_ref().err().map(ToString::to_string),
        });
        Ok(api::Probes {
            subject: format!("{}/{}", service.config.name, backend.config.name),
            check: service.config.check.kind.to_string(),
            health: health(service, backend),
            signals: signals(service, backend, counts),
            results: results.collect(),
            draining: backend.draining(service, now),
        })
    }

    fn backends_of(
        &self,
        service: &Service,
        now: Moment,
        counts: &api::Counts,
    ) -> Vec<api::Backend> {
        let mut slots = std::collections::BTreeMap::<u32, usize>::new();
        for slot in service.table.slots().iter() {
            *slots.entry(u32::from(slot.current())).or_default() += 1;
        }
        let list = service.backends.iter().map(|backend| {
            let standing = standing(service, backend, &self.network);
            let count = counts.backends.get(&backend.id).copied().unwrap_or_default();
            let owned = slots.get(&backend.id).copied().unwrap_or(0);
            let emergency = service.is_emergency(backend);
            let idle = emergency && !backend.usable;
            let interface = standing.hop.and_then(|hop| self.network.link(hop.ifindex));
            api::Backend {
                service: service.config.name.clone(),
                name: backend.config.name.clone(),
                address: match &backend.config.socket {
                    Some(socket) => socket.to_string(),
                    None => backend.config.address.to_string(),
                },
                port: backend.config.port,
                weight: backend.weight(),
                share: percent(owned, service.table.slots().len()),
                admin: backend.admin,
                health: health(service, backend),
                usable: backend.usable,
                emergency,
                why: standing.why.or_else(|| idle.then(|| IDLE.to_owned())),
                mac: standing.hop.map(|hop| hop.mac.to_string()),
                interface: interface.map(|link| link.name.clone()),
                packets: count.packets,
                bytes: count.bytes,
                signals: signals(service, backend, counts),
                proxy: None,
                since_ms: millis(now.since(backend.usable_since)),
                draining: backend.draining(service, now),
            }
        });
        list.collect()
    }

    /// All virtual addresses.
    #[must_use]
    pub fn vips(&self, now: Moment) -> Vec<api::Vip> {
        let list = self.config.vips.iter().map(|vip| {
            let link = self.network.link_by_name(&vip.interface);
            let on_it = |service: &&Service| service.config.listen.address == vip.address;
            api::Vip {
                address: vip.address,
                interface: vip.interface.clone(),
                role: match (link, &vip.carp) {
                    (None, _) => "inactive",
                    (Some(_), None) => "master",
                    (Some(_), Some(group)) => self.role(self.group_index(Some(group)), now),
                }
                .to_owned(),
                carp: vip.carp.clone(),
                mac: link.map(|link| self.vip_mac(vip, link).to_string()),
                echo: vip.echo,
                acl: vip.acl.clone(),
                syn_rate: vip.syn_rate,
                services: self
                    .services
                    .iter()
                    .filter(on_it)
                    .map(|service| service.config.name.clone())
                    .collect(),
            }
        });
        list.collect()
    }

    /// Entries of the journal after number `since`.
    #[must_use]
    pub fn events(&self, since: u64) -> Vec<api::Event> {
        let list = self.journal.since(since).map(|entry| api::Event {
            sequence: entry.sequence,
            at_ms: millis(entry.at.since(self.started_at)),
            kind: entry.kind.to_owned(),
            subject: entry.subject.clone(),
            text: entry.text.clone(),
        });
        list.collect()
    }
}

/// What clients' packets told of a backend.
fn signals(service: &Service, backend: &Backend, counts: &api::Counts) -> Option<api::Signals> {
    let counted = counts.signals.get(&backend.id).copied().unwrap_or_default();
    (service.config.mode != Mode::Proxy).then(|| counted.into())
}

/// What is known of a backend by its check.
fn health(service: &Service, backend: &Backend) -> api::Health {
    match (&service.config.check.kind, backend.health.state()) {
        (CheckKind::None, _) => api::Health::Unchecked,
        (_, State::Checking) => api::Health::Checking,
        (_, State::Up) => api::Health::Up,
        (_, State::Down) => api::Health::Down,
    }
}

/// All counters of the data plane by name.
#[must_use]
pub fn counters(counts: &api::Counts) -> Vec<api::Counter> {
    let count = |counter: &Counter| {
        let Count { packets, bytes } =
            counts.verdicts.get(*counter as usize).copied().unwrap_or_default();
        let (name, reason) = (counter.name().to_owned(), counter.describe().to_owned());
        api::Counter { name, reason, packets, bytes }
    };
    Counter::ALL.iter().map(count).collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
