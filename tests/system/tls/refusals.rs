//! Who is not served, or no longer: how it ends, and how it is counted.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use pen_tests::{Pend, process::SHORT, wait_until};

use super::{Pki, SITE, finish, secure, serve, site};
use crate::proxy::{LONG, Server, connect, lab, read_all, start};

pub(super) fn wait_count(pend: &Pend, cause: &str, count: u64) {
    let name = format!("proxy-{cause}");
    wait_until(LONG, cause, || (pend.counter(&name).unwrap() >= count).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
    assert_eq!(pend.counter(&name).unwrap(), count, "{cause}");
}

/// Connections that a backend has had.
fn total(pend: &Pend) -> u64 {
    pend.backend("site", "b1").unwrap()["proxy"]["total"].as_u64().unwrap()
}

#[test]
fn no_server_is_asked_before_the_handshake_is_done() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let pend = serve(&lab, &pki.list(&["site"]), "timeouts = { header = \"1s\" }");
    let client = &lab.client().netns;
    // Silent; gone; speaks another language; breaks off; sends garbage.
    let silent = connect(client, SITE).unwrap();
    drop(connect(client, SITE).unwrap());
    wait_count(&pend, "handshake-aborted", 1);
    let mut http = connect(client, SITE).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = read_all(&http);
    wait_count(&pend, "not-tls", 1);
    let mut hello = connect(client, SITE).unwrap();
    hello.write_all(include_bytes!("../../../pen-ctl/tests/hello/openssl.bin")).unwrap();
    let mut flight = [0; 64];
    hello.read_exact(&mut flight).unwrap();
    assert_eq!(flight[0], 22, "the proxy's hello");
    drop(hello);
    wait_count(&pend, "handshake-aborted", 2);
    let mut garbage = connect(client, SITE).unwrap();
    let _ = garbage.write_all(&[&[22, 3, 1, 0, 80, 1, 0, 0, 76][..], &[0xff; 76]].concat());
    let _ = read_all(&garbage);
    wait_count(&pend, "tls-broken", 1);
    // A client that does not trust the authority.
    let stranger = Pki::new();
    let error = secure(client, SITE, &Arc::new(stranger.client()), "site.example").unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    wait_count(&pend, "certificate-refused", 1);
    silent.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(read_all(&silent).unwrap_or_default(), b"");
    wait_count(&pend, "handshake-timeout", 1);
    assert_eq!(total(&pend), 0);
    let mut good = secure(client, SITE, &Arc::new(pki.client()), "site.example").unwrap();
    assert_eq!(finish(&mut good).unwrap(), b"b1\n");
    assert_eq!(total(&pend), 1);
}

#[test]
fn a_client_that_goes_away_without_notice_is_a_fault_and_a_reset_of_either_side_reaches_the_other()
{
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let (said, ends) = std::sync::mpsc::channel();
    let said = std::sync::Mutex::new(said);
    let _server = Server::start(&host.netns, (host.v4.into(), 80), move |mut stream| {
        let _ = stream.write_all(b"hello");
        let mut bytes = [0; 5];
        let read = stream.read_exact(&mut bytes);
        if &bytes == b"reset" {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        let rest = read.and_then(|()| stream.read(&mut bytes));
        let _ = said.lock().unwrap().send(rest.map_err(|error| error.kind()));
    });
    let pend = serve(&lab, &pki.list(&["site"]), "");
    let client = &lab.client().netns;
    let config = Arc::new(pki.client());
    let begin = |words: &[u8]| {
        let mut stream = secure(client, SITE, &config, "site.example").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(words).unwrap();
        stream
    };
    let stream = begin(b"12345");
    stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(ends.recv_timeout(LONG).unwrap(), reset, "no end that is in order");
    wait_count(&pend, "tls-truncated", 1);

    let mut stream = begin(b"12345");
    // A record that nobody with the keys has made.
    stream.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).unwrap();
    assert_eq!(ends.recv_timeout(LONG).unwrap(), reset);
    wait_count(&pend, "tls-broken", 1);
    let error = stream.read(&mut [0; 5]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "it is told so: {error}");

    let stream = begin(b"12345");
    socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(ends.recv_timeout(LONG).unwrap(), reset);
    wait_count(&pend, "client-reset", 1);

    let mut stream = begin(b"reset");
    let error = stream.read(&mut [0; 5]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    wait_count(&pend, "server-reset", 1);
    let idle = || {
        let services = pend.penctl_json(["services"]).unwrap();
        (services[0]["proxy"]["connections"] == 0).then_some(())
    };
    wait_until(SHORT, "nothing is left", idle).unwrap();
}

#[test]
fn nothing_is_agreed_upon_with_those_that_the_access_list_denies() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let list = "[[acl]]\nname = \"office\"\ndeny = [\"10.77.0.2\"]\n";
    let config = site(&lab, &pki.list(&["site"]), "acl = \"office\"").extra(list);
    let pend = start(&lab, &config);
    let client = lab.client();
    let mut denied = connect(&client.netns, SITE).unwrap();
    // Without a word of its own it is closed.
    assert_eq!(denied.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(client.v4.to_string(), "10.77.0.2");
    wait_count(&pend, "denied", 1);
}
