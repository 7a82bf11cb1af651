//! What clients find out about servers, and what a service does while it has too few.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use pen_tests::{Pend, Protocol, ServiceText, VIP4, wait_until};
use socket2::SockRef;

use super::{LONG, Server, connect, lab, name_at, proxied, start, unchecked};
use crate::stage::{WEB, over_all, vips};

const PROXY: SocketAddr = SocketAddr::new(VIP4, 8080);

fn no_check(service: ServiceText) -> ServiceText {
    ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), ..service }
}

fn why(pend: &Pend, service: &str, backend: &str) -> String {
    pend.backend(service, backend).unwrap()["why"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn who_refuses_a_client_of_the_proxy_is_left_alone_by_the_kernel_as_well() {
    let lab = lab(2);
    let _server = Server::named(&lab.backends[1].netns, (lab.backends[1].v4.into(), 80), "b2");
    let kernel = no_check(over_all(&lab, "kernel", WEB, Protocol::Tcp, 80));
    let keys = "scheduler = \"roundrobin\"\neject = \"2s\"";
    let mut proxy = no_check(proxied(&lab, "proxy", PROXY, keys));
    proxy.backends.iter_mut().for_each(|(_, at)| at.set_port(80));
    let pend = start(&lab, &vips().service(kernel).service(proxy));
    // One of the first two clients meets the one that refuses, and is served all the same.
    for _ in 0..2 {
        let stream = connect(&lab.client().netns, PROXY).unwrap();
        assert_eq!(name_at(&stream).unwrap(), "b2");
    }
    wait_until(LONG, "both services have heard", || {
        (pend.events("ejected").unwrap().len() == 2).then_some(())
    })
    .unwrap();
    for name in ["kernel", "proxy"] {
        let expected = format!("{name}/b1 gets no new clients for 2s: a connection was refused");
        assert!(pend.events("ejected").unwrap().contains(&expected));
        wait_until(LONG, "its time is over", || why(&pend, name, "b1").is_empty().then_some(()))
            .unwrap();
    }
    assert!(pend.backend("kernel", "b1").unwrap()["usable"].as_bool().unwrap());
    assert_eq!(pend.events("ejection-over").unwrap().len(), 2);
}

#[test]
fn who_resets_several_connections_before_it_has_sent_anything_is_left_alone() {
    let lab = lab(2);
    let [one, other] = [0, 1].map(|at| (&lab.backends[at].netns, (lab.backends[at].v4.into(), 80)));
    let _resets = Server::start(one.0, one.1, |mut stream| {
        // The connection stands by then: a reset during the handshake is a refusal.
        let _ = stream.read_exact(&mut [0]);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let _server = Server::named(other.0, other.1, "b2");
    let keys = "scheduler = \"roundrobin\"\neject = \"1h\"\neject_resets = 3";
    let pend = unchecked(&lab, keys);
    let client = &lab.client().netns;
    let visit = || {
        let mut stream = connect(client, WEB)?;
        stream.write_all(b"x")?;
        name_at(&stream)
    };
    wait_until(LONG, "b1 is left alone", || {
        let _ = visit();
        why(&pend, "web", "b1").starts_with("ejected for 1h").then_some(())
    })
    .unwrap();
    assert!(why(&pend, "web", "b1").contains("several connections in a row were reset"));
    for _ in 0..6 {
        assert_eq!(visit().unwrap(), "b2");
    }
}

#[test]
fn with_checks_that_fail_everywhere_clients_are_served_all_the_same_if_that_is_wished() {
    let lab = lab(2);
    let serve = |at: usize, name| {
        let host = &lab.backends[at];
        Server::named(&host.netns, (host.v4.into(), 80), name)
    };
    let _servers = [serve(0, "b1"), serve(1, "b2")];
    let service = proxied(&lab, "web", WEB, "scheduler = \"roundrobin\"\npanic_threshold = 50");
    // Nobody listens there.
    let check = r#"{ type = "tcp", port = 9, interval = "200ms", timeout = "100ms" }"#;
    let service = ServiceText { check: Some(check.to_owned()), ..service };
    let pend = start(&lab, &vips().service(service));
    pend.wait_health("web", "b1", "down").unwrap();
    pend.wait_health("web", "b2", "down").unwrap();
    let client = &lab.client().netns;
    let names = [(); 4].map(|()| name_at(&connect(client, WEB).unwrap()).unwrap());
    assert!(names.contains(&"b1".to_owned()) && names.contains(&"b2".to_owned()), "{names:?}");
    let told = pend.events("panic").unwrap();
    let text = "service web has only 0 of 2 backends usable: all are used, whatever checks say";
    assert_eq!(told, [text]);
}
