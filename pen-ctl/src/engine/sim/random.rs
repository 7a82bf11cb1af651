//! The engine and the kernel's decision against a plain model, over long random sequences: packets,
//! new flows, drains, weights, deaths, returns, removals, additions, and time.
//!
//! What must hold, whatever happens:
//! * a flow that is never silent for a settle time stays with its backend for as long as that is usable;
//! * a new flow goes to a backend that takes new ones, or to the one that its client is remembered for;
//! * when nothing happens any more, all slots settle.

use super::*;
use crate::engine::random::Random;
use pen_common::abi;
use pen_common::forward::Stage;

const SETTLE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(90);
/// Records are stamped once a second, and packets may wait for a second.
const SLACK: Duration = Duration::from_secs(2);
const CLIENTS: u64 = 40;
const PORTS: u64 = 4;
const BACKENDS: u8 = 7;

/// What the model knows of a flow, or of a client.
#[derive(Clone, Copy, Debug)]
struct Belongs {
    backend: IpAddr,
    /// Deaths of that backend before the last packet.
    deaths: u32,
    last: Moment,
}

struct Model {
    sim: Sim,
    rng: Random,
    affinity: Affinity,
    protocol: Protocol,
    /// By client and source port.
    flows: BTreeMap<(u64, u64), Belongs>,
    clients: BTreeMap<u64, Belongs>,
    /// Where a client may be remembered, as far as can be told from outside: by the moment of its
    /// last SYN. Where a SYN is taken for a repeated one, the client's record stays as it was.
    memories: BTreeMap<u64, BTreeMap<IpAddr, Moment>>,
    /// Where each flow was last: its record may live on, and a SYN is then taken for a repeated one.
    last: BTreeMap<(u64, u64), IpAddr>,
    /// How often each backend was down in the maps.
    deaths: BTreeMap<IpAddr, u32>,
    /// Backends of the configuration.
    configured: BTreeSet<u8>,
}

impl Model {
    fn new(seed: u64, affinity: Affinity, protocol: Protocol) -> Self {
        let configured: BTreeSet<u8> = (1..=4).collect();
        let sim = Sim::start(world(&configured, affinity, protocol));
        Self {
            sim,
            rng: Random(seed),
            affinity,
            protocol,
            flows: BTreeMap::new(),
            clients: BTreeMap::new(),
            memories: BTreeMap::new(),
            last: BTreeMap::new(),
            deaths: BTreeMap::new(),
            configured,
        }
    }

    fn run(&mut self, steps: u32) {
        self.sim.run_for(secs(1));
        self.note_deaths();
        for _ in 0..steps {
            self.step();
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0 => self.admin(),
            1 => self.weight(),
            2 => self.kill_or_revive(),
            3 => self.reconfigure(),
            4..=7 => {
                let millis = 1 + self.rng.below(3000);
                self.pass(Duration::from_millis(millis));
            }
            8 if self.rng.below(10) == 0 => {
                let seconds = self.rng.below(100);
                self.pass(secs(seconds));
            }
            9..=30 => self.new_flow(),
            _ => self.packet(),
        }
    }

    fn any_backend(&mut self) -> String {
        let at = self.rng.below(self.configured.len() as u64);
        let number = self.configured.iter().nth(usize::try_from(at).expect("small"));
        format!("b{}", number.expect("there is one"))
    }

    fn admin(&mut self) {
        let backend = self.any_backend();
        let admin = match self.rng.below(4) {
            0 => Admin::Drain,
            1 => Admin::Maint,
            _ => Admin::Ready,
        };
        self.sim.set_admin(&backend, admin).expect("configured");
        self.note_deaths();
    }

    fn weight(&mut self) {
        let backend = self.any_backend();
        let weight = u32::try_from(self.rng.below(4)).expect("small");
        self.sim.set_weight(&backend, weight).expect("configured");
        self.note_deaths();
    }

    fn kill_or_revive(&mut self) {
        let number = u8::try_from(1 + self.rng.below(u64::from(BACKENDS))).expect("small");
        if !self.sim.refusing.remove(&address(number)) {
            self.sim.refusing.insert(address(number));
        }
    }

    fn reconfigure(&mut self) {
        let number = u8::try_from(1 + self.rng.below(u64::from(BACKENDS))).expect("small");
        if !self.configured.remove(&number) || self.configured.is_empty() {
            self.configured.insert(number);
        }
        self.sim.engine.config = world(&self.configured, self.affinity, self.protocol);
        self.sim.engine.merge_config(self.sim.now);
        self.sim.event(Event::TimePassed);
        self.note_deaths();
    }

    /// Lets time pass in small steps, so that no death is missed.
    fn pass(&mut self, mut time: Duration) {
        while time > Duration::ZERO {
            let step = time.min(Duration::from_millis(500));
            self.sim.run_for(step);
            self.note_deaths();
            time -= step;
        }
    }

    fn note_deaths(&mut self) {
        let mut alive = BTreeSet::new();
        for backend in self.sim.maps.backends.values() {
            if backend.state != abi::Backend::DOWN {
                alive.insert(IpAddr::from(backend.addr));
            }
        }
        for number in 1..=BACKENDS {
            if !alive.contains(&address(number)) {
                *self.deaths.entry(address(number)).or_default() += 1;
            }
        }
    }

    fn new_flow(&mut self) {
        let key = (self.rng.below(CLIENTS), self.rng.below(PORTS));
        if self.protocol == Protocol::Udp {
            // Nobody can tell a new flow from an old one.
            return self.check_packet(key, Stage::Datagram);
        }
        let reached = self.reach(key, Stage::Open);
        let now = self.sim.now;
        let remembered = self.clients.get(&key.0).copied().filter(|client| {
            self.affinity == Affinity::Client && self.holds(client, TTL, abi::Backend::DRAIN)
        });
        let repeated = reached.is_some() && self.last.get(&key).copied() == reached;
        match (reached, remembered) {
            (Some(backend), Some(client)) => {
                self.assert(
                    backend == client.backend || repeated,
                    key,
                    "the client is remembered",
                    reached,
                );
            }
            (Some(backend), None) => {
                let known = self.memory(key.0).contains_key(&backend);
                let takes = self.members().contains(&backend);
                self.assert(takes || repeated || known, key, "new flows are not for it", reached);
            }
            (None, remembered) => {
                let lost = remembered.is_some() || !self.members().is_empty();
                self.assert(!lost, key, "a new flow was dropped", reached);
            }
        }
        match reached {
            Some(backend) => {
                self.last.insert(key, backend);
                let deaths = self.deaths.get(&backend).copied().unwrap_or(0);
                let belongs = Belongs { backend, deaths, last: now };
                self.flows.insert(key, belongs);
                let mut memory = self.memory(key.0);
                memory.insert(backend, now);
                // Told for sure only if there is one place.
                match memory.len() {
                    1 => self.clients.insert(key.0, belongs),
                    _ => self.clients.remove(&key.0),
                };
                memory.values_mut().for_each(|last| *last = now);
                self.memories.insert(key.0, memory);
            }
            None => {
                self.flows.remove(&key);
            }
        }
    }

    /// Where a client may be remembered now.
    fn memory(&self, client: u64) -> BTreeMap<IpAddr, Moment> {
        let mut memory = self.memories.get(&client).cloned().unwrap_or_default();
        memory.retain(|backend, last| {
            self.sim.now.since(*last) < TTL && self.state(*backend) >= abi::Backend::DRAIN
        });
        memory
    }

    fn packet(&mut self) {
        if self.flows.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(self.flows.len() as u64)).expect("small");
        let key = *self.flows.keys().nth(at).expect("below the length");
        match self.protocol {
            Protocol::Tcp => self.check_packet(key, Stage::Established),
            Protocol::Udp => self.check_packet(key, Stage::Datagram),
        }
    }

    fn check_packet(&mut self, key: (u64, u64), stage: Stage) {
        let reached = self.reach(key, stage);
        if let Some(flow) = self.flows.get(&key).copied()
            && self.holds(&flow, SETTLE, abi::Backend::DRAINED)
        {
            self.assert(reached == Some(flow.backend), key, "an established flow moved", reached);
        }
        match reached {
            Some(backend) => {
                self.last.insert(key, backend);
                let deaths = self.deaths.get(&backend).copied().unwrap_or(0);
                self.flows.insert(key, Belongs { backend, deaths, last: self.sim.now });
            }
            None => {
                self.flows.remove(&key);
            }
        }
    }

    /// Whether a flow or a client must still be where it was.
    fn holds(&self, belongs: &Belongs, ttl: Duration, least: u32) -> bool {
        let deaths = self.deaths.get(&belongs.backend).copied().unwrap_or(0);
        belongs.deaths == deaths
            && self.sim.now.since(belongs.last) + SLACK < ttl
            && self.state(belongs.backend) >= least
    }

    fn state(&self, backend: IpAddr) -> u32 {
        let mut backends = self.sim.maps.backends.values();
        let found = backends.find(|found| IpAddr::from(found.addr) == backend);
        found.map_or(abi::Backend::DOWN, |found| found.state)
    }

    /// Backends that take new flows.
    fn members(&self) -> BTreeSet<IpAddr> {
        let backends = self.sim.engine.backends(self.sim.now, &Counts::default());
        let usable = backends.into_iter().filter(|found| found.usable);
        usable.map(|found| found.address.parse().expect("an address")).collect()
    }

    fn reach(&self, (client, port): (u64, u64), stage: Stage) -> Option<IpAddr> {
        let flow = Flow {
            source: Addr::v4([198, 51, 100, u8::try_from(client).expect("few")]),
            source_port: Be16::new(1000 + u16::try_from(port).expect("few")),
            port: Be16::new(80),
            protocol: if self.protocol == Protocol::Tcp { protocol::TCP } else { protocol::UDP },
            stage,
        };
        let arrival = Arrival { ifindex: 3, station: NIC };
        let lookup = self.sim.maps.at(self.sim.now, &self.sim.records);
        match forward::decide(&lookup, &arrival, &Addr::from(VIP), || Ok(flow)) {
            Verdict::Forward(forward) => Some(IpAddr::from(forward.backend.addr)),
            Verdict::Drop(_) | Verdict::Pass(_) => None,
        }
    }

    fn assert(&self, holds: bool, key: (u64, u64), what: &str, reached: Option<IpAddr>) {
        assert!(
            holds,
            "{what}: {key:?} reached {reached:?}; flow {:?}, client {:?}, at {:?}",
            self.flows.get(&key),
            self.clients.get(&key.0),
            self.sim.now,
        );
    }
}

fn world(backends: &BTreeSet<u8>, affinity: Affinity, protocol: Protocol) -> Config {
    let mut config = config(BACKENDS);
    let service = &mut config.services[0];
    service.affinity = affinity;
    service.protocol = protocol;
    service.memory = config::Memory {
        slots: 251,
        settle: SETTLE,
        affinity_ttl: TTL,
        ..config::Memory::of(protocol)
    };
    service.check.rise = 1;
    service.check.fall = 1;
    service.backends.retain(|backend| backends.contains(&number(backend.address)));
    config
}

fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!("the world is IPv4"),
    }
}

/// Steps of each of the four sequences: a million together.
const STEPS: u32 = 250_000;

fn sequence(affinity: Affinity, protocol: Protocol) {
    for seed in 0..5 {
        let mut model = Model::new(seed, affinity, protocol);
        model.run(STEPS / 5);
        // At rest: everybody comes back, nothing moves, records expire.
        model.sim.refusing.clear();
        model.pass(SETTLE * 3 + TTL + secs(300));
        let slots = model.sim.maps.slots.values().next().expect("one service");
        let unsettled = slots.iter().filter(|slot| slot.is_unsettled()).count();
        assert_eq!(unsettled, 0, "seed {seed}");
        assert_eq!(
            model.sim.engine.backends(model.sim.now, &Counts::default()).len(),
            model.configured.len()
        );
    }
}

#[test]
fn flows_over_tcp_stay_where_they_are() {
    sequence(Affinity::Flow, Protocol::Tcp);
}

#[test]
fn clients_over_tcp_are_remembered_and_their_flows_stay_where_they_are() {
    sequence(Affinity::Client, Protocol::Tcp);
}

#[test]
fn flows_over_udp_stay_where_they_are() {
    sequence(Affinity::Flow, Protocol::Udp);
}

#[test]
fn clients_over_udp_stay_where_they_are() {
    sequence(Affinity::Client, Protocol::Udp);
}
