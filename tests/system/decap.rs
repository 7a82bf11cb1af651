//! `penctl decap`: attaching, replacing, telling and detaching on a backend, without a daemon; and what
//! it says when it cannot.

use std::fs;

use pen_tests::{
    Decap, Demo, Lab, Netns, Protocol,
    client::http,
    link,
    paths::{self, Scratch},
    process::Output,
    server::HTTP_PORT,
};

use crate::stage::{WEB, balance, over_all, vips, while_asking};
use crate::tunnel::VIPS;

/// A namespace with an `eth0` that has addresses, and `penctl decap` in it.
fn host() -> (Netns, Decap) {
    let netns = Netns::new("decap").unwrap();
    add_nic(&netns);
    let decap = Decap::in_namespace(&netns).unwrap();
    (netns, decap)
}

fn add_nic(netns: &Netns) {
    netns.ip("link add name eth0 type veth peer name peer").unwrap();
    netns.ip("link set dev eth0 up").unwrap();
    netns.ip("address add 10.0.0.11/24 dev eth0").unwrap();
    netns.ip("address add fd00::11/64 dev eth0 nodad").unwrap();
    // No link-local address that nobody can foretell.
    netns.ip("address flush dev eth0 scope link").unwrap();
}

/// What penctl says when it refuses, on one line.
#[track_caller]
fn refused(decap: &Decap, words: &[&str]) -> String {
    let Output { status, stdout, stderr } = decap.penctl(words).unwrap();
    assert_eq!(status.code(), Some(1), "{words:?}: {stdout}{stderr}");
    let text = stderr.trim_end().strip_prefix("penctl: ").expect("says who speaks").to_owned();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[track_caller]
fn done(decap: &Decap, words: &[&str]) -> Output {
    let output = decap.penctl(words).unwrap();
    assert!(output.status.success(), "{words:?}: {}", output.stderr);
    output
}

const ATTACH: [&str; 3] = ["attach", "--interface", "eth0"];

#[test]
fn status_tells_what_is_attached_where() {
    let (netns, decap) = host();
    assert_eq!(decap.status().unwrap(), serde_json::json!([]));
    decap.attach(&VIPS).unwrap();
    let status = decap.status().unwrap();
    assert_eq!(status[0]["interface"], "eth0");
    assert_eq!(status[0]["xdp"], "native");
    assert_eq!(status[0]["vips"], serde_json::json!(["10.77.0.100", "fd77::100"]));
    // Those of the interface, because nobody named others.
    assert_eq!(status[0]["addresses"], serde_json::json!(["10.0.0.11", "fd00::11"]));
    assert_eq!(status[0]["counters"][0]["name"], "decapsulated-ipip");
    assert_eq!(link::xdp_mode(&netns, "eth0").unwrap().as_deref(), Some("xdp"));

    let text = done(&decap, &["status", "--interface", "eth0"]).stdout;
    for word in ["eth0", "native", "10.0.0.11,fd00::11", "10.77.0.100,fd77::100", "refused-vip"] {
        assert!(text.contains(word), "{text}");
    }

    done(&decap, &["detach", "--interface", "eth0"]);
    assert_eq!(link::xdp_mode(&netns, "eth0").unwrap(), None);
    assert_eq!(decap.status().unwrap(), serde_json::json!([]));
    assert!(!decap.pins().exists(), "nothing is left");
}

#[test]
fn attaching_again_replaces_the_lists_and_keeps_the_counters() {
    let (_netns, decap) = host();
    decap.attach(&VIPS).unwrap();
    decap.attach(&["--vip", "192.0.2.1", "--address", "10.0.0.12"]).unwrap();
    let status = decap.status().unwrap();
    assert_eq!(status.as_array().unwrap().len(), 1);
    assert_eq!(status[0]["vips"], serde_json::json!(["192.0.2.1"]));
    assert_eq!(status[0]["addresses"], serde_json::json!(["10.0.0.12"]));
    // A wish that cannot be fulfilled changes nothing.
    let text = refused(&decap, &[&ATTACH[..], &VIPS, &["--object", "/nowhere"]].concat());
    assert!(text.contains("/nowhere: ") && text.contains("cargo xtask build"), "{text}");
    assert_eq!(decap.status().unwrap(), status);
}

#[test]
fn no_request_is_lost_while_the_program_is_replaced() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = &lab.backends[0];
    let decap = Decap::on(backend, &VIPS).unwrap();
    let _demo = Demo::on(backend).unwrap();
    let mut service = over_all(&lab, "web", WEB, Protocol::Tcp, HTTP_PORT);
    "gue".clone_into(&mut service.mode);
    let _pend = balance(&lab, &vips().service(service));
    http(&lab.client().netns, WEB).unwrap();

    let counted = decap.counter("decapsulated-gue").unwrap();
    let (_, heard) = while_asking(&lab.client().netns, &[WEB], || {
        for number in 1..=20 {
            let more = format!("192.0.2.{number}");
            decap.attach(&[&VIPS[..], &["--vip", &more]].concat()).unwrap();
        }
    });
    assert!(heard.asked > 20, "{heard:?}");
    assert!(heard.failures.is_empty(), "{heard:?}");
    let now = decap.counter("decapsulated-gue").unwrap();
    assert!(now >= counted + u64::from(heard.asked), "counters go on: {counted}, then {now}");
}

#[test]
fn two_at_a_time_come_one_after_the_other() {
    let (_netns, decap) = host();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (decap, vip) = (&decap, format!("192.0.2.{number}"));
            scope.spawn(move || decap.attach(&["--vip", &vip]).unwrap());
        }
    });
    let status = decap.status().unwrap();
    assert_eq!(status[0]["vips"].as_array().unwrap().len(), 1, "that of one of them: {status}");
}

#[test]
fn an_interface_that_was_made_anew_is_attached_anew() {
    let (netns, decap) = host();
    decap.attach(&VIPS).unwrap();
    netns.ip("link delete dev eth0").unwrap();
    assert_eq!(decap.status().unwrap()[0]["xdp"], "gone");
    add_nic(&netns);
    assert_eq!(decap.status().unwrap()[0]["xdp"], "gone", "another interface of this name");
    decap.attach(&VIPS).unwrap();
    assert_eq!(decap.status().unwrap()[0]["xdp"], "native");
    assert_eq!(link::xdp_mode(&netns, "eth0").unwrap().as_deref(), Some("xdp"));
    netns.ip("link delete dev eth0").unwrap();
    done(&decap, &["detach", "--interface", "eth0"]);
    assert!(!decap.pins().exists());
}

#[test]
fn a_name_with_a_dot_is_a_name() {
    let (netns, decap) = host();
    netns.ip("link set dev eth0 down").unwrap();
    netns.ip("link set dev eth0 name eth0.7").unwrap();
    done(
        &decap,
        &[&["attach", "--interface", "eth0.7", "--address", "10.0.0.1"], &VIPS[..]].concat(),
    );
    assert_eq!(decap.status().unwrap()[0]["interface"], "eth0.7");
    done(&decap, &["detach", "--interface", "eth0.7"]);
}

#[test]
fn what_cannot_be_done_is_said_with_its_cure() {
    let (netns, decap) = host();
    let attach = |more: &[&'static str]| [&ATTACH[..], &VIPS, more].concat();
    let text = refused(&decap, &["attach", "--interface", "eth7", "--vip", "192.0.2.1"]);
    assert_eq!(text, "there is no interface eth7");
    assert_eq!(refused(&decap, &["detach", "--interface", "eth0"]), "nothing is attached to eth0");
    assert_eq!(refused(&decap, &["status", "--interface", "eth0"]), "nothing is attached to eth0");

    decap.attach(&[&VIPS[..], &["--mode", "generic"]].concat()).unwrap();
    let text = refused(&decap, &attach(&["--mode", "native"]));
    assert!(text.starts_with("eth0 runs in generic mode"), "{text}");
    assert!(text.ends_with("`penctl decap detach --interface eth0`"), "{text}");
    let text = refused(&decap, &["detach", "--interface", "peer"]);
    assert_eq!(text, "nothing is attached to peer");
    done(&decap, &["detach", "--interface", "eth0"]);

    netns.ip("address flush dev eth0").unwrap();
    let text = refused(&decap, &attach(&[]));
    assert!(text.contains("eth0 has no address") && text.contains("--address"), "{text}");
    assert!(!decap.pins().exists(), "a refusal leaves nothing behind");

    link::attach_pass(&netns, "eth0").unwrap();
    let text = refused(&decap, &attach(&["--address", "10.0.0.11"]));
    assert!(text.starts_with("eth0 has another XDP program"), "{text}");
    assert!(!decap.pins().exists(), "a refusal leaves nothing behind");
}

#[test]
fn a_driver_without_native_xdp_is_said_and_made_do_with() {
    let (netns, decap) = host();
    // A bridge knows generic mode only.
    netns.ip("link add name br0 type bridge").unwrap();
    let attach = |more: &[&'static str]| {
        let words = ["attach", "--interface", "br0", "--address", "10.0.0.1"];
        [&words[..], &VIPS, more].concat()
    };
    let text = refused(&decap, &attach(&["--mode", "native"]));
    assert!(text.starts_with("br0 refuses native XDP"), "{text}");
    assert!(text.ends_with("use --mode generic"), "{text}");
    let output = done(&decap, &attach(&[]));
    assert!(
        output.stderr.starts_with("penctl: generic mode, which is slow: br0 refuses"),
        "{output:?}"
    );
    assert_eq!(decap.status().unwrap()[0]["xdp"], "generic");
}

#[test]
fn an_object_that_is_none_is_refused() {
    let (_netns, decap) = host();
    let scratch = Scratch::new().unwrap();
    let object = scratch.file("decap.bpf.o");
    let words = [&ATTACH[..], &VIPS, &["--object", object.to_str().unwrap()]].concat();
    for content in [&b""[..], b"\x7fELF", b"anything else"] {
        fs::write(&object, content).unwrap();
        assert!(refused(&decap, &words).starts_with("the kernel refused"));
    }
    // One of pen's, but another one.
    fs::copy(paths::program("pass.bpf.o").unwrap(), &object).unwrap();
    assert_eq!(refused(&decap, &words), "the object of the XDP program has not all maps");
    assert!(!decap.pins().exists(), "a refusal leaves nothing behind");
}
