//! What the daemon answers to `penctl`: most of it the engine knows, the rest is counted by the kernel
//! and by the proxies.

use std::process;

use super::Daemon;
use super::aside::Answer;
use crate::api::{self, Counts, Left, NotifyTest, Refusal, Reply, Request};
use crate::engine;
use crate::io::carp::Question;
use crate::io::clock;
use crate::io::proxy::Traffic;

impl Daemon {
    /// What the kernel knows nothing of.
    fn add_traffic(&self, backend: &mut api::Backend) {
        let Some(traffic) = self.proxies.traffic(&backend.service, &backend.name) else { return };
        let Traffic { connections, total, failures, bytes, ejected } = traffic;
        backend.proxy = Some(api::Proxied { connections, total, failures, ejected });
        backend.bytes = bytes;
    }

    pub(super) fn reply(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let now = clock::now();
        if matches!(request, Request::Status | Request::Vips | Request::Explain(_)) {
            // A lease may have run out unnoticed.
            let groups = self.dataplane.groups(self.engine.group_indexes());
            self.engine.note_groups(groups.map_err(|error| refusal(&error))?);
        }
        let reply = match request {
            Request::Status => {
                let mut status = self.engine.status(now, process::id());
                status.warnings.extend(self.proxies.warnings());
                Reply::Status(status)
            }
            Request::Services => {
                let mut services = self.engine.services(now, &self.counts()?);
                for service in &mut services {
                    service.proxy = self.proxies.service(&service.name);
                }
                Reply::Services(services)
            }
            Request::Backends => {
                let mut backends = self.engine.backends(now, &self.counts()?);
                backends.iter_mut().for_each(|backend| self.add_traffic(backend));
                Reply::Backends(backends)
            }
            Request::Probes(wanted) => {
                Reply::Probes(self.engine.probes(now, wanted, &self.counts()?)?)
            }
            Request::Vips => Reply::Vips(self.engine.vips(now)),
            Request::Counters => {
                let mut counters = engine::counters(&self.counts()?);
                counters.extend(self.proxies.counters());
                counters.extend(self.engine.notify_counters());
                Reply::Counters(counters)
            }
            Request::Events { since } => Reply::Events(self.engine.events(*since)),
            Request::Connections(wanted) => {
                let (asker, wanted) = (self.proxies.asker(), wanted.clone());
                return Ok(Answer::later(move |_| {
                    Ok(Reply::Connections(asker.connections(&wanted)))
                }));
            }
            Request::Close(wish) if !wish.names_something() => {
                return Err(Refusal {
                    error: "nothing says which connections".to_owned(),
                    cure: "name a number, a service, a backend or clients".to_owned(),
                });
            }
            Request::Close(wish) => {
                let (asker, wish) = (self.proxies.asker(), wish.clone());
                return Ok(Answer::later(move |_| Ok(Reply::Closed(asker.close(&wish)))));
            }
            Request::Flows(wanted) => {
                let list = self.engine.listing(now, wanted)?.flows();
                let reader = self.dataplane.record_reader();
                return Ok(Answer::later(move |go_on| {
                    reader.flows(list, go_on).map(Reply::Flows).map_err(|e| refusal(&e))
                }));
            }
            Request::Clients(wanted) => {
                let list = self.engine.listing(now, wanted)?.clients();
                let reader = self.dataplane.record_reader();
                return Ok(Answer::later(move |go_on| {
                    reader.clients(list, go_on).map(Reply::Clients).map_err(|e| refusal(&e))
                }));
            }
            Request::Explain(packet) => {
                Reply::Explanation(self.engine.explain(now, packet, self.dataplane.records())?)
            }
            Request::Simulate(wish) => {
                let simulation = self.engine.simulation(now, wish)?;
                let reader = self.dataplane.record_reader();
                return Ok(Answer::later(move |go_on| {
                    let records = reader.open().map_err(|error| refusal(&error))?;
                    Ok(Reply::Simulation(simulation.run(&records, go_on)))
                }));
            }
            Request::SetAdmin(wish) => Reply::Change(self.engine.set_admin(now, wish)?),
            Request::SetWeight(wish) => Reply::Change(self.engine.set_weight(now, wish)?),
            Request::Certificates => Reply::Certificates(self.proxies.certificates()),
            Request::Sync => Reply::Sync(self.engine.sync().ok_or_else(|| Refusal {
                error: "this node has no peers".to_owned(),
                cure: "the configuration has no [sync]".to_owned(),
            })?),
            Request::Carp => return Ok(Answer::ByCarp(Question::Show)),
            Request::CarpOrder(wish) => {
                return Ok(Answer::ByCarp(Question::Order(wish.clone())));
            }
            Request::NotifyTest(NotifyTest { receiver }) => {
                return Ok(Answer::ByReceiver(self.engine.notify_test(now, receiver)?));
            }
            Request::Leave => {
                Reply::Left(Left { pid: process::id(), interfaces: self.engine.attached() })
            }
            Request::Reload(wish) => return Ok(Answer::AfterReading(*wish)),
        };
        Ok(Answer::Now(reply))
    }

    fn counts(&self) -> Result<Counts, Refusal> {
        self.dataplane.counts(self.engine.tables()).map_err(|error| refusal(&error))
    }
}

fn refusal(error: &dyn std::error::Error) -> Refusal {
    Refusal { error: error.to_string(), cure: "see the daemon's log".to_owned() }
}
