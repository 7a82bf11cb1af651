//! Who the client is: the PROXY protocol, to real servers that believe it and from real proxies that
//! say it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pen_tests::{
    Lab, Netns, Pend, Process, client::curl, paths::Scratch, process::SHORT, wait::Stopwatch,
    wait_until,
};

use super::{LONG, Server, connect, lab, name_at, proxied, read_all, start};
use crate::stage::{WEB, WEB6, vips};

/// A program with a configuration of its own; ends on drop.
pub(super) struct Peer {
    _process: Process,
    /// The `DIR` of its configuration.
    pub(super) scratch: Scratch,
}

impl Peer {
    /// haproxy with this section.
    pub(super) fn haproxy(netns: &Netns, section: &str) -> Self {
        let text = format!(
            "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 5s\n  timeout \
             server 5s\n{section}\n"
        );
        Self::start(netns, "haproxy", &text, |command, file| {
            command.args(["-db", "-f"]).arg(file);
        })
    }

    /// nginx whose server says who it was told that the client is.
    pub(super) fn nginx(netns: &Netns) -> Self {
        let text = "daemon off; user root; pid DIR/pid; error_log stderr;\nevents {}\nhttp {\n  \
                    access_log off;\n  server {\n    listen 80 proxy_protocol; listen [::]:80 \
                    proxy_protocol;\n    location / { return 200 \"$proxy_protocol_addr \
                    $proxy_protocol_port $proxy_protocol_server_addr\\n\"; }\n  }\n}\n";
        Self::start(netns, "nginx", text, |command, file| {
            command.args(["-e", "stderr", "-c"]).arg(file);
        })
    }

    pub(super) fn start(
        netns: &Netns,
        program: &str,
        text: &str,
        args: impl FnOnce(&mut std::process::Command, &Path),
    ) -> Self {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("config");
        // A program removes its pid file at its end.
        let text = text.replace("DIR", &scratch.path().display().to_string());
        std::fs::write(&file, text).unwrap();
        let mut command = netns.command(program);
        args(&mut command, &file);
        let process = Process::start(program, command, &scratch.file("log")).unwrap();
        Self { _process: process, scratch }
    }
}

/// A proxy to one backend on both virtual addresses.
fn both(lab: &Lab, keys: &str, extra: &str) -> Pend {
    let service = |name, at| {
        let mut service = proxied(lab, name, at, keys);
        service.check = Some(r#"{ type = "tcp", interval = "100ms", timeout = "100ms" }"#.into());
        service
    };
    start(lab, &vips().service(service("web", WEB)).service(service("web6", WEB6)).extra(extra))
}

/// What a server says of the client, and what the client knows of itself.
fn introduced(lab: &Lab, at: SocketAddr) -> (String, SocketAddr) {
    let mut stream = connect(&lab.client().netns, at).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(head.contains(" 200 "), "{answer}");
    (body.trim().to_owned(), stream.local_addr().unwrap())
}

#[test]
fn haproxy_and_nginx_are_told_the_true_client_in_both_versions() {
    for version in ["v1", "v2"] {
        for server in ["haproxy", "nginx"] {
            let lab = lab(1);
            let netns = &lab.backends[0].netns;
            let _peer = match server {
                "haproxy" => Peer::haproxy(
                    netns,
                    "frontend a\n  mode http\n  bind :::80 v4v6 accept-proxy\n  http-request return \
                     status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst]\\n\"",
                ),
                _ => Peer::nginx(netns),
            };
            let _pend = both(&lab, &format!("send_proxy = \"{version}\""), "");
            for at in [WEB, WEB6] {
                let (said, own) = introduced(&lab, at);
                let expected = format!("{} {} {}", own.ip(), own.port(), at.ip());
                assert_eq!(said, expected, "{server}, {version}");
            }
        }
    }
}

pub(super) const TRUSTED: &str = r#"
[[acl]]
name = "edge"
allow = ["10.77.0.2", "fd77::2"]
default = "deny"
"#;

#[test]
fn what_a_trusted_proxy_says_of_its_client_is_passed_on() {
    for version in ["send-proxy", "send-proxy-v2"] {
        let lab = lab(1);
        let _server = Peer::nginx(&lab.backends[0].netns);
        let keys = "accept_proxy = \"edge\"\nsend_proxy = \"v2\"";
        let pend = both(&lab, keys, TRUSTED);
        let edge = &lab.client().netns;
        let section =
            format!("listen a\n  mode tcp\n  bind 127.0.0.1:81\n  server pen {WEB} {version}\n",);
        let _edge = Peer::haproxy(edge, &section);
        let said =
            wait_until(SHORT, "the edge answers", || curl(edge, "http://127.0.0.1:81/").ok());
        // The client of the edge, and the address that it asked there.
        let said = said.unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
        let words: Vec<&str> = said.split(' ').collect();
        assert_eq!((words[0], words[2]), ("127.0.0.1", "127.0.0.1"), "{said}");
    }
}

#[test]
fn who_is_not_trusted_is_turned_away_with_or_without_a_header() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let config =
        vips().service(proxied(&lab, "web", WEB, "accept_proxy = \"edge\"")).extra(TRUSTED);
    let pend = start(&lab, &config);
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\nhello";
    for (client, words, served) in [
        (&lab.clients[0], &header[..], true),
        (&lab.clients[0], b"GET / HTTP/1.0\r\n\r\n", false),
        (&lab.clients[1], &header[..], false),
        (&lab.clients[1], b"GET / HTTP/1.0\r\n\r\n", false),
    ] {
        let mut stream = connect(&client.netns, WEB).unwrap();
        let _ = stream.write_all(words);
        assert_eq!(name_at(&stream).is_ok(), served, "{}", client.name);
        if served {
            let listed = pend.penctl_json(["connections"]).unwrap();
            assert_eq!(listed["connections"][0]["client"], "192.0.2.1:5000");
            let mut echo = [0; 5];
            stream.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"hello", "what came with the header is the server's");
        }
    }
    assert_eq!(pend.counter("proxy-bad-header").unwrap(), 3);
}

#[test]
fn headers_in_drips_end_at_the_deadline_and_delay_nobody() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let keys = "accept_proxy = \"edge\"\ntimeouts = { header = \"2s\" }";
    let config = vips().service(proxied(&lab, "web", WEB, keys)).extra(TRUSTED);
    let pend = start(&lab, &config);
    let client = &lab.client().netns;
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\n";
    let started = Stopwatch::start();
    let mut slow: Vec<_> = (0..500).map(|_| connect(client, WEB).unwrap()).collect();
    for byte in line.iter().take(8) {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        let asked = Stopwatch::start();
        let mut quick = connect(client, WEB).unwrap();
        quick.write_all(line).unwrap();
        assert_eq!(name_at(&quick).unwrap(), "b1");
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        pen_tests::wait::pace(Duration::from_millis(100));
    }
    // Not one of them had a server meanwhile.
    let row = pend.backend("web", "b1").unwrap();
    assert_eq!(row["proxy"]["total"], 8, "{row}");
    for stream in &slow {
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert!(name_at(stream).is_err());
    }
    assert!(started.elapsed() < LONG);
    let _ = slow[0].shutdown(Shutdown::Both);
    assert_eq!(pend.counter("proxy-bad-header").unwrap(), 500);
}
