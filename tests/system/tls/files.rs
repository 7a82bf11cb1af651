//! Certificates that are renewed in place.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use nix::sys::signal::Signal;
use pen_tests::wait_until;

use super::{Pki, SITE, finish, secure, serve};
use crate::proxy::{LONG, Server, lab};

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

#[test]
fn what_is_renewed_on_disk_is_served_without_a_word_and_what_is_broken_is_told() {
    let (lab, pki) = (lab(1), Pki::new());
    for name in ["first", "second", "third"] {
        pki.issue(name, &["site.example"]);
    }
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    // As certbot has it: links that are exchanged.
    let link = |name: &str, to: &str| {
        let (link, new) = (pki.scratch.file(name), pki.scratch.file("new"));
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(new, link).unwrap();
    };
    let both = |to: &str| {
        link("site.pem", &format!("{to}.pem"));
        link("site.key", &format!("{to}.key"));
    };
    both("first");
    let mut pend = serve(&lab, &pki.list(&["site"]), "");
    let client = &lab.client().netns;
    let number = |name: &str| pki.openssl(&format!("x509 -in {name}.pem -noout -serial"));
    let wait_serial = |name: &str| {
        wait_until(LONG, name, || (serial(&pki, client) == number(name)).then_some(())).unwrap();
    };
    wait_serial("first");
    both("second");
    wait_serial("second");
    let event = |kind: &str| {
        let of_it = |text: &String| text.starts_with("service site:");
        wait_until(LONG, kind, || pend.events(kind).unwrap().into_iter().rfind(of_it)).unwrap()
    };
    assert_eq!(event("certificate-renewed"), "service site: certificates were renewed");
    let listed = || pend.penctl_json(["certs"]).unwrap()[0].clone();
    let one = listed();
    assert_eq!(one["service"], "site");
    assert_eq!(one["names"][0], "site.example");
    assert_eq!(one["file"], pki.file("site.pem"));
    assert!(one["days_left"].as_i64().unwrap() >= 28 && one["problem"].is_null(), "{one}");
    // Only one of the two: the other one goes on, and it is said which file it is and why.
    link("site.key", "third.key");
    let complaint = format!("{}: not the key of the certificate in", pki.file("site.key"));
    let text = event("certificate-broken");
    assert!(text.contains(&complaint) && text.ends_with("from before stays"), "{text}");
    assert!(pend.log().contains(&complaint), "{}", pend.log());
    assert!(listed()["problem"].as_str().unwrap().starts_with(&complaint));
    let shown = pend.penctl(["certs"]).unwrap();
    assert!(shown.stdout.contains(&format!("site: not in service: {complaint}")), "{shown:?}");
    let warnings = || pend.penctl_json(["status"]).unwrap()["warnings"].to_string();
    assert!(warnings().contains(&complaint), "{}", warnings());
    // Both services have it.
    assert_eq!(pend.counter("proxy-certificate-broken").unwrap(), 2);
    assert_eq!(serial(&pki, client), number("second"));
    link("site.pem", "third.pem");
    wait_serial("third");
    wait_until(LONG, "all is well", || (!warnings().contains(&complaint)).then_some(())).unwrap();
    // A signal is a reload as well.
    both("first");
    pend.signal(Signal::SIGHUP).unwrap();
    wait_serial("first");
}

#[test]
fn a_certificate_that_is_about_to_expire_is_told_once_and_seen() {
    let (lab, pki) = (lab(1), Pki::new());
    for (name, days) in [("soon", 15), ("sooner", 5), ("fine", 29)] {
        pki.issue(name, &[&format!("{name}.example")]);
        pki.openssl(&format!(
            "x509 -req -in {name}.csr -CA inter.pem -CAkey inter.key -days {days} -extfile \
             {name}.ext -out {name}.pem"
        ));
    }
    let pend = serve(&lab, &pki.list(&["soon", "sooner", "fine"]), "");
    let told = || {
        let mut told = pend.events("certificate-expires").unwrap();
        told.retain(|text| text.starts_with("service site:"));
        told
    };
    wait_until(LONG, "it is told", || (!told().is_empty()).then_some(())).unwrap();
    let told = told();
    assert_eq!(told.len(), 2, "{told:?}");
    let status = pend.penctl_json(["status"]).unwrap()["warnings"].to_string();
    for (file, days) in [("soon.pem", 15), ("sooner.pem", 5)] {
        // Whole days, and the first second of them may not be over.
        let text = |days| format!("service site: {} expires in {days} days", pki.file(file));
        let is_told = |text: &String| told.contains(text) && status.contains(text);
        assert!([text(days), text(days - 1)].iter().any(is_told), "{told:?} {status}");
    }
}
