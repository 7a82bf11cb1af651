//! Checks of type `dns`, with dnsmasq.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use pen_tests::{Dnsmasq, Pend, Protocol, ServiceText, VIP4, client::dig, wait::wait_until};

use super::{Checked, TIMES};
use crate::{
    proxy::{LONG, lab},
    stage::{over_all, vips},
};

/// A check for a record of the name that the servers of the lab know.
fn who(answer: &str, transport: &str) -> String {
    let name = Dnsmasq::WHO;
    format!(
        r#"type = "dns", port = 53, name = "{name}", record = "TXT", answer = "{answer}", transport = "{transport}""#
    )
}

#[test]
fn a_name_server_has_to_give_the_right_answer_over_udp_and_tcp() {
    let checked = Checked::by(&who("b1", "udp"));
    checked.wait_down("connection refused");
    let mut server = Dnsmasq::start(&checked.lab.backends[0].netns, "b1").unwrap();
    checked.wait_up();
    checked.now_by(&who("b2", "udp"));
    checked.wait_down(r#"answered "b1", expected "b2""#);
    checked.now_by(&who("b1", "tcp"));
    checked.wait_up();
    checked.now_by(&format!(r#"type = "dns", port = 53, name = "{}""#, Dnsmasq::WHO));
    checked.wait_down("answered REFUSED, expected NOERROR");
    checked.now_by(&who("b1", "tcp"));
    checked.wait_up();
    server.process().kill9().unwrap();
    checked.wait_down("connection refused");
}

#[test]
fn clients_are_answered_by_the_other_server_while_one_says_no() {
    let lab = lab(2);
    let _servers: Vec<Dnsmasq> =
        lab.backends.iter().map(|b| Dnsmasq::start(&b.netns, &b.name).unwrap()).collect();
    let at = SocketAddr::new(VIP4, 53);
    // The check knows only one of them.
    let service = ServiceText {
        mode: "proxy".to_owned(),
        check: Some(format!("{{ {}, {TIMES} }}", who("b2", "udp"))),
        ..over_all(&lab, "dns", at, Protocol::Udp, 53)
    };
    let pend = Pend::start(&lab.balancer().netns, &vips().service(service)).unwrap();
    wait_until(LONG, "b2 is up, and b1 is not", || {
        let row = |name| pend.backend("dns", name).ok();
        let why = r#"check failed: answered "b1", expected "b2""#;
        (row("b1")?["why"] == why && row("b2")?["usable"] == true).then_some(())
    })
    .unwrap();
    for _ in 0..10 {
        assert_eq!(dig(&lab.client().netns, at, Dnsmasq::WHO, "TXT").unwrap(), "\"b2\"");
    }
}

#[test]
fn a_server_that_refuses_the_question_is_down() {
    let checked = Checked::by(r#"type = "dns", port = 53, name = "nobody.example""#);
    let _server = Dnsmasq::start(&checked.lab.backends[0].netns, "b1").unwrap();
    checked.wait_down("answered REFUSED, expected NOERROR");
    checked.now_by(r#"type = "dns", port = 53, name = "nobody.example", rcode = "REFUSED""#);
    checked.wait_up();
}

/// A check for another name or record.
fn asks(name: &str, record: &str, transport: &str) -> String {
    format!(
        r#"type = "dns", port = 53, name = "{name}", record = "{record}", transport = "{transport}""#
    )
}

#[test]
fn an_answer_without_what_was_asked_for_is_told_apart() {
    let checked = Checked::by(&asks("app.pen.test", "A", "udp"));
    let long = "x".repeat(250);
    let options = [
        "--local=/pen.test/".to_owned(),
        "--host-record=app.pen.test,10.77.0.11".to_owned(),
        format!("--txt-record=long.pen.test,{long},{long},{long}"),
    ];
    let host = &checked.lab.backends[0].netns;
    let mut server = Dnsmasq::start_with(host, "b1", &options).unwrap();
    checked.wait_up();
    checked.now_by(&asks("app.pen.test", "AAAA", "udp"));
    checked.wait_down("answered without a record AAAA, expected one");
    checked.now_by(&asks("app.pen.test", "A", "udp"));
    checked.wait_up();
    checked.now_by(&asks("nobody.pen.test", "A", "tcp"));
    checked.wait_down("answered NXDOMAIN, expected NOERROR");
    checked.now_by(&asks("long.pen.test", "TXT", "tcp"));
    checked.wait_up();
    checked.now_by(&asks("long.pen.test", "TXT", "udp"));
    checked.wait_down(
        "answered what does not fit a datagram, expected less; ask with `transport = \"tcp\"`",
    );

    checked.now_by(&asks("app.pen.test", "A", "udp"));
    checked.wait_up();
    server.process().signal(Signal::SIGSTOP).unwrap();
    checked.wait_down("no answer within 1s");
    server.process().signal(Signal::SIGCONT).unwrap();
    checked.now_by(&asks("app.pen.test", "A", "tcp"));
    checked.wait_up();
    server.process().signal(Signal::SIGSTOP).unwrap();
    checked.wait_down("accepted the connection, but did not answer within 1s");
    server.process().signal(Signal::SIGCONT).unwrap();
}

#[test]
fn a_resolver_that_cannot_answer_for_the_name_is_down() {
    let checked = Checked::by(&asks(Dnsmasq::WHO, "TXT", "udp"));
    let client = checked.lab.client();
    let record = ["--host-record=else.pen.test,10.77.0.11".to_owned()];
    let _upstream = Dnsmasq::start_with(&client.netns, "upstream", &record).unwrap();
    // What is not signed is bogus to it.
    let options = [
        "--dnssec".to_owned(),
        "--cache-size=150".to_owned(),
        "--trust-anchor=.,20326,8,2,E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
            .to_owned(),
        "--dnssec-check-unsigned".to_owned(),
        format!("--server={}", client.v4),
    ];
    let _server = Dnsmasq::start_with(&checked.lab.backends[0].netns, "b1", &options).unwrap();
    checked.wait_up();
    checked.now_by(&asks("else.pen.test", "A", "udp"));
    checked.wait_down("answered SERVFAIL, expected NOERROR");
}
