//! What the engine tells the proxies: the view of all proxied services, which virtual addresses the
//! machine's own stack has to take for them, and what becomes of sockets that cannot be had.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi;
use pen_common::moment::Moment;

use super::desired::{standing, waits};
use super::event::{Action, News};
use super::proxy::{self, AccessList, Routes, View};
use super::{Backend, Engine, Service};
use crate::api::Admin;
use crate::config::Mode;

/// A socket that could not be had is tried again after this time.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// Tells the proxies what has changed for them.
    pub(super) fn refresh_proxies(&mut self) {
        let view = self.view();
        // First of all: a connection whose answer is not taken in fails.
        self.route_answers(&view);
        if view != *self.proxies {
            self.proxies = Arc::new(view);
            self.actions.push_back(Action::ServeProxies(Arc::clone(&self.proxies)));
        }
        let held = self.held();
        // First those that are gone: an address may change its interface.
        for address in self.held.difference(&held) {
            self.actions.push_back(Action::ReleaseAddress(*address));
        }
        for address in held.difference(&self.held) {
            self.actions.push_back(Action::HoldAddress(*address));
        }
        self.held = held;
    }

    /// Virtual addresses whose packets the machine's own stack has to take.
    fn held(&self) -> BTreeSet<IpAddr> {
        let proxied = self.services.iter().filter(|service| service.config.mode == Mode::Proxy);
        let addresses = proxied.map(|service| service.config.listen.address);
        addresses.filter(|address| self.has_virtual(*address)).collect()
    }

    /// Whether this is a virtual address that this node has now. One that leaves still gets packets
    /// of its connections until another node answers.
    fn has_virtual(&self, address: IpAddr) -> bool {
        let vip = self.config.vips.iter().find(|vip| vip.address == address);
        vip.is_some_and(|vip| {
            let group = self.group_index(vip.carp.as_deref());
            let role = self.applied.groups.get(&group).map(|found| found.role);
            vip.carp.is_none() || role.is_some_and(|role| role != abi::Group::BACKUP)
        })
    }

    /// Whether the proxies serve something on an address.
    pub(super) fn is_proxied(&self, address: IpAddr) -> bool {
        let mut services = self.config.services.iter();
        services.any(|service| service.mode == Mode::Proxy && service.listen.address == address)
    }

    /// Whether roles of groups decide which addresses the proxies have.
    pub(super) fn has_proxied_groups(&self) -> bool {
        let mut vips = self.config.vips.iter();
        vips.any(|vip| vip.carp.is_some() && self.is_proxied(vip.address))
    }

    fn view(&self) -> View {
        let access = |name: &Option<String>| {
            let acl = self.config.acls.iter().find(|acl| Some(&acl.name) == name.as_ref())?;
            Some(Arc::new(AccessList::new(acl)))
        };
        let services = self.services.iter().filter_map(|service| {
            let config = &service.config;
            let proxy = config.proxy.as_deref()?;
            let address = config.listen.address;
            let vip = self.config.vips.iter().find(|vip| vip.address == address);
            let backends = service.backends.iter();
            let ramps = service.backends.iter().any(|backend| backend.ramp.is_on());
            let proxied = |backend| self.proxied_backend(service, backend, ramps);
            let backends: Vec<_> = backends.map(proxied).collect();
            let routes = &proxy.routes;
            Some(Arc::new(proxy::Service {
                key: service.key,
                name: config.name.clone(),
                listen: config.listens(),
                virtual_address: vip.is_some(),
                affinity: config.affinity,
                memory: config.memory,
                stubborn: config.stubborn,
                max_ejected: config.judgement.max_ejected,
                uses_all: service.is_open(),
                proxy: proxy.clone(),
                vip_access: vip.and_then(|vip| access(&vip.acl)),
                access: access(&proxy.acl),
                trusted: access(&proxy.accept_proxy),
                starting: waits(service, &self.network),
                slots: Arc::clone(service.table.slots()),
                routes: (!routes.is_empty()).then(|| Routes::new(routes, &backends)),
                backends,
            }))
        });
        View {
            secret: self.secret,
            clients: self.config.node.sizes.clients as usize,
            access_log: self.config.access_log.clone(),
            responder: self.config.responder.clone(),
            services: services.collect(),
        }
    }

    fn proxied_backend(&self, service: &Service, backend: &Backend, ramps: bool) -> proxy::Backend {
        let weight = backend.weight();
        let emergency = service.is_emergency(backend);
        let is_shut = service.is_shut(emergency);
        proxy::Backend {
            id: backend.id,
            generation: backend.generation,
            incarnation: backend.incarnation,
            ejected: backend.ejection.why().is_some(),
            name: backend.config.name.clone(),
            address: backend.config.endpoint(),
            weight: if ramps { backend.ramp.weight(weight) } else { weight },
            state: standing(service, backend, &self.network).state,
            wanted: backend.wish() == Admin::Ready && weight > 0 && !backend.leaving && !is_shut,
            maintenance: backend.admin == Admin::Maint,
            emergency,
            limits: backend.agent.limits(backend.config.limits),
        }
    }

    /// Sockets that the proxies could not get, each with the service that needs it.
    pub(super) fn listened(&mut self, now: Moment, failures: Vec<(String, String)>) {
        let news = failures != self.deaf;
        self.deaf = failures;
        self.listen_again_at =
            if self.deaf.is_empty() { Moment::NEVER } else { now + LISTEN_RETRY };
        for (service, error) in self.deaf.clone().into_iter().filter(|_| news) {
            self.warn(now, "not-listening", &service, format!("service {service}: {error}"));
        }
    }

    /// Something happened to certificates.
    pub(super) fn certificates_noted(
        &mut self,
        now: Moment,
        news: Vec<News>,
        problems: BTreeSet<String>,
    ) {
        self.certificate_problems = problems;
        for News { warning, kind, subject, text } in news {
            self.announce(now, warning, kind, &subject, text);
        }
    }

    /// Has the proxies try again, if it is time.
    pub(super) fn listen_again(&mut self, now: Moment) {
        if now >= self.listen_again_at {
            self.listen_again_at = Moment::NEVER;
            self.actions.push_back(Action::ServeProxies(Arc::clone(&self.proxies)));
        }
    }
}
