//! Two and three pens that share virtual addresses: one of them has the addresses, another takes over
//! when it is lost, and never do two have them.
//!
//! A probe each millisecond counts what a take-over costs. The virtual addresses answer it
//! themselves (`echo`), so that nothing but CARP is measured.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use pen_tests::{
    Capture, Lab, Pend, VIP4, VIP6,
    paths::Scratch,
    wait::{Stopwatch, pace},
    wait_until,
};
use serde_json::Value;

use crate::carp_nodes::{Nodes, QUICK, REST, SOON, VIP, private};
use crate::effort;
use crate::probe::Probes;

/// More than a client loses if a take-over works, even on a busy machine with tests side by side:
/// three and a half intervals, and what such a machine adds.
const TAKE_OVER: usize = 700;

/// How often a measurement is repeated, for figures.
fn rounds() -> usize {
    let rounds = std::env::var("PEN_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A program for a hook, in a file that can be run.
fn program(nodes: &Scratch, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = nodes.file(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

#[test]
fn one_of_two_nodes_has_the_addresses_and_both_say_so() {
    let nodes = Nodes::start(2);
    nodes.assert_one_master(&[0, 1]);
    let seen = nodes.while_probing(|| {});
    assert_eq!((seen.lost, seen.doubled), (0, 0), "{seen:?}");
    for (index, role) in [(0, "master"), (1, "backup")] {
        for vip in nodes.pends[index].penctl_json(["vips"]).unwrap().as_array().unwrap() {
            assert_eq!((&vip["role"], &vip["carp"]), (&role.into(), &"main".into()), "{vip}");
            assert_eq!(vip["mac"], "00:00:5e:00:01:07");
        }
        let status = nodes.order(index, &["status"]);
        assert!(status.contains(&format!("group main is {role}\n")), "{status}");
        let shown = nodes.order(index, &["carp", "show", "main"]);
        assert!(shown.contains(&format!("\t{role}\t")), "{shown}");
        let explained = nodes.order(index, &["explain", "10.77.0.2:5000", "10.77.0.100:81"]);
        let expected = if index == 0 { "pass-no-service" } else { "pass-not-master" };
        assert!(explained.contains(expected), "{explained}");
    }
    // It advertises in both families.
    let master = nodes.group(1).unwrap()["master"]["address"].as_str().unwrap().to_owned();
    let own = nodes.host(0).netns.ip("address show dev eth0").unwrap();
    assert!(own.contains(&format!(" {master}/")), "{master}: {own}");
    // The address of IPv6 as well.
    let ping = nodes.client().output("ping", ["-6", "-c", "3", "-i", "0.2", "fd77::100"]).unwrap();
    assert!(ping.status.success(), "{}", ping.stdout);
    let neighbours = nodes.client().ip("neigh show").unwrap();
    for vip in ["10.77.0.100 ", "fd77::100 "] {
        let line = neighbours.lines().find(|line| line.starts_with(vip)).unwrap_or_default();
        assert!(line.contains("00:00:5e:00:01:07"), "{neighbours}");
    }
}

#[test]
fn a_node_that_is_lost_is_replaced_and_does_not_come_back_beside_the_other() {
    let nodes = Nodes::start(2);
    for round in 0..rounds() {
        let (lost, other) = (round % 2, (round + 1) % 2);
        let seen = nodes.while_probing(|| {
            nodes.detach(lost);
            nodes.wait_for(other, "master");
        });
        assert!(seen.lost <= TAKE_OVER, "{seen:?}");
        // Both are master until they hear each other, and then one of them.
        let seen = nodes.while_probing(|| {
            nodes.attach(lost);
            nodes.assert_one_master(&[0, 1]);
        });
        assert!(seen.outage < Duration::from_secs(1), "{seen:?}");
        let seen = nodes.while_probing(|| {
            if nodes.state(other) != "master" {
                nodes.order(other, &["carp", "promote", "main"]);
                nodes.wait_for(other, "master");
                nodes.order(other, &["carp", "release", "main"]);
            }
            nodes.wait_for(lost, "backup");
        });
        assert!(seen.lost <= 10, "{seen:?}");
    }
}

#[test]
fn ten_milliseconds_between_advertisements_are_kept() {
    let nodes = Nodes::with(2, "10ms", |_| String::new());
    for round in 0..rounds() {
        let (lost, other) = (round % 2, (round + 1) % 2);
        let seen = nodes.while_probing(|| {
            nodes.detach(lost);
            nodes.wait_for(other, "master");
        });
        assert!(seen.lost <= TAKE_OVER, "{seen:?}");
        nodes.attach(lost);
        nodes.assert_one_master(&[0, 1]);
        if nodes.state(other) != "master" {
            nodes.order(other, &["carp", "promote", "main"]);
            nodes.wait_for(other, "master");
            nodes.order(other, &["carp", "release", "main"]);
        }
        nodes.wait_for(lost, "backup");
    }
}

#[test]
fn a_daemon_that_is_killed_loses_its_addresses_before_another_one_gets_them() {
    let mut nodes = Nodes::start(2);
    let ports = ["balancer", "balancer2"];
    let switch = nodes.lab.switch.netns();
    let filter = "arp[6:2] = 2 or icmp[icmptype] = icmp-echoreply";
    let wires = ports.map(|port| Capture::start(switch, port, filter).unwrap());
    let probes = Probes::start(nodes.client(), VIP);
    pace(REST);
    nodes.pends[0].kill9().unwrap();
    let client = nodes.client().clone();
    wait_until(SOON, "the other node is master", || {
        // Each time everybody is asked anew.
        let _ = client.ip("neigh flush dev eth0");
        (nodes.state(1) == "master").then_some(())
    })
    .unwrap();
    pace(REST);
    let seen = probes.stop();
    println!("killed: {seen:?}");
    assert!(seen.doubled == 0 && seen.outage < Duration::from_secs(2), "{seen:?}");
    let [first, second] = wires.map(|wire| from_vip(&wire.stop().unwrap()));
    let last_of_first = first.last().expect("it answered until it was killed");
    let first_of_second = second.first().expect("it answers now");
    assert!(last_of_first < first_of_second, "{last_of_first} and {first_of_second}");
    // The kernel still has the program, which forwards nothing.
    assert!(first.len() > 100 && second.len() > 100);
    nodes.pends[0].launch().unwrap();
    nodes.pends[0].wait_ready(0).unwrap();
    nodes.assert_one_master(&[0, 1]);
}

/// Times of the lines of frames that come from the virtual Ethernet address; the other lines are of
/// frames that are on their way to the host.
fn from_vip(lines: &[String]) -> Vec<String> {
    let ours = lines.iter().filter(|line| line.contains(" 00:00:5e:00:01:07 > "));
    ours.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn a_daemon_that_ends_hands_over_and_loses_next_to_nothing() {
    let mut nodes = Nodes::start(2);
    let probes = Probes::start(nodes.client(), VIP);
    pace(REST);
    assert!(nodes.pends[0].terminate().unwrap().success());
    assert_eq!(nodes.state(1), "master", "before the other one ends");
    pace(REST);
    let seen = probes.stop();
    println!("planned: {seen:?}");
    assert!(seen.lost <= 10, "{seen:?}");
    let taken = &nodes.pends[1].log();
    assert!(taken.contains("main"), "{taken}");
    // And back again: the better node returns as a backup, for it does not preempt.
    nodes.pends[0].launch().unwrap();
    nodes.pends[0].wait_ready(0).unwrap();
    nodes.wait_for(0, "backup");
    let seen = nodes.while_probing(|| nodes.assert_one_master(&[0, 1]));
    assert_eq!(seen.lost, 0, "{seen:?}");
}

#[test]
fn a_daemon_alone_ends_within_the_limit_though_nobody_takes_over() {
    let mut nodes = Nodes::start(1);
    let ended = Stopwatch::start();
    assert!(nodes.pends[0].terminate().unwrap().success());
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
}

#[test]
fn a_daemon_that_stood_still_finds_its_place_taken_and_yields() {
    let mut nodes = Nodes::start(2);
    let seen = {
        let probes = Probes::start(nodes.client(), VIP);
        pace(REST);
        nodes.pends[0].signal(Signal::SIGSTOP).unwrap();
        nodes.wait_for(1, "master");
        pace(REST);
        nodes.pends[0].signal(Signal::SIGCONT).unwrap();
        nodes.wait_for(0, "backup");
        pace(REST);
        probes.stop()
    };
    println!("stopped: {seen:?}");
    assert!(seen.doubled == 0 && seen.lost <= TAKE_OVER, "{seen:?}");
    assert_eq!(nodes.state(1), "master", "it keeps what it has");
    assert_eq!(nodes.transitions(1), 1);
}

#[test]
fn a_lost_carrier_moves_the_addresses_and_its_return_does_not_move_them_back() {
    let nodes = Nodes::start(2);
    let switch = &nodes.lab.switch;
    let seen = nodes.while_probing(|| {
        switch.set_link("balancer", false).unwrap();
        nodes.wait_for(0, "init");
        nodes.wait_for(1, "master");
    });
    assert!(seen.lost <= TAKE_OVER, "{seen:?}");
    let seen = nodes.while_probing(|| {
        switch.set_link("balancer", true).unwrap();
        nodes.wait_for(0, "backup");
        nodes.assert_one_master(&[0, 1]);
    });
    assert_eq!(seen.lost, 0, "{seen:?}");
}

#[test]
fn an_interface_that_is_set_down_or_is_made_anew_takes_part_again() {
    let nodes = Nodes::start(2);
    let host = nodes.host(0);
    host.netns.ip("link set dev eth0 down").unwrap();
    nodes.wait_for(0, "init");
    nodes.wait_for(1, "master");
    host.netns.ip("link set dev eth0 up").unwrap();
    nodes.wait_for(0, "backup");
    nodes.lab.unplug(host).unwrap();
    nodes.wait_for(0, "init");
    nodes.lab.replug(host).unwrap();
    switch_pass(&nodes, "balancer");
    nodes.wait_for(0, "backup");
    nodes.assert_one_master(&[0, 1]);
    // It is a whole node again.
    nodes.detach(1);
    nodes.wait_for(0, "master");
    let seen = nodes.while_probing(|| {});
    assert_eq!(seen.lost, 0, "{seen:?}");
}

fn switch_pass(nodes: &Nodes, port: &str) {
    nodes.lab.switch.attach_pass(port).unwrap();
}

#[test]
fn an_operator_moves_the_addresses_to_and_fro_without_a_loss() {
    let nodes = Nodes::start(2);
    let seen = nodes.while_probing(|| {
        let said = nodes.order(1, &["carp", "promote", "main"]);
        assert_eq!(said, "main (backup) is ordered: promote (nothing was ordered)\n");
        nodes.wait_for(1, "master");
        nodes.wait_for(0, "backup");
    });
    assert!(seen.lost <= 10, "promote: {seen:?}");
    assert_eq!(nodes.group(1).unwrap()["order"], "promote");
    nodes.order(1, &["carp", "release", "main"]);
    assert_eq!(nodes.group(1).unwrap()["order"], Value::Null);
    nodes.assert_one_master(&[0, 1]);
    let said = nodes.order(1, &["carp", "demote", "--dry-run", "main"]);
    assert!(said.starts_with("main (master) would be ordered: demote"), "{said}");
    assert_eq!(nodes.group(1).unwrap()["order"], Value::Null);
    let seen = nodes.while_probing(|| {
        nodes.order(1, &["carp", "demote", "main"]);
        nodes.wait_for(0, "master");
        nodes.wait_for(1, "backup");
    });
    assert!(seen.lost <= 10, "demote: {seen:?}");
    let refused = nodes.pends[0].penctl(["carp", "promote", "mian"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stderr, "penctl: there is no group `mian`; there are: main\n");
}

#[test]
fn a_daemon_that_is_replaced_keeps_its_addresses() {
    let mut nodes = Nodes::with(2, "1s", |_| String::new());
    let log = nodes.pends[0].log().len();
    let seen = {
        let probes = Probes::start(nodes.client(), VIP);
        pace(REST);
        nodes.pends[0].replace().unwrap();
        nodes.pends[0].wait_ready(0).unwrap();
        nodes.wait_for(0, "master");
        pace(REST);
        probes.stop()
    };
    println!("replaced: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}\n{}", &nodes.pends[0].log()[log..]);
    assert_eq!(nodes.transitions(1), 0, "the other one noticed nothing");
}

#[test]
fn a_slow_hook_delays_nothing() {
    let files = Scratch::new().unwrap();
    let log = files.file("hooks");
    let up = program(&files, "up", &format!("echo up $* >>{}\nexec sleep 30", log.display()));
    let down = program(&files, "down", &format!("echo down $* >>{}", log.display()));
    let more = format!("up = \"{up}\"\ndown = \"{down}\"\nxparam = \"x\"\nneutral = true");
    // A fifth of a second between the second and the third node, so that no busy machine swaps them.
    let nodes =
        Nodes::with(3, "500ms", |index| if index == 1 { more.clone() } else { String::new() });
    let seen = nodes.while_probing(|| {
        nodes.detach(0);
        nodes.wait_for(1, "master");
    });
    assert!(seen.lost <= 3000, "{seen:?}: three intervals, not the half minute of the hook");
    assert_eq!((nodes.transitions(1), nodes.transitions(2)), (1, 0), "nobody else took over");
    let told = wait_until(SOON, "the hook runs", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.lines().count() >= 1).then_some(text)
    });
    assert_eq!(told.unwrap(), format!("up eth0 {VIP4} x\n"), "the second waits for the first");
}

#[test]
fn of_three_nodes_the_next_best_takes_over_each_time() {
    let mut nodes = Nodes::start(3);
    nodes.assert_one_master(&[0, 1, 2]);
    nodes.detach(0);
    nodes.wait_for(1, "master");
    nodes.assert_one_master(&[1, 2]);
    let seen = {
        let probes = Probes::start(nodes.client(), VIP);
        pace(REST);
        nodes.pends[1].terminate().unwrap();
        pace(REST);
        probes.stop()
    };
    assert!(seen.lost <= 10, "{seen:?}");
    nodes.wait_for(2, "master");
    nodes.attach(0);
    nodes.assert_one_master(&[0, 2]);
}

#[test]
fn addresses_without_a_service_are_the_machines_own_while_it_is_master() {
    let mut nodes = Nodes::serving(2, QUICK, |_| String::new(), false);
    let held = |nodes: &Nodes, index: usize| {
        let shown = nodes.host(index).netns.ip("address show dev eth0").unwrap();
        [VIP4, VIP6].map(|vip| shown.contains(&format!(" {vip}/")))
    };
    assert_eq!((held(&nodes, 0), held(&nodes, 1)), ([true; 2], [false; 2]));
    let mac = nodes.pends[0].penctl_json(["vips"]).unwrap()[0]["mac"].clone();
    assert_eq!(mac, nodes.host(0).mac, "the kernel takes no frames for another one");
    let seen = nodes.while_probing(|| {
        nodes.order(1, &["carp", "promote", "main"]);
        nodes.wait_for(1, "master");
        nodes.wait_for(0, "backup");
        wait_until(SOON, "the addresses have moved", || {
            ((held(&nodes, 0), held(&nodes, 1)) == ([false; 2], [true; 2])).then_some(())
        })
        .unwrap();
    });
    assert!(seen.lost <= 50, "{seen:?}");
    // One that somebody removes by hand is no address to be master of.
    nodes.order(1, &["carp", "release", "main"]);
    nodes.host(1).netns.ip(&format!("address del {VIP4}/32 dev eth0")).unwrap();
    nodes.wait_for(0, "master");
    nodes.wait_for(1, "backup");
    assert_eq!((held(&nodes, 0), held(&nodes, 1)), ([true; 2], [false; 2]));
    nodes.order(1, &["carp", "promote", "main"]);
    nodes.wait_for(1, "master");
    // Who leaves does not take them along, and the next one has them again.
    nodes.pends[1].leave().unwrap();
    assert_eq!(held(&nodes, 1), [true; 2]);
    nodes.pends[1].launch().unwrap();
    nodes.pends[1].wait_ready(0).unwrap();
    nodes.assert_one_master(&[0, 1]);
    for index in [0, 1] {
        assert!(nodes.pends[index].terminate().unwrap().success());
        assert_eq!(held(&nodes, index), [false; 2], "node {index}");
    }
}

#[test]
fn peers_that_are_named_hear_each_other_without_multicast() {
    let peers = |index: usize| {
        let other = if index == 0 { "10.77.0.5" } else { "10.77.0.1" };
        format!("transport = \"unicast\"\npeers = [\"{other}\"]")
    };
    let nodes = Nodes::with(2, QUICK, peers);
    let wire = Capture::start(
        nodes.lab.switch.netns(),
        "balancer2",
        "ip proto 112 or icmp[icmptype] = icmp-unreach",
    )
    .unwrap();
    nodes.assert_one_master(&[0, 1]);
    let seen = nodes.while_probing(|| {
        nodes.detach(0);
        nodes.wait_for(1, "master");
    });
    assert!(seen.lost <= TAKE_OVER, "{seen:?}");
    nodes.attach(0);
    nodes.assert_one_master(&[0, 1]);
    let lines = wire.stop().unwrap();
    assert!(lines.iter().any(|line| line.contains("10.77.0.1 > 10.77.0.5")), "{lines:#?}");
    let odd = |line: &&String| line.contains("unreachable") || line.contains("224.0.0.18");
    assert_eq!(lines.iter().find(odd), None, "nobody complains, and nothing is multicast");
}

#[test]
fn the_interfaces_own_ethernet_address_serves_as_well() {
    let nodes = Nodes::with(2, QUICK, |_| "mac = \"interface\"".to_owned());
    for index in [0, 1] {
        let mac = nodes.pends[index].penctl_json(["vips"]).unwrap()[0]["mac"].clone();
        assert_eq!(mac, nodes.host(index).mac);
    }
    let seen = nodes.while_probing(|| {
        nodes.detach(0);
        nodes.wait_for(1, "master");
    });
    assert!(seen.lost <= TAKE_OVER, "{seen:?}");
    let neighbours = nodes.client().ip("neigh show").unwrap();
    assert!(neighbours.contains(&nodes.host(1).mac), "{neighbours}");
}

#[test]
fn an_address_on_another_interface_is_not_answered_for_by_the_kernel_of_a_backup() {
    let nodes = Nodes::start(2);
    // As local programs want it.
    nodes.host(1).netns.ip(&format!("address add {VIP4}/32 dev lo")).unwrap();
    let ask = || {
        let output =
            nodes.client().output("arping", ["-c", "3", "-w", "2", "-I", "eth0", "10.77.0.100"]);
        output.unwrap().stdout
    };
    let said = ask();
    assert!(said.to_lowercase().contains("00:00:5e:00:01:07"), "the master answers: {said}");
    assert!(!said.to_lowercase().contains(&nodes.host(1).mac), "the backup does not: {said}");
    assert!(nodes.pends[1].counter("drop-not-master").unwrap() >= 3);
}

#[test]
fn a_node_whose_other_interface_is_down_hands_over_to_one_that_is_whole() {
    let more = |_| "demote_on = { interface = [{ name = \"eth1\", weight = 200 }] }".to_owned();
    let nodes = Nodes::with(2, QUICK, more);
    nodes.assert_one_master(&[0, 1]);
    for index in [0, 1] {
        assert_eq!(nodes.group(index).unwrap()["demotion"], 0);
    }
    let master = usize::from(nodes.state(0) != "master");
    let seen = nodes.while_probing(|| {
        nodes.host(master).netns.ip("link set dev far down").unwrap();
        nodes.wait_for(1 - master, "master");
        nodes.wait_for(master, "backup");
    });
    assert!(seen.lost <= 10, "{seen:?}");
    let shown = nodes.order(master, &["carp"]);
    assert!(shown.contains("interface eth1 is down (200)"), "{shown}");
}

#[test]
fn many_groups_on_one_node_are_no_burden() {
    const GROUPS: u8 = 64;
    let lab = Lab::builder().backends(0).build().unwrap();
    let files = Scratch::new().unwrap();
    let key = files.file("carp.key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    private(&key);
    let mut pend = Pend::prepare(&lab.balancer().netns).unwrap();
    let mut config = format!(
        "[[interface]]\nname = \"eth0\"\n\n[control]\nsocket = \"{}\"\n\n",
        pend.socket().display()
    );
    for number in 1..=GROUPS {
        config.push_str(&format!(
            "[[carp]]\nname = \"g{number}\"\ninterface = \"eth0\"\nvhid = {number}\n\
             advbase = \"{QUICK}\"\nauth = \"sha256\"\n\
             keys = [{{ id = 1, file = \"{}\" }}]\nactive_key = 1\n\n\
             [[vip]]\naddress = \"10.77.1.{number}\"\ninterface = \"eth0\"\n\
             carp = \"g{number}\"\n\n",
            key.display()
        ));
    }
    pend.write_config(&config).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    let masters = || {
        let groups = pend.penctl_json(["carp"]).unwrap();
        let all = groups.as_array().unwrap().clone();
        all.iter().filter(|group| group["state"] == "master").count()
    };
    wait_until(SOON, "all groups have their master", || {
        (masters() == usize::from(GROUPS)).then_some(())
    })
    .map_err(|error| pend.with_log(&error))
    .unwrap();
    let sent = || -> u64 {
        let groups = pend.penctl_json(["carp"]).unwrap();
        groups.as_array().unwrap().iter().map(|group| group["sent"].as_u64().unwrap()).sum()
    };
    let (busy, watch, before) = (thread_time(&pend), Stopwatch::start(), sent());
    pace(3 * REST);
    let (busy, elapsed) = (thread_time(&pend) - busy, watch.elapsed());
    let rate = (sent() - before) as f64 / elapsed.as_secs_f64();
    let share = 100.0 * busy.as_secs_f64() / elapsed.as_secs_f64();
    println!("{GROUPS} groups: {rate:.0} advertisements a second, {share:.1} % of a processor");
    assert!(rate > 300.0, "{rate} advertisements a second");
    assert!(share < 50.0, "{share} % of a processor, without optimisation");
    assert_eq!(masters(), usize::from(GROUPS));
}

/// How long the thread of CARP has had a processor (proc_pid_schedstat, in nanoseconds).
fn thread_time(pend: &Pend) -> Duration {
    let tasks = format!("/proc/{}/task", pend.pid().unwrap());
    let tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
    let is_carp = |task: &std::path::PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == "carp")
    };
    let task = tasks.into_iter().find(is_carp).expect("the thread of CARP");
    let times = fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_busy_machine_moves_no_address() {
    // For figures: PEN_SECONDS=600, and nothing beside it. Other tests make and remove namespaces,
    // which holds every processor up for longer than three advertisements of 10 ms, and on a machine
    // that does other things besides for longer than three of 100 ms.
    let time = effort::time();
    let advbase = if time.is_some() { "10ms" } else { "500ms" };
    let nodes = Nodes::with(2, advbase, |_| String::new());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        pace(time.unwrap_or(Duration::from_secs(3)));
        over.store(true, Ordering::Relaxed);
    });
    for (index, transitions) in [(0, 1), (1, 0)] {
        let group = nodes.group(index).unwrap();
        println!("node {index}: served too late {} times", group["late"]);
        assert_eq!(group["transitions"], transitions, "{group}\n{}", nodes.pends[index].log());
    }
}
