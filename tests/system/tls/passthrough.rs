//! TLS that is passed on as it is, by the name in its first message; and the same names where TLS ends.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use pen_tests::{
    Host, Lab, Pend, Process, client::curl, paths::Scratch, wait::Stopwatch, wait_until,
};
use rustls::{ClientConnection, pki_types::ServerName};

use super::{Pki, SITE, SITE6, finish, secure};
use crate::{
    proxy::{LONG, Server, connect, lab, proxied, read_all, start},
    stage::vips,
};

/// nginx that ends TLS with a certificate, and answers its name.
struct Secured {
    _process: Process,
    _scratch: Scratch,
}

impl Secured {
    fn start(host: &Host, pki: &Pki, certificate: &str) -> Self {
        let scratch = Scratch::new().unwrap();
        let (dir, name) = (scratch.path().display(), &host.name);
        let (chain, key) =
            (pki.file(&format!("{certificate}.pem")), pki.file(&format!("{certificate}.key")));
        let text = format!(
            "daemon off; user root; pid {dir}/pid; error_log stderr;\nevents {{}}\nhttp {{\n  \
             access_log off;\n  server {{\n    listen 443 ssl; listen [::]:443 ssl;\n    \
             ssl_certificate {chain}; ssl_certificate_key {key};\n    location / {{ return 200 \
             \"{name} $ssl_server_name\\n\"; }}\n  }}\n}}\n"
        );
        let file = scratch.file("config");
        std::fs::write(&file, text).unwrap();
        let mut command = host.netns.command("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let process = Process::start("nginx", command, &scratch.file("log")).unwrap();
        Self { _process: process, _scratch: scratch }
    }
}

const ROUTES: &str = r#"routes = [{ names = ["a.example"], backends = ["b1"] },
  { names = ["*.b.example", "b.example"], backends = ["b2"] }]
"#;

const PROBED: &str = r#"{ type = "tcp", interval = "100ms", timeout = "100ms" }"#;
/// For servers that the test plays.
const UNCHECKED: &str = r#"{ type = "none" }"#;

fn routed(lab: &Lab, check: &str, keys: &str) -> Pend {
    let one = |name, at: SocketAddr| {
        let mut service = proxied(lab, name, at, keys);
        service.check = Some(check.to_owned());
        service
    };
    start(lab, &vips().service(one("site", SITE)).service(one("site6", SITE6)))
}

#[test]
fn each_name_reaches_its_own_server_and_sees_its_certificate() {
    let (lab, pki) = (lab(3), Pki::new());
    for (name, hosts) in [
        ("one", &["a.example"][..]),
        ("two", &["b.example", "*.b.example"]),
        ("three", &["c.example"]),
    ] {
        pki.issue(name, hosts);
    }
    let _servers: Vec<_> = lab
        .backends
        .iter()
        .zip(["one", "two", "three"])
        .map(|(host, name)| Secured::start(host, &pki, name))
        .collect();
    let pend = routed(&lab, PROBED, ROUTES);
    let client = &lab.client().netns;
    for at in [SITE, SITE6] {
        for (name, server) in
            [("a.example", "b1"), ("b.example", "b2"), ("x.b.example", "b2"), ("c.example", "b3")]
        {
            // curl checks the certificate: nobody but the server has its key.
            let mut command = client.command("curl");
            command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"]);
            command.args(["--cacert", &pki.file("root.pem"), "--globoff"]);
            command.args(["--resolve", &format!("{name}:443:{}", at.ip())]);
            command.arg(format!("https://{name}/"));
            let output = pen_tests::process::run(&mut command, LONG).unwrap();
            let said = output.stdout.trim();
            assert_eq!(said, format!("{server} {name}"), "{output:?} {}", pend.log());
        }
    }
    // Without a name: the one that is for the others.
    let output = pki.s_client(client, SITE, "-noservername");
    assert!(output.stdout.contains("subject=CN = three"), "{output:?}");
    assert!(curl(client, &format!("http://{SITE}/")).is_err());
    wait_until(LONG, "what is no TLS is counted", || {
        (pend.counter("proxy-not-tls").unwrap() == 1).then_some(())
    })
    .unwrap();
}

#[test]
fn a_hello_in_single_bytes_goes_where_it_should_and_nothing_is_altered() {
    let lab = lab(2);
    let (heard, hears) = std::sync::mpsc::channel();
    let _servers: Vec<_> = lab
        .backends
        .iter()
        .map(|host| {
            let (name, heard) = (host.name.clone(), std::sync::Mutex::new(heard.clone()));
            Server::start(&host.netns, (host.v4.into(), 443), move |mut stream| {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes);
                let _ = stream.write_all(b"done");
                let _ = heard.lock().unwrap().send((name.clone(), bytes));
            })
        })
        .collect();
    let keys = "routes = [{ names = [\"a.example\"], backends = [\"b1\"] }, { names = \
                [\"b.example\"], backends = [\"b2\"] }]\ntimeouts = { header = \"5s\" }";
    let pend = routed(&lab, UNCHECKED, keys);
    let client = &lab.client().netns;
    let pki = Pki::new();
    let hello = |name: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(pki.client()), name).unwrap();
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).unwrap();
        bytes
    };
    for (name, server) in [("a.example", "b1"), ("b.example", "b2")] {
        let mut said = hello(name);
        said.extend(b"and what follows it at once");
        let mut stream = connect(client, SITE).unwrap();
        for byte in &said {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(hears.recv_timeout(LONG).unwrap(), (server.to_owned(), said));
        assert_eq!(read_all(&stream).unwrap(), b"done");
    }
    // A name that nobody has, and silence.
    let mut stream = connect(client, SITE).unwrap();
    stream.write_all(&hello("c.example")).unwrap();
    assert_eq!(read_all(&stream).unwrap(), [21, 3, 3, 0, 2, 2, 112], "an alert");
    assert_eq!(pend.counter("proxy-unknown-name").unwrap(), 1);
    let asked = Stopwatch::start();
    let mut silent = connect(client, SITE).unwrap();
    silent.write_all(&hello("a.example")[..20]).unwrap();
    silent.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(read_all(&silent).unwrap_or_default(), b"");
    assert!(asked.elapsed() < LONG && asked.elapsed() > Duration::from_secs(4));
    wait_until(LONG, "it is counted", || {
        (pend.counter("proxy-handshake-timeout").unwrap() == 1).then_some(())
    })
    .unwrap();
}

#[test]
fn names_choose_servers_also_where_tls_ends() {
    let (lab, pki) = (lab(3), Pki::new());
    pki.issue("site", &["a.example", "b.example", "c.example"]);
    let _servers: Vec<_> = lab
        .backends
        .iter()
        .map(|host| Server::named(&host.netns, (host.v4.into(), 443), &host.name))
        .collect();
    let _pend = routed(&lab, UNCHECKED, &format!("{ROUTES}tls = {{ {} }}\n", pki.list(&["site"])));
    let config = Arc::new(pki.client());
    for (name, server) in [("a.example", "b1\n"), ("b.example", "b2\n"), ("c.example", "b3\n")] {
        let mut stream = secure(&lab.client().netns, SITE, &config, name).unwrap();
        assert_eq!(finish(&mut stream).unwrap(), server.as_bytes());
    }
}
