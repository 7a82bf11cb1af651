//! The judgement of backends against a plain model, over many random sequences of failing and
//! returning servers, failures that clients meet, the operator's wishes, and reloads.
//!
//! What must hold at every moment, of two services that share their servers:
//! * a backend takes new flows exactly if the model says so, which counts results in a row, keeps
//!   ejections by their times, and applies the policy of a panic;
//! * a service has its quorum exactly if the model says so;
//! * once everybody is well and wanted, and some time has passed, all serve in equal shares.
//!
//! Sixty sequences, which take seconds; `PEN_HEALTH_SEEDS` asks for more.

use super::*;
use crate::config::{Judgement, PanicPolicy, Proxy};
use crate::engine::event::Failure;
use crate::engine::random::Random;

const SORRY: u8 = 9;
const HOSTS: u64 = 5;
const STEPS: u32 = 30;
const EJECT: Duration = Duration::from_secs(2);
const EJECT_MAX: Duration = Duration::from_secs(7);
const RISE: u32 = 2;
const FALL: u32 = 3;
const NAMES: [&str; 2] = ["web", "proxied"];

fn small(random: &mut Random, limit: u64) -> u32 {
    u32::try_from(random.below(limit)).expect("small")
}

/// What the model knows of a backend.
#[derive(Clone, Debug)]
struct Plain {
    /// `None` before the first result.
    up: Option<bool>,
    against: u32,
    admin: Admin,
    leaving: bool,
    /// The ejection, if there was one: until when, and for how long.
    ejected: Option<(Moment, Duration)>,
}

impl Plain {
    fn new(up: Option<bool>, against: u32) -> Self {
        Self { up, against, admin: Admin::Ready, leaving: false, ejected: None }
    }

    fn note(&mut self, success: bool) {
        let needed = match self.up {
            None => 1,
            Some(true) => FALL,
            Some(false) => RISE,
        };
        self.against = if self.up == Some(success) { 0 } else { self.against + 1 };
        if self.against >= needed {
            (self.up, self.against) = (Some(success), 0);
        }
    }

    fn is_ejected(&self, now: Moment) -> bool {
        self.ejected.is_some_and(|(until, _)| now < until)
    }

    fn is_wanted(&self) -> bool {
        self.admin == Admin::Ready && !self.leaving
    }
}

/// A service of the model: its backends by the last byte of their addresses.
#[derive(Clone, Debug)]
struct Judged {
    backends: BTreeMap<u8, Plain>,
    rules: Judgement,
    has_sorry: bool,
    quorum: bool,
}

impl Judged {
    fn pool(&self) -> impl Iterator<Item = (u8, &Plain)> {
        let pool = self.backends.iter().map(|(number, found)| (*number, found));
        pool.filter(|(number, found)| *number != SORRY && found.is_wanted())
    }

    fn able(&self, now: Moment) -> BTreeSet<u8> {
        let able =
            self.pool().filter(|(_, found)| found.up == Some(true) && !found.is_ejected(now));
        able.map(|(number, _)| number).collect()
    }

    fn serving(&self, now: Moment) -> BTreeSet<u8> {
        let able = self.able(now);
        let known: BTreeSet<u8> =
            self.pool().filter(|(_, found)| found.up.is_some()).map(|(number, _)| number).collect();
        let panics = able.len() * 100 < known.len() * self.rules.panic_threshold as usize
            && !known.is_empty();
        let sorry = self.backends.get(&SORRY).filter(|found| {
            self.has_sorry && found.is_wanted() && found.up == Some(true) && !found.is_ejected(now)
        });
        match self.rules.panic {
            PanicPolicy::FailOpen if panics => known,
            PanicPolicy::FailClosed if panics => BTreeSet::new(),
            PanicPolicy::Emergency if panics && sorry.is_some() => BTreeSet::from([SORRY]),
            _ if able.is_empty() && sorry.is_some() => BTreeSet::from([SORRY]),
            _ => able,
        }
    }

    fn eject(&mut self, number: u8, now: Moment) {
        let most = match self.rules.max_ejected as usize {
            0 => 0,
            percent => (self.pool().count() * percent / 100).max(1),
        };
        let ejected = self.pool().filter(|(_, found)| found.is_ejected(now)).count();
        let Some(found) = self.backends.get_mut(&number).filter(|found| !found.leaving) else {
            return;
        };
        if found.is_ejected(now) || (number != SORRY && ejected >= most) {
            return;
        }
        let time = match found.ejected {
            Some((until, lasted)) if now < until + lasted => (lasted * 2).min(EJECT_MAX),
            _ => EJECT,
        };
        found.ejected = Some((now + time, time));
    }

    fn count(&mut self, now: Moment) {
        let least = self.rules.quorum.unwrap_or(1);
        let able = self.able(now).len();
        let unknown = self.pool().filter(|(_, found)| found.up.is_none()).count();
        self.quorum = if self.quorum {
            able + unknown >= least as usize
        } else {
            able >= (least + self.rules.quorum_hysteresis) as usize
        };
    }
}

struct World {
    sim: Sim,
    rng: Random,
    seed: u64,
    services: Vec<Judged>,
    /// Results that the model has heard of.
    heard: usize,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.seed);
        }
    }
}

fn rules(rng: &mut Random) -> (Judgement, bool) {
    let panic = match rng.below(3) {
        0 => PanicPolicy::FailOpen,
        1 => PanicPolicy::FailClosed,
        _ => PanicPolicy::Emergency,
    };
    let rules = Judgement {
        panic,
        panic_threshold: [0, 34, 50, 75, 100][usize::try_from(rng.below(5)).expect("small")],
        max_ejected: [0, 25, 50, 100][usize::try_from(rng.below(4)).expect("small")],
        quorum: [None, Some(1), Some(2), Some(3)][usize::try_from(rng.below(4)).expect("small")],
        quorum_hysteresis: small(rng, 2),
        slow_start: secs(rng.below(3) * 5),
        track: None,
        ..Judgement::usual()
    };
    (rules, panic == PanicPolicy::Emergency || rng.below(3) == 0)
}

/// Both services with these rules and backends.
fn world(rules: &[(Judgement, bool)], backends: &[BTreeSet<u8>]) -> Config {
    let mut config = config(u8::try_from(HOSTS).expect("few"));
    let mut web = config.services.remove(0);
    web.memory.slots = 251;
    let limits = config::Limits::default();
    let at = address(SORRY);
    let sorry =
        Backend { name: "b9".into(), address: at, port: 80, socket: None, weight: 1, limits };
    for (index, (judgement, has_sorry)) in rules.iter().enumerate() {
        let mut service = web.clone();
        service.name = NAMES[index].into();
        service.judgement = judgement.clone();
        service.emergency = has_sorry.then(|| sorry.clone());
        service.backends.retain(|found| backends[index].contains(&last(found.address)));
        if index == 1 {
            service.listen.ports = Ports::one(8080);
            service.mode = Mode::Proxy;
            let usual = Proxy::usual();
            service.proxy = Some(Box::new(Proxy { eject: EJECT, eject_max: EJECT_MAX, ..usual }));
        }
        config.services.push(service);
    }
    config
}

fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!("the world is IPv4"),
    }
}

impl World {
    fn start(seed: u64) -> Self {
        let mut rng = Random(seed);
        let all: BTreeSet<u8> = (1..=5).collect();
        let rules = [rules(&mut rng), rules(&mut rng)];
        let config = world(&rules, &[all.clone(), all.clone()]);
        let mut sim = Sim::start(config);
        sim.run_for(secs(2));
        let services = rules.into_iter().map(|(rules, has_sorry)| Judged {
            backends: all
                .iter()
                .copied()
                .chain(has_sorry.then_some(SORRY))
                .map(|number| (number, Plain::new(Some(true), 0)))
                .collect(),
            rules,
            has_sorry,
            quorum: true,
        });
        let services = services.collect();
        let heard = sim.results.len();
        let mut world = Self { sim, rng, seed, services, heard };
        world.judge();
        world
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0..=2 => {
                let number = self.host();
                if !self.sim.refusing.remove(&address(number)) {
                    self.sim.refusing.insert(address(number));
                }
            }
            3..=4 => self.admin(),
            5..=6 => self.fail(),
            7 => self.reload(),
            _ => {}
        }
        self.judge();
        let time = Duration::from_millis(200 + self.rng.below(1500));
        self.pass(time);
    }

    fn host(&mut self) -> u8 {
        match u8::try_from(1 + self.rng.below(HOSTS + 1)).expect("few") {
            6 => SORRY,
            number => number,
        }
    }

    fn admin(&mut self) {
        let (at, number) = (usize::try_from(self.rng.below(2)).expect("two"), self.host());
        let admin = [Admin::Ready, Admin::Ready, Admin::Drain, Admin::Maint]
            [usize::try_from(self.rng.below(4)).expect("small")];
        let Some(found) = self.services[at].backends.get(&number).cloned() else { return };
        let backend = format!("b{number}");
        let wish = SetAdmin {
            service: NAMES[at].into(),
            backend,
            admin,
            deadline_ms: None,
            dry_run: false,
        };
        if found.admin == Admin::Maint && admin != Admin::Maint {
            // It proves itself anew, unless another service has asked it all the time.
            let other = self.elsewhere(number);
            let found = self.services[at].backends.get_mut(&number).expect("it is there");
            (found.up, found.against) = other;
        }
        self.services[at].backends.get_mut(&number).expect("it is there").admin = admin;
        self.sim.engine.set_admin(self.sim.now, &wish).expect("known");
        self.sim.carry_out();
    }

    /// What is known of a server by those that have it asked.
    fn elsewhere(&self, number: u8) -> (Option<bool>, u32) {
        let all = self.services.iter().filter_map(|service| service.backends.get(&number));
        let mut asked = all.filter(|found| found.admin != Admin::Maint);
        asked.next().map_or((None, 0), |found| (found.up, found.against))
    }

    fn fail(&mut self) {
        let backends = &self.sim.proxies.services[0].backends;
        let at = usize::try_from(self.rng.below(backends.len() as u64)).expect("few");
        let proxy::Backend { id, generation, ref address, .. } = backends[at];
        let number = last(address.key().ip());
        let failure = Failure::Silent;
        for service in &mut self.services {
            service.eject(number, self.sim.now);
        }
        self.sim.event(Event::BackendFailed { backend: id, generation, failure });
    }

    fn reload(&mut self) {
        let backends: Vec<BTreeSet<u8>> = (0..2)
            .map(|_| {
                let kept: BTreeSet<u8> = (1..=5).filter(|_| self.rng.below(4) > 0).collect();
                if kept.is_empty() { BTreeSet::from([1]) } else { kept }
            })
            .collect();
        let rules = [rules(&mut self.rng), rules(&mut self.rng)];
        self.sim.engine.config = world(&rules, &backends);
        self.sim.engine.merge_config(self.sim.now);
        let mut wanted = backends;
        for (at, (rules, has_sorry)) in rules.into_iter().enumerate() {
            wanted[at].extend(has_sorry.then_some(SORRY));
            let service = &mut self.services[at];
            (service.rules, service.has_sorry) = (rules, has_sorry);
            for (number, found) in &mut service.backends {
                found.leaving = !wanted[at].contains(number);
            }
        }
        self.forget();
        for (at, wanted) in wanted.into_iter().enumerate() {
            for number in wanted {
                // What is asked for another service is known.
                let (up, against) = self.elsewhere(number);
                let found = self.services[at].backends.entry(number);
                found.or_insert_with(|| Plain::new(up, against));
            }
        }
        self.sim.event(Event::TimePassed);
    }

    /// Which backends that leave are still there is another test's concern.
    fn forget(&mut self) {
        for (service, known) in self.services.iter_mut().zip(&self.sim.engine.services) {
            let exists = |number: &u8| {
                known.backends.iter().any(|found| last(found.config.address) == *number)
            };
            service.backends.retain(|number, _| exists(number));
        }
    }

    /// Lets time pass from event to event.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.now + time;
        while self.sim.now < end {
            let next = self.sim.engine.next_deadline().min(end);
            let step = next.since(self.sim.now);
            self.sim.run_for(step);
            self.judge();
        }
    }

    /// The model hears of what happened, and has to agree with the engine.
    fn judge(&mut self) {
        let now = self.sim.now;
        self.forget();
        self.services.iter_mut().for_each(|service| service.count(now));
        for (from, success) in self.sim.results[self.heard..].iter().copied() {
            for service in &mut self.services {
                let asked = service.backends.get_mut(&last(from));
                if let Some(asked) = asked.filter(|found| found.admin != Admin::Maint) {
                    asked.note(success);
                }
                service.count(now);
            }
        }
        self.heard = self.sim.results.len();
        for (service, known) in self.services.iter().zip(&self.sim.engine.services) {
            let usable = known.backends.iter().filter(|found| found.usable);
            let usable: BTreeSet<u8> = usable.map(|found| last(found.config.address)).collect();
            let (name, seed) = (&known.config.name, self.seed);
            assert_eq!(
                usable,
                service.serving(now),
                "seed {seed}, {name} at {now:?}: {service:#?}"
            );
            let quorum = known.quorum.expect("known by now");
            assert_eq!(quorum, service.quorum, "seed {seed}, {name} at {now:?}: {service:#?}");
        }
    }

    fn rest(&mut self) {
        self.sim.refusing.clear();
        for (at, name) in NAMES.into_iter().enumerate() {
            for number in self.services[at].backends.keys().copied().collect::<Vec<_>>() {
                let (service, backend) = (name.into(), format!("b{number}"));
                let wish = SetAdmin {
                    service,
                    backend,
                    admin: Admin::Ready,
                    deadline_ms: None,
                    dry_run: false,
                };
                let other = self.elsewhere(number);
                // One that leaves may have gone meanwhile.
                let Some(found) = self.services[at].backends.get_mut(&number) else { continue };
                if found.admin == Admin::Maint {
                    (found.up, found.against) = other;
                }
                found.admin = Admin::Ready;
                self.sim.engine.set_admin(self.sim.now, &wish).expect("known");
                self.sim.carry_out();
                self.judge();
            }
        }
        self.pass(secs(30));
        for backend in self.sim.engine.backends(self.sim.now, &Counts::default()) {
            let at = NAMES.iter().position(|name| *name == backend.service).expect("one of two");
            let count = f64::from(u32::try_from(self.services[at].pool().count()).expect("few"));
            let is_member = !backend.emergency && backend.usable;
            assert!(
                !is_member || (backend.share - 100.0 / count).abs() < 4.0,
                "seed {}: {backend:?} of {count}",
                self.seed
            );
        }
        for service in &self.services {
            let all: BTreeSet<u8> = service.pool().map(|(number, _)| number).collect();
            assert_eq!(service.serving(self.sim.now), all, "seed {}", self.seed);
        }
    }
}

#[test]
fn services_that_share_servers_judge_them_as_a_plain_model_does() {
    let seeds = std::env::var("PEN_HEALTH_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(60_u64) {
        let mut world = World::start(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.rest();
    }
}
