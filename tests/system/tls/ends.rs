//! Deadlines and ends of clients with TLS, and what a scanner of security finds.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    sync::Arc,
    time::Duration,
};

use pen_tests::{Pend, wait::Stopwatch, wait_until};

use super::{Pki, SITE, secure, serve, site};
use crate::proxy::{LONG, Server, connect, lab, read_all, start};

fn wait_count(pend: &Pend, cause: &str) {
    let name = format!("proxy-{cause}");
    wait_until(LONG, cause, || (pend.counter(&name).unwrap() == 1).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
}

#[test]
fn one_deadline_holds_for_a_header_and_the_handshake_together() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let keys = "accept_proxy = \"front\"\ntimeouts = { header = \"6s\" }";
    let list = "[[acl]]\nname = \"front\"\nallow = [\"10.77.0.0/24\"]\n";
    let pend = start(&lab, &site(&lab, &pki.list(&["site"]), keys).extra(list));
    let began = Stopwatch::start();
    let mut client = connect(&lab.client().netns, SITE).unwrap();
    client.write_all(b"PROXY TCP4 192.0.2.1 ").unwrap();
    // Nobody answers: this is how a slow one waits.
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "it may be slow for so long: {error}");
    let hello = include_bytes!("../../../pen-ctl/tests/hello/curl.bin");
    client.write_all(&[b"192.0.2.2 1 443\r\n", &hello[..9]].concat()).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(read_all(&client).unwrap_or_default(), b"");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    wait_count(&pend, "handshake-timeout");
}

#[test]
fn with_fast_close_one_end_is_enough_and_what_was_said_before_arrives() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let all: Vec<u8> = (0..2_000_000_u32).map(|n| (n >> 5).to_le_bytes()[0]).collect();
    let own = all.clone();
    let _server = Server::start(&host.netns, (host.v4.into(), 80), move |mut stream| {
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        if &word == b"short" {
            let _ = stream.write_all(&own);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        } else {
            while stream.write_all(&[0; 9000]).is_ok() {}
        }
    });
    let pend = serve(&lab, &pki.list(&["site"]), "fast_close = true");
    let config = Arc::new(pki.client());
    let client = &lab.client().netns;
    let mut server_first = secure(client, SITE, &config, "site.example").unwrap();
    server_first.write_all(b"short").unwrap();
    // It has not ended, and goes on talking to a server that does not listen.
    server_first.conn.set_buffer_limit(None);
    server_first.conn.writer().write_all(&vec![7; 20_000_000]).unwrap();
    let mut more = Vec::new();
    while server_first.conn.wants_write() {
        server_first.conn.write_tls(&mut more).unwrap();
    }
    let mut talking = server_first.sock.try_clone().unwrap();
    let talking = std::thread::spawn(move || talking.write_all(&more));
    let mut got = Vec::new();
    server_first.read_to_end(&mut got).expect("the end is announced");
    assert!(got == all, "{} bytes", got.len());
    let _ = server_first.sock.shutdown(Shutdown::Both);
    let _ = talking.join().unwrap();
    wait_count(&pend, "server-closed");
    let mut client_first = secure(client, SITE, &config, "site.example").unwrap();
    client_first.write_all(b"endless").unwrap();
    client_first.read_exact(&mut [0; 100_000]).unwrap();
    client_first.conn.send_close_notify();
    client_first.flush().unwrap();
    wait_count(&pend, "client-closed");
    assert!(client_first.read_to_end(&mut Vec::new()).is_err(), "it is cut off, and can tell");
}

#[test]
fn a_scanner_finds_nothing_that_is_old_or_weak() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    pki.openssl("req -new -newkey rsa:2048 -nodes -subj /CN=rsa -keyout rsa.key -out rsa.csr");
    pki.write("rsa.ext", "subjectAltName=DNS:rsa.example\n");
    pki.openssl(
        "x509 -req -in rsa.csr -CA inter.pem -CAkey inter.key -days 30 -extfile rsa.ext -out \
         rsa.pem",
    );
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let _pend = serve(&lab, &pki.list(&["site", "rsa"]), "");
    let client = &lab.client().netns;
    for asks in [
        "-tls1 -cipher ALL:@SECLEVEL=0",
        "-tls1_1 -cipher ALL:@SECLEVEL=0",
        "-tls1_2 -cipher AES128-GCM-SHA256:AES256-SHA:@SECLEVEL=0",
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA384:@SECLEVEL=0",
        "-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0",
        "-tls1_2 -cipher aNULL:eNULL:PSK:@SECLEVEL=0",
        "-tls1_2 -cipher CAMELLIA:ARIA:SEED:IDEA:@SECLEVEL=0",
        "-tls1_2 -cipher ALL:@SECLEVEL=0 -sigalgs RSA+SHA1:ECDSA+SHA1",
        "-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256",
        "-groups secp521r1 -tls1_3",
    ] {
        for name in ["site", "rsa"] {
            let output = pki.s_client(client, SITE, &format!("-servername {name}.example {asks}"));
            assert!(!output.status.success(), "{name} {asks}: {output:?}");
            assert!(output.stderr.contains("alert"), "{name} {asks}: {output:?}");
        }
    }
    for name in ["site", "rsa"] {
        let asks = format!("-servername {name}.example -tls1_2 -cipher ALL:@SECLEVEL=0");
        let output = pki.s_client(client, SITE, &asks);
        for says in ["Cipher is ECDHE-", "Secure Renegotiation IS supported", "Compression: NONE"] {
            assert!(output.stdout.contains(says), "{says}: {output:?}");
        }
        assert!(output.stdout.contains("Extended master secret: yes"), "{output:?}");
    }
}
