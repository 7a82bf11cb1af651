//! Two pens, and what concerns their groups as a whole: groups that move together, and keys that are
//! changed while everything runs.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use pen_tests::{
    Host, Lab, Pend, carp::Watch, link::Switch, paths::Scratch, wait::Stopwatch, wait_until,
};
use serde_json::Value;

use crate::carp_net::{MASTER, S, VIP, throughout};

const OTHER: &str = "10.77.0.5";
const INSIDE: &str = "10.88.0.100";
/// The network's broadcast address: the kernel sends nothing there for who does not ask for that.
const NOBODY: &str = "10.77.0.255";

/// A file that only its owner may read.
fn secret(files: &Scratch, name: &str, content: &str) -> String {
    let file = files.file(name);
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn start(host: &Host, config: &str) -> Pend {
    let mut pend = Pend::prepare(&host.netns).unwrap();
    pend.write_config(&with_socket(&pend, host, config)).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    pend
}

/// Signed nodes are told apart by their names.
fn with_socket(pend: &Pend, host: &Host, config: &str) -> String {
    let (name, socket) = (&host.name, pend.socket().display());
    format!("[node]\nname = \"{name}\"\n[control]\nsocket = \"{socket}\"\n{config}")
}

/// What `penctl carp` says of each group, by its name.
fn group(pend: &Pend, name: &str) -> Value {
    let shown = pend.penctl_json(["carp"]).unwrap();
    let mut groups = shown.as_array().into_iter().flatten();
    groups.find(|group| group["name"] == name).cloned().unwrap_or_default()
}

#[track_caller]
fn wait_state(limit: Duration, pend: &Pend, name: &str, state: &str) {
    wait_until(limit, &format!("{name} is {state}"), || {
        (group(pend, name)["state"] == state).then_some(())
    })
    .map_err(|error| pend.with_log(&error.context(group(pend, name).to_string())))
    .unwrap();
}

// === Groups that move together ===

fn router(password: &str, skew: u8) -> String {
    let group = |name: &str, interface: &str, vip: &str, vhid: u8| {
        format!(
            "[[interface]]\nname = \"{interface}\"\n[[carp]]\nname = \"{name}\"\ninterface = \"{interface}\"\n\
             vhid = {vhid}\nadvskew = {skew}\npassword_file = \"{password}\"\nsync_group = \"router\"\n\
             [[vip]]\naddress = \"{vip}\"\ninterface = \"{interface}\"\ncarp = \"{name}\"\n"
        )
    };
    group("outside", "eth0", VIP, 42) + &group("inside", "eth1", INSIDE, 43)
}

#[test]
fn when_one_interface_of_a_router_fails_both_its_addresses_move() {
    let lab = Lab::builder().backends(0).balancers(2).build().unwrap();
    let inside = Switch::new().unwrap();
    for (index, host) in lab.balancers.iter().enumerate() {
        let mac = format!("02:70:65:6e:01:{:02}", index + 1);
        inside.plug_as(&host.netns, "eth1", &host.name, &mac).unwrap();
        host.netns.ip(&format!("address add 10.88.0.{}/24 dev eth1", index + 1)).unwrap();
    }
    let files = Scratch::new().unwrap();
    let password = secret(&files, "password", "love\n");
    let watch = Watch::start(&lab.client().netns, "eth0", "love", &[VIP]).unwrap();
    let first = start(&lab.balancers[0], &router(&password, 0));
    for name in ["outside", "inside"] {
        wait_state(MASTER, &first, name, "master");
    }
    let second = start(&lab.balancers[1], &router(&password, 100));
    for name in ["outside", "inside"] {
        wait_state(MASTER, &second, name, "backup");
    }
    // It has heard the first one.
    throughout(Duration::from_millis(1500), || {});

    inside.set_link(&lab.balancers[0].name, false).unwrap();
    let failed = Stopwatch::start();

    for name in ["outside", "inside"] {
        wait_state(MASTER, &second, name, "master");
    }
    // Three intervals, the skew, and what it takes to ask.
    assert!(failed.elapsed() < Duration::from_millis(3900), "{:?}", failed.elapsed());
    let farewell = watch.all(|seen| seen.is_advert_of(S) && seen.advbase == 255);
    assert!(!farewell.is_empty() && farewell.iter().all(|seen| seen.good), "{}", watch.tail());
    for name in ["outside", "inside"] {
        wait_state(MASTER, &first, name, "init");
    }
}

// === Keys ===

fn signed(keys: &[String], active: u8, skew: u8) -> String {
    let keys: Vec<_> = (1..)
        .zip(keys)
        .map(|(id, file): (u8, _)| format!("{{ id = {id}, file = \"{file}\" }}"))
        .collect();
    format!(
        "[[interface]]\nname = \"eth0\"\n[[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 42\n\
         advbase = \"100ms\"\nadvskew = {skew}\nauth = \"sha256\"\nkeys = [{}]\nactive_key = {active}\n\
         [[vip]]\naddress = \"{VIP}\"\ninterface = \"eth0\"\ncarp = \"main\"\n",
        keys.join(", ")
    )
}

fn reload(pend: &Pend, host: &Host, config: &str) {
    pend.write_config(&with_socket(pend, host, config)).unwrap();
    let output = pend.penctl(["reload"]).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
}

#[test]
fn a_key_is_changed_while_everything_runs_and_who_lacks_it_says_so() {
    let lab = Lab::builder().backends(0).balancers(2).build().unwrap();
    let files = Scratch::new().unwrap();
    let keys = ["1", "2"].map(|id| secret(&files, id, &id.repeat(32)));
    let first = start(&lab.balancers[0], &signed(&keys, 1, 0));
    wait_state(MASTER, &first, "main", "master");
    let second = start(&lab.balancers[1], &signed(&keys, 1, 100));
    wait_state(MASTER, &second, "main", "backup");
    let key_of_first = |wanted: u8| {
        wait_until(MASTER, &format!("the first one signs with {wanted}"), || {
            (group(&second, "main")["peers"][0]["key"] == wanted).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group(&second, "main")));
    };
    key_of_first(1);
    let transitions = |pend: &Pend| group(pend, "main")["transitions"].clone();
    let before = [transitions(&first), transitions(&second)];

    reload(&first, &lab.balancers[0], &signed(&keys, 2, 0));
    key_of_first(2);
    reload(&second, &lab.balancers[1], &signed(&keys, 2, 100));
    throughout(Duration::from_millis(1500), || {});

    for pend in [&first, &second] {
        let group = group(pend, "main");
        let drops = group["drops"].as_object().unwrap();
        assert!(drops.values().all(|count| count == 0), "{group}");
    }
    assert_eq!([transitions(&first), transitions(&second)], before);

    // One that was forgotten.
    reload(&second, &lab.balancers[1], &signed(&keys[..1], 1, 100));
    wait_until(MASTER, "the packets of the first one are refused", || {
        (group(&second, "main")["drops"]["unknown-key"].as_u64() > Some(0)).then_some(())
    })
    .unwrap();
    let told = second.penctl(["events"]).unwrap().stdout;
    let expected = format!("refused an advertisement from {S}: it is signed with a key that this");
    assert!(told.contains(&expected), "{told}");
    assert!(!told.contains(&format!("from {OTHER}")));
}

// === Peers that cannot be reached ===

#[test]
fn a_peer_that_cannot_be_reached_does_not_end_the_role_that_the_others_know_of() {
    let lab = Lab::builder().backends(0).balancers(2).build().unwrap();
    let files = Scratch::new().unwrap();
    let key = secret(&files, "key", "0123456789abcdef0123456789abcdef");
    let config = |other: &str, skew: u8| {
        format!(
            "[[interface]]\nname = \"eth0\"\n[[carp]]\nname = \"main\"\ninterface = \"eth0\"\n\
             vhid = 42\nadvbase = \"100ms\"\nadvskew = {skew}\nauth = \"sha256\"\n\
             keys = [{{ id = 1, file = \"{key}\" }}]\ntransport = \"unicast\"\n\
             peers = [\"{other}\", \"{NOBODY}\"]\n\
             [[vip]]\naddress = \"{VIP}\"\ninterface = \"eth0\"\ncarp = \"main\"\n"
        )
    };
    let first = start(&lab.balancers[0], &config(OTHER, 0));
    wait_state(MASTER, &first, "main", "master");
    let second = start(&lab.balancers[1], &config(S, 100));
    wait_state(MASTER, &second, "main", "backup");
    throughout(Duration::from_secs(2), || {
        assert_eq!(group(&first, "main")["state"], "master", "{}", first.log());
        assert_eq!(group(&second, "main")["state"], "backup", "{}", second.log());
    });
    assert_eq!(group(&first, "main")["demotion"], 0);
    let log = first.log();
    assert_eq!(log.matches(&format!("nothing can be sent to {NOBODY}")).count(), 1, "{log}");
}
