//! What keeps pend from starting: each is one clear line and exit status 1, leaves nothing behind,
//! and does not disturb a pend that runs already. And the one thing that it puts up with: an
//! interface without native XDP.

use std::fs;

use pen_tests::{
    ConfigText, Lab, Netns, Pend,
    client::{http, udp_ask},
    link::{attach_pass, xdp_mode},
};

use crate::stage::{ECHO, ECHO6, Stage, WEB, WEB6, tally, usual, vips, while_asking};

/// Starts it, expects the end with status 1, and returns the one line that it said about it.
fn refused(pend: &mut Pend, config: &ConfigText) -> String {
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    assert_eq!(pend.wait_end().unwrap().code(), Some(1), "{}", pend.log());
    let log = pend.log();
    let said: Vec<_> = log.lines().filter(|line| line.starts_with("pend: ")).collect();
    let [line] = said[..] else { panic!("not one line: {log}") };
    assert_eq!(log.lines().last(), Some(line), "the reason comes last: {log}");
    line.to_owned()
}

fn assert_left_nothing(pend: &Pend) {
    assert!(!pend.pins().exists(), "{:?}", fs::read_dir(pend.pins()).unwrap().collect::<Vec<_>>());
    assert!(!pend.socket().exists());
}

fn prepare(netns: &Netns) -> Pend {
    Pend::prepare(netns).unwrap()
}

#[test]
fn without_its_capabilities_pend_names_the_one_that_is_missing() {
    let lab = Lab::builder().backends(1).build().unwrap();
    for (wrapper, name) in [
        (&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"][..], "CAP_NET_ADMIN"),
        (&["setpriv", "--bounding-set=-bpf,-sys_admin"], "CAP_BPF"),
        (&["setpriv", "--bounding-set=-net_raw"], "CAP_NET_RAW"),
        (&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "CAP_NET_ADMIN"),
    ] {
        let mut pend = prepare(&lab.balancer().netns).through(wrapper);
        let line = refused(&mut pend, &usual(&lab));
        let begin = format!("pend: missing capability {name}: run as root, or ");
        assert!(line.starts_with(&begin), "{wrapper:?}: {line}");
        assert_left_nothing(&pend);
    }
}

#[test]
fn without_its_object_file_pend_says_how_to_build_it() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let mut pend =
        prepare(&lab.balancer().netns).with_args(&["--object", "/nonexistent/pen.bpf.o"]);
    let line = refused(&mut pend, &usual(&lab));
    assert!(
        line.contains("/nonexistent/pen.bpf.o: ") && line.contains("cargo xtask build"),
        "{line}"
    );
    assert_left_nothing(&pend);

    let other = pen_tests::paths::Scratch::new().unwrap();
    fs::write(other.file("text"), "no object at all").unwrap();
    let file = other.file("text");
    let mut pend = prepare(&lab.balancer().netns).with_args(&["--object", file.to_str().unwrap()]);
    let line = refused(&mut pend, &usual(&lab));
    assert!(line.len() < 300, "{line}");
    assert_left_nothing(&pend);
}

#[test]
fn an_interface_with_another_xdp_program_is_left_to_it() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let balancer = &lab.balancer().netns;
    attach_pass(balancer, "eth0").unwrap();
    let mut pend = prepare(balancer);
    let line = refused(&mut pend, &usual(&lab));
    assert!(line.starts_with("pend: eth0 has another XDP program; see `bpftool net`"), "{line}");
    assert_left_nothing(&pend);
    assert_eq!(xdp_mode(balancer, "eth0").unwrap().as_deref(), Some("xdp"));
}

/// veth refuses XDP on an interface whose peer sends from more queues than it receives on.
fn refusing() -> Lab {
    let lab = Lab::builder().without_pass().build().unwrap();
    let args = ["-L", "balancer", "tx", "2"];
    let output = lab.switch.netns().output("ethtool", args).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    lab
}

fn with_mode(lab: &Lab, mode: &str) -> ConfigText {
    let mut config = usual(lab);
    mode.clone_into(&mut config.interfaces[0].1);
    config
}

#[test]
fn an_interface_that_refuses_native_xdp_is_refused_if_native_was_asked_for() {
    let lab = refusing();
    let mut pend = prepare(&lab.balancer().netns);
    let line = refused(&mut pend, &with_mode(&lab, "native"));
    assert!(line.starts_with("pend: eth0 refuses native XDP ("), "{line}");
    assert!(line.contains("lower its MTU") && line.contains("xdp = \"generic\""), "{line}");
    assert_left_nothing(&pend);
    assert_eq!(xdp_mode(&lab.balancer().netns, "eth0").unwrap(), None);
}

#[test]
fn one_bad_interface_of_two_leaves_the_good_one_untouched() {
    let lab = refusing();
    let other = Lab::builder().clients(0).backends(0).build().unwrap();
    let balancer = &lab.balancer().netns;
    other.switch.plug_as(balancer, "eth1", "second", "02:70:65:6e:77:01").unwrap();
    // Attached before the other is refused, and after it.
    for order in [["eth1", "eth0"], ["eth0", "eth1"]] {
        let mut config = vips();
        let name = |name: &str| (name.to_owned(), "native".to_owned());
        config.interfaces = order.map(name).into();
        let mut pend = prepare(balancer);
        let line = refused(&mut pend, &config);
        assert!(line.contains("eth0 refuses native XDP"), "{line}");
        assert_left_nothing(&pend);
        for device in ["eth0", "eth1"] {
            assert_eq!(xdp_mode(balancer, device).unwrap(), None, "{device}");
        }
    }
}

#[test]
fn an_interface_that_refuses_native_xdp_runs_in_generic_mode_with_a_visible_warning() {
    let stage = Stage::in_lab(refusing(), usual);
    let balancer = stage.balancer();
    assert_eq!(xdp_mode(balancer, "eth0").unwrap().as_deref(), Some("xdpgeneric"));
    let status = stage.order(["status"]);
    let warning = "generic mode (slow): eth0 refuses native XDP";
    assert!(status.contains(warning), "{status}");
    assert!(stage.pend.log().contains(warning), "{}", stage.pend.log());
    for at in [WEB, WEB6] {
        let by = tally(60, || http(stage.client(), at).unwrap());
        assert_eq!(by.len(), 3, "{by:?}");
    }
    for at in [ECHO, ECHO6] {
        assert!(udp_ask(stage.client(), at).is_some());
    }
    assert!(stage.pend.counter("transmit").unwrap() > 0);
}

#[test]
fn generic_mode_can_be_asked_for_and_is_no_warning_then() {
    let lab = Lab::builder().without_pass().build().unwrap();
    let stage = Stage::in_lab(lab, |lab| with_mode(lab, "generic"));
    let interface = &stage.pend.penctl_json(["status"]).unwrap()["interfaces"][0];
    assert_eq!(interface["xdp"], "generic");
    assert_eq!(interface["note"], serde_json::Value::Null);
    assert_eq!(stage.web_tally(60).len(), 3);
}

#[test]
fn a_second_pend_on_the_same_socket_is_refused_and_disturbs_nothing() {
    let stage = Stage::new();
    let (line, heard) = while_asking(stage.client(), &[WEB], || {
        let mut second = prepare(stage.balancer());
        let config = usual(&stage.lab).render(Some(stage.pend.socket()));
        second.write_config(&config).unwrap();
        second.launch().unwrap();
        assert_eq!(second.wait_end().unwrap().code(), Some(1), "{}", second.log());
        assert!(!second.pins().exists());
        second.log()
    });
    assert!(line.contains("another pend listens here; stop it first"), "{line}");
    assert_undisturbed(&stage, &heard.failures);
}

#[test]
fn a_second_pend_on_the_same_pins_is_refused_and_disturbs_nothing() {
    let stage = Stage::new();
    let (line, heard) = while_asking(stage.client(), &[WEB], || {
        let mut second = prepare(stage.balancer()).pins_of(&stage.pend);
        // It would serve nothing of what the first one does.
        let line = refused(&mut second, &vips());
        assert!(!second.socket().exists());
        line
    });
    assert!(line.contains("another pend") && line.contains("--pins"), "{line}");
    assert_undisturbed(&stage, &heard.failures);
}

fn assert_undisturbed(stage: &Stage, failures: &[String]) {
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
    assert_eq!(stage.pend.usable_backends().unwrap(), 12);
    assert_eq!(stage.web_tally(60).len(), 3);
}
