//! What the proxies have to tell of services, servers and the ends of connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Proxies;
use super::shared::{BackendState, Served};
use crate::api::{Counter, ProxiedService};
use crate::engine::proxy::cause::{Cause, ServerFault};
use crate::io::clock;

/// What a backend has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Connections now.
    pub connections: u32,
    /// Connections so far.
    pub total: u64,
    /// Those that could not be made.
    pub failures: u64,
    /// Bytes to and from it, of connections that have ended.
    pub bytes: u64,
    /// It could not be connected to lately, and gets nothing new for a time.
    pub ejected: bool,
}

impl Proxies {
    /// How connections ended, by cause, and what accept failed for: rows for `penctl counters`.
    /// None without a service.
    #[must_use]
    pub fn counters(&self) -> Vec<Counter> {
        let row = |name: String, reason: &str, count: u64, bytes: u64| Counter {
            name,
            reason: reason.to_owned(),
            packets: count,
            bytes,
        };
        let asked = self.responder.counts();
        let asked = asked.map(|(name, reason, count)| row(name.to_owned(), reason, count, 0));
        if self.served.is_empty() {
            return asked.collect();
        }
        let sum =
            |value: &dyn Fn(&Served) -> u64| self.served.iter().map(|served| value(served)).sum();
        let moved = |backend: &Arc<BackendState>| {
            backend.bytes_up.load(Relaxed) + backend.bytes_down.load(Relaxed)
        };
        let bytes = sum(&|served| served.backends.iter().map(moved).sum());
        let accepted = sum(&|served| served.state.accepted.load(Relaxed));
        let redispatched = sum(&|served| served.state.redispatched.load(Relaxed));
        let not_transparent = sum(&|served| served.state.not_transparent.load(Relaxed));
        let starved = self.common.starved.load(Relaxed);
        let mut rows = vec![
            row(
                "proxy-accepted".to_owned(),
                "Connections that the proxy accepted, and flows of UDP.",
                accepted,
                bytes,
            ),
            row(
                "proxy-redispatched".to_owned(),
                "A backend could not be connected to, and another one was asked.",
                redispatched,
                0,
            ),
            row(
                "proxy-not-transparent".to_owned(),
                "A server of a transparent service cannot see this client's address, and saw ours.",
                not_transparent,
                0,
            ),
            row(
                "proxy-log-dropped".to_owned(),
                "A line of the access log was not written: the disk is too slow.",
                self.writer.as_ref().map_or(0, |writer| writer.log.dropped()),
                0,
            ),
            row(
                "proxy-certificate-broken".to_owned(),
                "Files of certificates were not good when they were read, and what was there before stayed.",
                self.store().broken(),
                0,
            ),
            row(
                "proxy-datagram-lost".to_owned(),
                "A datagram was not passed on: no room in a buffer of the kernel, or too long.",
                self.common.lost.load(Relaxed),
                0,
            ),
            row(
                "proxy-starved".to_owned(),
                "This machine had no descriptor or memory for a connection, which waited.",
                starved,
                0,
            ),
        ];
        rows.extend(ServerFault::ALL.iter().map(|fault| {
            let name = format!("proxy-server-handshake-{}", fault.name());
            row(name, fault.describe(), sum(&|served| served.state.tls.counted(*fault)), 0)
        }));
        rows.extend(Cause::ALL.iter().map(|cause| {
            let ended = sum(&|served| served.state.ended(*cause));
            row(format!("proxy-{}", cause.name()), cause.describe(), ended, 0)
        }));
        rows.extend(asked);
        rows
    }

    /// What a service has of connections.
    #[must_use]
    pub fn service(&self, service: &str) -> Option<ProxiedService> {
        let served = self.served.iter().find(|served| served.service.name == service)?;
        Some(ProxiedService {
            connections: served.state.gate.inside(),
            waiting: served.state.waiters(),
            accepted: served.state.accepted.load(Relaxed),
        })
    }

    /// Connections and flows of backends that have any, by id.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<u32, u32> {
        let of_service = |served: &Arc<Served>| {
            let backends = served.service.backends.iter().zip(&served.backends);
            backends.map(|(backend, state)| (backend.id, state.connections())).collect::<Vec<_>>()
        };
        let all = self.served.iter().flat_map(of_service);
        all.filter(|(_, connections)| *connections > 0).collect()
    }

    /// What a backend has of connections and has moved.
    #[must_use]
    pub fn traffic(&self, service: &str, backend: &str) -> Option<Traffic> {
        let served = self.served.iter().find(|served| served.service.name == service)?;
        let backends = &served.service.backends;
        let place = backends.iter().position(|found| found.name == backend)?;
        let state = &served.backends[place];
        Some(Traffic {
            connections: state.connections(),
            total: state.total.load(Relaxed),
            failures: state.failures.load(Relaxed),
            bytes: state.bytes_up.load(Relaxed) + state.bytes_down.load(Relaxed),
            ejected: backends[place].ejected || state.ejected(clock::now()).is_some(),
        })
    }
}
