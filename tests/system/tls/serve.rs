//! Who is served, with which certificate, in which version, and that every byte comes through.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::Arc,
};

use pen_tests::{Nginx, process::run};

use super::{Pki, SITE, SITE6, finish, secure, serve};
use crate::proxy::{LONG, Server, lab};

#[test]
fn both_versions_are_spoken_with_their_whole_chain_and_no_older_one() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let _server6 = Server::named(&host.netns, (host.v6.into(), 80), "b1");
    let pend = serve(&lab, &pki.list(&["site"]), "");
    let client = &lab.client().netns;
    let verify = "-servername site.example -verify_hostname site.example -verify_return_error";
    for at in [SITE, SITE6] {
        for (version, said) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let output = pki.s_client(client, at, &format!("{verify} {version} -brief"));
            assert!(output.status.success(), "{version}: {output:?}");
            let text = output.stderr + &output.stdout;
            assert!(text.contains("Verification: OK"), "{text}");
            assert!(text.contains(&format!("Protocol version: {said}")), "{text}");
        }
    }
    let old = format!("{verify} -tls1_1 -cipher DEFAULT@SECLEVEL=0");
    let output = pki.s_client(client, SITE, &old);
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains(" alert "), "{output:?}");
    assert_eq!(pend.counter("proxy-tls-incompatible").unwrap(), 1);
}

/// Name of whom the certificate is that a client gets who asks for a name.
fn subject(pki: &Pki, netns: &pen_tests::Netns, asks: &str) -> Option<String> {
    let output = pki.s_client(netns, SITE, asks);
    let line = output.stdout.lines().find(|line| line.starts_with("subject="))?;
    Some(line.rsplit_once("CN = ")?.1.to_owned())
}

#[test]
fn a_name_gets_its_certificate_and_an_unknown_one_the_first_or_a_refusal() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("first", &["first.example"]);
    pki.issue("exact", &["www.wild.example"]);
    pki.issue("wild", &["*.wild.example", "wild.example"]);
    let list = pki.list(&["first", "wild", "exact"]);
    let client = &lab.client().netns;
    {
        let _pend = serve(&lab, &list, "");
        for (asks, gets) in [
            ("-servername first.example", "first"),
            ("-servername www.wild.example", "exact"),
            ("-servername WWW.Wild.Example", "exact"),
            ("-servername a.wild.example", "wild"),
            ("-servername wild.example", "wild"),
            ("-servername a.b.wild.example", "first"),
            ("-servername nobody.example", "first"),
            ("-noservername", "first"),
        ] {
            assert_eq!(subject(&pki, client, asks).as_deref(), Some(gets), "{asks}");
        }
    }
    let pend = serve(&lab, &format!("{list}, unknown_name = \"refuse\""), "");
    for (asks, gets) in [
        ("-servername a.wild.example", Some("wild")),
        ("-servername nobody.example", None),
        ("-noservername", Some("first")),
    ] {
        assert_eq!(subject(&pki, client, asks).as_deref(), gets, "{asks}");
    }
    let output = pki.s_client(client, SITE, "-servername nobody.example");
    assert!(output.stderr.contains("unrecognized name"), "{output:?}");
    assert_eq!(pend.counter("proxy-unknown-name").unwrap(), 2);
    // What is no name at all reads no file, and is nobody's.
    let output = pki.s_client(client, SITE, "-servername ../../etc/passwd");
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(pend.counter("proxy-tls-broken").unwrap(), 1);
}

#[test]
fn protocols_ciphers_and_versions_are_those_that_were_asked_for() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let keys = "alpn = [\"h2\", \"http/1.1\"], ciphers = [\"TLS_CHACHA20_POLY1305_SHA256\", \
                \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]";
    let client = &lab.client().netns;
    let pend = serve(&lab, &format!("{}, {keys}", pki.list(&["site"])), "");
    for (asks, says) in [
        ("-alpn http/1.1,h2", "ALPN protocol: h2"),
        ("-alpn http/1.1", "ALPN protocol: http/1.1"),
        ("", "No ALPN negotiated"),
        ("-tls1_3", "Cipher is TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2", "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let output = pki.s_client(client, SITE, asks);
        assert!(output.status.success() && output.stdout.contains(says), "{asks}: {output:?}");
    }
    for asks in ["-alpn ftp", "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384"] {
        assert!(!pki.s_client(client, SITE, asks).status.success(), "{asks}");
    }
    assert_eq!(pend.counter("proxy-tls-incompatible").unwrap(), 2);
    drop(pend);
    let keys = "min_version = \"1.3\"";
    let _pend = serve(&lab, &format!("{}, {keys}", pki.list(&["site"])), "");
    assert!(pki.s_client(client, SITE, "-tls1_3").status.success());
    assert!(!pki.s_client(client, SITE, "-tls1_2").status.success());
}

#[test]
fn what_the_authority_says_of_a_certificate_is_handed_out() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let index = pki.openssl("x509 -in site.pem -noout -serial -enddate");
    let serial = index.lines().next().unwrap().trim_start_matches("serial=").to_owned();
    pki.write("index", format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=site\n"));
    pki.openssl("ocsp -issuer inter.pem -cert site.pem -reqout request -no_nonce");
    pki.openssl(
        "ocsp -index index -CA inter.pem -rsigner inter.pem -rkey inter.key -reqin request \
         -respout site.ocsp -ndays 7",
    );
    let certificate = format!(
        "certificates = [{{ chain = \"{}\", key = \"{}\", ocsp = \"{}\" }}]",
        pki.file("site.pem"),
        pki.file("site.key"),
        pki.file("site.ocsp")
    );
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let _pend = serve(&lab, &certificate, "");
    for version in ["-tls1_2", "-tls1_3"] {
        let output = pki.s_client(&lab.client().netns, SITE, &format!("{version} -status"));
        assert!(output.stdout.contains("OCSP Response Status: successful"), "{output:?}");
        assert!(output.stdout.contains("Cert Status: good"), "{output:?}");
    }
}

#[test]
fn curl_gets_a_long_answer_of_nginx_and_sends_a_long_one() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let nginx = Nginx::start(&host.netns, "b1", 80).unwrap();
    let long: Vec<u8> =
        (0..20_000_000_u32).flat_map(|n| [n.to_le_bytes()[0], (n >> 9).to_le_bytes()[0]]).collect();
    std::fs::write(nginx.files().join("long"), &long).unwrap();
    let pend = serve(&lab, &pki.list(&["site"]), "");
    for version in ["--tls-max=1.2", "--tlsv1.3"] {
        let mut command = lab.client().netns.command("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60"]);
        command.args(version.split('='));
        command.args(["--cacert", &pki.file("root.pem"), "--output", &pki.file("got")]);
        command.args(["--resolve", &format!("site.example:443:{}", SITE.ip())]);
        command.arg("https://site.example/files/long");
        let output = run(&mut command, LONG).unwrap();
        assert!(output.status.success(), "{version}: {output:?} {}", pend.log());
        assert!(std::fs::read(pki.file("got")).unwrap() == long, "{version}: altered");
    }
}

#[test]
fn bytes_pass_both_ways_at_once_and_each_half_ends_by_itself() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let pend = serve(&lab, &pki.list(&["site"]), "");
    let config = Arc::new(pki.client());
    let client = &lab.client().netns;
    // The server echoes, and ends when the client does.
    let mut stream = secure(client, SITE, &config, "site.example").unwrap();
    let sent: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()[0]).collect();
    let mut got = Vec::new();
    for piece in sent.chunks(100_000) {
        stream.write_all(piece).unwrap();
        let mut back = vec![0; piece.len() / 2];
        stream.read_exact(&mut back).unwrap();
        got.extend(back);
    }
    got.extend(finish(&mut stream).unwrap());
    let name = b"b1\n";
    assert!(got.strip_prefix(name).unwrap() == sent);
    drop(stream);
    // A server that ends first: the client hears it by the notice, and may go on speaking.
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (own, other) = (Arc::clone(&heard), &lab.backends[0]);
    drop(_server);
    let _server = Server::start(&other.netns, (other.v4.into(), 80), move |mut stream| {
        stream.write_all(b"all there is").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        *own.lock().unwrap() = rest;
    });
    let mut stream = secure(client, SITE, &config, "site.example").unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"all there is", "and no error: the end was announced");
    stream.write_all(b"and yet").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    pen_tests::wait_until(LONG, "the server hears it", || {
        (*heard.lock().unwrap() == b"and yet").then_some(())
    })
    .unwrap();
    for (cause, count) in [("client-closed", 1), ("server-closed", 1)] {
        let name = format!("proxy-{cause}");
        pen_tests::wait_until(LONG, "both are over", || {
            (pend.counter(&name).unwrap() == count).then_some(())
        })
        .unwrap();
    }
}
