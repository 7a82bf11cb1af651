//! Clients that come without TLS, with curl as one of them.

use std::{fs, io::Write, net::SocketAddr, os::unix::fs::symlink};

use pen_tests::{Netns, VIP4, paths::Scratch, process::run_ok, wait_until};

use super::{Pki, site};
use crate::proxy::{LONG, connect, lab, read_all, start};

const OPEN: SocketAddr = SocketAddr::new(VIP4, 80);

/// What curl gets, with these arguments besides: text, status, and the way on.
fn ask(netns: &Netns, words: &[&str], path: &str) -> String {
    let mut curl = netns.command("curl");
    curl.args(["--silent", "--path-as-is", "--max-time", "60", "--resolve"]);
    curl.arg(format!("site.example:80:{VIP4}"));
    curl.args(["--write-out", "%{http_code} %{redirect_url}"]);
    curl.args(words).arg(format!("http://site.example{path}"));
    run_ok(&mut curl).unwrap()
}

#[test]
fn who_comes_without_tls_is_sent_to_it_and_authorities_find_their_challenges() {
    let (lab, pki, webroot) = (lab(1), Pki::new(), Scratch::new().unwrap());
    pki.issue("site", &["site.example"]);
    let text = |keys: &str| {
        let root = webroot.path().display();
        let responder =
            format!("[responder]\nlisten = [\"{OPEN}\"]\nwebroot = \"{root}\"\n{keys}\n");
        site(&lab, &pki.list(&["site"]), "").extra(&responder)
    };
    let pend = start(&lab, &text(""));
    let client = &lab.client().netns;
    // It listens a moment after the daemon is ready.
    let there = || connect(client, OPEN).ok();
    drop(wait_until(LONG, "somebody listens", there).unwrap());
    assert_eq!(ask(client, &[], "/x?y=1"), "301 https://site.example/x?y=1");
    assert_eq!(ask(client, &["--data", "a=1"], "/x"), "308 https://site.example/x");
    assert_eq!(ask(client, &["--header", "Host: a b"], "/"), "400 ");
    assert_eq!(ask(client, &["--http1.0", "--header", "Host:"], "/"), "400 ");
    // As certbot has it: the file comes, is asked for, and goes.
    let folder = webroot.file(".well-known/acme-challenge");
    fs::create_dir_all(&folder).unwrap();
    let (token, at) = ("evaGxfADs6pSRb2LAv9IZf17", "/.well-known/acme-challenge");
    assert_eq!(ask(client, &[], &format!("{at}/{token}")), "404 ");
    fs::write(folder.join(token), "token.thumbprint").unwrap();
    assert_eq!(ask(client, &[], &format!("{at}/{token}")), "token.thumbprint200 ");
    fs::remove_file(folder.join(token)).unwrap();
    assert_eq!(ask(client, &[], &format!("{at}/{token}")), "404 ");
    symlink(pki.file("site.key"), folder.join("key")).unwrap();
    for path in ["/key", "/../../key", "/%2e%2e/key", "/"] {
        assert_eq!(ask(client, &[], &format!("{at}{path}")), "404 ", "{path}");
    }
    // What is no request, or none that is understood in one way only, gets an error and the end.
    let long = format!("GET / HTTP/1.1\r\nHost: site.example\r\nX: {}\r\n\r\n", "a".repeat(9000));
    let wrong = [
        (&*long, "HTTP/1.1 431 "),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "HTTP/1.1 400 "),
        ("\u{16}\u{3}\u{1}hello\r\n\r\n", "HTTP/1.1 400 "),
    ];
    for (request, expected) in wrong {
        let mut stream = connect(client, OPEN).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
        assert!(answer.starts_with(expected), "{request}: {answer}");
    }
    // Two requests at once get one answer; a silent client and one that is slow get the end.
    let (mut twice, silent) = (connect(client, OPEN).unwrap(), connect(client, OPEN).unwrap());
    let mut slow = connect(client, OPEN).unwrap();
    slow.write_all(b"GET / HT").unwrap();
    twice.write_all(&b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n".repeat(2)).unwrap();
    let answer = String::from_utf8(read_all(&twice).unwrap_or_default()).unwrap();
    assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
    assert_eq!(read_all(&silent).unwrap_or_default(), b"");
    assert!(!read_all(&slow).unwrap_or_default().starts_with(b"HTTP/1.1 3"));
    let count = |name: &str| pend.counter(&format!("responder-{name}")).unwrap();
    assert_eq!((count("challenges"), count("crowded")), (1, 0));
    assert!(count("redirected") >= 2 && count("refused") >= 10, "{}", count("refused"));
    // A reload reaches it while it listens.
    let reload = |config: &pen_tests::ConfigText| {
        pend.write_config(&config.render(Some(pend.socket()))).unwrap();
        let output = pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let told = reload(&text("https_port = 8443"));
    assert!(told.contains("https_port"), "{told}");
    assert_eq!(ask(client, &[], "/"), "301 https://site.example:8443/");
    reload(&site(&lab, &pki.list(&["site"]), ""));
    wait_until(LONG, "nobody listens", || connect(client, OPEN).err()).unwrap();
}

#[test]
fn more_clients_than_fit_end_the_oldest_and_a_taken_address_is_told_and_tried_again() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let balancer = &lab.balancer().netns;
    let other = balancer.run(|| std::net::TcpListener::bind("0.0.0.0:80")).unwrap();
    let responder = "[responder]\nlisten = [\"0.0.0.0:80\"]\n";
    let pend = start(&lab, &site(&lab, &pki.list(&["site"]), "").extra(responder));
    let warned = || {
        let warnings = pend.penctl_json(["status"]).unwrap()["warnings"].to_string();
        warnings.contains("responder: 0.0.0.0:80: Address already in use")
    };
    wait_until(LONG, "it is told", || warned().then_some(())).unwrap();
    drop(other);
    wait_until(LONG, "it is tried again", || (!warned()).then_some(())).unwrap();
    let client = &lab.client().netns;
    let many: Vec<_> = (0..300).map(|_| connect(client, OPEN).unwrap()).collect();
    assert_eq!(ask(client, &[], "/"), "301 https://site.example/");
    assert!(pend.counter("responder-crowded").unwrap() > 0);
    for stream in &many {
        assert_eq!(read_all(stream).unwrap_or_default(), b"", "the end, at its time");
    }
}
