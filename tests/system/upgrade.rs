//! Another daemon, another program, another version of the maps: ten thousand numbered datagrams a
//! second go through all of them, and not one is lost or doubled.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{Array, MapData};
use pen_common::ABI_VERSION;
use pen_tests::{
    ConfigText, Lab, client::TcpTalk, link::xdp_mode, paths::Scratch, process::SHORT, wait::pace,
    wait_until,
};
use serde_json::Value;

use crate::{
    numbers::{Numbered, numbered},
    stage::{Stage, WEB, WEB6},
};

/// Something happens after this time, and is over for as long, so that there is something to compare
/// with.
const WHILE: Duration = Duration::from_millis(300);

/// Counts datagrams while something happens to the stage; some are sent before and after it.
#[track_caller]
fn nothing_is_lost(numbered: &mut Numbered, happens: impl FnOnce(&mut Stage)) {
    let sent = numbered.send_while(2000, |stage| {
        pace(WHILE);
        happens(stage);
        pace(WHILE);
    });
    assert!(sent >= 2000, "{sent}");
}

#[test]
fn without_any_event_the_lab_itself_loses_nothing() {
    nothing_is_lost(&mut Numbered::new(), |_| pace(3 * WHILE));
}

#[test]
fn a_crash_and_a_restart_lose_nothing() {
    let mut numbered = Numbered::new();
    nothing_is_lost(&mut numbered, |stage| {
        for _ in 0..2 {
            stage.pend.kill9().unwrap();
            pace(WHILE);
            stage.pend.launch().unwrap();
            stage.pend.wait_ready(12).unwrap();
        }
    });
}

/// What has to last, whoever is at work.
struct Lasting {
    talks: Vec<(TcpTalk, String)>,
    transmitted: u64,
    clients: BTreeSet<String>,
}

impl Lasting {
    /// With a drained backend, another weight, open connections and remembered clients.
    fn begin(stage: &Stage) -> Self {
        let mut open = |at| {
            let mut talk = TcpTalk::open(stage.client(), at).unwrap();
            let by = talk.ask().unwrap();
            (talk, by)
        };
        let talks = (0..10).flat_map(|_| [WEB, WEB6]).map(&mut open).collect();
        stage.order(["drain", "web/b2"]);
        stage.order(["weight", "web6/b3", "5"]);
        let transmitted = stage.pend.counter("transmit").unwrap();
        Self { talks, transmitted, clients: Self::clients(stage) }
    }

    /// Who is recorded where.
    fn clients(stage: &Stage) -> BTreeSet<String> {
        let flows = stage.pend.penctl_json(["flows", "--service", "web"]).unwrap();
        let rows = flows["flows"].as_array().unwrap().iter();
        rows.map(|row| format!("{} {} {}", row["client"], row["backend"], row["live"])).collect()
    }

    fn assert(mut self, stage: &Stage) {
        for (talk, by) in &mut self.talks {
            assert_eq!(talk.ask().unwrap(), *by, "a connection stays where it is");
        }
        let b2 = stage.pend.backend("web", "b2").unwrap();
        assert_eq!((&b2["admin"], &b2["usable"]), (&"drain".into(), &false.into()));
        assert_eq!(stage.pend.backend("web6", "b3").unwrap()["weight"], 5);
        assert!(stage.pend.counter("transmit").unwrap() > self.transmitted);
        let clients = Self::clients(stage);
        assert!(clients.is_superset(&self.clients), "{:?} {clients:?}", self.clients);
    }
}

#[test]
fn a_daemon_that_leaves_and_the_next_one_lose_nothing() {
    let mut numbered = Numbered::new();
    let lasting = Lasting::begin(&numbered.stage);
    nothing_is_lost(&mut numbered, |stage| {
        let status = stage.pend.leave().unwrap();
        assert_eq!(status.code(), Some(0));
        assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
        assert!(stage.pend.pins().exists() && !stage.pend.socket().exists());
        pace(WHILE);
        stage.pend.launch().unwrap();
        stage.pend.wait_ready(11).unwrap();
    });
    lasting.assert(&numbered.stage);
    assert!(numbered.stage.pend.log().contains("leaving; the kernel goes on forwarding"));
}

#[test]
fn a_daemon_that_is_replaced_loses_nothing() {
    let mut numbered = Numbered::new();
    let lasting = Lasting::begin(&numbered.stage);
    nothing_is_lost(&mut numbered, |stage| {
        for _ in 0..3 {
            let status = stage.pend.replace().unwrap();
            assert_eq!(status.code(), Some(0), "{}", stage.pend.log());
            stage.pend.wait_ready(11).unwrap();
        }
    });
    lasting.assert(&numbered.stage);
    assert!(numbered.stage.pend.terminate().unwrap().success());
    assert_eq!(xdp_mode(numbered.stage.balancer(), "eth0").unwrap(), None);
    assert!(!numbered.stage.pend.pins().exists() && !numbered.stage.pend.socket().exists());
}

#[test]
fn to_replace_nobody_is_a_plain_start() {
    let lab = Lab::builder().build().unwrap();
    let pend = pen_tests::Pend::prepare(&lab.balancer().netns).unwrap();
    let mut pend = pend.with_args(&["--replace"]);
    pend.write_config(&numbered(&lab).render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    assert!(pend.log().contains("nobody is there to be replaced"), "{}", pend.log());
}

#[test]
fn a_replacement_that_could_not_start_leaves_the_running_daemon_alone() {
    let stage = Numbered::new().stage;
    let scratch = Scratch::new().unwrap();
    fs::write(scratch.file("pen.bpf.o"), "no object").unwrap();
    let object = scratch.file("pen.bpf.o");
    let second = pen_tests::Pend::prepare(stage.balancer()).unwrap().pins_of(&stage.pend);
    let mut second = second.with_args(&["--replace", "--object", object.to_str().unwrap()]);
    second.write_config(&numbered(&stage.lab).render(Some(stage.pend.socket()))).unwrap();
    second.launch().unwrap();
    assert_eq!(second.wait_end().unwrap().code(), Some(1), "{}", second.log());
    assert_eq!(stage.pend.usable_backends().unwrap(), 12);
    stage.web_tally(20);
}

#[test]
fn a_replacement_that_could_not_take_the_sockets_leaves_the_running_daemon_alone() {
    let stage = Numbered::new().stage;
    let beside = stage.pend.socket().with_extension("heir");
    fs::create_dir(&beside).unwrap();
    let second = pen_tests::Pend::prepare(stage.balancer()).unwrap().pins_of(&stage.pend);
    let mut second = second.with_args(&["--replace"]);
    second.write_config(&numbered(&stage.lab).render(Some(stage.pend.socket()))).unwrap();
    second.launch().unwrap();
    assert_eq!(second.wait_end().unwrap().code(), Some(1), "{}", second.log());
    let path = beside.display().to_string();
    assert!(second.log().contains(&path), "{}", second.log());
    assert_eq!(stage.pend.usable_backends().unwrap(), 12);
}

/// Folders of the pins.
fn versions(stage: &Stage) -> BTreeSet<String> {
    let entries = fs::read_dir(stage.pend.pins()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn own_version() -> BTreeSet<String> {
    BTreeSet::from([format!("v{ABI_VERSION}")])
}

/// Waits until our program is in the place of the other version's.
fn wait_taken_over(stage: &mut Stage) {
    wait_until(SHORT, "the other version is replaced", || {
        (versions(stage) == own_version()).then_some(())
    })
    .map_err(|error| stage.pend.with_log(&error))
    .unwrap();
    stage.pend.wait_ready(12).unwrap();
}

#[test]
fn another_version_is_replaced_without_a_loss() {
    let mut numbered = Numbered::new();
    let mut talks: Vec<_> = (0..10)
        .flat_map(|_| [WEB, WEB6])
        .map(|at| TcpTalk::open(numbered.stage.client(), at).unwrap())
        .collect();
    let before: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    // Upwards from an older one, and back from a newer one.
    for other in [ABI_VERSION - 1, ABI_VERSION + 7] {
        nothing_is_lost(&mut numbered, |stage| {
            stage.pend.leave().unwrap();
            stage.pend.age_pins(ABI_VERSION, other).unwrap();
            pace(WHILE);
            stage.pend.launch().unwrap();
            wait_taken_over(stage);
        });
        let after: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
        assert_eq!(before, after, "the same secret, so the same slots");
    }
    let log = numbered.stage.pend.log();
    assert!(log.contains("another version of pen forwards here"), "{log}");
    assert!(numbered.stage.pend.terminate().unwrap().success());
    assert_eq!(xdp_mode(numbered.stage.balancer(), "eth0").unwrap(), None);
    assert!(!numbered.stage.pend.pins().exists());
}

#[test]
fn another_version_whose_interface_is_no_longer_wanted_is_detached() {
    let mut stage = Numbered::new().stage;
    stage.pend.leave().unwrap();
    stage.pend.age_pins(ABI_VERSION, 1).unwrap();
    // No address, no service, and another interface.
    let mut other = ConfigText::on("lo");
    "generic".clone_into(&mut other.interfaces[0].1);
    stage.pend.write_config(&other.render(Some(stage.pend.socket()))).unwrap();
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(0).unwrap();
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
    assert_eq!(xdp_mode(stage.balancer(), "lo").unwrap().as_deref(), Some("xdpgeneric"));
    assert_eq!(versions(&stage), own_version());
}

#[test]
fn a_program_that_cannot_be_replaced_goes_on_forwarding_and_the_reason_is_told() {
    let mut numbered = Numbered::new();
    numbered.stage.pend.leave().unwrap();
    numbered.stage.pend.age_pins(ABI_VERSION, 1).unwrap();
    // A map in the place of the link: nothing that a program could be put into.
    let folder = numbered.stage.pend.pins().join("v1");
    let [link] = &link_pins(&folder)[..] else { panic!("one link per interface") };
    let aside = numbered.stage.pend.pins().join("link");
    fs::rename(link, &aside).unwrap();
    let map: Array<MapData, u64> = Array::create(1, 0).unwrap();
    map.pin(link).unwrap();
    numbered.stage.pend.launch().unwrap();
    wait_until(SHORT, "the reason is told", || {
        let status = numbered.stage.pend.penctl_json(["status"]).ok()?;
        let note = status["interfaces"][0]["note"].as_str()?.to_owned();
        note.contains("v1) goes on forwarding, for it cannot be replaced: ").then_some(())
    })
    .map_err(|error| numbered.stage.pend.with_log(&error))
    .unwrap();
    assert_eq!(numbered.stage.web_tally(60).len(), 3);
    assert_eq!(numbered.stage.pend.counter("transmit").unwrap(), 0, "by the other version");
    // And is replaced when it can be.
    nothing_is_lost(&mut numbered, |stage| {
        fs::remove_file(link).unwrap();
        fs::rename(&aside, link).unwrap();
        wait_taken_over(stage);
    });
    assert!(numbered.stage.pend.counter("transmit").unwrap() > 0);
}

#[test]
fn a_link_of_another_version_whose_interface_is_gone_is_no_obstacle() {
    let mut stage = Numbered::new().stage;
    stage.pend.leave().unwrap();
    stage.pend.age_pins(ABI_VERSION, 1).unwrap();
    let balancer = &stage.lab.balancers[0];
    stage.lab.unplug(balancer).unwrap();
    stage.lab.replug(balancer).unwrap();
    stage.lab.switch.attach_pass(&balancer.name).unwrap();
    // As if the new interface had got the index of the old one.
    let [link] = &link_pins(&stage.pend.pins().join("v1"))[..] else { panic!("one link") };
    let index = balancer.netns.run(|| nix::net::if_::if_nametoindex("eth0")).unwrap();
    fs::rename(link, link.with_file_name(format!("link-{index}-native"))).unwrap();
    stage.pend.launch().unwrap();
    wait_taken_over(&mut stage);
    assert_eq!(stage.web_tally(60).len(), 3);
}

fn link_pins(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let links = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("link-"));
    links.map(|entry| entry.path()).collect()
}

#[test]
fn penctl_detach_ends_what_a_dead_daemon_left_and_refuses_while_one_runs() {
    let mut stage = Numbered::new().stage;
    let pins = stage.pend.pins().to_str().unwrap().to_owned();
    let detach = |stage: &Stage, more: &[&str]| {
        let penctl = pen_tests::paths::program("penctl").unwrap();
        let mut command = stage.balancer().command(penctl);
        let words = [&["detach", "--pins", &pins], more].concat();
        pen_tests::process::run(command.args(words), SHORT).unwrap()
    };
    for more in [&[][..], &["--dry-run"]] {
        let refused = detach(&stage, more);
        assert_eq!(refused.status.code(), Some(1));
        let pid = stage.pend.pid().unwrap();
        // Through nsenter, which becomes pend.
        let said = format!("penctl: {pins}: pend (process {pid}) runs; stop it with SIGTERM");
        assert!(refused.stderr.starts_with(&said), "{}", refused.stderr);
    }
    stage.web_tally(5);
    stage.pend.kill9().unwrap();

    let shown = detach(&stage, &["--dry-run"]).stdout;
    assert!(shown.contains("would be removed: link of eth0 (native)\n"), "{shown}");
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
    let removed = detach(&stage, &[]).stdout;
    assert_eq!(removed, shown.replace("would be removed", "removed"));
    assert!(removed.contains(&format!("removed: pins in {pins}/v{ABI_VERSION}\n")), "{removed}");
    assert!(removed.contains("removed: solicitations for fd77::100 on eth0\n"), "{removed}");
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
    assert!(!stage.pend.pins().exists());
    let addresses = stage.balancer().ip("address show dev eth0").unwrap();
    assert!(!addresses.contains("ff02::"), "{addresses}");

    let nothing = detach(&stage, &[]);
    assert_eq!(nothing.status.code(), Some(0));
    assert_eq!(nothing.stdout, format!("{pins}: nothing of pen is there\n"));
    let json: Value = serde_json::from_str(&detach(&stage, &["--json"]).stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "removed": [], "dry_run": false }));
    // And all begins anew.
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(12).unwrap();
    stage.web_tally(5);
}

#[test]
fn penctl_detach_removes_another_versions_pins_too_and_nobody_elses() {
    let mut stage = Numbered::new().stage;
    stage.pend.leave().unwrap();
    stage.pend.age_pins(ABI_VERSION, 1).unwrap();
    let foreign = stage.pend.pins().join("v9");
    fs::create_dir(&foreign).unwrap();
    let pins = stage.pend.pins().to_str().unwrap();
    let output = stage.pend.penctl(["detach", "--pins", pins]).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    wait_until(SHORT, "XDP is off", || {
        xdp_mode(stage.balancer(), "eth0").unwrap().is_none().then_some(())
    })
    .unwrap();
    assert!(foreign.exists() && versions(&stage).len() == 1, "{:?}", versions(&stage));
}
