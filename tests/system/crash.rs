//! pend is killed as by a crash while clients talk: the kernel forwards on, and the next pend takes
//! over what it finds, so that nobody outside notices either.

use pen_tests::{Netns, client::TcpTalk, link::xdp_mode};

use crate::{
    numbers::Numbered,
    stage::{Stage, WEB, WEB6, while_asking},
};

/// The program that the kernel has on an interface, as "prog/xdp id 17 …".
pub(crate) fn program_id(netns: &Netns) -> String {
    let shown = netns.ip("-details link show dev eth0").unwrap();
    let words: Vec<_> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("prog/xdp")).expect("XDP is attached");
    words[at..at + 3].join(" ")
}

fn link_pins(stage: &Stage) -> Vec<String> {
    let folder = stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION));
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|n| n.starts_with("link-")).collect()
}

/// The kernel's id of the link below a pin: another id would mean detached and attached anew.
pub(crate) fn link_id(stage: &Stage) -> String {
    let [pin] = &*link_pins(stage) else { panic!("one link per interface") };
    let path = stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION)).join(pin);
    let info = aya::programs::links::PinnedLink::from_pin(path).unwrap();
    let link = aya::programs::links::FdLink::from(info);
    format!("{:?}", link.info().unwrap().id())
}

#[test]
fn no_request_fails_while_pend_is_killed_stays_dead_and_returns() {
    let mut stage = Stage::new();
    stage.order(["drain", "web/b2"]);
    stage.order(["weight", "web6/b3", "5"]);
    let mut kept: Vec<_> =
        [WEB, WEB6].map(|at| TcpTalk::open(&stage.lab.client().netns, at).unwrap()).into();
    let before: Vec<_> = kept.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let (link, program) = (link_id(&stage), program_id(stage.balancer()));

    let client = stage.lab.client().netns.clone();
    let ((), heard) = while_asking(&client, &[WEB, WEB6], || {
        stage.pend.kill9().unwrap();
        assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
        assert_eq!(program_id(stage.balancer()), program);
        // Nobody runs, and a hundred requests go through.
        let by = stage.web_tally(100);
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
        stage.pend.launch().unwrap();
        stage.pend.wait_ready(11).unwrap();
        stage.web_tally(50);
    });
    assert!(heard.asked > 50 && heard.failures.is_empty(), "{heard:?}");

    let after: Vec<_> = kept.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert_eq!(before, after, "established connections keep their backends");
    assert_eq!(link_id(&stage), link, "the link was taken over");
    assert_ne!(program_id(stage.balancer()), program, "with the new program in it");
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!((&row["admin"], &row["usable"]), (&"drain".into(), &false.into()));
    assert_eq!(stage.pend.backend("web6", "b3").unwrap()["weight"], 5);
}

#[test]
fn counters_go_on_where_they_were() {
    let mut stage = Stage::new();
    stage.web_tally(20);
    let before = stage.pend.counter("transmit").unwrap();
    assert!(before >= 100, "{before}");
    stage.pend.kill9().unwrap();
    stage.web_tally(20);
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(12).unwrap();
    let after = stage.pend.counter("transmit").unwrap();
    assert!(after >= before + 100, "{before} {after}");
    let rows = stage.pend.penctl_json(["backends"]).unwrap();
    let rows = rows.as_array().unwrap().iter().filter(|row| row["service"] == "web");
    let by_backend: u64 = rows.map(|row| row["packets"].as_u64().unwrap()).sum();
    assert_eq!(by_backend, after);
}

#[test]
fn a_backend_that_dies_while_nobody_looks_is_found_by_the_next_pend() {
    let mut stage = Stage::new();
    stage.pend.kill9().unwrap();
    stage.demos[0].process().kill9().unwrap();
    stage.pend.launch().unwrap();
    stage.pend.wait_health("web", "b1", "down").unwrap();
    assert_eq!(stage.web_tally(60).keys().collect::<Vec<_>>(), ["b2", "b3"]);
}

#[test]
fn of_numbered_datagrams_none_is_lost_or_doubled_through_a_crash_and_a_restart() {
    let mut numbered = Numbered::new();
    let sent = numbered.send_while(500, |stage| {
        for _ in 0..4 {
            stage.pend.kill9().unwrap();
            stage.web_tally(50);
            stage.pend.launch().unwrap();
            stage.pend.wait_ready(12).unwrap();
            stage.web_tally(50);
        }
    });
    assert!(sent > 500, "{sent}");
}
