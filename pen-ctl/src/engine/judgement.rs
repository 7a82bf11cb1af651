//! What the backends of a service are together: which of them could serve, whether those are too few,
//! and whether the service has its quorum.

use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::desired::{awaits_checks, way};
use super::health::State;
use super::network::{Network, NoHop};
use super::scheduler::Member;
use super::{Backend, Engine, Service};
use crate::api::Admin;
use crate::config::{CheckKind, Judgement, PanicPolicy};

/// The backends of a service that the operator wants to take new clients.
pub(super) struct Pool {
    /// All of them.
    wished: Vec<Member>,
    /// Those that can.
    able: Vec<Member>,
    /// Those that can or of which only checks or clients say that they cannot.
    reachable: Vec<Member>,
    /// The one for emergencies, if it can.
    emergency: Option<Member>,
    /// So many of which something is soon to be known.
    unknown: usize,
    /// Those that can are too few.
    panics: bool,
}

impl Pool {
    /// As things stand, with `changed` in place of the backend at that index: for dry runs.
    pub(super) fn of(
        service: &Service,
        network: &Network,
        changed: Option<(usize, Admin, u32)>,
    ) -> Self {
        let checked = service.config.check.kind != CheckKind::None;
        let ramps = service.backends.iter().any(|backend| backend.ramp.is_on());
        let (mut wished, mut able, mut reachable) = (Vec::new(), Vec::new(), Vec::new());
        let mut emergency = None;
        let mut unknown = 0;
        for (index, backend) in service.backends.iter().enumerate() {
            let (admin, weight) = match changed {
                Some((at, admin, weight)) if at == index => (backend.agent.wish(admin), weight),
                _ => (backend.wish(), backend.weight()),
            };
            if admin != Admin::Ready || weight == 0 || backend.leaving {
                continue;
            }
            let member = Member {
                addr: Addr::from(backend.config.address),
                port: Be16::new(backend.config.port),
                weight: if ramps { backend.ramp.weight(weight) } else { weight },
                id: u16::try_from(backend.id).expect("backend ids end below 2^14"),
            };
            // Whatever the operator wishes, a backend without a way or a good check takes nothing.
            let way = way(service, backend, network);
            let is_near = way.is_ok() && backend.agent.down().is_none();
            let is_well = !checked || backend.health.state() == State::Up;
            let is_able = is_near && is_well && backend.ejection.why().is_none();
            if service.is_emergency(backend) {
                emergency = Some(member).filter(|_| is_able);
                continue;
            }
            wished.push(member);
            able.extend(Some(member).filter(|_| is_able));
            // One that joins is not used before anything is known of it, nor counted.
            let is_unknown = checked && backend.health.state() == State::Checking
                || matches!(way, Err(NoHop::Unknown | NoHop::Unresolved { .. }));
            reachable.extend(Some(member).filter(|_| is_near && !is_unknown));
            unknown += usize::from(is_unknown);
        }
        let threshold = service.config.judgement.panic_threshold as usize;
        let known = wished.len() - unknown;
        let panics = known > 0
            && able.len() * 100 < known * threshold
            && !(service.fresh && awaits_checks(service));
        Self { wished, able, reachable, emergency, unknown, panics }
    }

    /// Those that take new clients.
    pub(super) fn members(self, service: &Service) -> Vec<Member> {
        // At the start the others may just not have been checked yet.
        let may_help = self.able.is_empty() && !(service.fresh && awaits_checks(service));
        match (service.config.judgement.panic, self.emergency) {
            (PanicPolicy::FailOpen, _) if self.panics => self.reachable,
            (PanicPolicy::FailClosed, _) if self.panics => Vec::new(),
            (PanicPolicy::Emergency, Some(emergency)) if self.panics => vec![emergency],
            (_, Some(emergency)) if may_help => vec![emergency],
            _ if service.config.stubborn => self.wished,
            _ => self.able,
        }
    }
}

impl Service {
    /// Too few backends are usable, and all are used for that.
    pub(super) fn is_open(&self) -> bool {
        self.panicking && self.config.judgement.panic == PanicPolicy::FailOpen
    }

    /// Too few backends are usable, and those get no new clients for that, or also the one for
    /// emergencies gets none.
    pub(super) fn is_shut(&self, emergency: bool) -> bool {
        let helps = |backend: &Backend| self.is_emergency(backend) && backend.usable;
        self.panicking
            && match self.config.judgement.panic {
                PanicPolicy::FailOpen => false,
                PanicPolicy::FailClosed => true,
                PanicPolicy::Emergency => !emergency && self.backends.iter().any(helps),
            }
    }

    /// The checks and clients that say that a backend cannot serve are not believed.
    pub(super) fn uses_all_the_same(&self, backend: &Backend) -> bool {
        self.is_open()
            && backend.wish() == Admin::Ready
            && !backend.leaving
            && !self.is_emergency(backend)
    }
}

impl Engine {
    /// Notes which services have too few backends, before it is said what becomes of those.
    pub(super) fn note_panics(&mut self, now: Moment) {
        let mut news = Vec::new();
        for service in &mut self.services {
            let pool = Pool::of(service, &self.network, None);
            let policy = service.config.judgement.panic;
            if pool.panics != service.panicking {
                service.panicking = pool.panics;
                let counts = (pool.able.len(), pool.wished.len());
                news.push((service.config.name.clone(), policy, pool.panics, counts));
            }
        }
        for (name, policy, panics, (able, all)) in news {
            if !panics {
                let text = format!("service {name} has enough usable backends: {able} of {all}");
                self.tell(now, "panic-over", &name, text);
                continue;
            }
            let fate = match policy {
                PanicPolicy::FailOpen => "all are used, whatever checks say",
                PanicPolicy::FailClosed => "new clients are turned away",
                PanicPolicy::Emergency => "the backend for emergencies takes new clients",
            };
            let text = format!("service {name} has only {able} of {all} backends usable: {fate}");
            self.warn(now, "panic", &name, text);
        }
    }

    /// Notes which services have their quorum.
    pub(super) fn note_quorums(&mut self, now: Moment) {
        let mut news = Vec::new();
        for service in &mut self.services {
            if service.fresh && awaits_checks(service) {
                continue;
            }
            let pool = Pool::of(service, &self.network, None);
            let able = pool.able.len();
            let Judgement { quorum, quorum_hysteresis, .. } = service.config.judgement;
            let least = quorum.unwrap_or(1) as usize;
            let needed = match service.quorum {
                Some(false) => least + quorum_hysteresis as usize,
                Some(true) | None => least,
            };
            // It is not lost for servers that have just joined.
            let unknown = if service.quorum == Some(false) { 0 } else { pool.unknown };
            let has = able + unknown >= needed;
            if service.quorum != Some(has) {
                let is_news = !has || service.quorum.is_some();
                // Without one, all that is to be told of it is that none is usable.
                if quorum.is_some() && is_news {
                    news.push((service.config.name.clone(), has, able, needed));
                }
                service.quorum = Some(has);
            }
        }
        for (name, has, able, needed) in news {
            let counts = format!("{able} usable, {needed} needed");
            if has {
                let text = format!("service {name} has its quorum again: {counts}");
                self.tell(now, "quorum-regained", &name, text);
            } else {
                let text = format!("service {name} has lost its quorum: {counts}");
                self.warn(now, "quorum-lost", &name, text);
            }
        }
    }
}
