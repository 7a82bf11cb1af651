//! Certificates that are renewed in place.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use super::{Pki, SITE, finish, secure, serve};
use crate::proxy::{Server, lab};

/// Number of the certificate that a client gets.
fn serial(pki: &Pki, netns: &pen_tests::Netns) -> String {
    let output = pki.s_client(netns, SITE, "-servername site.example");
    let (_, rest) = output.stdout.split_once("-----BEGIN CERTIFICATE-----").unwrap();
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").unwrap();
    let mark = "CERTIFICATE-----";
    pki.write("served", format!("-----BEGIN {mark}{body}-----END {mark}\n"));
    pki.openssl("x509 -in served -noout -serial")
}

#[test]
fn a_renewed_certificate_is_used_after_a_reload_and_a_broken_pair_is_refused_by_name() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    pki.issue("next", &["site.example"]);
    pki.issue("other", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let pend = serve(&lab, &pki.list(&["site"]), "");
    let client = &lab.client().netns;
    let config = Arc::new(pki.client());
    let mut before = secure(client, SITE, &config, "site.example").unwrap();
    let was = serial(&pki, client);
    // By rename, one file after the other.
    let rename = |from: &str, to: &str| {
        std::fs::rename(pki.scratch.file(from), pki.scratch.file(to)).unwrap();
    };
    rename("other.key", "site.key");
    let output = pend.penctl(["reload"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = format!("{}: not the key of the certificate in", pki.file("site.key"));
    assert!(output.stderr.contains(&complaint), "{output:?}");
    assert_eq!(serial(&pki, client), was, "the old one stays in use");
    rename("next.pem", "site.pem");
    rename("next.key", "site.key");
    let output = pend.penctl(["reload"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let next = serial(&pki, client);
    assert_ne!(next, was);
    // The session from before continues.
    let mut name = [0; 3];
    before.read_exact(&mut name).unwrap();
    before.write_all(b"still here").unwrap();
    assert_eq!(finish(&mut before).unwrap(), b"still here");
}
