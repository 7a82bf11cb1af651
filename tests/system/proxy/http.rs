//! The head of HTTP requests: a real server sees exactly one client, whatever that writes and in
//! whatever pieces, and what may be understood in two ways does not reach it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;

use pen_tests::{
    Lab, Netns, Pend,
    process::{SHORT, run},
    wait::{Stopwatch, pace},
    wait_until,
};

use super::data::noise;
use super::whois::{Peer, TRUSTED};
use super::{LONG, Server, connect, lab, proxied, read_all, start, unchecked};
use crate::stage::{WEB, WEB6, vips};

/// nginx that writes down what it was told with each request. It keeps what is put below `/files/`,
/// and passes on what is below `/on/` to port 81, websockets too.
const NGINX: &str = r#"
daemon off; user root; pid DIR/pid; error_log stderr;
events {}
http {
  client_max_body_size 9m; client_body_temp_path DIR/body; underscores_in_headers on;
  log_format told "$request_method $uri|$http_x_forwarded_for|$http_x_forwarded_proto|$http_connection";
  access_log DIR/told told;
  server {
    LISTEN
    location / { return 200 "$proxy_protocol_addr $http_x_forwarded_for\n"; }
    location /files/ { root DIR; dav_methods PUT; create_full_put_path on; }
    location /on/ {
      proxy_pass http://127.0.0.1:81; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }
  }
}
"#;

fn nginx(netns: &Netns, listen: &str) -> Peer {
    Peer::start(netns, "nginx", &NGINX.replace("LISTEN", listen), |command, file| {
        command.args(["-e", "stderr", "-c"]).arg(file);
    })
}

/// pend in front of one nginx on both addresses.
fn stage(keys: &str) -> (Lab, Peer, Pend) {
    let lab = lab(1);
    let server = nginx(&lab.backends[0].netns, "listen 80; listen [::]:80;");
    let service = |name, at| {
        let mut service = proxied(&lab, name, at, keys);
        service.check = Some(r#"{ type = "tcp", interval = "100ms", timeout = "100ms" }"#.into());
        service
    };
    let config = vips().service(service("web", WEB)).service(service("web6", WEB6));
    let pend = start(&lab, &config);
    (lab, server, pend)
}

/// What nginx was told with its last requests, when there are so many. Without those of checks, which
/// ask nothing.
fn told(server: &Peer, count: usize) -> Vec<String> {
    wait_until(SHORT, "nginx has answered", || {
        let text = fs::read_to_string(server.scratch.file("told")).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .unwrap()
}

/// All that comes in answer to these bytes.
fn ask(netns: &Netns, at: SocketAddr, words: &[u8]) -> String {
    let mut stream = connect(netns, at).unwrap();
    stream.write_all(words).unwrap();
    String::from_utf8(read_all(&stream).unwrap()).unwrap()
}

fn curl(netns: &Netns, args: &[&str]) -> String {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]).args(args);
    let output = run(&mut command, LONG).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    output.stdout
}

#[test]
fn every_request_has_one_true_client_by_any_method_whole_or_in_single_bytes() {
    let (lab, server, _pend) = stage(r#"forwarded_for = "replace""#);
    let client = lab.client();
    let mut expected = Vec::new();
    for (at, address) in [(WEB, client.v4.to_string()), (WEB6, client.v6.to_string())] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            for split in [false, true] {
                let head = format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nx_forwarded_for: \
                     8.8.8.8\r\nX-Forwarded-Proto: https\r\nConnection: keep-alive\r\n\r\n"
                );
                let mut stream = connect(&client.netns, at).unwrap();
                for piece in head.as_bytes().chunks(if split { 1 } else { head.len() }) {
                    stream.write_all(piece).unwrap();
                }
                let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                expected.push(format!("{method} /|{address}|http|close"));
            }
        }
    }
    assert_eq!(told(&server, expected.len()), expected);
}

#[test]
fn addresses_that_a_client_brings_are_replaced_or_come_before_its_own() {
    for (policy, before) in [("replace", ""), ("append", "9.9.9.9, 7.7.7.7, ")] {
        let (lab, server, _pend) = stage(&format!("forwarded_for = \"{policy}\""));
        let client = lab.client();
        let spoofed = ["-H", "X-Forwarded-For: 9.9.9.9", "-H", "x-forwarded-for: 7.7.7.7"];
        curl(&client.netns, &[&spoofed[..], &[&format!("http://{WEB}/")]].concat());
        let expected = format!("GET /|{before}{}|http|close", client.v4);
        assert_eq!(told(&server, 1), [expected]);
    }
}

#[test]
fn a_client_that_keeps_its_connections_has_each_of_its_requests_treated() {
    let (lab, server, pend) = stage(r#"forwarded_for = "replace""#);
    let client = lab.client();
    let urls = [format!("http://{WEB}/a"), format!("http://{WEB}/b")];
    curl(&client.netns, &["-H", "X-Forwarded-For: 9.9.9.9", &urls[0], &urls[1]]);
    let expected = ["a", "b"].map(|path| format!("GET /{path}|{}|http|close", client.v4));
    assert_eq!(told(&server, 2), expected);
    assert_eq!(pend.backend("web", "b1").unwrap()["proxy"]["total"], 2);
}

#[test]
fn a_request_behind_the_first_one_is_not_answered() {
    let (lab, server, _pend) = stage(r#"forwarded_for = "replace""#);
    let client = lab.client();
    let second = "GET /second HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    let chunked = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut expected = Vec::new();
    for first in ["GET /first HTTP/1.1\r\nHost: a\r\n\r\n", chunked] {
        let answer = ask(&client.netns, WEB, format!("{first}{second}").as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
        expected.push(format!(
            "{} /first|{}|http|close",
            &first[..first.find(' ').unwrap()],
            client.v4
        ));
    }
    assert_eq!(told(&server, 2), expected);
}

#[test]
fn a_server_gets_a_head_and_its_body_and_nothing_that_comes_after() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let (report, reported) = mpsc::channel();
    // One that would answer any number of requests.
    let _server = Server::start(&host.netns, (host.v4.into(), 80), move |stream| {
        report.send(read_all(&stream).unwrap()).unwrap();
    });
    let pend = unchecked(&lab, r#"forwarded_for = "replace""#);
    let body = noise(3, 1_000_000);
    let second = b"GET /second HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    for length in [0, 5, body.len()] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let mut client = connect(&lab.client().netns, WEB).unwrap();
        client.write_all(&[head.as_bytes(), &body[..length], second].concat()).unwrap();
        wait_until(SHORT, "the server is connected to", || {
            let listed = pend.penctl_json(["connections"]).unwrap();
            (listed["connections"][0]["state"] == "open").then_some(())
        })
        .unwrap();
        client.write_all(second).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let got = reported.recv_timeout(LONG).unwrap();
        let end = got.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let own = lab.client().v4;
        let expected = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nX-Forwarded-For: \
             {own}\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&got[..end]), expected);
        assert!(got[end..] == body[..length], "{} bytes of {length}", got.len() - end);
    }
}

#[test]
fn what_comes_after_a_request_keeps_no_connection_alive() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let _server = Server::start(&host.netns, (host.v4.into(), 80), |mut stream| {
        let _ = stream.read(&mut [0; 1000]);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let keys = "forwarded_for = \"replace\"\ntimeouts = { half_closed = \"500ms\" }";
    let pend = unchecked(&lab, keys);
    let mut client = connect(&lab.client().netns, WEB).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_all(&client).unwrap().starts_with(b"HTTP/1.1 200 OK\r\n"));
    wait_until(SHORT, "it is cut off", || client.write_all(b"x").err()).unwrap();
    assert_eq!(pend.counter("proxy-half-closed-timeout").unwrap(), 1);
}

#[test]
fn long_bodies_arrive_whole_with_a_length_or_in_chunks() {
    let (lab, server, _pend) = stage(r#"forwarded_for = "replace""#);
    let client = lab.client();
    let file = server.scratch.file("body-of-the-client");
    let body = noise(4, 3_000_000);
    fs::write(&file, &body).unwrap();
    for (name, header) in [("length", "X-Any: b"), ("chunks", "Transfer-Encoding: chunked")] {
        let (from, url) = (file.to_str().unwrap(), format!("http://{WEB}/files/{name}"));
        curl(&client.netns, &["-H", header, "--upload-file", from, &url]);
        assert!(fs::read(server.scratch.file(&format!("files/{name}"))).unwrap() == body, "{name}");
    }
}

#[test]
fn what_may_be_understood_in_two_ways_is_answered_and_no_server_gets_it() {
    let lab = lab(1);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let scratch = pen_tests::paths::Scratch::new().unwrap();
    let log = scratch.file("access.log");
    let service = proxied(&lab, "web", WEB, r#"forwarded_for = "append""#);
    let extra = format!("[access_log]\nfile = \"{}\"\n", log.display());
    let pend = start(&lab, &vips().service(service).extra(&extra));
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    let (bad, large) = ("400 Bad Request", "431 Request Header Fields Too Large");
    let of = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n12345");
    let cases = [
        (of("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), bad),
        (of("Content-Length: 5\r\nContent-Length: 6\r\n"), bad),
        (of("Transfer-Encoding: xchunked\r\n"), bad),
        (of("Transfer-Encoding : chunked\r\n"), bad),
        (of("a: b\r\n c: d\r\n"), bad),
        (of("a: b\nc: d\r\n"), bad),
        (of("a: b\rc: d\r\n"), bad),
        (of("a: \0\r\n"), bad),
        (of("Host: b\r\n"), bad),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), bad),
        ("GET /\r\n".to_owned(), bad),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), bad),
        ("\x16\x03\x01\x02\0\x01\0".to_owned(), bad),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), bad),
        (of(&long), large),
        (of(&"x: y\r\n".repeat(200)), large),
    ];
    for (words, status) in &cases {
        let mut stream = connect(&lab.client().netns, WEB).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        // More than it will ever read: the answer arrives all the same.
        let _ = stream.write_all(&[b'x'; 100_000]);
        let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
        assert_eq!(answer.lines().next(), Some(&*format!("HTTP/1.1 {status}")), "{words:?}");
    }
    // A head that ends in the middle is none either, and who asks nothing is told nothing.
    for (words, status) in [("GET / HTTP", "HTTP/1.1 400 Bad Request"), ("", "")] {
        let mut stream = connect(&lab.client().netns, WEB).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
        assert_eq!(answer.lines().next().unwrap_or_default(), status);
    }
    let count = cases.iter().filter(|(_, status)| *status == bad).count() + 1;
    let counted = |name: &str, count: usize| {
        let probe = || (pend.counter(name).unwrap() == count as u64).then_some(());
        wait_until(SHORT, name, probe).unwrap();
        let lines = || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let cause = name.replace("proxy-", " cause=");
            (text.lines().filter(|line| line.contains(&cause)).count() == count).then_some(())
        };
        wait_until(SHORT, "each has its line", lines).unwrap();
    };
    counted("proxy-bad-request", count);
    counted("proxy-request-too-large", 2);
    counted("proxy-client-closed", 1);
    assert_eq!(pend.backend("web", "b1").unwrap()["proxy"]["total"], 0);
}

#[test]
fn a_request_that_no_server_takes_is_answered_and_one_of_a_denied_client_is_not() {
    let (lab, server, pend) = stage("forwarded_for = \"replace\"");
    let netns = &lab.client().netns;
    drop(server);
    for at in [WEB, WEB6, WEB] {
        let answer = ask(netns, at, b"GET / HTTP/1.1\r\nHost: pen.example\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer:?}");
    }
    let causes = ["connect-failed", "no-backend"];
    let told = causes.map(|cause| pend.counter(&format!("proxy-{cause}")).unwrap());
    assert_eq!(told.iter().sum::<u64>(), 3, "{told:?}");
    let config = fs::read_to_string(pend.config()).unwrap();
    let denied = config.replace("forwarded_for", "acl = \"nobody\"\nforwarded_for");
    let nobody = "\n[[acl]]\nname = \"nobody\"\ndeny = [\"0.0.0.0/0\", \"::/0\"]\n";
    pend.write_config(&(denied + nobody)).unwrap();
    assert!(pend.penctl(["reload"]).unwrap().status.success());
    let mut stream = connect(netns, WEB).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: pen.example\r\n\r\n");
    assert!(read_all(&stream).is_ok_and(|answer| answer.is_empty()));
}

#[test]
fn a_slow_head_is_answered_at_the_deadline_and_delays_nobody() {
    let (lab, _server, pend) = stage("forwarded_for = \"replace\"\ntimeouts = { header = \"2s\" }");
    let netns = &lab.client().netns;
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: b\r\n\r\n";
    let mut slow: Vec<TcpStream> = (0..50).map(|_| connect(netns, WEB).unwrap()).collect();
    let silent = connect(netns, WEB).unwrap();
    let started = Stopwatch::start();
    for byte in &head[..30] {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        assert!(ask(netns, WEB, head).starts_with("HTTP/1.1 200 OK"));
        pace(std::time::Duration::from_millis(100));
    }
    for stream in &slow {
        let answer = String::from_utf8(read_all(stream).unwrap()).unwrap();
        assert_eq!(answer.lines().next(), Some("HTTP/1.1 408 Request Timeout"));
    }
    assert!(read_all(&silent).unwrap().is_empty(), "who asked nothing is told nothing");
    assert!(started.elapsed() < LONG);
    drop(slow);
    let counted = || (pend.counter("proxy-request-timeout").unwrap() == 51).then_some(());
    wait_until(SHORT, "all are counted", counted).unwrap();
}

/// A server that takes a websocket by name only: it says what it hears.
fn echo(netns: &Netns, at: (std::net::IpAddr, u16)) -> (Server, mpsc::Receiver<String>) {
    let (report, reported) = mpsc::channel();
    let server = Server::start(netns, at, move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        report.send(String::from_utf8(head).unwrap()).unwrap();
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
                      upgrade\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    (server, reported)
}

#[test]
fn a_websocket_passes_through_nginx_and_ends_the_connection_if_it_is_not_taken() {
    let (lab, server, _pend) = stage(r#"forwarded_for = "replace""#);
    let (client, host) = (lab.client(), &lab.backends[0]);
    let (_echo, heads) = echo(&host.netns, ("127.0.0.1".parse().unwrap(), 81));
    let head = |path: &str, kind: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: \
             {kind}\r\nSec-WebSocket-Version: 13\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n"
        )
    };
    let mut stream = connect(&client.netns, WEB).unwrap();
    stream.write_all(head("/on/", "websocket").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    for words in [&b"hello"[..], &noise(9, 100_000)] {
        stream.write_all(words).unwrap();
        let mut echo = vec![0; words.len()];
        stream.read_exact(&mut echo).unwrap();
        assert!(echo == words);
    }
    drop(stream);
    let got = heads.recv_timeout(LONG).unwrap();
    assert!(got.contains("Upgrade: websocket\r\n") && !got.contains("9.9.9.9"), "{got}");
    // This server wants no websocket at `/`, and so ends the connection after its answer.
    let second = "GET /second HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    for kind in ["websocket", "h2c"] {
        let words = format!("{}{second}", head("/", kind));
        let answer = ask(&client.netns, WEB, words.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    }
    let expected = [("/on/", "upgrade, close"), ("/", "upgrade, close"), ("/", "close")];
    let own = client.v4;
    let expected = expected.map(|(path, words)| format!("GET {path}|{own}|http|{words}"));
    let mut seen = told(&server, 3);
    seen.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn the_client_that_a_trusted_proxy_names_is_told_in_both_ways() {
    let lab = lab(1);
    let server =
        nginx(&lab.backends[0].netns, "listen 80 proxy_protocol; listen [::]:80 proxy_protocol;");
    let keys = "accept_proxy = \"edge\"\nsend_proxy = \"v2\"\nforwarded_for = \"replace\"\ntimeouts = \
                { header = \"2s\" }";
    let mut service = proxied(&lab, "web", WEB, keys);
    service.check = Some(r#"{ type = "tcp", interval = "100ms", timeout = "100ms" }"#.into());
    let pend = start(&lab, &vips().service(service).extra(TRUSTED));
    let netns = &lab.client().netns;
    let line = "PROXY TCP6 2001:db8::7 2001:db8::8 5000 80\r\n";
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    let whole = format!("{line}{head}");
    for split in [whole.len(), line.len(), line.len() + 7, 1] {
        let mut stream = connect(netns, WEB).unwrap();
        for piece in whole.as_bytes().chunks(split) {
            stream.write_all(piece).unwrap();
        }
        let answer = String::from_utf8(read_all(&stream).unwrap()).unwrap();
        assert!(answer.ends_with("\r\n\r\n2001:db8::7 2001:db8::7\n"), "{answer}");
    }
    assert_eq!(told(&server, 4)[3], "GET /|2001:db8::7|http|close");
    // One deadline for both.
    let answer = ask(netns, WEB, format!("{line}GET").as_bytes());
    assert_eq!(answer.lines().next(), Some("HTTP/1.1 408 Request Timeout"));
    assert!(ask(netns, WEB, head.as_bytes()).is_empty(), "a head is no PROXY header");
    let counted = |name: &str| {
        wait_until(SHORT, name, || (pend.counter(name).unwrap() == 1).then_some(())).unwrap();
    };
    counted("proxy-request-timeout");
    counted("proxy-bad-header");
}
