//! Two nodes that share an address: the one that no longer reaches enough servers leaves it to the other.

use std::fs;

use pen_tests::{
    Demo, Host, Lab, Pend, Protocol, VIP4, client::http, paths::Scratch, server::HTTP_PORT,
    wait_until,
};
use serde_json::Value;

use crate::{
    carp_nodes::private,
    proxy::LONG,
    stage::{WEB, count, over_all},
};

const LOST: &str = "service web has lost its quorum: 1 usable, 2 needed";
const REGAINED: &str = "service web has its quorum again: 3 usable, 3 needed";

/// A node; the first is preferred, and takes its address back.
fn start(lab: &Lab, index: usize, key: &str) -> Pend {
    let host = &lab.balancers[index];
    let mut pend = Pend::prepare(&host.netns).unwrap();
    let mut web = over_all(lab, "web", WEB, Protocol::Tcp, HTTP_PORT);
    web.keys = "quorum = 2\nquorum_hysteresis = 1".to_owned();
    let service = pen_tests::ConfigText::default().service(web).render(None);
    let config = format!(
        "[node]\nname = \"{}\"\n[control]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\n\
         [[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\nadvbase = \"200ms\"\n\
         advskew = {}\npreempt = true\nauth = \"sha256\"\nkeys = [{{ id = 1, file = \"{key}\" }}]\n\
         demote_on = {{ service = [\"web\"] }}\n\
         [[vip]]\naddress = \"{VIP4}\"\ninterface = \"eth0\"\ncarp = \"main\"\n{service}",
        host.name,
        pend.socket().display(),
        100 * index,
    );
    pend.write_config(&config).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    pend
}

fn group(pend: &Pend) -> Value {
    pend.penctl_json(["carp"]).unwrap()[0].clone()
}

fn wait_master(master: &Pend, backup: &Pend) {
    let mut last = [Value::Null, Value::Null];
    wait_until(LONG, "the roles are right", || {
        last = [group(master), group(backup)];
        (last[0]["state"] == "master" && last[1]["state"] == "backup").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {last:?}"));
}

fn wait_usable(pend: &Pend, usable: usize) {
    wait_until(LONG, "it has noticed", || {
        (pend.usable_backends().unwrap() == usable).then_some(())
    })
    .map_err(|error| pend.with_log(&error))
    .unwrap();
}

/// What the server has to say to a node is lost, or comes again.
fn answers(server: &Host, node: &Host, arrive: bool) {
    let verb = if arrive { "delete" } else { "add" };
    server.netns.ip(&format!("route {verb} blackhole {}/32", node.v4)).unwrap();
}

#[test]
fn a_node_that_has_lost_its_quorum_leaves_the_address_to_the_other_until_it_has_enough_again() {
    let lab = Lab::builder().balancers(2).build().unwrap();
    let _demos: Vec<Demo> = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
    let files = Scratch::new().unwrap();
    let key = files.file("carp.key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    private(&key);
    let key = key.display().to_string();
    let [first, second] = [0, 1].map(|index| start(&lab, index, &key));
    wait_master(&first, &second);
    wait_usable(&first, 3);
    wait_usable(&second, 3);
    let served = || {
        let ask = || http(&lab.client().netns, WEB);
        wait_until(LONG, "the first answer", || ask().ok()).unwrap();
        count((0..60).map(|_| ask().unwrap())).len()
    };
    assert_eq!(served(), 3);

    for server in &lab.backends[..2] {
        answers(server, &lab.balancers[0], false);
    }
    wait_master(&second, &first);
    assert_eq!(first.events("quorum-lost").unwrap(), [LOST]);
    assert_eq!(served(), 3, "the other node reaches all");
    assert_eq!(second.usable_backends().unwrap(), 3);

    // Two were enough before, and are not now.
    answers(&lab.backends[0], &lab.balancers[0], true);
    wait_usable(&first, 2);
    assert_eq!(first.events("quorum-regained").unwrap(), [""; 0]);
    assert_eq!(group(&first)["state"], "backup");

    answers(&lab.backends[1], &lab.balancers[0], true);
    wait_master(&first, &second);
    assert_eq!(first.events("quorum-regained").unwrap(), [REGAINED]);
    assert_eq!(served(), 3);
    assert_eq!(second.events("quorum-lost").unwrap(), [""; 0]);
}
