//! Nodes with their maps and engines, as far as syncing can tell, on a network with faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ClientKey, FlowKey, ServiceKey, Slot, Translation, Tuple};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::super::item::{Outline, Place, Standing};
use super::super::view::{Backend, Entry, Role, Service, View};
use super::super::{Adopted, Key, LONGEST, Node, Output, Settings};
use crate::engine::random::Random;

pub(super) const SECOND: u64 = 1_000_000_000;
/// Slots of each service: a prime, as in real life.
pub(super) const SLOTS: u32 = 31;
/// Of all services: short, so that ages are told again in each scan.
pub(super) const TTL_NS: u64 = 60 * SECOND;

/// What the network does to datagrams, in percent, and how long they take at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) doubling: u64,
    pub(super) delay_ms: u64,
}

/// A node with its maps.
pub(super) struct Machine {
    pub(super) address: SocketAddr,
    pub(super) node: Node,
    /// The others cannot hear it, nor it them.
    pub(super) alone: bool,
    pub(super) services: Vec<Service>,
    pub(super) flows: BTreeMap<FlowKey, abi::Record>,
    pub(super) clients: BTreeMap<ClientKey, abi::Record>,
    pub(super) translations: BTreeMap<Tuple, Translation>,
    /// What its engine was told, by service.
    pub(super) adopted: BTreeMap<ServiceKey, Adopted>,
    pub(super) complete: Option<bool>,
    /// Clocks of machines have nothing in common.
    offset: u64,
    /// Entries of a scan that is under way.
    scan: Option<Vec<Entry>>,
    lives: BTreeMap<(ServiceKey, Place), u32>,
    next_generation: u32,
}

pub(super) struct World {
    pub(super) now: Moment,
    pub(super) dice: Random,
    pub(super) weather: Weather,
    pub(super) machines: Vec<Machine>,
    wire: BTreeMap<(Moment, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    /// All datagrams that were ever sent to somebody, for those who replay them.
    pub(super) recorded: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

pub(super) fn address(machine: usize) -> SocketAddr {
    format!("[2001:db8::{}]:7000", machine + 1).parse().expect("literal")
}

pub(super) fn key(service: u8) -> ServiceKey {
    ServiceKey::new(Addr::v4([192, 0, 2, service]), Be16::new(80), 6)
}

pub(super) fn place(backend: u8) -> Place {
    Place { addr: Addr::v4([10, 0, 0, backend]), port: Be16::new(80) }
}

impl World {
    /// So many nodes with the same two services of three backends each; the first one holds both
    /// addresses.
    pub(super) fn new(seed: u64, machines: usize) -> Self {
        let mut world = Self {
            now: Moment(1000 * SECOND),
            dice: Random(seed),
            weather: Weather::default(),
            machines: Vec::new(),
            wire: BTreeMap::new(),
            sent: 0,
            recorded: Vec::new(),
        };
        for machine in 0..machines {
            let offset = world.dice.below(1_000_000) * SECOND;
            let role = if machine == 0 { Role::Master } else { Role::Backup };
            world.machines.push(Machine {
                address: address(machine),
                node: new_node(machine, machines, seed, Moment(world.now.0 + offset)),
                alone: false,
                // Numbers are each node's own.
                services: (0..2).map(|number| new_service(number, machine, role)).collect(),
                flows: BTreeMap::new(),
                clients: BTreeMap::new(),
                translations: BTreeMap::new(),
                adopted: BTreeMap::new(),
                complete: None,
                offset,
                scan: None,
                lives: BTreeMap::new(),
                next_generation: 100 * u32::try_from(machine).expect("few") + 50,
            });
            world.share(machine);
        }
        world
    }

    /// The time on a machine.
    pub(super) fn time(&self, machine: usize) -> Moment {
        Moment(self.now.0 + self.machines[machine].offset)
    }

    /// Its engine tells its node what it knows.
    pub(super) fn share(&mut self, machine: usize) {
        let now = self.time(machine);
        let found = &mut self.machines[machine];
        let services = found.services.iter().cloned().map(Arc::new).collect();
        found.node.share(now, Arc::new(View::new(services)), [1, 2]);
    }

    /// Its daemon starts again; the maps stay.
    pub(super) fn restart(&mut self, machine: usize) {
        let (now, seed) = (self.time(machine), self.dice.below(u64::MAX));
        let machines = self.machines.len();
        let found = &mut self.machines[machine];
        found.node = new_node(machine, machines, seed, now);
        (found.scan, found.complete) = (None, None);
        self.share(machine);
    }

    pub(super) fn set_roles(&mut self, master: Option<usize>) {
        for machine in 0..self.machines.len() {
            let role = if Some(machine) == master { Role::Master } else { Role::Backup };
            for service in &mut self.machines[machine].services {
                service.role = role;
            }
            self.share(machine);
        }
    }

    /// Makes or changes an entry of the maps, as the kernel does, and says so.
    pub(super) fn enter(&mut self, machine: usize, entry: Entry) {
        let now = self.time(machine);
        let found = &mut self.machines[machine];
        found.write(entry);
        if self.dice.percent(3) {
            found.node.missed(now);
        } else {
            found.node.observed(now, &[entry]);
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for machine in 0..self.machines.len() {
                self.settle(machine);
            }
            let mut next = end;
            for machine in &self.machines {
                let there = Moment(self.now.0 + machine.offset);
                let due = machine.node.next_deadline(there);
                if due != Moment::NEVER {
                    // A scan goes on whenever there is room.
                    next = next.min(Moment(due.0.saturating_sub(machine.offset)));
                }
            }
            if let Some(((arrival, _), _)) = self.wire.first_key_value() {
                next = next.min(*arrival);
            }
            self.now = next.max(self.now + Duration::from_micros(100));
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (from, to, datagram) = entry.remove();
                self.deliver(from, to, &datagram);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let at = |address| self.machines.iter().position(|found| found.address == address);
        let (Some(sender), Some(receiver)) = (at(from), at(to)) else { return };
        if self.machines[sender].alone || self.machines[receiver].alone {
            return;
        }
        let now = self.time(receiver);
        self.machines[receiver].node.receive(now, from, datagram);
    }

    /// Somebody sends a datagram under another's name.
    pub(super) fn forge(&mut self, from: SocketAddr, to: usize, datagram: &[u8]) {
        let now = self.time(to);
        self.machines[to].node.receive(now, from, datagram);
    }

    /// Carries out what a node wants.
    fn settle(&mut self, machine: usize) {
        let now = self.time(machine);
        loop {
            while let Some(output) = self.machines[machine].node.poll_output(now) {
                self.carry_out(machine, output);
            }
            let found = &mut self.machines[machine];
            if let Some(mut rest) = found.scan.take_if(|_| found.node.wants_more()) {
                // Not all at once, and as they are by now.
                let later = rest.split_off(rest.len().min(7));
                let entries: Vec<Entry> = rest.iter().filter_map(|old| found.read(old)).collect();
                found.node.scanned(now, &entries);
                if later.is_empty() {
                    found.node.scan_ended(now, true);
                } else {
                    found.scan = Some(later);
                }
                continue;
            }
            let Some((to, datagram)) = found.node.poll_datagram(now) else { break };
            assert!(datagram.len() <= LONGEST);
            let from = found.address;
            self.send(from, to, datagram);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.recorded.push((from, to, datagram.clone()));
        let copies = 1 + u64::from(self.dice.percent(self.weather.doubling));
        for _ in 0..copies {
            if self.dice.percent(self.weather.loss) {
                continue;
            }
            let delay =
                Duration::from_micros(50 + self.dice.below(1 + self.weather.delay_ms * 1000));
            self.sent += 1;
            self.wire.insert((self.now + delay, self.sent), (from, to, datagram.clone()));
        }
    }

    fn carry_out(&mut self, machine: usize, output: Output) {
        let found = &mut self.machines[machine];
        match output {
            Output::Write { entry, replace } => {
                if replace || found.read(&entry).is_none() {
                    found.write(entry);
                }
            }
            Output::Complete(complete) => found.complete = Some(complete),
            Output::Scan => {
                let flows = found.flows.iter().map(|(key, record)| Entry::Flow(*key, *record));
                let clients =
                    found.clients.iter().map(|(key, record)| Entry::Client(*key, *record));
                let translations = found.translations.iter();
                let translations = translations.map(|(key, to)| Entry::Translation(*key, *to));
                found.scan = Some(flows.chain(clients).chain(translations).collect());
            }
            Output::Adopt(adopted) if found.service(adopted.service).role == Role::Backup => {
                let mut died = false;
                for (place, standing) in &adopted.backends {
                    let before = found.lives.insert((adopted.service, *place), standing.life);
                    if before.is_some_and(|before| before != standing.life) {
                        found.kill(adopted.service, *place);
                        died = true;
                    }
                }
                found.adopted.insert(adopted.service, adopted);
                if died {
                    self.share(machine);
                }
            }
            // Its engine knows better.
            Output::Adopt(_) => {}
        }
    }
}

impl Machine {
    pub(super) fn service(&mut self, key: ServiceKey) -> &mut Service {
        self.services.iter_mut().find(|found| found.key == key).expect("it is there")
    }

    /// Records of a backend are void from now on.
    pub(super) fn kill(&mut self, service: ServiceKey, place: Place) {
        self.next_generation += 1;
        let generation = self.next_generation;
        let backend = self.service(service).backends.get_mut(&place).expect("it is there");
        backend.standing.life = generation;
    }

    fn read(&self, entry: &Entry) -> Option<Entry> {
        Some(match entry {
            Entry::Flow(key, _) => Entry::Flow(*key, *self.flows.get(key)?),
            Entry::Client(key, _) => Entry::Client(*key, *self.clients.get(key)?),
            Entry::Translation(key, _) => Entry::Translation(*key, *self.translations.get(key)?),
        })
    }

    fn write(&mut self, entry: Entry) {
        match entry {
            Entry::Flow(key, record) => drop(self.flows.insert(key, record)),
            Entry::Client(key, record) => drop(self.clients.insert(key, record)),
            Entry::Translation(key, to) => drop(self.translations.insert(key, to)),
        }
    }
}

fn new_node(machine: usize, machines: usize, seed: u64, now: Moment) -> Node {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8] = u8::try_from(machine).expect("few");
    let peers = (0..machines).filter(|other| *other != machine).map(address).collect();
    let name = format!("edge{}", machine + 1);
    Node::new(Settings { name, key: Key::new(b"shared"), peers, seed: bytes }, now)
}

fn new_service(number: u8, machine: usize, role: Role) -> Service {
    let shift = u32::try_from(machine).expect("few") * 5;
    let backend = |at: u8| {
        let id = 1 + shift + u32::from(number) * 3 + u32::from(at);
        let standing = Standing { weight: 1, life: id, ..Standing::default() };
        (place(number * 10 + at), Backend { id, standing, usable: true })
    };
    let backends: BTreeMap<_, _> = (0..3).map(backend).collect();
    let first = backends.values().next().expect("three").id;
    let first = u16::try_from(first).expect("small");
    Service {
        key: key(number),
        id: shift + u32::from(number),
        name: format!("service{number}"),
        role,
        outline: Outline { slots: SLOTS, ..Outline::default() },
        moves: true,
        flow_ttl_ns: TTL_NS,
        client_ttl_ns: TTL_NS,
        slots: Some((0..SLOTS).map(|_| Slot::settled(first)).collect()),
        backends,
    }
}
