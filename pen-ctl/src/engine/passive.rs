//! What clients find out about backends: the proxies tell of each that they could not reach, the
//! kernel of those that refuse several clients (`signals`), and it is decided here, for all services that send clients to the same server, whether it is left alone.

use pen_common::moment::Moment;

use super::ejection::{Terms, may_eject_one_more};
use super::event::Failure;
use super::{Backend, Engine, Service};
use crate::api::Admin;
use crate::config::{self, Endpoint};

impl Engine {
    /// A client of a proxy could not be served by a backend, or several of the kernel's in a row.
    pub(super) fn backend_failed(
        &mut self,
        now: Moment,
        id: u32,
        generation: u32,
        failure: Failure,
    ) {
        let found = self.services.iter().find_map(|service| {
            let mut backends = service.backends.iter();
            let backend =
                backends.find(|found| (found.id, found.generation) == (id, generation))?;
            Some((service, backend))
        });
        let Some((service, backend)) = found else { return };
        let Some(terms) = terms(&service.config) else { return };
        let (server, protocol) =
            (server(&service.config, &backend.config), service.config.protocol);
        let mut ejected = Vec::new();
        for service in self.services.iter_mut().filter(|found| found.config.protocol == protocol) {
            // A proxy goes by its own terms, the kernel by those of the service that found out.
            let terms = if service.config.proxy.is_some() {
                self::terms(&service.config)
            } else {
                Some(terms)
            };
            let Some(terms) = terms else { continue };
            let Service { config, backends, .. } = service;
            let same =
                |found: &Backend| !found.leaving && self::server(config, &found.config) == server;
            let Some(index) = backends.iter().position(same) else { continue };
            if !may_eject(config, backends, index) {
                continue;
            }
            let backend = &mut backends[index];
            if backend.ejection.begin(now, terms, failure) {
                backend.ramp.fail();
                let subject = format!("{}/{}", config.name, backend.config.name);
                ejected.push((subject, backend.ejection.lasted()));
            }
        }
        for (subject, time) in ejected {
            self.dirty = true;
            let time = humantime::format_duration(time);
            let text = format!("{subject} gets no new clients for {time}: {failure}");
            self.warn(now, "ejected", &subject, text);
        }
    }

    /// Lets those return whose time is over.
    pub(super) fn run_ejections(&mut self, now: Moment) {
        let mut back = Vec::new();
        for service in &mut self.services {
            let slow_start = service.config.judgement.slow_start;
            for backend in &mut service.backends {
                if backend.ejection.end(now) {
                    backend.ramp.begin(now, slow_start);
                    back.push(format!("{}/{}", service.config.name, backend.config.name));
                }
            }
        }
        for subject in back {
            self.dirty = true;
            let text = format!("{subject} gets new clients again");
            self.tell(now, "ejection-over", &subject, text);
        }
    }

    /// Lets the weights of those that returned grow.
    pub(super) fn run_ramps(&mut self, now: Moment) {
        for service in &mut self.services {
            let slow_start = service.config.judgement.slow_start;
            for backend in &mut service.backends {
                self.dirty |= backend.ramp.follow(now, slow_start);
            }
        }
    }

    /// When the next ejection is over, or the next weight grows.
    pub(super) fn next_judgement(&self) -> Moment {
        let next = self.services.iter().flat_map(|service| {
            let slow_start = service.config.judgement.slow_start;
            let backends = service.backends.iter();
            backends.map(move |backend| backend.ejection.until().min(backend.ramp.next(slow_start)))
        });
        next.min().unwrap_or(Moment::NEVER)
    }
}

/// How long backends of a service are ejected; `None` if never.
pub(super) fn terms(service: &config::Service) -> Option<Terms> {
    let terms = match service.proxy.as_deref() {
        Some(proxy) => Terms { time: proxy.eject, most: proxy.eject_max },
        None => Terms { time: service.judgement.eject, most: service.judgement.eject_max },
    };
    (!terms.time.is_zero()).then_some(terms)
}

/// What clients of a service connect to at a backend.
fn server(service: &config::Service, backend: &config::Backend) -> Endpoint {
    match backend.endpoint() {
        Endpoint::Inet(at) if at.port() == 0 => {
            std::net::SocketAddr::new(at.ip(), service.listen.ports.first).into()
        }
        endpoint => endpoint,
    }
}

/// Whether one more backend may be ejected.
fn may_eject(service: &config::Service, backends: &[Backend], index: usize) -> bool {
    let is_emergency = |backend: &Backend| service.emergency.as_ref() == Some(&backend.config);
    if is_emergency(&backends[index]) {
        return true;
    }
    let pool = backends.iter().filter(|backend| {
        backend.admin == Admin::Ready
            && backend.weight() > 0
            && !backend.leaving
            && !is_emergency(backend)
    });
    let ejected = pool.clone().filter(|backend| backend.ejection.why().is_some()).count();
    may_eject_one_more(service.judgement.max_ejected, ejected, pool.count())
}
