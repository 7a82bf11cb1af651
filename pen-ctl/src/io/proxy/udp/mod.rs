//! UDP in mode `proxy`. Each thread has a socket of its own for each service, and the kernel gives it
//! always the same clients, by a hash of both ends; so that a flow belongs to one thread, and nothing
//! is locked or allocated for a datagram that continues one.
//!
//! A flow is a client's address and port at a service. Its first datagram has a backend chosen, by the
//! same rules as a connection of TCP, and a connected socket made to it: what comes back there is the
//! client's, and a refusal is known to be this flow's. It ends when nothing has been said on it for
//! its time. What is decided here is decided by `engine::proxy`.

mod flow;
mod socket;
mod station;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use pen_common::abi::ServiceKey;
use pen_common::moment::Moment;

use self::flow::Flow;
use self::station::Station;
use super::heir::Estate;
use super::shared::Served;
use super::worker::Worker;
use crate::api::{Close, Connection, RecordQuery};
use crate::engine::proxy::View;
use crate::engine::proxy::cause::Cause;
use crate::engine::proxy::wheel::Tick;

/// What clients send to, of all services: a socket for each thread.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    services: HashMap<ServiceKey, OfService>,
}

#[derive(Debug)]
struct OfService {
    address: SocketAddr,
    foreign: bool,
    sockets: Arc<Vec<UdpSocket>>,
}

impl Sockets {
    /// Has those that these services need for so many threads, and no others. Those that are not to
    /// be had are told.
    pub(super) fn follow(
        &mut self,
        view: &View,
        count: usize,
        estate: &mut Estate,
        failures: &mut Vec<(String, String)>,
    ) {
        let mut before = std::mem::take(&mut self.services);
        for service in view.services.iter().filter(|service| service.is_udp()) {
            let (address, foreign) = (service.listen.key(), service.virtual_address);
            let kept = before.remove(&service.key);
            let kept = kept.filter(|kept| (kept.address, kept.foreign) == (address, foreign));
            let of_service = match kept {
                Some(kept) => kept,
                None => match socket::listen(address, foreign, count, estate) {
                    Ok(sockets) => OfService { address, foreign, sockets: Arc::new(sockets) },
                    Err(error) => {
                        failures.push((service.name.clone(), format!("{address}/udp: {error}")));
                        continue;
                    }
                },
            };
            self.services.insert(service.key, of_service);
        }
    }

    /// Those of a service; none if they could not be had.
    pub(super) fn of(&self, key: &ServiceKey) -> Option<Arc<Vec<UdpSocket>>> {
        self.services.get(key).map(|found| Arc::clone(&found.sockets))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.services.values().flat_map(|of| of.sockets.iter()).map(AsFd::as_fd)
    }

    /// Services that have some.
    pub(super) fn len(&self) -> usize {
        self.services.len()
    }
}

/// What a thread has of UDP.
#[derive(Debug, Default)]
pub(super) struct Udp {
    stations: RefCell<HashMap<ServiceKey, Rc<Station>>>,
}

impl Udp {
    /// Serves these and no others, each by the socket that is this thread's.
    pub(super) fn follow(
        &self,
        worker: &Rc<Worker>,
        index: usize,
        services: &[(Arc<Served>, Arc<Vec<UdpSocket>>)],
    ) {
        let mut before = std::mem::take(&mut *self.stations.borrow_mut());
        for (served, sockets) in services {
            let key = served.service.key;
            // A socket that was made anew is another one, also at the same address.
            let kept = before.remove(&key).filter(|station| {
                let same = station.is_on(sockets);
                if !same {
                    station.close();
                }
                same
            });
            let station = match kept {
                Some(station) => {
                    station.follow(served);
                    station
                }
                None if served.service.starting => continue,
                None => match Station::open(worker, served, sockets, index) {
                    Ok(station) => station,
                    Err(error) => {
                        let name = &served.service.name;
                        tracing::error!("service {name}: proxy {index}: {error}");
                        continue;
                    }
                },
            };
            self.stations.borrow_mut().insert(key, station);
        }
        for station in before.into_values() {
            station.close();
        }
    }

    /// Leaves what clients send to others. Flows go on until they are silent.
    pub(super) fn stop_receiving(&self) {
        for station in self.stations.borrow().values() {
            station.stop_receiving();
        }
    }

    /// Time goes on to this tick.
    pub(super) fn turn(&self, now: Tick) {
        for station in self.stations.borrow().values() {
            station.expire(now);
        }
    }

    /// The flows that fit, at most so many, and how many others do.
    pub(super) fn list(
        &self,
        wanted: &RecordQuery,
        tick: Tick,
        now: Moment,
    ) -> (Vec<Connection>, u64) {
        let mut fit = self.find(|flow| flow.fits(wanted));
        fit.sort_by_key(|(_, flow, _)| std::cmp::Reverse(flow.id));
        let more = fit.len().saturating_sub(wanted.limit) as u64;
        let shown = fit.iter().take(wanted.limit);
        (shown.map(|(_, flow, seen)| flow.describe(*seen, tick, now)).collect(), more)
    }

    /// Closes the flows that fit, or only counts them.
    pub(super) fn close(&self, wish: &Close) -> usize {
        let wanted = wish.query();
        let fit = self.find(|flow| wish.id.is_none_or(|id| id == flow.id) && flow.fits(&wanted));
        for (station, flow, _) in fit.iter().filter(|_| !wish.dry_run) {
            station.end(flow, Cause::Killed);
        }
        fit.len()
    }

    fn find(&self, fits: impl Fn(&Flow) -> bool) -> Vec<(Rc<Station>, Rc<Flow>, Tick)> {
        let stations = self.stations.borrow();
        let found = stations.values().flat_map(|station| {
            let flows = station.flows();
            let fit = flows.iter().filter(|(flow, _)| fits(flow));
            fit.map(|(flow, seen)| (Rc::clone(station), Rc::clone(flow), seen)).collect::<Vec<_>>()
        });
        found.collect()
    }
}
