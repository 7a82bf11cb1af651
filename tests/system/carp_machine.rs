//! CARP and the machine that it runs on: which of its addresses the machine's own connections come from,
//! and what becomes of a node that the machine lets hear nobody.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use pen_tests::{Capture, Lab, Pend, paths::Scratch, wait_until};

use crate::carp_net::{MASTER, VIP, pend, throughout};

/// Has more in common with the client's address than the node's own, fd77::1.
const NEAR: &str = "fd77::3";

/// What checks of servers send would come from an address that may be another node's in a moment.
#[test]
fn the_machines_own_connections_do_not_come_from_an_address_that_moves() {
    let lab = Lab::builder().backends(0).build().unwrap();
    let host = lab.balancer();
    let (s, _files) = pend(host, "auth = \"bsd\"", &[VIP, NEAR], "");
    let shown = wait_until(MASTER, "the address is there", || {
        let shown = host.netns.ip("-6 address show dev eth0").unwrap();
        let line = shown.lines().find(|line| line.contains(&format!(" {NEAR}/128 ")));
        line.map(str::to_owned)
    });
    let shown = shown.map_err(|error| s.with_log(&error)).unwrap();
    assert!(shown.contains(" deprecated"), "{shown}");
    let capture = Capture::start(&lab.client().netns, "eth0", "icmp6 and ip6[40] == 128").unwrap();
    let ping = host.netns.output("ping", ["-6", "-c", "1", "-W", "2", "fd77::2"]).unwrap();
    assert!(ping.status.success(), "{}", ping.stdout);
    capture.wait_for("the question", |line| line.contains("fd77::1 > fd77::2: ")).unwrap();
    // It is usable all the same.
    let ping = lab.client().netns.output("ping", ["-6", "-c", "1", "-W", "2", NEAR]).unwrap();
    assert!(ping.status.success(), "{}", ping.stdout);
}

/// Others may be master: who cannot listen does not know.
#[test]
fn a_node_that_cannot_listen_does_not_become_master() {
    let lab = Lab::builder().backends(0).build().unwrap();
    let host = lab.balancer();
    let files = Scratch::new().unwrap();
    let key = files.file("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut s = Pend::prepare(&host.netns).unwrap();
    let config = format!(
        "[control]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\nxdp = \"off\"\n\
         [[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\nadvbase = \"100ms\"\n\
         auth = \"sha256\"\nmac = \"interface\"\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
         [[vip]]\naddress = \"{VIP}\"\ninterface = \"eth0\"\ncarp = \"main\"\n",
        s.socket().display(),
        key.display(),
    );
    s.write_config(&config).unwrap();
    s.launch().unwrap();
    s.wait_ready(0).unwrap();
    let wait_for = |state: &str| {
        wait_until(MASTER, &format!("it is {state}"), || {
            (s.penctl_json(["carp"]).ok()?[0]["state"] == state).then_some(())
        })
        .map_err(|error| s.with_log(&error))
        .unwrap();
    };
    wait_for("master");
    lab.unplug(host).unwrap();
    wait_for("init");
    // From now on it gets no socket any more; those that it has go on.
    let pid = s.pid().unwrap().to_string();
    let limit = |files: &str| {
        let limit = host.netns.output("prlimit", ["--pid", &pid, &format!("--nofile={files}:")]);
        assert!(limit.unwrap().status.success());
    };
    limit("3");
    let adverts = Capture::start(&lab.client().netns, "eth0", "ip proto 112").unwrap();
    lab.replug(host).unwrap();
    throughout(Duration::from_secs(4), || {
        let held = host.netns.ip("address show dev eth0").unwrap();
        assert!(!held.contains(&format!(" {VIP}/")), "{held}");
    });
    assert_eq!(adverts.stop().unwrap(), [""; 0]);
    limit("1024");
    wait_for("master");
    let told = s.events("carp-addresses").unwrap();
    let why = "main cannot have its addresses: nothing of CARP could be heard until now";
    assert!(told.iter().any(|text| text == why), "{told:?}");
    assert!(!s.events("carp-deaf").unwrap().is_empty());
}
