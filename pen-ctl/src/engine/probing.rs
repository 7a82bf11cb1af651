//! Who is asked about which backend. Backends of several services that are one server, and of which
//! the same is asked in the same way, are asked once: one of them leads, and what is found out holds
//! for all of them at the same moment. So does the check of a service that another one tracks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pen_common::hash::Secret;
use pen_common::moment::Moment;

use super::event::{self, Action, ProbeError, ProbeId, Tunnel};
use super::health::{Rules, State};
use super::network::Hop;
use super::{Backend, Engine, Service, pace};
use crate::api::Admin;
use crate::config::{self, CheckKind, Endpoint, Mode};

/// However often there is a doubt, nobody is asked again within this time.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// Who is asked about a backend, and how.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    target: Endpoint,
    through: Option<Tunnel>,
    /// Those of one group are asked as one.
    group: usize,
    /// It is the one of its group that is asked.
    leads: bool,
    /// There are others in its group, which hear of each result.
    shared: bool,
}

impl Asked {
    /// Before it is known who else is asked the same.
    pub(super) fn alone(backend: &config::Backend) -> Self {
        Self { target: backend.endpoint(), through: None, group: 0, leads: false, shared: false }
    }
}

impl Engine {
    /// Groups the backends of which the same is asked.
    pub(super) fn share_probes(&mut self) {
        let asked: Vec<Vec<_>> = self
            .services
            .iter()
            .map(|service| {
                let backends = service.backends.iter();
                backends.map(|backend| self.whom_to_ask(service, &backend.config)).collect()
            })
            .collect();
        let mut sizes: Vec<usize> = Vec::new();
        let mut known: BTreeMap<SocketAddr, Vec<(config::Check, Option<Tunnel>, usize)>> =
            BTreeMap::new();
        for (service, asked) in self.services.iter_mut().zip(asked) {
            for (backend, (target, through)) in service.backends.iter_mut().zip(asked) {
                let at = known.entry(target.key()).or_default();
                let check = &service.config.check;
                let same = at.iter().find(|found| found.0 == *check && found.1 == through);
                let group = same.map_or(sizes.len(), |found| found.2);
                if group == sizes.len() {
                    at.push((check.clone(), through, group));
                    sizes.push(0);
                }
                sizes[group] += 1;
                let leads = backend.asked.leads;
                backend.asked = Asked { target, through, group, leads, shared: false };
            }
        }
        for backend in self.services.iter_mut().flat_map(|service| &mut service.backends) {
            backend.asked.shared = sizes[backend.asked.group] > 1;
        }
        self.elect_leaders();
    }

    fn whom_to_ask(
        &self,
        service: &Service,
        backend: &config::Backend,
    ) -> (Endpoint, Option<Tunnel>) {
        let tracked = service.config.judgement.track.as_ref().and_then(|name| {
            let tracked = self.config.services.iter().find(|found| found.name == *name)?;
            Some((tracked, tracked.counterpart(backend)?))
        });
        let (service, backend) = tracked.unwrap_or((&service.config, backend));
        let target = service.check.target(backend.endpoint());
        let gue = service.mode == Mode::Gue;
        let vip = service.listen.address;
        (target, service.check.tunnel.then_some(Tunnel { gue, vip }))
    }

    /// In each group one is asked: not one in maintenance, and rather one of which something is known.
    pub(super) fn elect_leaders(&mut self) {
        let mut best: BTreeMap<usize, (u8, usize, usize)> = BTreeMap::new();
        for (at, service) in self.services.iter_mut().enumerate() {
            for (index, backend) in service.backends.iter_mut().enumerate() {
                let known = backend.health.state() != State::Checking;
                let rank = u8::from(known) + 2 * u8::from(backend.asked.leads);
                backend.asked.leads = false;
                if backend.admin == Admin::Maint {
                    continue;
                }
                let found = best.entry(backend.asked.group).or_insert((rank, at, index));
                if rank > found.0 {
                    *found = (rank, at, index);
                }
            }
        }
        for (_, at, index) in best.values().copied() {
            self.services[at].backends[index].asked.leads = true;
        }
        let leader = |(group, (_, at, index)): (usize, (u8, usize, usize))| {
            let leader = &self.services[at].backends[index];
            leader.asked.shared.then(|| (group, leader.health.clone()))
        };
        let leaders: BTreeMap<_, _> = best.into_iter().filter_map(leader).collect();
        for backend in self.services.iter_mut().flat_map(|service| &mut service.backends) {
            if let Some(leader) = leaders.get(&backend.asked.group)
                && !backend.asked.leads
                && backend.admin != Admin::Maint
            {
                backend.health.follow(leader);
            }
        }
    }

    /// When the next backend is to be asked.
    pub(super) fn next_probe(&self) -> Moment {
        self.services
            .iter()
            .filter(|service| service.config.check.kind != CheckKind::None)
            .flat_map(|service| &service.backends)
            .filter(|backend| backend.asked.leads)
            .map(|backend| backend.health.next_deadline())
            .min()
            .unwrap_or(Moment::NEVER)
    }

    /// Asks those whose turn it is.
    pub(super) fn start_probes(&mut self, now: Moment) {
        let node_seed = self.node_seed();
        let all = self.services.iter().map(|service| service.backends.len()).sum();
        for service in &mut self.services {
            let check = &service.config.check;
            if check.kind == CheckKind::None {
                continue;
            }
            let soon = now + pace::slack(all, check.fast_interval);
            for backend in service.backends.iter_mut().filter(|backend| backend.asked.leads) {
                if backend.health.next_deadline() > soon {
                    continue;
                }
                let rules = rules(check, [node_seed, u64::from(backend.id)]);
                let Some(serial) = backend.health.poll(soon, &rules) else { continue };
                self.actions.push_back(Action::StartProbe {
                    probe: ProbeId { backend: backend.id, generation: backend.generation, serial },
                    kind: check.kind.clone(),
                    target: backend.asked.target.clone(),
                    through: backend.asked.through,
                    timeout: check.timeout,
                });
            }
        }
    }

    pub(super) fn probe_done(
        &mut self,
        now: Moment,
        probe: ProbeId,
        took: Duration,
        outcome: event::Outcome,
    ) {
        let found = self.services.iter().enumerate().find_map(|(at, service)| {
            let index = service.backends.iter().position(|backend| {
                backend.id == probe.backend && backend.generation == probe.generation
            })?;
            Some((at, index))
        });
        let Some((at, index)) = found else { return };
        let seed = [self.node_seed(), u64::from(probe.backend)];
        let rules = rules(&self.services[at].config.check, seed);
        let backend = &mut self.services[at].backends[index];
        let was_local = matches!(backend.health.last_error(), Some(ProbeError::Local(_)));
        let state = backend.health.record(now, probe.serial, took, outcome, &rules);
        let Asked { group, leads, shared, .. } = backend.asked;
        let local = match backend.health.last_error() {
            Some(error @ ProbeError::Local(_)) if !was_local => Some(error.to_string()),
            _ => None,
        };
        if let Some(error) = local {
            let subject = self.subject(at, index);
            let text = format!("{subject}: {error}; its state stays as it is");
            self.warn(now, "not-probed", &subject, text);
        }
        if state.is_some() {
            self.note_health(now, at, index);
        }
        if !leads || !shared {
            return;
        }
        let health = self.services[at].backends[index].health.clone();
        let mut changed = Vec::new();
        for (at, service) in self.services.iter_mut().enumerate() {
            for (index, backend) in service.backends.iter_mut().enumerate() {
                let follows = backend.asked.group == group
                    && !backend.asked.leads
                    && backend.admin != Admin::Maint;
                if follows && backend.health.follow(&health) {
                    changed.push((at, index));
                }
            }
        }
        for (at, index) in changed {
            self.note_health(now, at, index);
        }
    }

    /// There is a doubt that a backend is up: who is asked about it is asked at `when`, but no sooner
    /// than the check's fast interval allows, or its timeout and a second. True if that is sooner
    /// than it would have been.
    pub(super) fn hurry_probe(&mut self, when: Moment, at: usize, index: usize) -> bool {
        let group = self.services[at].backends[index].asked.group;
        self.services.iter_mut().any(|service| {
            let check = &service.config.check;
            let gap = check.fast_interval.min(check.timeout.max(LEAST_GAP));
            let is_asked = check.kind != CheckKind::None;
            let mut backends = service.backends.iter_mut();
            backends
                .find(|found| is_asked && found.asked.leads && found.asked.group == group)
                .is_some_and(|found| found.health.hurry(when, gap))
        })
    }

    /// What is known of a backend has changed.
    fn note_health(&mut self, now: Moment, at: usize, index: usize) {
        self.dirty = true;
        let subject = self.subject(at, index);
        let service = &self.services[at];
        let Backend { config, health, .. } = &service.backends[index];
        let (state, error) = (health.state(), health.last_error().cloned());
        // Silence may come of a changed Ethernet address, which the kernel would go on believing for
        // a minute.
        if matches!(error, Some(ProbeError::Timeout(_)))
            && let Ok(hop) = self.network.hop(config.address, service.config.mode)
        {
            let Hop { ifindex, next: address, .. } = hop;
            self.actions.push_back(Action::ConfirmNeighbour { ifindex, address });
        }
        match state {
            State::Down => {
                let error = error.map_or_else(String::new, |error| format!(": {error}"));
                self.warn(now, "backend-down", &subject, format!("{subject} is down{error}"));
            }
            State::Up | State::Checking => {
                self.tell(now, "backend-up", &subject, format!("{subject} is up"));
            }
        }
    }

    /// Tells this node's draws from those of others, which probe the same backends.
    fn node_seed(&self) -> u64 {
        // FNV-1a: names are unlike enough.
        self.config.node.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// A backend as the operator calls it.
    pub(super) fn subject(&self, at: usize, index: usize) -> String {
        let service = &self.services[at];
        format!("{}/{}", service.config.name, service.backends[index].config.name)
    }
}

fn rules(check: &config::Check, seed: Secret) -> Rules {
    Rules {
        interval: check.interval,
        fast_interval: check.fast_interval,
        down_interval: check.down_interval,
        jitter: check.jitter,
        seed,
        rise: check.rise,
        fall: check.fall,
    }
}
