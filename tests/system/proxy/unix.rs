//! Unix sockets on both sides of the proxy, with real clients and servers.

mod file;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use nix::sys::socket::{self, sockopt};
use pen_tests::{
    ConfigText, Lab, Nginx, Pend, VIP4, VIP6, paths::Scratch, process::SHORT, process::run,
    wait_until,
};

use super::data::noise;
use super::whois::Peer;
use super::{LONG, connect, lab};
use crate::stage::vips;

/// A proxied service at any kind of place, over any kind of backends, that nobody checks.
fn service(name: &str, listen: &str, backends: &[&str], keys: &str) -> String {
    checked(name, listen, backends, &format!("check = {{ type = \"none\" }}\n{keys}"))
}

fn checked(name: &str, listen: &str, backends: &[&str], keys: &str) -> String {
    let backends: String = (1..)
        .zip(backends)
        .map(|(n, at)| format!("{{ address = \"{at}\", name = \"b{n}\" }}, "))
        .collect();
    format!(
        "[[service]]\nname = \"{name}\"\nmode = \"proxy\"\nlisten = \"{listen}\"\n\
         backends = [{backends}]\n{keys}\n"
    )
}

fn config(services: &str) -> ConfigText {
    vips().extra(services)
}

fn start(lab: &Lab, services: &str) -> Pend {
    let mut pend = Pend::start(&lab.balancer().netns, &config(services)).unwrap();
    pend.wait_ready(0).unwrap();
    pend
}

/// Files for sockets.
struct Folder(Scratch);

impl Folder {
    fn new() -> Self {
        Self(Scratch::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    /// As the configuration has it.
    fn at(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    Ok(stream)
}

fn rest(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A server on a path: each connection is handed to a closure, in a thread of its own.
fn serve(path: &Path, act: impl Fn(UnixStream) + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    let act = std::sync::Arc::new(act);
    // It ends with the process of the tests: nothing could wake it.
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let act = std::sync::Arc::clone(&act);
            thread::spawn(move || act(stream));
        }
    });
}

/// One that says its name and then all that it gets.
fn named(path: &Path, name: &'static str) {
    serve(path, move |mut stream| {
        let _ = writeln!(stream, "{name}");
        let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
}

/// Who answers at a path, if anybody does.
fn who(path: &Path) -> io::Result<String> {
    let stream = connect_to(path)?;
    stream.shutdown(Shutdown::Write)?;
    let bytes = rest(&stream)?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Fetches from a listener of any kind with curl.
fn curl(lab: &Lab, at: &str, path: &str) -> Vec<u8> {
    let (file, mut command) = (Scratch::new().unwrap(), lab.client().netns.command("curl"));
    let out = file.file("body");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
    command.args(["--max-time", "60", "--output"]).arg(&out);
    match at.strip_prefix("unix:") {
        Some(socket) => command.args(["--unix-socket", socket, &format!("http://pen{path}")]),
        None => command.arg(format!("http://{at}{path}")),
    };
    let output = run(&mut command, LONG).unwrap();
    assert!(output.status.success(), "{at}: {}", output.stderr);
    fs::read(out).unwrap()
}

#[test]
fn listeners_and_servers_of_all_three_kinds_carry_data_in_all_nine_ways() {
    let (lab, folder) = (lab(1), Folder::new());
    let host = &lab.backends[0];
    let socket = folder.at("nginx");
    let listens = ["0.0.0.0:80", "[::]:80", &socket].map(str::to_owned);
    let nginx = Nginx::start_on(&host.netns, "b1", &listens, 80).unwrap();
    let bulk = noise(9, 3_000_000);
    fs::write(nginx.files().join("bulk"), &bulk).unwrap();
    let servers = [
        SocketAddr::new(host.v4.into(), 80).to_string(),
        SocketAddr::new(host.v6.into(), 80).to_string(),
        socket,
    ];
    let mut listeners = Vec::new();
    let mut text = String::new();
    for (number, server) in (0_u16..).zip(&servers) {
        let inet = |address: IpAddr| SocketAddr::new(address, 8000 + number).to_string();
        for at in [inet(VIP4), inet(VIP6), folder.at(&format!("pen{number}"))] {
            text += &service(&format!("s{}", listeners.len()), &at, &[server], "");
            listeners.push((at, server));
        }
    }
    let pend = start(&lab, &text);
    assert_eq!(listeners.len(), 9);
    for (at, server) in &listeners {
        assert_eq!(curl(&lab, at, "/"), b"b1\n", "{at} to {server}");
        assert!(curl(&lab, at, "/files/bulk") == bulk, "{at} to {server}");
    }
    for number in 0..9 {
        let row = pend.backend(&format!("s{number}"), "b1").unwrap();
        assert_eq!((&row["proxy"]["total"], &row["proxy"]["failures"]), (&2.into(), &0.into()));
    }
}

#[test]
fn socat_talks_through_two_sockets_to_socat() {
    let (lab, folder) = (lab(1), Folder::new());
    let netns = &lab.balancer().netns;
    let mut command = netns.command("socat");
    command.arg(format!("UNIX-LISTEN:{},fork", folder.path("cat").display()));
    command.arg("SYSTEM:tr a-z A-Z");
    let log = folder.path("log");
    let _cat = pen_tests::Process::start("socat", command, &log).unwrap();
    wait_until(SHORT, "socat listens", || folder.path("cat").exists().then_some(())).unwrap();
    let _pend = start(&lab, &service("web", &folder.at("pen"), &[&folder.at("cat")], ""));
    let mut client = netns.command("socat");
    client.arg("-").arg(format!("UNIX-CONNECT:{}", folder.path("pen").display()));
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(b"all of it\n").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ALL OF IT\n");
}

#[test]
fn either_side_may_end_its_half_and_the_rest_still_comes() {
    let (lab, folder) = (lab(1), Folder::new());
    let bytes = noise(5, 5_000_000);
    let (answer, (report, reported)) = (bytes.clone(), mpsc::channel());
    serve(&folder.path("answers"), move |mut stream| {
        assert_eq!(rest(&stream).unwrap(), b"all of it\n");
        stream.write_all(&answer).unwrap();
    });
    serve(&folder.path("listens"), move |mut stream| {
        stream.write_all(b"go on\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        report.send(rest(&stream).unwrap()).unwrap();
    });
    let text = service("a", &folder.at("a"), &[&folder.at("answers")], "")
        + &service("b", &folder.at("b"), &[&folder.at("listens")], "");
    let _pend = start(&lab, &text);
    let mut client = connect_to(&folder.path("a")).unwrap();
    client.write_all(b"all of it\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&client).unwrap() == bytes);
    let mut client = connect_to(&folder.path("b")).unwrap();
    assert_eq!(rest(&client).unwrap(), b"go on\n");
    client.write_all(&bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(reported.recv_timeout(LONG).unwrap() == bytes);
}

#[test]
fn a_reset_becomes_a_close_and_a_client_that_leaves_without_reading_becomes_a_reset() {
    let (lab, folder) = (lab(1), Folder::new());
    let host = &lab.backends[0];
    let at = SocketAddr::new(host.v4.into(), 80);
    let listener = host.netns.run(|| TcpListener::bind(at)).unwrap();
    let pend = start(&lab, &service("web", &folder.at("pen"), &[&at.to_string()], ""));
    let mut client = connect_to(&folder.path("pen")).unwrap();
    client.write_all(b"hello").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(&server, sockopt::Linger, &linger).unwrap();
    drop(server);
    // Whatever comes, it is an end and no byte.
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    let mut client = connect_to(&folder.path("pen")).unwrap();
    client.write_all(b"hello").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    server.write_all(b"never read").unwrap();
    wait_until(SHORT, "it has come", || {
        let listed = pend.penctl_json(["connections"]).ok()?;
        (listed["connections"][0]["bytes_down"] == 10).then_some(())
    })
    .unwrap();
    drop(client);
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(pend.counter("proxy-server-reset").unwrap(), 1);
    assert_eq!(pend.counter("proxy-client-reset").unwrap(), 1);
}

#[test]
fn the_operator_sees_paths_and_commands_their_servers() {
    let (lab, folder) = (lab(1), Folder::new());
    named(&folder.path("one"), "one");
    named(&folder.path("two"), "two");
    let pen = folder.path("pen");
    let log = format!("[access_log]\nfile = \"{}\"\n", folder.path("log").display());
    let servers = [folder.at("one"), folder.at("two")];
    let servers = servers.each_ref().map(String::as_str);
    let keys = "scheduler = \"roundrobin\"";
    let pend = start(&lab, &(service("web", &folder.at("pen"), &servers, keys) + &log));
    let listed = pend.penctl_json(["services"]).unwrap();
    assert!(listed.to_string().contains(&format!("\"listen\":\"{}\"", folder.at("pen"))));
    assert_eq!(pend.backend("web", "b1").unwrap()["address"], servers[0]);
    for (verb, text) in [("services", folder.at("pen")), ("backends", folder.at("two"))] {
        let output = pend.penctl([verb]).unwrap();
        assert!(output.stdout.contains(&text), "{output:?}");
    }
    let order = |words: &[&str]| {
        let output = pend.penctl(words).unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mut held = connect_to(&pen).unwrap();
    let mut name = [0; 4];
    held.read_exact(&mut name).unwrap();
    let row = pend.penctl_json(["connections"]).unwrap()["connections"][0].clone();
    let drained = if &name == b"one\n" { ("web/b1", "two") } else { ("web/b2", "one") };
    assert_eq!(row["client"], folder.at("pen"), "{row}");
    assert_eq!(row["address"], servers[usize::from(drained.0 == "web/b2")], "{row}");
    let none = pend.penctl_json(["connections", "--client", "::/0"]).unwrap();
    assert_eq!(none["connections"].as_array().map(Vec::len), Some(0));
    order(&["drain", drained.0]);
    assert!((0..10).all(|_| who(&pen).unwrap() == drained.1));
    held.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    held.read_exact(&mut echo).unwrap();
    order(&["maint", drained.0]);
    assert_eq!(held.read(&mut echo).unwrap_or(0), 0, "maintenance ends it");
    order(&["ready", drained.0]);
    let words = format!(" {} web b", folder.at("pen"));
    let lines = wait_until(SHORT, "all are logged", || {
        let text = fs::read_to_string(folder.path("log")).ok()?;
        (text.lines().count() == 11).then_some(text)
    });
    let lines = lines.unwrap();
    assert!(lines.lines().all(|line| line.contains(&words)), "{lines}");
    assert!(lines.contains(&format!(" b1 {} queue=", servers[0])), "{lines}");
    let output = pend.penctl(["close", "--service", "web", "--dry-run"]).unwrap();
    assert!(output.stdout.starts_with("0 "), "{output:?}");
}

#[test]
fn checks_and_failed_connections_take_a_socket_out_and_its_return_brings_it_back() {
    let (lab, folder) = (lab(1), Folder::new());
    let (pen, one) = (folder.path("pen"), folder.path("one"));
    named(&one, "one");
    named(&folder.path("two"), "two");
    let servers = [folder.at("one"), folder.at("two")];
    let servers = servers.each_ref().map(String::as_str);
    let keys = "scheduler = \"prio\"\neject = \"0s\"\n\
                check = { interval = \"100ms\", timeout = \"100ms\" }";
    let mut pend = Pend::start(
        &lab.balancer().netns,
        &config(&checked("web", &folder.at("pen"), &servers, keys)),
    )
    .unwrap();
    pend.wait_ready(2).unwrap();
    let asked = |expected: &str| {
        wait_until(LONG, "all is as it was", || {
            let names: Vec<_> = (0..4).map(|_| who(&pen).unwrap()).collect();
            names.iter().any(|name| name == expected).then_some(())
        })
        .unwrap();
    };
    asked("one");
    // Nobody notices: whoever is sent there goes on to the other one.
    let aside = folder.path("aside");
    fs::rename(&one, &aside).unwrap();
    assert!((0..20).all(|_| who(&pen).unwrap() == "two"));
    let row = pend.wait_health("web", "b1", "down").unwrap();
    assert!(row["why"].as_str().unwrap().contains("No such file"), "{row}");
    fs::rename(&aside, &one).unwrap();
    pend.wait_health("web", "b1", "up").unwrap();
    asked("one");
}

#[test]
fn a_server_whose_queue_is_full_is_waited_for_and_then_another_one_is_asked() {
    let (lab, folder) = (lab(1), Folder::new());
    let pen = folder.path("pen");
    let full = UnixListener::bind(folder.path("full")).unwrap();
    socket::listen(&full, socket::Backlog::new(0).unwrap()).unwrap();
    let _in_queue = connect_to(&folder.path("full")).unwrap();
    named(&folder.path("other"), "other");
    let servers = [folder.at("full"), folder.at("other")];
    let servers = servers.each_ref().map(String::as_str);
    // What the other service finds out about the server is not for this one.
    let alone = service("alone", &folder.at("alone"), &servers[..1], "eject = \"0s\"");
    let keys = "scheduler = \"weight\"\ntimeouts = { connect = \"200ms\" }";
    let pend = start(&lab, &(service("web", &folder.at("pen"), &servers, keys) + &alone));
    assert_eq!(who(&pen).unwrap(), "other");
    assert_eq!(pend.backend("web", "b1").unwrap()["proxy"]["failures"], 1);
    // With the usual time there is room in the end.
    let waiting = connect_to(&folder.path("alone")).unwrap();
    full.accept().unwrap();
    let (mut server, _) = full.accept().unwrap();
    server.write_all(b"at last").unwrap();
    drop(server);
    assert_eq!(rest(&waiting).unwrap(), b"at last");
}

#[test]
fn a_socket_that_may_not_be_opened_is_told_with_its_cure_and_another_one_is_asked() {
    let (lab, folder) = (lab(1), Folder::new());
    named(&folder.path("closed"), "closed");
    named(&folder.path("open"), "open");
    fs::set_permissions(folder.path("closed"), fs::Permissions::from_mode(0o400)).unwrap();
    let servers = [folder.at("closed"), folder.at("open")];
    let servers = servers.each_ref().map(String::as_str);
    let text = service("web", &folder.at("pen"), &servers, "scheduler = \"weight\"");
    let words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let mut pend = Pend::prepare(&lab.balancer().netns).unwrap().through(&words);
    pend.write_config(&config(&text).render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    assert_eq!(who(&folder.path("pen")).unwrap(), "open");
    let log = pend.log();
    assert!(log.contains("Permission denied") && log.contains("needs write access"), "{log}");
}

#[test]
fn clients_of_a_socket_are_spread_and_neither_lists_nor_limits_by_source_concern_them() {
    let (lab, folder) = (lab(1), Folder::new());
    let pen = folder.path("pen");
    named(&folder.path("one"), "one");
    named(&folder.path("two"), "two");
    let servers = [folder.at("one"), folder.at("two")];
    let servers = servers.each_ref().map(String::as_str);
    // With the usual affinity, by client.
    let keys = "acl = \"nobody\"\nmax_per_source = 1";
    let nobody = "[[acl]]\nname = \"nobody\"\ndefault = \"deny\"\n";
    let _pend = start(&lab, &(service("web", &folder.at("pen"), &servers, keys) + nobody));
    let held: Vec<_> = (0..40).map(|_| connect_to(&pen).unwrap()).collect();
    let mut names: Vec<_> = held
        .iter()
        .map(|mut stream| {
            let mut name = [0; 4];
            stream.read_exact(&mut name).unwrap();
            name
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, [*b"one\n", *b"two\n"]);
}

/// What nginx was told of the client by the PROXY protocol.
fn told(path: &Path, header: &[u8]) -> String {
    let mut stream = connect_to(path).unwrap();
    stream.write_all(header).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&stream).unwrap()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(head.contains(" 200 "), "{}: {answer}", path.display());
    body.trim().to_owned()
}

#[test]
fn a_client_without_an_address_is_unknown_to_haproxy_and_nginx_and_served() {
    for version in ["v1", "v2"] {
        let (lab, folder) = (lab(2), Folder::new());
        let keys = format!("send_proxy = \"{version}\"");
        let [first, second] = [&lab.backends[0], &lab.backends[1]];
        let _nginx = Peer::nginx(&first.netns);
        let section = "frontend a\n  mode http\n  bind :80 accept-proxy\n  http-request return \
                       status 200 content-type text/plain string \"served\\n\"";
        let _haproxy = Peer::haproxy(&second.netns, section);
        let at = |address: std::net::Ipv4Addr| format!("{address}:80");
        let text = service("nginx", &folder.at("nginx"), &[&at(first.v4)], &keys)
            + &service("haproxy", &folder.at("haproxy"), &[&at(second.v4)], &keys);
        let _pend = start(&lab, &text);
        for host in [first, second] {
            let at = SocketAddr::new(host.v4.into(), 80);
            wait_until(LONG, "it listens", || connect(&lab.client().netns, at).ok()).unwrap();
        }
        assert_eq!(told(&folder.path("nginx"), b""), "", "{version}");
        assert_eq!(told(&folder.path("haproxy"), b""), "served", "{version}");
    }
}

#[test]
fn a_request_over_a_socket_comes_from_somebody_unknown_and_an_end_closes_both_sides() {
    let (lab, folder) = (lab(1), Folder::new());
    // A server that answers with what it was told, and ends only with its client.
    serve(&folder.path("app"), |stream| {
        let mut lines = io::BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(io::BufRead::read_line(&mut lines, &mut head).unwrap() > 0);
        }
        write!(&stream, "HTTP/1.0 200 OK\r\n\r\n{head}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = rest(&stream);
    });
    let keys = "forwarded_for = \"replace\"\nfast_close = true";
    let pend = start(&lab, &service("web", &folder.at("pen"), &[&folder.at("app")], keys));
    let mut client = connect_to(&folder.path("pen")).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&client).unwrap()).unwrap();
    assert!(answer.contains("\r\nX-Forwarded-For: unknown\r\n"), "{answer}");
    assert!(!answer.contains("192.0.2.7"), "{answer}");
    wait_until(LONG, "it has ended", || {
        (pend.counter("proxy-server-closed").ok()? == 1).then_some(())
    })
    .unwrap();
    let mut client = connect_to(&folder.path("pen")).unwrap();
    client.write_all(b"nonsense\r\n\r\n").unwrap();
    assert!(String::from_utf8(rest(&client).unwrap()).unwrap().starts_with("HTTP/1.1 400 "));
}

#[test]
fn what_a_proxy_says_over_a_socket_is_believed_for_its_file_is_the_list() {
    let (lab, folder) = (lab(1), Folder::new());
    let host = &lab.backends[0];
    let _nginx = Peer::nginx(&host.netns);
    let nobody = "[[acl]]\nname = \"nobody\"\ndefault = \"deny\"\n";
    let keys = "accept_proxy = \"nobody\"\nsend_proxy = \"v2\"";
    let server = format!("{}:80", host.v4);
    let pend = start(&lab, &(service("web", &folder.at("pen"), &[&server], keys) + nobody));
    let at = SocketAddr::new(host.v4.into(), 80);
    wait_until(LONG, "it listens", || connect(&lab.client().netns, at).ok()).unwrap();
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.2 5000 80\r\n";
    assert_eq!(told(&folder.path("pen"), header), "192.0.2.7 5000 198.51.100.2");
    assert_eq!(told(&folder.path("pen"), b"PROXY UNKNOWN\r\n"), "");
    // A real one in front, over the socket.
    let edge = &lab.balancer().netns;
    let section = format!(
        "listen a\n  mode tcp\n  bind 127.0.0.1:81\n  server pen unix@{} send-proxy-v2\n",
        folder.path("pen").display()
    );
    let _edge = Peer::haproxy(edge, &section);
    let said = wait_until(LONG, "the edge answers", || {
        pen_tests::client::curl(edge, "http://127.0.0.1:81/").ok()
    });
    let said = said.unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
    assert!(said.starts_with("127.0.0.1 ") && said.ends_with(" 127.0.0.1"), "{said}");
    let mut stream = connect_to(&folder.path("pen")).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "without a header nobody is served");
}
