//! Agents on servers, which say how much their server can take. What they say is kept apart from what
//! checks find and from what the operator wishes, which goes before it.

use std::net::SocketAddr;

use pen_common::moment::Moment;

use super::draining::Drain;
use super::event::{Action, ProbeError, ProbeId, Question};
use super::probe::agent::Said;
use super::{Backend, Engine};
use crate::api::Admin;
use crate::config::{self, MAX_WEIGHT};

/// What is known from the agent of one backend.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    said: Said,
    /// Why it could not be asked last.
    error: Option<ProbeError>,
    next: Moment,
    /// Serial number of the question under way; answers to others come too late.
    in_flight: Option<u64>,
    serial: u64,
}

impl Agent {
    /// It is asked at `first` for the first time.
    pub(super) fn new(first: Moment) -> Self {
        Self { said: Said::default(), error: None, next: first, in_flight: None, serial: 0 }
    }

    /// Starts over: the agent is another one, or none.
    pub(super) fn restart(&mut self, first: Moment) {
        *self = Self { serial: self.serial, ..Self::new(first) };
    }

    /// Why the backend takes nothing, if it does not for its agent's sake.
    pub(super) fn down(&self) -> Option<String> {
        match (&self.said.up, self.said.admin) {
            (_, Some(Admin::Maint)) => Some("in maintenance by its agent".to_owned()),
            (Some(Err(why)), _) => Some(format!("its agent says {why}")),
            _ => None,
        }
    }

    /// What is wished for the backend, where the operator wishes this.
    pub(super) fn wish(&self, operator: Admin) -> Admin {
        match operator {
            Admin::Ready => self.said.admin.unwrap_or(Admin::Ready),
            Admin::Drain | Admin::Maint => operator,
        }
    }

    /// The limits of a backend that is configured with these.
    pub(super) fn limits(&self, configured: config::Limits) -> config::Limits {
        let Some(most) = self.said.max_connections else { return configured };
        let max_known = configured.max_known.map(|known| known.max(most));
        config::Limits { max_connections: Some(most), max_known, ..configured }
    }

    /// The weight of a backend that is configured with this one; any share of it is more than nothing.
    fn weight(&self, configured: u32) -> u32 {
        let Some(percent) = self.said.percent else { return configured };
        configured.saturating_mul(percent).div_ceil(100).min(MAX_WEIGHT)
    }

    fn next_deadline(&self) -> Moment {
        if self.in_flight.is_some() { Moment::NEVER } else { self.next }
    }
}

impl Backend {
    /// The weight in force.
    pub(super) fn weight(&self) -> u32 {
        self.weight.unwrap_or_else(|| self.agent.weight(self.config.weight))
    }

    /// What is wished for it.
    pub(super) fn wish(&self) -> Admin {
        self.agent.wish(self.admin)
    }
}

impl Engine {
    /// Asks the agents whose time has come.
    pub(super) fn ask_agents(&mut self, now: Moment) {
        for service in &mut self.services {
            let Some(config) = &service.config.check.agent else { continue };
            for backend in &mut service.backends {
                let Backend { agent, id, generation, .. } = backend;
                if now < agent.next_deadline() {
                    continue;
                }
                agent.serial += 1;
                agent.in_flight = Some(agent.serial);
                // On the grid of the first one, but never twice for one moment.
                agent.next = (agent.next + config.interval).max(now);
                self.actions.push_back(Action::AskAgent(Question {
                    probe: ProbeId { backend: *id, generation: *generation, serial: agent.serial },
                    target: SocketAddr::new(backend.config.address, config.port),
                    send: config.send.clone(),
                    timeout: config.timeout,
                }));
            }
        }
    }

    /// When [`Engine::ask_agents`] has something to do.
    pub(super) fn next_agent(&self) -> Moment {
        let asked = self.services.iter().filter(|service| service.config.check.agent.is_some());
        let backends = asked.flat_map(|service| &service.backends);
        backends.map(|backend| backend.agent.next_deadline()).min().unwrap_or(Moment::NEVER)
    }

    /// An agent answered, or did not.
    pub(super) fn agent_answered(
        &mut self,
        now: Moment,
        probe: ProbeId,
        answer: Result<Said, ProbeError>,
    ) {
        let found = self.services.iter_mut().find_map(|service| {
            let backend = service.backends.iter_mut().find(|backend| {
                backend.id == probe.backend && backend.generation == probe.generation
            })?;
            Some((&service.config.name, backend))
        });
        let Some((service, backend)) = found else { return };
        if backend.agent.in_flight != Some(probe.serial) {
            return;
        }
        backend.agent.in_flight = None;
        let subject = format!("{service}/{}", backend.config.name);
        let said = match answer {
            Ok(said) => said,
            Err(error) => {
                let news = backend.agent.error.replace(error.clone()).is_none();
                if news {
                    let text = format!("{subject}: its agent: {error}; what it said last holds");
                    self.warn(now, "agent-silent", &subject, text);
                }
                return;
            }
        };
        backend.agent.error = None;
        let was = backend.wish();
        if !backend.agent.said.update(said) {
            return;
        }
        if backend.wish() == Admin::Drain && was != Admin::Drain {
            (backend.draining_since, backend.drained) = (now, false);
            backend.drain = Drain::default();
        }
        let text = format!("{subject}: its agent says {}", backend.agent.said);
        self.tell(now, "agent", &subject, text);
        self.dirty = true;
    }
}
