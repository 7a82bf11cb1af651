//! Servers with which TLS does not begin, or does not end in order.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use pen_tests::{Pend, wait_until};

use super::{
    Pki,
    servers::{OPEN, count, echo, sealed, serve, settings},
};
use crate::proxy::{LONG, Server, connect, lab, read_all};

fn certificates() -> Pki {
    let pki = Pki::new();
    pki.issue("site", &["site.example"]);
    pki.issue("app", &["app.example"]);
    pki
}

fn trusts(pki: &Pki) -> String {
    format!("ca = \"{}\", name = \"app.example\"", pki.file("root.pem"))
}

fn wait_count(pend: &Pend, name: &str) {
    wait_until(LONG, name, || (count(pend, name) == 1).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
}

/// What a server does.
type Act = fn(TcpStream);

#[test]
fn each_way_to_fail_is_counted_and_the_next_server_is_asked() {
    let (lab, pki) = (lab(2), certificates());
    let _good = sealed(&lab, 1, settings(&pki, "app", false, false), echo("b2\n"));
    let netns = &lab.client().netns;
    let keys = "timeouts = { connect = \"1s\" }";
    let host = &lab.backends[0];
    let at = (host.v4.into(), 443);
    let bad: [(&str, Act); 3] = [
        ("server-handshake-timeout", |mut stream| {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }),
        ("server-handshake-closed", |mut stream| {
            let _ = stream.read(&mut [0; 9000]);
        }),
        ("server-handshake-broken", |mut stream| {
            let _ = stream.read(&mut [0; 9000]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 9000]);
        }),
    ];
    for (name, act) in bad {
        let _bad = Server::start(&host.netns, at, act);
        let pend = serve(&lab, &pki, &[0, 1], &trusts(&pki), keys);
        wait_until(LONG, name, || {
            let client = connect(netns, OPEN).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&client).unwrap(), b"b2\n", "{name}: {}", pend.log());
            (count(&pend, name) > 0).then_some(())
        })
        .unwrap();
        let log = pend.log();
        assert_eq!(log.matches("443: TLS: ").count(), 1, "told once: {log}");
    }
    let _old = sealed(&lab, 0, settings(&pki, "app", true, false), echo("b1\n"));
    let new = format!("{}, min_version = \"1.3\"", trusts(&pki));
    let pend = serve(&lab, &pki, &[0], &new, keys);
    assert_eq!(read_all(&connect(netns, OPEN).unwrap()).unwrap_or_default(), b"");
    assert_eq!(count(&pend, "server-handshake-incompatible"), 1, "{}", pend.log());
}

#[test]
fn a_server_that_goes_away_without_notice_or_breaks_the_rules_is_a_fault_that_the_client_sees() {
    let (lab, pki) = (lab(1), certificates());
    let _server = sealed(&lab, 0, settings(&pki, "app", false, false), |mut stream| {
        let _ = stream.write_all(b"hello");
        let mut bytes = [0; 5];
        let _ = stream.read_exact(&mut bytes);
        match &bytes {
            b"leave" => stream.sock.shutdown(Shutdown::Write).unwrap(),
            b"break" => {
                stream.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).unwrap();
            }
            _ => socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO)).unwrap(),
        }
        if &bytes != b"reset" {
            let _ = stream.sock.read(&mut [0; 99]);
        }
    });
    let pend = serve(&lab, &pki, &[0], &trusts(&pki), "");
    for (word, cause) in [
        (b"leave", "server-tls-truncated"),
        (b"break", "server-tls-broken"),
        (b"reset", "server-reset"),
    ] {
        let mut client = connect(&lab.client().netns, OPEN).unwrap();
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).unwrap();
        client.write_all(word).unwrap();
        let error = client.read(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{cause}: {}", pend.log());
        wait_count(&pend, cause);
    }
}
