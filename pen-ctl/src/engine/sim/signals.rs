//! What clients' packets tell of servers: who is doubted is asked before its turn, and who refuses
//! clients again and again is left alone.

use pen_common::abi::Signals;

use super::judgement::told;
use super::*;

/// The usual service, checked each minute.
fn rarely_checked(mode: Mode, eject: Duration) -> Config {
    let mut config = config(3);
    let service = &mut config.services[0];
    service.mode = mode;
    service.check.interval = secs(60);
    service.check.fast_interval = secs(60);
    service.check.down_interval = secs(60);
    service.judgement.eject = eject;
    service.judgement.eject_max = secs(60);
    config
}

fn start(config: Config) -> Sim {
    let mut sim = Sim::start(config);
    sim.run_for(secs(5));
    sim
}

/// The kernel counts so much of the first backend, in so many seconds one after the other.
fn signal(sim: &mut Sim, seconds: u32, signals: Signals) {
    let id = *sim.maps.backends.keys().next().expect("there are backends");
    for _ in 0..seconds {
        let read = &mut sim.signals;
        let ends = [&mut read.total, read.of.entry(id).or_default()];
        for counted in ends {
            counted.refused += signals.refused;
            counted.unanswered += signals.unanswered;
            counted.unreachable += signals.unreachable;
        }
        sim.signals.of.entry(id).or_default().answered += signals.answered;
        sim.run_for(secs(1));
    }
}

const REFUSED: Signals = Signals { refused: 3, unanswered: 0, unreachable: 0, answered: 0 };
const UNANSWERED: Signals = Signals { refused: 0, unanswered: 3, unreachable: 0, answered: 0 };
const UNREACHABLE: Signals = Signals { refused: 0, unanswered: 0, unreachable: 3, answered: 0 };

fn probes(sim: &Sim) -> usize {
    sim.probes.get(&address(1)).map_or(0, Vec::len)
}

#[test]
fn a_server_that_clients_do_not_reach_is_found_out_long_before_its_next_probe() {
    for signals in [REFUSED, UNANSWERED, UNREACHABLE] {
        let mut sim = start(rarely_checked(Mode::Nat, Duration::ZERO));
        let before = probes(&sim);
        sim.refusing.insert(address(1));
        signal(&mut sim, 5, signals);
        assert!(probes(&sim) - before >= 3, "asked as long as clients have trouble");
        assert_eq!(sim.serving(), BTreeSet::from([2, 3]));
        assert_eq!(told(&sim, "backend-down"), ["web/b1 is down: connection refused"]);
    }
}

#[test]
fn the_operator_hears_of_a_doubt_and_why_once_a_minute() {
    let mut sim = start(rarely_checked(Mode::Dsr, Duration::ZERO));
    signal(&mut sim, 20, UNANSWERED);
    let expected = "web/b1 is asked at once, because of its clients: 3 unanswered";
    assert_eq!(told(&sim, "doubted"), [expected]);
    sim.run_for(secs(61));
    signal(&mut sim, 2, UNANSWERED);
    assert_eq!(told(&sim, "doubted").len(), 2);
}

#[test]
fn a_server_that_is_well_stays_and_is_asked_no_more_than_once_a_second() {
    let mut sim = start(rarely_checked(Mode::Dsr, Duration::ZERO));
    let before = sim.flows(200);
    let asked = probes(&sim);
    let many = Signals { unanswered: 1_000_000, ..UNANSWERED };
    signal(&mut sim, 30, many);
    assert!((10..=31).contains(&(probes(&sim) - asked)), "{}", probes(&sim) - asked);
    assert_eq!(sim.flows(200), before, "nobody can forge a server away");
}

#[test]
fn a_fast_interval_is_kept_by_doubts_as_well() {
    let mut config = rarely_checked(Mode::Dsr, Duration::ZERO);
    config.services[0].check.timeout = secs(20);
    config.services[0].check.fast_interval = secs(10);
    let mut sim = start(config);
    sim.run_for(secs(10));
    let asked = probes(&sim);
    signal(&mut sim, 30, UNANSWERED);
    assert!((2..=4).contains(&(probes(&sim) - asked)), "{}", probes(&sim) - asked);
}

#[test]
fn doubts_of_many_servers_are_not_all_looked_into_at_once() {
    let mut config = rarely_checked(Mode::Dsr, Duration::ZERO);
    config.services[0].backends = super::config(100).services[0].backends.clone();
    let mut sim = start(config);
    sim.run_for(secs(2));
    sim.probes.clear();
    let ids: Vec<u32> = sim.maps.backends.keys().copied().collect();
    sim.signals.total.unanswered += 300;
    for id in ids {
        sim.signals.of.entry(id).or_default().unanswered += 3;
    }
    sim.run_for(secs(3));
    let mut begun: Vec<Moment> = sim.probes.values().flatten().copied().collect();
    begun.sort();
    assert_eq!(begun.len(), 100);
    assert!(begun[99].since(begun[0]) >= Duration::from_millis(900), "spread over a second");
}

#[test]
fn who_refuses_several_clients_in_a_row_is_left_alone_if_that_is_wished() {
    for (eject, serving) in [(secs(10), [2, 3].as_slice()), (Duration::ZERO, &[1, 2, 3])] {
        let mut sim = start(rarely_checked(Mode::Masquerade, eject));
        signal(&mut sim, 2, REFUSED);
        assert_eq!(sim.serving(), serving.iter().copied().collect());
        sim.run_for(secs(12));
        assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]), "its check says that it is well");
    }
}

#[test]
fn neither_forged_syns_nor_a_server_that_answers_others_lead_to_an_ejection() {
    let answering = Signals { answered: 1, ..REFUSED };
    for signals in [UNANSWERED, answering] {
        let mut sim = start(rarely_checked(Mode::Nat, secs(10)));
        signal(&mut sim, 5, signals);
        assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    }
}

#[test]
fn a_server_without_a_check_is_left_alone_for_a_time_all_the_same() {
    let mut config = rarely_checked(Mode::Nat, secs(10));
    config.services[0].check.kind = CheckKind::None;
    let mut sim = start(config);
    signal(&mut sim, 2, UNREACHABLE);
    assert_eq!(sim.serving(), BTreeSet::from([2, 3]));
    assert_eq!(told(&sim, "doubted"), [""; 0], "nobody is asked");
}

#[test]
fn nothing_is_read_while_nobody_would_act_on_it() {
    let mut unchecked = rarely_checked(Mode::Dsr, Duration::ZERO);
    unchecked.services[0].check.kind = CheckKind::None;
    let mut sim = start(unchecked);
    signal(&mut sim, 5, UNANSWERED);
    assert_eq!(sim.signals_read, 0);
    assert_eq!(sim.engine.next_signals(), Moment::NEVER);
    let mut quiet = start(rarely_checked(Mode::Dsr, Duration::ZERO));
    quiet.run_for(secs(60));
    assert_eq!(quiet.signals_read, 1, "no more than a look at the sum while nothing happens");
}

#[test]
fn what_was_counted_before_this_controller_came_is_not_judged() {
    let config = rarely_checked(Mode::Nat, secs(10));
    let maps = start(config.clone()).maps;
    let ids: Vec<u32> = maps.backends.keys().copied().collect();
    let mut sim = Sim::prepare(config, maps);
    sim.signals.total.refused = 900;
    sim.signals.of = ids.into_iter().map(|id| (id, Signals { refused: 300, ..REFUSED })).collect();
    sim.begin();
    sim.run_for(secs(5));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    assert_eq!(told(&sim, "doubted"), [""; 0]);
}

#[test]
fn the_one_who_is_asked_for_several_services_is_asked_at_once() {
    let mut config = rarely_checked(Mode::Dsr, Duration::ZERO);
    let mut other = config.services[0].clone();
    other.name = "other".into();
    other.listen.ports = Ports::one(8080);
    config.services.insert(0, other);
    let mut sim = start(config);
    sim.refusing.insert(address(1));
    let ids: Vec<u32> = sim.maps.backends.keys().copied().collect();
    // The first service leads; clients of the other one have the trouble.
    for _ in 0..5 {
        sim.signals.total.unanswered += 3;
        sim.signals.of.entry(ids[3]).or_default().unanswered += 3;
        sim.run_for(secs(1));
    }
    assert_eq!(sim.serving(), BTreeSet::from([2, 3]));
}
