//! Where XDP answers for a shared address: only a master does, with the virtual MAC, and no longer than
//! its lease; peers that are no pen take over.

use std::{net::IpAddr, time::Duration};

use pen_tests::{
    Demo, Lab, VIP4, VIP6,
    carp::{Asker, Injector, Node, Program, Watch},
    wait_until,
};
use serde_json::json;

use crate::carp_net::{MASTER, S, U, VIP, assert_between, pend, throughout};

const OWN_MAC: &str = "02:70:65:6e:00:01";
const VIRTUAL_MAC: &str = "00:00:5e:00:01:2a";
const CLIENT: &str = "10.77.0.2";

fn services(vips: &[IpAddr]) -> String {
    let service = |vip: &IpAddr| {
        let backend = if vip.is_ipv4() { "10.77.0.11" } else { "fd77::11" };
        let listen = std::net::SocketAddr::new(*vip, 80);
        let name = if vip.is_ipv4() { "web" } else { "web6" };
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\naffinity = \"flow\"\n\
             backends = [\"{backend}\"]\n"
        )
    };
    vips.iter().map(service).collect()
}

#[test]
fn a_daemon_that_is_killed_answers_until_just_before_a_ucarp_does() {
    let lab = Lab::builder().backends(1).balancers(2).build().unwrap();
    let _server = Demo::on(&lab.backends[0]).unwrap();
    let client = &lab.client().netns;
    let watch = Watch::start(client, "eth0", "love", &[VIP]).unwrap();
    let (mut s, _files) = pend(&lab.balancers[0], "", &[VIP], &services(&[VIP4]));
    watch.wait(MASTER, "S is master", |seen| seen.is_advert_of(S)).unwrap();
    let u = Node::start(Program::Ucarp, &lab.balancers[1].netns, U, VIP, &[]).unwrap();
    u.wait_hook(MASTER, "down", 1).unwrap();
    let _asker = Asker::start(client, "eth0", Duration::from_millis(50), CLIENT, VIP).unwrap();
    let heard = watch.all(|seen| seen.is_advert_of(S)).len();
    wait_until(MASTER, "ucarp hears S", || {
        (watch.all(|seen| seen.is_advert_of(S)).len() >= heard + 2).then_some(())
    })
    .unwrap();

    s.kill9().unwrap();
    u.wait_hook(MASTER, "up", 1).unwrap();
    throughout(Duration::from_secs(2), || {});

    let last = watch.all(|seen| seen.is_advert_of(S)).pop().unwrap().at;
    let seen = watch.seen();
    let asked: Vec<f64> = seen
        .iter()
        .filter(|seen| {
            seen.kind == "arp" && seen.op == 1 && seen.ip == CLIENT && seen.target == VIP
        })
        .map(|seen| seen.at)
        .collect();
    let answers: Vec<_> = seen.iter().filter(|seen| seen.answers(VIP)).collect();
    let of_s = |mac: &Option<String>| mac.as_deref() == Some(VIRTUAL_MAC);
    let latest = answers.iter().rfind(|seen| of_s(&seen.mac)).unwrap().at;
    assert!(latest - last > 1.0, "S answers after it was killed, until its lease ends");
    assert_between("the last answer of S", latest - last, 0.0, 3.0);
    let mut both = 0;
    let mut unanswered = 0;
    for pair in asked.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let within: Vec<_> = answers.iter().filter(|seen| (from..to).contains(&seen.at)).collect();
        let s = within.iter().filter(|seen| of_s(&seen.mac)).count();
        both += usize::from(s > 0 && within.len() > s);
        unanswered += usize::from(from - last > 4.2 && within.len() == s);
    }
    assert_eq!((both, unanswered), (0, 0), "asked {} times", asked.len());
    assert!(asked.last().unwrap() - last > 4.5, "{}", watch.tail());
}

#[test]
fn a_group_of_three_addresses_speaks_as_a_bsd_in_both_families() {
    const MORE: [&str; 3] = [VIP, "10.77.0.99", "fd77::100"];
    let lab = Lab::builder().backends(0).build().unwrap();
    // Another order than the configuration's.
    let watch =
        Watch::start(&lab.client().netns, "eth0", "love", &[MORE[2], MORE[0], MORE[1]]).unwrap();
    let (_s, _files) = pend(&lab.balancers[0], "auth = \"bsd\"", &MORE, "");

    let first = watch.wait(MASTER, "S is master", |seen| seen.is_advert_of(S)).unwrap();
    let six = |seen: &pen_tests::carp::Seen| seen.kind == "advert" && seen.to == "ff02::12";
    let other = watch.wait(MASTER, "IPv6 is advertised", six).unwrap();
    assert!(first.good && other.good, "{}", watch.tail());
    assert_eq!((other.ttl, other.dst.as_str()), (255, "33:33:00:00:00:12"));
    // Nothing is forwarded here, so that the kernel has the addresses.
    assert_eq!(other.src, OWN_MAC);
    for vip in [MORE[0], MORE[1]] {
        let told = watch.wait(MASTER, "neighbours are told", |seen| seen.announces(vip)).unwrap();
        assert_eq!(told.mac.as_deref(), Some(OWN_MAC));
    }
    let told = watch.wait(MASTER, "neighbours are told", |seen| {
        seen.kind == "na" && seen.target == MORE[2] && seen.to == "ff02::1"
    });
    let told = told.unwrap();
    assert_eq!((told.flags & 1, told.ttl), (1, 255), "override");
    assert_eq!(told.mac.as_deref(), Some(OWN_MAC));
}

#[test]
fn a_backup_that_holds_the_address_is_silent_and_a_master_answers_with_the_virtual_mac() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let _server = Demo::on(&lab.backends[0]).unwrap();
    let (client, host) = (&lab.client().netns, &lab.balancers[0]);
    // As a server of the mode dsr would, but not as silent: the kernel would answer.
    host.netns.ip(&format!("address add {VIP4}/32 dev lo")).unwrap();
    host.netns.ip(&format!("address add {VIP6}/128 dev lo nodad")).unwrap();
    let six = VIP6.to_string();
    let watch = Watch::start(client, "eth0", "love", &[VIP, &six]).unwrap();
    let mut injector = Injector::start(client, "eth0").unwrap();
    let mut counter = 0;
    let mut master = || {
        counter += 1;
        let counter = format!("{counter:016x}");
        let wish = json!({ "src": CLIENT, "vips": [VIP, six], "counter": counter });
        injector.send(&wish).unwrap();
        injector.send(&json!({ "src": "fd77::2", "solicit": six })).unwrap();
    };
    master();
    let vips = [VIP, &six];
    let (s, _files) = pend(host, "auth = \"bsd\"", &vips, &services(&[VIP4, VIP6]));
    let _asker = Asker::start(client, "eth0", Duration::from_millis(50), CLIENT, VIP).unwrap();

    throughout(Duration::from_secs(3), &mut master);
    let solicited = |seen: &pen_tests::carp::Seen| seen.kind == "na" && seen.target == six;
    let answers = watch.all(|seen| seen.answers(VIP) || solicited(seen));
    assert!(answers.is_empty(), "{answers:?}");
    assert!(watch.all(|seen| seen.is_advert_of(S)).is_empty(), "{}", watch.tail());

    watch.wait(MASTER, "S is master", |seen| seen.is_advert_of(S)).unwrap();
    let answer = watch.wait(MASTER, "an answer", |seen| seen.answers(VIP)).unwrap();
    assert_eq!((answer.mac.as_deref(), answer.src.as_str()), (Some(VIRTUAL_MAC), VIRTUAL_MAC));
    injector.send(&json!({ "src": "fd77::2", "solicit": six })).unwrap();
    let answer = watch
        .wait(MASTER, "an answer", |seen| solicited(seen) && seen.flags & 2 != 0)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", watch.tail()));
    assert_eq!(answer.mac.as_deref(), Some(VIRTUAL_MAC));
    assert!(s.counter("arp-reply").unwrap() > 0 && s.counter("nd-reply").unwrap() > 0);
    // Neighbours were told as well, and nobody of the interface's own MAC.
    let told = watch.all(|seen| seen.announces(VIP));
    assert!(!told.is_empty() && told.iter().all(|told| told.mac.as_deref() != Some(OWN_MAC)));
    assert!(watch.all(solicited).iter().all(|told| told.mac.as_deref() != Some(OWN_MAC)));
}

/// Hosts that have it as their router would take it from their list otherwise (RFC 4861 section 7.2.5).
#[test]
fn a_router_says_that_it_is_one_to_who_asks_and_to_all() {
    let six = VIP6.to_string();
    for (forwarding, router) in [("1", true), ("0", false)] {
        let lab = Lab::builder().backends(1).build().unwrap();
        let _server = Demo::on(&lab.backends[0]).unwrap();
        let (client, host) = (&lab.client().netns, &lab.balancers[0]);
        host.netns.sysctl("net/ipv6/conf/eth0/forwarding", forwarding).unwrap();
        let watch = Watch::start(client, "eth0", "love", &[VIP, &six]).unwrap();
        let mut injector = Injector::start(client, "eth0").unwrap();
        let (s, _files) = pend(host, "auth = \"bsd\"", &[VIP, &six], &services(&[VIP4, VIP6]));
        let told = |seen: &pen_tests::carp::Seen| seen.kind == "na" && seen.target == six;
        let all = watch.wait(MASTER, "neighbours are told", told).unwrap();
        assert_eq!((all.to.as_str(), all.flags & 4 != 0), ("ff02::1", router));
        injector.send(&json!({ "src": "fd77::2", "solicit": six })).unwrap();
        let answer = watch
            .wait(MASTER, "an answer", |seen| told(seen) && seen.flags & 2 != 0)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", watch.tail()));
        assert_eq!(answer.flags & 4 != 0, router);
        assert!(s.counter("nd-reply").unwrap() > 0);
    }
}
