//! What others put on the wire of a group: packets that are wrong, old, or too many. Behaviour under
//! the legacy profile, whose digest covers little; `docs/carp.md` says what it cannot prevent.

use std::{collections::BTreeMap, time::Duration};

use pen_tests::{
    Pend,
    carp::{Injector, Seen},
    wait::{Stopwatch, pace},
};
use serde_json::{Value, json};

use crate::carp_net::{MASTER, Net, S, U, VIP, assert_between, pend, throughout};

/// Where forged packets come from.
const FORGED: &str = "00:00:5e:00:00:2a";

/// Refused packets by reason, as `penctl carp` shows them.
fn drops(pend: &Pend) -> BTreeMap<String, u64> {
    let shown = pend.penctl_json(["carp"]).unwrap();
    serde_json::from_value(shown[0]["drops"].clone()).unwrap()
}

/// An advertisement of another master, with more.
fn wish(counter: u64, more: &Value) -> Value {
    let mut wish =
        json!({ "src": "10.77.0.2", "vips": [VIP], "counter": format!("{counter:016x}") });
    for (key, value) in more.as_object().into_iter().flatten() {
        wish[key] = value.clone();
    }
    wish
}

#[test]
fn packets_that_are_wrong_restart_no_timer_and_each_reason_is_counted() {
    let net = Net::new();
    // On the wire of S itself: a bridge may drop what is wrong with a packet's IP header.
    let mut injector = Injector::start(net.lab.switch.netns(), &net.s().name).unwrap();
    let (pend, _files) = pend(net.s(), "", &[VIP], "");
    let before = drops(&pend);
    assert!(before.values().all(|count| *count == 0), "{before:?}");

    let last = injector.send(&wish(1, &json!({}))).unwrap();
    let wrong = [
        ("bad-digest", json!({ "password": "lov" })),
        ("bad-ttl", json!({ "ttl": 254 })),
        ("bad-version", json!({ "version": 4 })),
        ("bad-type", json!({ "type": 2 })),
        ("bad-auth-len", json!({ "authlen": 0 })),
        ("bad-ip-checksum", json!({ "ip_xor": 1 })),
        ("bad-checksum", json!({ "carp_xor": 1 })),
        ("other-vhid", json!({ "vhid": 41 })),
        ("other-destination", json!({ "group": "224.0.0.19" })),
        ("bad-digest", json!({ "vips": [VIP, "10.77.0.101"] })),
        ("fragment", json!({ "frag": 0x2000 })),
        ("own-source", json!({ "src": S })),
        ("bad-source", json!({ "src": VIP })),
        ("repeated", json!({ "counter": "0000000000000001" })),
    ];
    let mut expected = before;
    for (counter, (reason, more)) in (2..).zip(&wrong) {
        injector.send(&wish(counter, more)).unwrap();
        *expected.get_mut(*reason).unwrap_or_else(|| panic!("{reason} is a reason")) += 1;
    }
    // VRRP, and every length.
    injector.send(&wish(98, &json!({ "version": 3 }))).unwrap();
    for length in 24..70 {
        injector.send(&wish(99, &json!({ "length": length }))).unwrap();
        *expected.get_mut("truncated").unwrap() += 1;
    }
    for length in 15..24 {
        // Too short to be told from other protocols.
        injector.send(&wish(99, &json!({ "length": length }))).unwrap();
    }

    let own = |seen: &Seen| seen.is_advert_of(S) && seen.src != FORGED;
    let first = net.watch.wait(MASTER, "S is master", own).unwrap();
    assert_between("the take-over", first.at - last, 3.0, 3.05);
    let found = drops(&pend);
    let vrrp = ["foreign", "bad-version"];
    let more =
        |found: &BTreeMap<String, u64>| vrrp.iter().map(|reason| found[*reason]).sum::<u64>();
    assert_eq!(more(&found), more(&expected) + 1, "{found:?}");
    let rest = |found: BTreeMap<String, u64>| -> BTreeMap<_, _> {
        found.into_iter().filter(|(reason, _)| !vrrp.contains(&reason.as_str())).collect()
    };
    assert_eq!(rest(found), rest(expected));
}

#[test]
fn an_old_advertisement_of_a_dead_master_does_not_hold_its_successor_up() {
    let net = Net::new();
    let u = net.start_u(&[]);
    u.wait_hook(MASTER, "up", 1).unwrap();
    let s = net.start_s(&[]);
    s.wait_hook(MASTER, "down", 1).unwrap();
    let before = net.adverts(U).len();
    let old = net.wait_adverts(U, before + 2)[before].hex.clone();
    let mut injector = Injector::start(&net.lab.client().netns, "eth0").unwrap();

    net.detach(net.u());
    let last = net.adverts(U).pop().unwrap();

    let begin = Stopwatch::start();
    while net.adverts(S).is_empty() && begin.elapsed() < MASTER {
        injector.send(&json!({ "hex": old })).unwrap();
        throughout(Duration::from_millis(900), || {});
    }
    let first = net.wait_adverts(S, 1).remove(0);
    assert_between("the take-over", first.at - last.at, 3.0, 3.05);
}

#[test]
fn a_storm_of_worse_masters_is_not_answered_with_a_storm() {
    let net = Net::new();
    let s = net.start_s(&[]);
    s.wait_hook(MASTER, "up", 1).unwrap();
    // What a new master tells its neighbours has passed then.
    pace(Duration::from_millis(2500));
    let mut injector = Injector::start(&net.lab.client().netns, "eth0").unwrap();
    let before = net.watch.all(|seen| seen.announces(VIP)).len();

    let storm = json!({ "advskew": 100, "times": 400, "gap": 0.005, "count_up": true, "from": 7 });
    let ended = injector.send(&wish(0, &storm)).unwrap();
    pace(Duration::from_millis(500));

    let told = net.watch.all(|seen| seen.announces(VIP)).len() - before;
    assert!((1..=4).contains(&told), "told {told} times");
    assert!(net.adverts(S).last().unwrap().at > ended - 1.1, "still master");
    assert_eq!(s.count("down"), 1, "only at the start");
}

#[test]
fn a_signed_master_is_not_moved_by_its_own_advertisements_rewritten() {
    let net = Net::new();
    let signed = "auth = \"sha256\"\nkeys = [{ id = 1, file = \"KEY\" }]\nadvskew = 100";
    let (pend, _files) = pend(net.s(), signed, &[VIP], "");
    let first = net.wait_adverts(S, 3).remove(0).at;
    // What a new master tells its neighbours has passed then.
    pace(Duration::from_millis(2500));
    let mut injector = Injector::start(&net.lab.client().netns, "eth0").unwrap();
    let told = || net.watch.all(|seen| seen.announces(VIP)).len();
    let before = told();
    let mut sent = 0;

    throughout(Duration::from_secs(3), || {
        let fresh = net.adverts(S).pop().unwrap().hex;
        for (advbase, advskew) in [(0, 1), (1, 0), (255, 255)] {
            let wish = json!({
                "hex": fresh, "src": "10.77.0.9", "advbase": advbase, "advskew": advskew,
            });
            injector.send(&wish).unwrap();
            sent += 1;
        }
        injector.send(&json!({ "hex": fresh, "src": "10.77.0.9" })).unwrap();
        sent += 1;
    });

    assert_eq!(told(), before, "no ARP");
    let shown = pend.penctl_json(["carp"]).unwrap();
    assert_eq!(shown[0]["state"], "master", "{shown}");
    let found = drops(&pend);
    assert_eq!(found["bad-tag"] + found["replayed"] + found["own-source"], sent, "{found:?}");
    assert!(found["bad-tag"] >= sent / 2, "{found:?}");
    for pair in net.adverts(S).iter().filter(|seen| seen.at > first).collect::<Vec<_>>().windows(2)
    {
        assert_between("interval", pair[1].at - pair[0].at, 1.38, 1.41);
    }
}
