//! Many clients at once: slow ones that are to delay nobody, and those that come while a certificate is
//! renewed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use pen_tests::{
    Netns,
    wait::{Stopwatch, pace},
    wait_until,
};
use rustls::{
    ClientConfig, ServerConfig, ServerConnection, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{Pki, SITE, finish, refusals::wait_count, secure, serve};
use crate::proxy::{LONG, Server, connect, lab};

/// A server at which TLS ends without a proxy, and that says `b1`.
fn direct(pki: &Pki, netns: &Netns, at: SocketAddr) -> Server {
    let chain = CertificateDer::pem_file_iter(pki.scratch.file("site.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(pki.scratch.file("site.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap();
    let config = Arc::new(config);
    Server::start(netns, (at.ip(), at.port()), move |stream| {
        let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let _ = StreamOwned::new(tls, stream).write_all(b"b1\n");
    })
}

/// How long it takes until a new client hears of its server.
fn time(netns: &Netns, at: SocketAddr, config: &Arc<ClientConfig>) -> Duration {
    let asked = Stopwatch::start();
    let mut quick = secure(netns, at, config, "site.example").unwrap();
    let mut name = [0; 3];
    quick.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"b1\n");
    asked.elapsed()
}

/// What nine of ten stay below.
fn most(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 9 / 10]
}

#[test]
fn a_thousand_drips_end_at_the_deadline_and_delay_nobody() {
    const LIMIT: Duration = Duration::from_secs(12);
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let straight = SocketAddr::new(host.v4.into(), 443);
    let _direct = direct(&pki, &host.netns, straight);
    let pend = serve(&lab, &pki.list(&["site"]), "timeouts = { header = \"12s\" }");
    let client = &lab.client().netns;
    let hello = include_bytes!("../../../pen-ctl/tests/hello/curl.bin");
    // Each handshake in full.
    let mut config = pki.client();
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let begun = Stopwatch::start();
    // Every other one is in the middle of its hello already.
    let mut slow: Vec<(TcpStream, usize)> = (0..1000)
        .map(|number| {
            let (mut stream, said) = (connect(client, SITE).unwrap(), number % 2 * 200);
            stream.write_all(&hello[..said]).unwrap();
            (stream, said)
        })
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let dripping = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            // One byte each five seconds, until the deadline has passed for all.
            for _ in 0..3 {
                for (stream, said) in &mut slow {
                    // It may have been closed, if this machine is slow itself.
                    let _ = stream.write_all(&hello[*said..=*said]);
                    *said += 1;
                }
                pace(Duration::from_secs(5));
            }
            over.store(true, Relaxed);
            slow
        }
    });
    let (mut proxied, mut straightly) = (Vec::new(), Vec::new());
    while !over.load(Relaxed) {
        proxied.push(time(client, SITE, &config));
        straightly.push(time(client, straight, &config));
        let early = pend.counter("proxy-handshake-timeout").unwrap();
        if begun.elapsed() < LIMIT {
            assert_eq!(early, 0, "closed before its time");
        }
        pace(Duration::from_millis(20));
    }
    let count = proxied.len() as u64;
    println!("of {count} handshakes the slowest took {:?}", proxied.iter().max());
    let (proxied, straightly) = (most(proxied), most(straightly));
    // What the machine is busy with besides shows in those that go to the server themselves.
    let bound = Duration::from_millis(100) + 4 * straightly;
    assert!(proxied < bound, "{proxied:?}, and {straightly:?} without the proxy");
    wait_count(&pend, "handshake-timeout", 1000);
    let total = pend.backend("site", "b1").unwrap()["proxy"]["total"].as_u64().unwrap();
    assert_eq!(total, count, "none of them had a server");
    for (stream, _) in &mut dripping.join().unwrap() {
        // The end, or a reset for what it said afterwards.
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "an answer to a part of a hello");
    }
}

#[test]
fn a_certificate_is_replaced_fifty_times_under_load_and_no_handshake_fails() {
    let (lab, pki) = (lab(1), Pki::new());
    let names = ["even", "odd"];
    for name in names {
        pki.issue(name, &["site.example"]);
    }
    let link = |name: &str, to: &str| {
        let (link, new) = (pki.scratch.file(name), pki.scratch.file("new"));
        symlink(to, &new).unwrap();
        std::fs::rename(new, link).unwrap();
    };
    let both = |to: &str| {
        link("site.pem", &format!("{to}.pem"));
        link("site.key", &format!("{to}.key"));
    };
    let certificate = |name: &str| {
        CertificateDer::from_pem_file(pki.scratch.file(&format!("{name}.pem"))).unwrap()
    };
    both("odd");
    let host = &lab.backends[0];
    let _server = Server::named(&host.netns, (host.v4.into(), 80), "b1");
    let pend = serve(&lab, &pki.list(&["site"]), "");
    let client = &lab.client().netns;
    // One that resumes where it can, and one that never does.
    let mut full = pki.client();
    full.resumption = Resumption::disabled();
    let full = Arc::new(full);
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients = [Arc::new(pki.client()), Arc::clone(&full)].map(|config| {
            let (over, done) = (&over, &done);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    let mut stream = secure(client, SITE, &config, "site.example")?;
                    assert_eq!(finish(&mut stream)?, b"b1\n");
                    done.fetch_add(1, Relaxed);
                }
                std::io::Result::Ok(())
            })
        });
        for round in 0..50 {
            let name = names[round % 2];
            both(name);
            let output = pend.penctl(["reload"]).unwrap();
            assert!(output.status.success(), "{output:?}");
            let stream = secure(client, SITE, &full, "site.example").unwrap();
            assert_eq!(stream.conn.peer_certificates().unwrap()[0], certificate(name), "{round}");
            let before = done.load(Relaxed);
            let ended = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
            let more = || (ended() || done.load(Relaxed) >= before + 4).then_some(());
            wait_until(LONG, "handshakes between two renewals", more).unwrap();
        }
        over.store(true, Relaxed);
        for client in clients {
            client.join().unwrap().unwrap();
        }
    });
    let failures = ["handshake-timeout", "handshake-aborted", "tls-broken", "certificate-broken"];
    for cause in failures {
        assert_eq!(pend.counter(&format!("proxy-{cause}")).unwrap(), 0, "{cause}");
    }
}
