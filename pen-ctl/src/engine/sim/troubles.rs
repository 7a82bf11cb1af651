//! Half an hour in which servers refuse, fall silent, answer late or wrongly at random, while checks take
//! as long as they would: nobody who is well is out for longer than the rise takes, and nobody who is not
//! is in for longer than the fall. `system::troubles` does the same to real servers for a shorter time.
//!
//! Half an hour each with a few seeds; `PEN_TROUBLE_SEEDS` asks for more.

use super::*;
use crate::engine::event::ProbeId;
use crate::engine::random::Random;

const HOSTS: u8 = 12;
const INTERVAL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(500);
const RISE: u32 = 2;
const FALL: u32 = 3;

/// How a server answers its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Well, after this time.
    After(Duration),
    /// Nobody listens.
    Refused,
    /// Packets get lost.
    Silent,
    /// Something else than what is expected.
    Wrong,
}

impl Answer {
    fn random(rng: &mut Random) -> Self {
        match rng.below(7) {
            0 => Self::Refused,
            1 => Self::Silent,
            2 => Self::Wrong,
            // Slow, but not too slow; and too slow.
            3 => Self::After(LIMIT * 4 / 5),
            4 => Self::After(LIMIT * 3),
            _ => Self::After(Duration::from_micros(100 + rng.below(20_000))),
        }
    }

    /// How long a check takes, and how it ends.
    fn to(self, limit: Duration) -> (Duration, event::Outcome) {
        let soon = Duration::from_millis(1);
        match self {
            Self::After(time) if time < limit => (time, Ok(())),
            Self::After(_) => (limit, Err(ProbeError::Silent(limit))),
            Self::Silent => (limit, Err(ProbeError::Timeout(limit))),
            Self::Refused => (soon, Err(ProbeError::Refused)),
            Self::Wrong => {
                let (found, expected) = ("503".to_owned(), "200".to_owned());
                (soon, Err(ProbeError::Answered { found, expected }))
            }
        }
    }

    fn is_well(self) -> bool {
        self.to(LIMIT).1.is_ok()
    }
}

/// Checks that are under way, by when they end.
#[derive(Default)]
struct UnderWay {
    ends: BTreeMap<(Moment, u64), (ProbeId, Duration, event::Outcome)>,
    count: u64,
}

struct World {
    engine: Engine,
    maps: Tables,
    now: Moment,
    answers: BTreeMap<u8, Answer>,
    /// Since when each has been well, or not.
    since: BTreeMap<u8, Moment>,
    /// Who gets new flows of each service, as the maps have it.
    serving: [BTreeSet<u8>; 2],
    checks: UnderWay,
    changes: u32,
    seed: u64,
}

fn number(address: IpAddr) -> u8 {
    let IpAddr::V4(v4) = address else { unreachable!("the world is IPv4") };
    v4.octets()[3]
}

impl World {
    fn start(seed: u64) -> Self {
        let mut config = config(HOSTS);
        config.services[0].check.timeout = LIMIT;
        config.services[0].judgement.panic_threshold = 0;
        // Fewer slots than in real life, all of which are looked at after each change.
        config.services[0].memory.slots = 251;
        let mut other = config.services[0].clone();
        (other.name, other.listen.ports) = ("other".into(), Ports::one(81));
        config.services.push(other);
        // The world of other tests has the ways to the servers, and answers at once.
        let sim = Sim::start(config);
        let well = Answer::After(Duration::from_millis(1));
        let mut world = Self {
            since: (1..=HOSTS).map(|host| (host, sim.now)).collect(),
            answers: (1..=HOSTS).map(|host| (host, well)).collect(),
            engine: sim.engine,
            maps: sim.maps,
            now: sim.now,
            serving: Default::default(),
            checks: UnderWay::default(),
            changes: 0,
            seed,
        };
        world.serving = world.serving();
        world.pass(INTERVAL);
        world
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::WriteTables(writes) => {
                    for write in &writes {
                        self.maps.apply(write);
                    }
                    self.serving = self.serving();
                }
                Action::StartProbe { probe, target, timeout, .. } => {
                    let answer = self.answers[&number(target.key().ip())];
                    let (took, outcome) = answer.to(timeout);
                    self.checks.count += 1;
                    let key = (self.now + took, self.checks.count);
                    self.checks.ends.insert(key, (probe, took, outcome));
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let check = self.checks.ends.keys().next().map_or(Moment::NEVER, |(at, _)| *at);
            let next = check.min(self.engine.next_deadline());
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            let event = if check == next {
                let (_, (probe, took, outcome)) = self.checks.ends.pop_first().expect("one ends");
                Event::ProbeDone { probe, took, outcome }
            } else {
                Event::TimePassed
            };
            self.engine.handle(self.now, event);
            self.carry_out();
            self.judge();
        }
        self.now = end;
    }

    /// Who gets new flows of each service.
    fn serving(&self) -> [BTreeSet<u8>; 2] {
        let mut all = self.maps.slots.values().map(|slots| {
            let ids: BTreeSet<u32> = slots.iter().map(|slot| u32::from(slot.current())).collect();
            let backends = ids.iter().filter_map(|id| self.maps.backends.get(id));
            let alive = backends.filter(|found| found.state != pen_common::abi::Backend::DOWN);
            alive.map(|found| number(IpAddr::from(found.addr))).collect()
        });
        [all.next().expect("a service"), all.next().expect("another one")]
    }

    fn judge(&self) {
        let [one, other] = &self.serving;
        let seed = self.seed;
        assert_eq!(one, other, "seed {seed}: both services at the same moment");
        for (host, answer) in &self.answers {
            let time = self.now.since(self.since[host]);
            // The next check begins after an interval at most, and one that was under way may have
            // ended in its own way before.
            let (needed, wanted) = if answer.is_well() { (RISE, true) } else { (FALL, false) };
            let most = INTERVAL * needed + LIMIT;
            assert!(
                one.contains(host) == wanted || time <= most,
                "seed {seed}: {host} has been {answer:?} for {time:?}"
            );
        }
    }

    fn change(&mut self, rng: &mut Random) {
        let host = u8::try_from(1 + rng.below(u64::from(HOSTS))).expect("few");
        let answer = Answer::random(rng);
        let before = self.answers.insert(host, answer).expect("known");
        if before.is_well() != answer.is_well() {
            self.since.insert(host, self.now);
            self.changes += 1;
        }
    }
}

#[test]
fn for_half_an_hour_who_is_well_serves_and_who_is_not_does_not() {
    let seeds = std::env::var("PEN_TROUBLE_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(2_u64) {
        let (mut world, mut rng) = (World::start(seed), Random(seed));
        let end = world.now + Duration::from_secs(30 * 60);
        while world.now < end {
            world.change(&mut rng);
            world.pass(Duration::from_millis(rng.below(2500)));
        }
        assert!(world.changes > 300, "seed {seed}: {} changes", world.changes);
    }
}
