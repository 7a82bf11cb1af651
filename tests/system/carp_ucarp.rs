//! `pend carp` and Debian's ucarp share an address, in both roles: neither takes the other for anything
//! but one of its kind. What is on the wire is judged without pen's code.

use std::{collections::BTreeSet, thread, time::Duration};

use nix::sys::signal::Signal;
use pen_tests::{
    Netns, Output,
    carp::{Node, Program, Seen},
    paths::{Scratch, program},
    process::run,
    wait::Stopwatch,
    wait_until,
};

use crate::carp_net::{MASTER, Net, S, U, VIP, assert_between, throughout};

/// Two networks side by side, because both take their time.
#[test]
fn behind_the_other_both_stay_backup_for_half_a_minute() {
    thread::scope(|scope| {
        scope.spawn(a_ucarp_takes_the_advertisements_of_a_master);
        scope.spawn(a_node_is_silent_beside_a_ucarp);
    });
}

fn a_ucarp_takes_the_advertisements_of_a_master() {
    let net = Net::new();
    let s = net.start_s(&[]);
    s.wait_hook(MASTER, "up", 1).unwrap();
    let mut u = net.start_u(&["-D"]);
    u.wait_hook(MASTER, "down", 1).unwrap();

    throughout(Duration::from_secs(30), || {
        assert_eq!(u.count("up"), 0, "{}", u.log());
    });

    let adverts = net.adverts(S);
    assert!(adverts.len() >= 30, "{}", net.watch.tail());
    assert!(adverts.iter().all(|advert| advert.good), "{}", net.watch.tail());
    let counters: BTreeSet<_> = adverts.iter().map(|advert| &advert.counter).collect();
    assert_eq!(counters.len(), adverts.len(), "no counter comes twice");
    for pair in adverts.windows(2) {
        assert_between("interval", pair[1].at - pair[0].at, 0.99, 1.01);
    }
    assert!(net.adverts(U).is_empty());
    u.signal(Signal::SIGTERM).unwrap();
    u.wait(Duration::from_secs(5)).unwrap();
    assert!(!u.log().contains("Bad"), "{}", u.log());
    assert!(s.count("down") <= 1, "only at the start");
}

fn a_node_is_silent_beside_a_ucarp() {
    let net = Net::new();
    let u = net.start_u(&[]);
    u.wait_hook(MASTER, "up", 1).unwrap();
    let s = net.start_s(&[]);

    throughout(Duration::from_secs(30), || assert_eq!(s.count("up"), 0, "{}", s.log()));

    assert!(net.adverts(S).is_empty(), "{}", net.watch.tail());
    let own = &net.s().mac;
    let told = net.watch.all(|seen| seen.announces(VIP) && seen.mac.as_ref() == Some(own));
    assert!(told.is_empty(), "{told:?}");
    assert!(net.watch.all(|seen| seen.kind == "na" && seen.src == *own).is_empty());
    assert!(net.adverts(U).len() >= 29);
}

/// The time from the last advertisement of a ucarp that is lost to the first one of its successor.
fn take_over(more: &[&str], least: f64, most: f64) {
    let net = Net::new();
    let u = net.start_u(&[]);
    u.wait_hook(MASTER, "up", 1).unwrap();
    let s = net.start_s(more);
    let before = net.adverts(U).len();
    net.wait_adverts(U, before + 2);

    net.detach(net.u());

    let first = net.wait_adverts(S, 1).remove(0);
    let last = net.adverts(U).pop().unwrap();
    assert_between("the take-over", first.at - last.at, least, most);
    assert!(first.good);
    s.wait_hook(MASTER, "up", 1).unwrap();
    let told = || net.watch.all(|seen| seen.announces(VIP) && seen.at > last.at);
    wait_until(Duration::from_secs(3), "neighbours are told twice", || {
        (told().len() >= 2).then_some(())
    })
    .unwrap();
    let at_once: Vec<_> =
        told().into_iter().filter(|told| (told.at - first.at).abs() <= 0.005).collect();
    assert_eq!(at_once.len(), 1, "{}", net.watch.tail());
    assert_eq!(at_once[0].op, 1, "a request");
    assert!(told()[1].at - first.at <= 2.5, "{}", net.watch.tail());
}

#[test]
fn after_three_intervals_of_silence_a_node_takes_over_and_tells_the_neighbours() {
    thread::scope(|scope| {
        scope.spawn(|| take_over(&[], 3.0, 3.05));
        scope.spawn(|| take_over(&["-k", "100"], 3.39, 3.44));
    });
}

#[test]
fn a_node_that_ends_hands_over_to_a_ucarp() {
    let net = Net::new();
    let mut s = net.start_s(&[]);
    s.wait_hook(MASTER, "up", 1).unwrap();
    let u = net.start_u(&[]);
    let before = net.adverts(S).len();
    net.wait_adverts(S, before + 3);
    let probes = net.probes();
    throughout(Duration::from_millis(500), || {});

    s.signal(Signal::SIGTERM).unwrap();

    let farewell = |seen: &Seen| seen.is_advert_of(S) && seen.advbase == 255 && seen.advskew == 255;
    let said = net.watch.wait(MASTER, "a farewell", farewell).unwrap();
    assert!(said.good, "{said:?}");
    let up = u.wait_hook(MASTER, "up", 1).unwrap();
    assert_between("until ucarp is master", up.at - said.at, 0.0, 1.1);
    assert!(s.wait(Duration::from_secs(5)).unwrap().success(), "{}", s.log());
    assert_eq!(s.hooks().last().unwrap().which, "down", "-z");
    throughout(Duration::from_millis(700), || {});
    let seen = probes.stop();
    assert!(seen.sent > 1000 && seen.lost <= 10, "{seen:?}");
}

#[test]
fn to_a_better_ucarp_that_preempts_the_address_is_given_without_a_loss() {
    let net = Net::new();
    let s = net.start_s(&["-k", "100"]);
    s.wait_hook(MASTER, "up", 1).unwrap();
    let downs = s.count("down");
    let probes = net.probes();

    let u = net.start_u(&["-P", "-k", "0"]);

    let first = net.wait_adverts(U, 1).remove(0);
    let down = s.wait_hook(MASTER, "down", downs + 1).unwrap();
    assert_between("until it gave the address up", down.at - first.at, 0.0, 0.05);
    throughout(Duration::from_secs(1), || {});
    let seen = probes.stop();
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert_eq!(u.count("up"), 1);
}

#[test]
fn a_better_node_that_preempts_takes_over_from_a_ucarp() {
    let net = Net::new();
    let u = net.start_u(&["-k", "100"]);
    u.wait_hook(MASTER, "up", 1).unwrap();
    let downs = u.count("down");
    let before = net.adverts(U).len();
    net.wait_adverts(U, before + 1);

    let _s = net.start_s(&["-P", "-k", "0"]);

    let first = net.wait_adverts(S, 1).remove(0);
    let last = net.adverts(U).into_iter().rfind(|advert| advert.at < first.at).unwrap();
    assert_between("after ucarp's next one", first.at - last.at, 0.0, 0.05);
    let down = u.wait_hook(MASTER, "down", downs + 1).unwrap();
    assert_between("until ucarp gave up", down.at - first.at, 0.0, 1.1);
}

#[test]
fn a_master_that_stood_still_finds_a_ucarp_in_its_place_and_gives_way() {
    let net = Net::new();
    let mut s = net.start_s(&[]);
    s.wait_hook(MASTER, "up", 1).unwrap();
    let u = net.start_u(&[]);
    let before = net.adverts(S).len();
    net.wait_adverts(S, before + 2);
    let probes = net.probes();

    s.signal(Signal::SIGSTOP).unwrap();
    let up = u.wait_hook(MASTER, "up", 1).unwrap();
    let stopped = net.adverts(S).pop().unwrap().at;
    throughout(Duration::from_millis(2500), || {});
    s.signal(Signal::SIGCONT).unwrap();

    let down = s.wait_hook(Duration::from_secs(2), "down", 2).unwrap();
    assert!(down.at > up.at, "{:?} {:?}", s.hooks(), u.hooks());
    throughout(Duration::from_secs(2), || {});
    assert_eq!((s.count("up"), u.count("up"), u.count("down")), (1, 1, 1), "one master");
    let after = net.watch.all(|seen| seen.is_advert_of(S) && seen.at > stopped);
    assert!(after.len() <= 2, "{after:?}");
    assert!(after.iter().all(|advert| advert.advbase >= 1), "no shorter interval: {after:?}");
    let seen = probes.stop();
    assert!(seen.outage < Duration::from_secs(1), "{seen:?}");
}

#[test]
fn signals_mean_what_they_meant_to_ucarp() {
    let net = Net::new();
    let mut s = net.start_s(&["-D"]);
    let says = |s: &Node, what: &str| {
        wait_until(MASTER, what, || s.log().contains(what).then_some(())).unwrap();
    };
    says(&s, "takes part");
    s.signal(Signal::SIGUSR1).unwrap();
    says(&s, "BACKUP on eth0 vhid 42");
    s.wait_hook(MASTER, "up", 1).unwrap();
    s.signal(Signal::SIGUSR1).unwrap();
    says(&s, "MASTER on eth0 vhid 42");
    let u = net.start_u(&[]);
    let before = net.adverts(S).len();
    net.wait_adverts(S, before + 2);

    s.signal(Signal::SIGUSR2).unwrap();
    u.wait_hook(MASTER, "up", 1).unwrap();
    s.wait_hook(MASTER, "down", 2).unwrap();
    s.signal(Signal::SIGUSR2).unwrap();
    says(&s, "not master");

    s.signal(Signal::SIGHUP).unwrap();
    let ended = Stopwatch::start();
    assert!(s.wait(MASTER).unwrap().success(), "{}", s.log());
    assert!(ended.elapsed() < Duration::from_secs(1), "a backup ends at once");
    assert_eq!(u.count("down"), 1, "only at the start");
}

/// Two masters of equal interval that hear each other again: the one that ucarp's rule picks stays.
fn duel(s_address: &str, winner: &str) {
    // Here ucarp runs where the client is: it wants an address that the interface has.
    const U: &str = "10.77.0.2";
    let net = Net::new();
    net.detach(net.s());
    net.s().netns.ip(&format!("address add {s_address}/32 dev eth0")).unwrap();
    let s = Node::start(Program::Pend, &net.s().netns, s_address, VIP, &[]).unwrap();
    let u = Node::start(Program::Ucarp, &net.lab.client().netns, U, VIP, &[]).unwrap();
    s.wait_hook(MASTER, "up", 1).unwrap();
    u.wait_hook(MASTER, "up", 1).unwrap();

    let (winner, loser, silenced) = if winner == U { (&u, &s, s_address) } else { (&s, &u, U) };
    let downs = [winner.count("down"), loser.count("down")];

    net.attach(net.s());

    let down = loser.wait_hook(Duration::from_millis(2500), "down", downs[1] + 1);
    let down = down.unwrap_or_else(|error| panic!("{s_address}: {error:#}\n{}", net.watch.tail()));
    throughout(Duration::from_millis(1500), || {
        assert_eq!(winner.count("down"), downs[0], "{s_address}: {}", net.watch.tail());
    });
    // One more advertisement says farewell, as ucarp's does.
    let late = net.watch.all(|seen| seen.is_advert_of(silenced) && seen.at > down.at + 0.5);
    assert!(late.is_empty(), "{s_address}: {late:?}");
}

#[test]
fn of_two_masters_that_hear_each_other_again_the_one_stays_that_ucarps_rule_picks() {
    thread::scope(|scope| {
        for (s_address, winner) in [
            ("11.0.0.1", "11.0.0.1"),
            ("10.77.1.1", "10.77.1.1"),
            ("9.255.255.3", "10.77.0.2"),
            ("10.77.0.9", "10.77.0.2"),
        ] {
            scope.spawn(move || duel(s_address, winner));
        }
    });
}

// === The command line ===

/// Runs `pend carp` with arguments that it refuses, or that let it end by itself.
fn pend_carp(netns: &Netns, args: &[&str]) -> Output {
    let mut command = netns.command(program("pend").unwrap());
    run(command.arg("carp").args(args), Duration::from_secs(10)).unwrap()
}

#[test]
fn what_ucarp_truncated_is_refused_with_the_limit() {
    let netns = Netns::new("args").unwrap();
    let least = ["-i", "lo", "-s", "10.1.1.1", "-v", "1", "-a", "10.1.1.2", "-f", "none"];
    for (more, limit) in [
        (["-p", "love", "-b", "300"], "--advbase: 300 is not between 0 and 255"),
        (["-p", "love", "-k", "256"], "--advskew: 256 is not between 0 and 255"),
        (["-p", "01234567890123456789", "-k", "1"], "has 20 bytes, and ucarp takes at most 19"),
        (["-p", "love", "-m", "224.0.0.18"], "write --mcastip=IP"),
    ] {
        let output = pend_carp(&netns, &[&least[..], &more[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(output.stderr.contains(limit), "{}", output.stderr);
    }
    let printed = pend_carp(&netns, &[&least[..], &["-p", "love", "--print-config"]].concat());
    assert!(printed.status.success() && printed.stdout.contains("vhid = 1\n"), "{printed:?}");
    let help = pend_carp(&netns, &["--help"]);
    assert!(help.status.success() && help.stdout.contains("--advskew"), "{}", help.stdout);
}

#[test]
fn in_the_background_it_goes_on_when_its_shell_has_gone_on() {
    let netns = Netns::new("daemon").unwrap();
    let scratch = Scratch::new().unwrap();
    let password = scratch.file("password");
    std::fs::write(&password, "love\n").unwrap();
    let password = password.display().to_string();
    let rest =
        ["-i", "lo", "-s", "10.1.1.1", "-v", "1", "-a", "10.1.1.2", "-f", "none", "-S", "-B"];
    let output = pend_carp(&netns, &[&["-o", &password], &rest[..]].concat());
    assert!(output.status.success(), "{}", output.stderr);
    assert!(output.stderr.contains("without --upscript the address is added"), "{}", output.stderr);

    // The address shows that it is there, and that nobody else had to add it.
    let held = || netns.ip("address show dev lo").unwrap().contains("10.1.1.2/");
    wait_until(MASTER, "the address is there", || held().then_some(())).unwrap();
    let listed =
        run(std::process::Command::new("ip").args(["netns", "pids", netns.name()]), MASTER);
    let pids: Vec<i32> =
        listed.unwrap().stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pids[0]), Signal::SIGTERM).unwrap();
    wait_until(MASTER, "the address is gone", || (!held()).then_some(())).unwrap();
}
