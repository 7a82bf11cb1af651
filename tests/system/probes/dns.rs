//! Checks of type `dns`, with dnsmasq.

use std::net::SocketAddr;

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
