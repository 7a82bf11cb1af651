//! A map as it should work, and what happens to flows that use it.

extern crate std;

use core::cell::{Cell, RefCell};
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::abi::{AddrEntry, Backend, ClientKey, FlowKey, Group, Record, Service, Slot};
use crate::net::{Addr, TcpHeader, protocol};

mod flows;
mod ports;
mod random;
mod signals;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3600 * SECOND_NS;
const SYN: u8 = TcpHeader::SYN;
const FIN: u8 = TcpHeader::FIN | TcpHeader::ACK;
const RST: u8 = TcpHeader::RST;
const ACK: u8 = TcpHeader::ACK;

/// The map as it should work.
struct Maps {
    cfg: Cfg,
    now: Cell<Moment>,
    entries: RefCell<BTreeMap<Tuple, Translation>>,
    services: BTreeMap<ServiceKey, Service>,
    /// Entries that may still be made.
    valve: Cell<u32>,
    /// What was told of backends.
    signals: RefCell<Vec<(u32, Signal)>>,
}

impl Translations for Maps {
    fn translation(&self, ends: &Tuple, into: &mut Translation) -> bool {
        match self.entry(ends) {
            Some(entry) => {
                *into = entry;
                true
            }
            None => false,
        }
    }
    fn may_translate(&self) -> bool {
        let left = self.valve.get();
        self.valve.set(left.saturating_sub(1));
        left > 0
    }
    fn occupy(&self, ends: &Tuple, entry: &Translation, void: Option<Moment>) -> bool {
        let found = self.entry(ends).map(|found| Moment(found.last_seen_ns));
        found == void && self.translate(ends, entry)
    }
    fn translate(&self, ends: &Tuple, entry: &Translation) -> bool {
        self.entries.borrow_mut().insert(*ends, *entry);
        true
    }
    fn count(&self, backend: u32, signal: Signal) {
        self.signals.borrow_mut().push((backend, signal));
    }
    fn touch(&self, ends: &Tuple, flags: u32, now: Moment) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(ends) {
            entry.flags |= flags;
            entry.last_seen_ns = now.0;
        }
    }
}

impl Lookup for Maps {
    fn cfg(&self) -> Option<&Cfg> {
        Some(&self.cfg)
    }
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }
    fn now(&self) -> Moment {
        self.now.get()
    }
    fn addr(&self, _: &Addr) -> Option<AddrEntry> {
        unreachable!("translating needs no more than the above")
    }
    fn group(&self, _: u32) -> Option<Group> {
        unreachable!()
    }
    fn slot(&self, _: u32, _: u32, _: u32) -> Option<Slot> {
        unreachable!()
    }
    fn backend(&self, _: u32) -> Option<&Backend> {
        unreachable!()
    }
    fn flow(&self, _: &FlowKey) -> Option<Record> {
        unreachable!()
    }
    fn client(&self, _: &ClientKey) -> Option<Record> {
        unreachable!()
    }
    fn record_flow(&self, _: &FlowKey, _: &Record) -> bool {
        unreachable!()
    }
    fn record_client(&self, _: &ClientKey, _: &Record) -> bool {
        unreachable!()
    }
    fn stamp_flow(&self, _: &FlowKey, _: Moment) {
        unreachable!()
    }
    fn stamp_client(&self, _: &ClientKey, _: Moment) {
        unreachable!()
    }
    fn acl(&self, _: u32, _: &Addr) -> Option<u32> {
        unreachable!()
    }
    fn admit(&self, _: &AddrEntry, _: &Addr) -> bool {
        unreachable!()
    }
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().expect("literal"))
}

fn vip(number: u8) -> Addr {
    Addr::v4([192, 0, 2, number])
}

fn client(number: u8) -> Addr {
    Addr::v4([198, 51, 100, number])
}

/// Both virtual addresses have 80/tcp, 53/udp and, on the second one, any other TCP port.
fn maps() -> Maps {
    let mut services = BTreeMap::new();
    for (id, (number, port, protocol)) in
        (0..).zip([(1, 80, 6), (2, 80, 6), (1, 53, 17), (2, 53, 17), (2, 0, 6)])
    {
        let ttl = if protocol == protocol::TCP { HOUR_NS } else { 60 * SECOND_NS };
        let service = Service { id, flow_ttl_ns: ttl, ..Service::default() };
        services.insert(ServiceKey::new(vip(number), Be16::new(port), protocol), service);
    }
    let (first_port, last_port) = (Be16::new(10_000), Be16::new(19_999));
    Maps {
        cfg: Cfg { secret: [1, 2], first_port, last_port, ..Cfg::default() },
        now: Cell::new(Moment(77 * HOUR_NS)),
        entries: RefCell::default(),
        services,
        valve: Cell::new(u32::MAX),
        signals: RefCell::default(),
    }
}

/// 10.0.0.`number`:8080 and the address of ours on the way to it.
fn backend(number: u8) -> Backend {
    Backend {
        addr: Addr::v4([10, 0, 0, number]),
        source: Addr::v4([10, 0, 0, 254]),
        port: Be16::new(8080),
        state: Backend::UP,
        ..Backend::default()
    }
}

fn tuple(client: u8, client_port: u16, vip_number: u8, port: u16, protocol: u8) -> Tuple {
    let (from, to) = (Be16::new(client_port), Be16::new(port));
    Tuple::new(self::client(client), from, vip(vip_number), to, protocol)
}

/// TCP of client 7, port 5000, to 192.0.2.1:80.
fn usual() -> Tuple {
    tuple(7, 5000, 1, 80, protocol::TCP)
}

impl Maps {
    fn entry(&self, ends: &Tuple) -> Option<Translation> {
        self.entries.borrow().get(ends).copied()
    }

    /// As the map does when it needs the place.
    fn evict(&self, ends: &Tuple) {
        self.entries.borrow_mut().remove(ends);
    }

    fn pass(&self, time_ns: u64) {
        self.now.set(Moment(self.now.get().0 + time_ns));
    }

    fn carry(&self, mut job: Job) -> Result<Tuple, DropReason> {
        outbound(self, &mut job).map(|()| job.ends)
    }

    fn send(&self, mode: u8, came: Tuple, flags: u8, to: u8) -> Result<Tuple, DropReason> {
        self.carry(request(mode, came, flags, 0, u32::from(to), &backend(to)))
    }

    /// Sends to backend 1 and expects it to go on.
    fn sent(&self, mode: u8, came: Tuple, flags: u8) -> Tuple {
        self.send(mode, came, flags, 1).expect("goes on")
    }

    /// What an answer to `sent` becomes.
    fn answer(&self, sent: &Tuple, flags: u8) -> Option<Tuple> {
        let mut job = Job { came: sent.reversed(), tcp_flags: flags, ..Job::default() };
        inbound(self, &mut job).then_some(job.ends)
    }

    fn quoted_request(&self, quote: &Tuple) -> Option<Tuple> {
        let mut job = Job { came: *quote, ..Job::default() };
        quoted_request(self, &mut job).then_some(job.ends)
    }

    fn quoted_answer(&self, quote: &Tuple, mode: u8, backend: &Backend) -> Option<Tuple> {
        let mut job = request(mode, *quote, 0, 0, 1, backend);
        quoted_answer(self, &mut job).then_some(job.ends)
    }
}

fn request(mode: u8, came: Tuple, flags: u8, service: u32, id: u32, backend: &Backend) -> Job {
    let mut job = Job { came, tcp_flags: flags, ..Job::default() };
    job.set_backend(mode, service, id, backend);
    job
}

const MODES: [u8; 2] = [Service::NAT, Service::MASQUERADE];
