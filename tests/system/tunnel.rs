//! Modes `ipip` and `gue` end to end: through pen, the wire, the program that `penctl decap` attached to
//! the backend, and its kernel, to a real server; and straight back to the client.

use std::net::IpAddr;

use pen_tests::{
    Capture, ConfigText, Decap, Demo, Host, Lab, Protocol, VIP4, VIP6,
    client::{UdpTalk, curl, curl_times, udp_ask},
    server::HTTP_PORT,
};

use crate::stage::{ECHO, ECHO6, Stage, WEB, WEB6, balance, count, over_all, usual};

/// The virtual addresses of the lab, as arguments.
pub(crate) const VIPS: [&str; 4] = ["--vip", "10.77.0.100", "--vip", "fd77::100"];

/// The usual services in this mode, over backends of this family.
fn config(lab: &Lab, mode: &str, to: impl Fn(&Host) -> IpAddr) -> ConfigText {
    let mut config = usual(lab);
    for service in &mut config.services {
        mode.clone_into(&mut service.mode);
        let port = service.listen.port();
        service.backends = lab
            .backends
            .iter()
            .map(|backend| (Some(backend.name.clone()), (to(backend), port).into()))
            .collect();
    }
    config
}

/// A stage whose backends are reached by tunnels of one kind; `decap` says how each takes packets out.
fn stage(mode: &str, to_v4: bool, more: &[&str]) -> (Stage, Vec<Decap>) {
    let lab = Lab::builder().build().unwrap();
    let args = [&VIPS, more].concat();
    let decaps: Vec<Decap> =
        lab.backends.iter().map(|backend| Decap::on(backend, &args).unwrap()).collect();
    let address = move |host: &Host| if to_v4 { host.v4.into() } else { host.v6.into() };
    (Stage::in_lab(lab, |lab| config(lab, mode, address)), decaps)
}

/// Requests over TCP and UDP to both virtual addresses are answered by all backends, and each packet
/// came out of a tunnel.
fn all_is_answered((stage, decaps): &(Stage, Vec<Decap>), end: &str) {
    let before: Vec<u64> = decaps.iter().map(|decap| decap.counter(end).unwrap()).collect();
    for at in [WEB, WEB6] {
        let answers = count(curl_times(stage.client(), at, 60).unwrap());
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["b1", "b2", "b3"], "{answers:?}");
        assert!(curl(stage.client(), &format!("http://{at}/")).is_ok());
    }
    for at in [ECHO, ECHO6] {
        let answers = count((0..60).map(|_| udp_ask(stage.client(), at).expect("an answer")));
        assert_eq!(answers.len(), 3, "{answers:?}");
    }
    for (decap, before) in decaps.iter().zip(before) {
        let now = decap.counter(end).unwrap();
        // Some 20 connections of 4 packets or more on each, twice, and as many datagrams.
        assert!(now > before + 100, "{before} {end} before, {now} after");
        for refused in ["refused-vip", "malformed", "dropped-congestion"] {
            assert_eq!(decap.counter(refused).unwrap(), 0, "{refused}");
        }
    }
}

#[test]
fn ip_in_ipv4_carries_requests_of_both_families() {
    all_is_answered(&stage("ipip", true, &[]), "decapsulated-ipip");
}

#[test]
fn ip_in_ipv6_carries_requests_of_both_families() {
    all_is_answered(&stage("ipip", false, &[]), "decapsulated-ipip");
}

#[test]
fn udp_over_ipv4_carries_requests_of_both_families() {
    all_is_answered(&stage("gue", true, &[]), "decapsulated-gue");
}

#[test]
fn udp_over_ipv6_carries_requests_of_both_families() {
    all_is_answered(&stage("gue", false, &[]), "decapsulated-gue");
}

#[test]
fn a_backend_in_generic_mode_takes_packets_out_as_well() {
    let staged = stage("ipip", true, &["--mode", "generic"]);
    all_is_answered(&staged, "decapsulated-ipip");
    for decap in &staged.1 {
        assert_eq!(decap.status().unwrap()[0]["xdp"], "generic");
    }
    all_is_answered(&stage("gue", false, &["--mode", "generic"]), "decapsulated-gue");
}

#[test]
fn the_answer_goes_straight_to_the_client() {
    let (stage, _decaps) = stage("gue", true, &[]);
    let netns = stage.lab.switch.netns();
    let capture = Capture::start(netns, "balancer", "src port 80 or src port 7").unwrap();
    let talk = UdpTalk::open(stage.client(), ECHO).unwrap();
    for _ in 0..20 {
        talk.ask().expect("an answer");
        curl(stage.client(), &format!("http://{WEB}/")).unwrap();
    }
    let checks = |line: &&String| !line.contains("10.77.0.1.") && !line.contains("fd77::1.");
    let passed: Vec<String> = capture.lines().iter().filter(checks).cloned().collect();
    assert!(passed.is_empty(), "answers by way of the balancer: {passed:?}");
}

#[test]
fn a_backend_that_takes_nothing_out_of_tunnels_is_not_used() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let decaps: Vec<Decap> =
        lab.backends.iter().map(|backend| Decap::on(backend, &VIPS).unwrap()).collect();
    let demos: Vec<Demo> = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
    let mut service = over_all(&lab, "web", WEB, Protocol::Tcp, HTTP_PORT);
    "ipip".clone_into(&mut service.mode);
    let pend = balance(&lab, &ConfigText::on("eth0").vip(VIP4).vip(VIP6).service(service));
    let answers = || count(curl_times(&lab.client().netns, WEB, 40).unwrap());
    assert_eq!(answers().len(), 2);

    let detached = decaps[1].penctl(&["detach", "--interface", "eth0"]).unwrap();
    assert!(detached.status.success(), "{}", detached.stderr);
    let row = pend.wait_health("web", "b2", "down").unwrap();
    assert!(row["why"].as_str().unwrap().contains("penctl decap attach"), "{row}");
    assert_eq!(answers().keys().collect::<Vec<_>>(), ["b1"]);

    decaps[1].attach(&VIPS).unwrap();
    pend.wait_health("web", "b2", "up").unwrap();
    assert_eq!(answers().len(), 2);
    drop(demos);
}
