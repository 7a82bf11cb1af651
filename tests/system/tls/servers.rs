//! TLS that begins at the proxy, towards real servers: who is believed, and that every byte comes through.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use pen_tests::{Lab, Netns, Nginx, Output, Pend, VIP4, process::run, wait_until};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version,
};

use super::{Pki, SITE, finish, secure};
use crate::{
    proxy::{LONG, Server, connect, lab, proxied, read_all, start},
    stage::vips,
};

/// Where clients speak in the open.
pub(super) const OPEN: SocketAddr = SocketAddr::new(VIP4, 8080);

/// A server's connection with TLS.
pub(super) type Sealed = StreamOwned<ServerConnection, TcpStream>;

/// nginx with TLS at port 443, with a certificate and these directives.
pub(super) fn nginx(lab: &Lab, place: usize, pki: &Pki, name: &str, directives: &str) -> Nginx {
    let host = &lab.backends[place];
    let (chain, key) = (pki.file(&format!("{name}.pem")), pki.file(&format!("{name}.key")));
    // The helper writes `listen` before and `;` after it.
    let sealed = format!(
        "0.0.0.0:443 ssl; ssl_certificate {chain}; ssl_certificate_key {key}; {directives} \
         dav_methods PUT; client_max_body_size 64m"
    );
    Nginx::start_on(&host.netns, &host.name, &["0.0.0.0:80".to_owned(), sealed], 80).unwrap()
}

/// Settings of a server with a certificate, in all versions or TLS 1.2 only, that wants to see one.
pub(super) fn settings(pki: &Pki, name: &str, old: bool, asks: bool) -> ServerConfig {
    let both = [&version::TLS13, &version::TLS12];
    let builder = ServerConfig::builder_with_protocol_versions(&both[usize::from(old)..]);
    let builder = match asks {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(pki.file("root.pem")).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(pki.file(&format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(pki.file(&format!("{name}.key"))).unwrap();
    builder.with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
}

/// A server behind a host, with these settings.
pub(super) fn sealed(
    lab: &Lab,
    place: usize,
    config: ServerConfig,
    serve: impl Fn(Sealed) + Send + Sync + 'static,
) -> Server {
    let (host, config) = (&lab.backends[place], Arc::new(config));
    Server::start(&host.netns, (host.v4.into(), 443), move |stream| {
        let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(tls, stream);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        serve(stream);
    })
}

/// Says its name and then all that it hears, and ends when the other side does.
pub(super) fn echo(name: &'static str) -> impl Fn(Sealed) + Send + Sync + 'static {
    move |mut stream| {
        let _ = stream.write_all(name.as_bytes());
        let mut bytes = [0; 16384];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => stream.write_all(&bytes[..count]).unwrap(),
                Err(_) => return,
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let _ = stream.sock.shutdown(Shutdown::Write);
    }
}

/// pend with a service for clients with TLS and one for those without, over these backends.
pub(super) fn serve(lab: &Lab, pki: &Pki, places: &[usize], tls: &str, keys: &str) -> Pend {
    let one = |name, at, keys: &str| {
        let mut service = proxied(lab, name, at, keys);
        let all = std::mem::take(&mut service.backends);
        for place in places {
            let (name, mut address) = all[*place].clone();
            address.set_port(443);
            service.backends.push((name, address));
        }
        service.check = Some(r#"{ type = "none" }"#.to_owned());
        service.affinity = "flow".to_owned();
        service
    };
    let keys = format!("backend_tls = {{ {tls} }}\neject = \"0s\"\n{keys}");
    let ends = format!("tls = {{ {} }}\n{keys}", pki.list(&["site"]));
    start(lab, &vips().service(one("site", SITE, &ends)).service(one("open", OPEN, &keys)))
}

pub(super) fn count(pend: &Pend, name: &str) -> u64 {
    pend.counter(&format!("proxy-{name}")).unwrap()
}

/// What curl gets of the service in the open, with these arguments.
fn curl(netns: &Netns, words: &[&str]) -> Output {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]).args(words);
    run(&mut command, LONG).unwrap()
}

fn get(netns: &Netns, path: &str) -> String {
    curl(netns, &[&format!("http://{OPEN}{path}")]).stdout
}

/// Authorities and certificates, one for each way to be wrong.
fn certificates() -> Pki {
    let pki = Pki::new();
    pki.issue("site", &["site.example"]);
    pki.issue("app", &["app.example"]);
    pki.issue("other", &["other.example"]);
    pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj \
                 /CN=app.example -addext subjectAltName=DNS:app.example -addext basicConstraints=critical,CA:FALSE -keyout own.key -out own.pem");
    pki.issue("expired", &["app.example"]);
    pki.openssl(
        "x509 -req -in expired.csr -CA inter.pem -CAkey inter.key -days -1 -extfile expired.ext \
         -out expired.pem",
    );
    let chain = pki.read("expired.pem") + &pki.read("inter.pem");
    pki.write("expired.pem", chain);
    pki
}

fn trusts(pki: &Pki) -> String {
    format!("ca = \"{}\", name = \"app.example\"", pki.file("root.pem"))
}

#[test]
fn only_servers_with_a_good_certificate_are_believed_and_the_next_one_is_asked() {
    let (lab, pki) = (lab(4), certificates());
    let names = ["app", "other", "expired", "own"];
    let _servers: Vec<_> = (0..4).map(|place| nginx(&lab, place, &pki, names[place], "")).collect();
    let client = &lab.client().netns;
    for (place, why) in [(1, "is not for app.example"), (2, "has expired"), (3, "nobody")] {
        let pend = serve(&lab, &pki, &[place], &trusts(&pki), "");
        assert_eq!(get(client, "/"), "", "{}", names[place]);
        assert_eq!(count(&pend, "server-handshake-untrusted"), 1, "{}", names[place]);
        assert_eq!(count(&pend, "connect-failed"), 1);
        let log = pend.log();
        assert!(log.contains("TLS: ") && log.contains(why), "{log}");
    }
    {
        // Nobody's but the server's own address is asked for without a name.
        let ca = format!("ca = \"{}\"", pki.file("root.pem"));
        let pend = serve(&lab, &pki, &[0], &ca, "");
        assert_eq!(get(client, "/"), "");
        assert_eq!(count(&pend, "server-handshake-untrusted"), 1);
    }
    {
        let pend = serve(&lab, &pki, &[3], "verify = false", "");
        assert_eq!(get(client, "/"), "b4\n", "it was spelled out: {}", pend.log());
    }
    let pend = serve(&lab, &pki, &[0, 1, 2, 3], &trusts(&pki), "");
    for _ in 0..20 {
        assert_eq!(get(client, "/"), "b1\n", "{}", pend.log());
    }
    assert!(count(&pend, "server-handshake-untrusted") > 0 && count(&pend, "redispatched") > 0);
    let output = pki.s_client(client, SITE, "-servername site.example -brief");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn long_bodies_pass_both_ways_to_nginx_for_clients_with_tls_and_without() {
    let (lab, pki) = (lab(1), certificates());
    let server = nginx(&lab, 0, &pki, "app", "");
    let long: Vec<u8> = (0..5_000_000_u32)
        .flat_map(|n| [n.to_le_bytes()[0], (n.wrapping_mul(n) >> 9).to_le_bytes()[0]])
        .collect();
    std::fs::write(server.files().join("long"), &long).unwrap();
    pki.write("long", &long);
    let pend = serve(&lab, &pki, &[0], &trusts(&pki), "");
    let client = &lab.client().netns;
    let resolve = format!("site.example:443:{}", SITE.ip());
    let (root, put, got) = (pki.file("root.pem"), pki.file("long"), pki.file("got"));
    let secured = ["--resolve", &*resolve, "--cacert", &*root];
    let open = format!("http://{OPEN}/files/");
    for (more, url) in [(&[][..], &*open), (&secured[..], "https://site.example/files/")] {
        let output =
            curl(client, &[more, &["--fail", "-o", &got, &format!("{url}long")][..]].concat());
        assert!(output.status.success(), "{url}: {output:?} {}", pend.log());
        assert!(std::fs::read(&got).unwrap() == long, "{url}: altered on the way to the client");
        let output =
            curl(client, &[more, &["--fail", "-T", &put, &format!("{url}put")][..]].concat());
        assert!(output.status.success(), "{url}: {output:?} {}", pend.log());
        let arrived = server.files().join("put");
        assert!(
            std::fs::read(&arrived).unwrap() == long,
            "{url}: altered on the way to the server"
        );
        std::fs::remove_file(arrived).unwrap();
    }
    wait_until(LONG, "all four are over", || (count(&pend, "client-closed") == 4).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
}

#[test]
fn requests_are_rewritten_before_they_are_sealed_and_nothing_comes_behind_them() {
    let (lab, pki) = (lab(1), certificates());
    let (said, heard) = std::sync::mpsc::channel();
    let said = Mutex::new(said);
    let _server = sealed(&lab, 0, settings(&pki, "app", false, false), move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        stream.conn.send_close_notify();
        let _ = stream.flush();
        said.lock().unwrap().send(String::from_utf8(all).unwrap()).unwrap();
    });
    let mut service = proxied(
        &lab,
        "open",
        OPEN,
        &format!("backend_tls = {{ {} }}\nforwarded_for = \"replace\"", trusts(&pki)),
    );
    service.backends[0].1.set_port(443);
    service.check = Some(r#"{ type = "none" }"#.to_owned());
    let pend = start(&lab, &vips().service(service));
    let host = lab.client();
    let mut client = connect(&host.netns, OPEN).unwrap();
    client.write_all(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\n").unwrap();
    client.write_all(b"Host: a\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let answer = String::from_utf8(read_all(&client).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer:?} {}", pend.log());
    let got = heard.recv_timeout(LONG).unwrap();
    assert!(got.starts_with("GET /first") && !got.contains("second"), "{got:?}");
    assert!(got.contains(&format!("X-Forwarded-For: {}", host.v4)), "{got:?}");
}

#[test]
fn each_half_ends_by_itself_and_all_bytes_pass_both_ways_at_once() {
    let (lab, pki) = (lab(1), certificates());
    for old in [false, true] {
        let _server = sealed(&lab, 0, settings(&pki, "app", old, false), echo("b1\n"));
        let pend = serve(&lab, &pki, &[0], &trusts(&pki), "");
        let netns = &lab.client().netns;
        let sent: Vec<u8> =
            (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()[0]).collect();
        let mut client = connect(netns, OPEN).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        let reader = client.try_clone().unwrap();
        let reading = std::thread::spawn(move || read_all(&reader));
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let got = reading.join().unwrap().unwrap();
        assert!(got.strip_prefix(b"b1\n").unwrap() == sent, "{} bytes", got.len());
        let config = Arc::new(pki.client());
        let mut client = secure(netns, SITE, &config, "site.example").unwrap();
        let mut got = Vec::new();
        for piece in sent.chunks(100_000) {
            client.write_all(piece).unwrap();
            let mut back = vec![0; piece.len() / 2];
            client.read_exact(&mut back).unwrap();
            got.extend(back);
        }
        got.extend(finish(&mut client).unwrap());
        assert!(got.strip_prefix(b"b1\n").unwrap() == sent);
        wait_until(LONG, "both are over in order", || {
            (count(&pend, "client-closed") == 2).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
    }
}

#[test]
fn a_server_that_ends_first_is_heard_to_its_end_and_hears_what_comes_later() {
    let (lab, pki) = (lab(1), certificates());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&heard);
    let _server = sealed(&lab, 0, settings(&pki, "app", false, false), move |mut stream| {
        stream.write_all(b"all there is").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        own.lock().unwrap().push((rest, ended.is_ok()));
    });
    let _pend = serve(&lab, &pki, &[0], &trusts(&pki), "");
    let mut client = connect(&lab.client().netns, OPEN).unwrap();
    assert_eq!(read_all(&client).unwrap(), b"all there is");
    client.write_all(b"and yet").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    wait_until(LONG, "the server hears it, and the notice", || {
        (*heard.lock().unwrap() == [(b"and yet".to_vec(), true)]).then_some(())
    })
    .unwrap();
}

#[test]
fn a_server_is_shown_a_certificate_if_it_wants_one() {
    let (lab, pki) = (lab(2), certificates());
    pki.issue("pen", &["pen.example"]);
    let asks = format!(
        "ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 2;",
        pki.file("root.pem")
    );
    let _nginx = nginx(&lab, 0, &pki, "app", &asks);
    let _old = sealed(&lab, 1, settings(&pki, "app", true, true), echo("b2\n"));
    let client = &lab.client().netns;
    let own = format!(
        "{}, certificate = {{ chain = \"{}\", key = \"{}\" }}",
        trusts(&pki),
        pki.file("pen.pem"),
        pki.file("pen.key")
    );
    {
        let pend = serve(&lab, &pki, &[0], &own, "");
        assert_eq!(get(client, "/"), "b1\n", "{}", pend.log());
        let listed = pend.penctl_json(["certs"]).unwrap();
        let files = listed.as_array().unwrap().iter().map(|one| one["file"].as_str().unwrap());
        assert_eq!(files.filter(|file| file.ends_with("/pen.pem")).count(), 2, "{listed}");
    }
    {
        let _pend = serve(&lab, &pki, &[0], &trusts(&pki), "");
        assert!(get(client, "/").contains("No required SSL certificate"));
    }
    let pend = serve(&lab, &pki, &[1], &trusts(&pki), "");
    assert_eq!(read_all(&connect(client, OPEN).unwrap()).unwrap_or_default(), b"");
    assert_eq!(count(&pend, "server-handshake-refused"), 1, "{}", pend.log());
}

#[test]
fn the_proxy_header_comes_before_tls_and_names_the_true_client() {
    let (lab, pki) = (lab(1), certificates());
    let host = &lab.backends[0];
    let directives = "set_real_ip_from 0.0.0.0/0; real_ip_header proxy_protocol";
    let sealed = format!(
        "0.0.0.0:443 ssl proxy_protocol; ssl_certificate {}; ssl_certificate_key {}; {directives}",
        pki.file("app.pem"),
        pki.file("app.key")
    );
    let _nginx =
        Nginx::start_on(&host.netns, "b1", &["0.0.0.0:80".to_owned(), sealed], 80).unwrap();
    let client = lab.client();
    for version in ["v1", "v2"] {
        let keys = format!("send_proxy = \"{version}\"");
        let pend = serve(&lab, &pki, &[0], &trusts(&pki), &keys);
        assert_eq!(get(&client.netns, "/peer"), format!("{}\n", client.v4), "{}", pend.log());
        let resolve = format!("site.example:443:{}", SITE.ip());
        let words = ["--resolve", &resolve, "--cacert", &pki.file("root.pem")];
        let output = curl(&client.netns, &[&words[..], &["https://site.example/peer"]].concat());
        assert_eq!(output.stdout, format!("{}\n", client.v4), "{output:?} {}", pend.log());
    }
}

#[test]
fn sessions_are_resumed_and_what_the_client_speaks_is_asked_for() {
    let (lab, pki) = (lab(1), certificates());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&seen);
    let mut config = settings(&pki, "app", false, false);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let _server = sealed(&lab, 0, config, move |stream| {
        let alpn = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
        own.lock().unwrap().push((stream.conn.handshake_kind().unwrap(), alpn));
        echo("b1\n")(stream);
    });
    let text = format!("{}, alpn = [\"h2\", \"http/1.1\"]", pki.list(&["site"]));
    let mut service = proxied(
        &lab,
        "site",
        SITE,
        &format!("tls = {{ {text} }}\nbackend_tls = {{ {} }}", trusts(&pki)),
    );
    service.check = Some(r#"{ type = "none" }"#.to_owned());
    let pend = start(&lab, &vips().service(service));
    let mut config = pki.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for _ in 0..10 {
        let mut client = secure(&lab.client().netns, SITE, &config, "site.example").unwrap();
        assert_eq!(finish(&mut client).unwrap(), b"b1\n", "{}", pend.log());
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(_, alpn)| alpn.as_deref() == Some(b"http/1.1")), "{seen:?}");
    let resumed = seen.iter().filter(|(kind, _)| *kind == HandshakeKind::Resumed).count();
    assert!(resumed >= 8, "{seen:?}");
}

#[test]
fn renewed_authorities_are_believed_and_broken_ones_change_nothing() {
    let (lab, pki) = (lab(1), certificates());
    let _nginx = nginx(&lab, 0, &pki, "own", "");
    let root = pki.read("root.pem");
    let ca = pki.write("ca.pem", &root);
    let tls = format!("ca = \"{}\", name = \"app.example\"", ca.display());
    let pend = serve(&lab, &pki, &[0], &tls, "");
    let client = &lab.client().netns;
    assert_eq!(get(client, "/"), "");
    pki.write("ca.pem", root.clone() + &pki.read("own.pem"));
    let served = || (get(client, "/") == "b1\n").then_some(());
    wait_until(LONG, "seen without a word", served)
        .unwrap_or_else(|e| panic!("{e}: {}", pend.log()));
    pki.write("ca.pem", "nothing");
    wait_until(LONG, "told", || pend.log().contains("no certificate in it").then_some(())).unwrap();
    assert_eq!(get(client, "/"), "b1\n", "{}", pend.log());
    assert!(count(&pend, "certificate-broken") >= 1);
    let output = pend.penctl(["reload"]).unwrap();
    assert!(!output.status.success() && output.stderr.contains("ca.pem"), "{output:?}");
    assert_eq!(get(client, "/"), "b1\n");
}
