//! ICMP between real kernels: a virtual address that answers "ping", and errors that find their way
//! to the server whose packets they are about.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
};

use pen_tests::{
    Lab, Netns, Pend, Protocol, ServiceText, VIP4, VIP6, client::UdpTalk, process::SHORT,
    server::HTTP_PORT, wait_until,
};

use crate::links::TwoNetworks;
use crate::stage::{Stage, over_all, usual, vips};

/// Pings an address twice, with this much data: whether both were answered.
fn pings(stage: &Stage, address: IpAddr, data: &str) -> bool {
    let address = address.to_string();
    let args = ["-n", "-c", "2", "-i", "0.01", "-W", "1", "-s", data, &address];
    let output = stage.client().output("ping", args).unwrap();
    assert!(!output.stdout.contains("wrong data"), "{}", output.stdout);
    output.stdout.contains(" 0% packet loss")
}

#[test]
fn a_virtual_address_answers_pings_if_it_is_set_to() {
    let lab = Lab::builder().build().unwrap();
    let stage = Stage::in_lab(lab, |lab| {
        let mut config = usual(lab);
        config.vips.retain(|(address, _)| *address == VIP6);
        let v4 = format!("[[vip]]\naddress = \"{VIP4}\"\ninterface = \"eth0\"\necho = true\n");
        config.extra(&v4)
    });
    for data in ["0", "56", "1472"] {
        assert!(pings(&stage, VIP4, data), "{data} bytes");
    }
    assert!(!pings(&stage, VIP6, "56"), "its echo is off");
    assert_eq!(stage.pend.counter("echo-reply").unwrap(), 6);
    assert_eq!(stage.pend.counter("pass-protocol").unwrap(), 2);
}

#[test]
fn an_ipv6_virtual_address_answers_pings_too() {
    let lab = Lab::builder().build().unwrap();
    let stage = Stage::in_lab(lab, |lab| {
        let mut config = usual(lab);
        config.vips.retain(|(address, _)| *address == VIP4);
        let v6 = format!("[[vip]]\naddress = \"{VIP6}\"\ninterface = \"eth0\"\necho = true\n");
        config.extra(&v6)
    });
    for data in ["0", "56", "1452"] {
        assert!(pings(&stage, VIP6, data), "{data} bytes");
    }
    assert_eq!(stage.pend.counter("echo-reply").unwrap(), 6);
}

/// A client that is gone answers with "port unreachable", to the virtual address from which the
/// answer came. The server's kernel must hear it.
#[test]
fn a_server_hears_that_its_client_is_gone() {
    const PORT: u16 = 9999;
    let stage = Stage::in_lab(Lab::builder().build().unwrap(), |lab| {
        [("late", VIP4), ("late6", VIP6)].into_iter().fold(vips(), |config, (name, vip)| {
            let at = SocketAddr::new(vip, PORT);
            config.service(over_all(lab, name, at, Protocol::Udp, HTTP_PORT))
        })
    });
    // By default a host sends one error a second to the same address.
    for limit in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
        stage.client().sysctl(limit, "0").unwrap();
    }
    for vip in [VIP4, VIP6] {
        let at = SocketAddr::new(vip, PORT);
        // Several, so that they are spread over the servers.
        for _ in 0..12 {
            let bind = |netns: &Netns, at: SocketAddr| {
                // Until it executes its program, a process that another test has just started has
                // the sockets of the last time.
                let bind = || netns.run(|| UdpSocket::bind(at)).ok();
                let socket = wait_until(SHORT, "the port is free", bind).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            };
            let servers: Vec<UdpSocket> =
                stage.lab.backends.iter().map(|backend| bind(&backend.netns, at)).collect();
            let own = SocketAddr::new(stage.lab.client().address_like(vip), 0);
            let client = bind(stage.client(), own);
            client.send_to(b"hello", at).unwrap();
            let (server, from) = wait_until(SHORT, "the datagram arrives", || {
                servers.iter().find_map(|server| {
                    let (_, from) = server.recv_from(&mut [0; 9]).ok()?;
                    Some((server, from))
                })
            })
            .unwrap();
            drop(client);
            server.connect(from).unwrap();
            // A process that another test has just started may have the client's socket until it
            // executes its program, so it is asked again. Either call tells.
            wait_until(SHORT, "the server hears of it", || {
                let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
                let heard = server.send(b"anybody there?").is_err_and(refused)
                    || server.recv(&mut [0; 9]).is_err_and(refused);
                heard.then_some(())
            })
            .map_err(|error| stage.pend.with_log(&error))
            .unwrap();
        }
    }
    assert_eq!(stage.pend.counter("pass-protocol").unwrap(), 0);
}

/// A tunnel takes 20 bytes of the 1500, or 40.
#[test]
fn a_client_learns_which_size_fits_into_the_tunnel() {
    const PORT: u16 = 9999;
    let stage = Stage::in_lab(Lab::builder().vips(&[]).build().unwrap(), |lab| {
        [("bulk", VIP4), ("bulk6", VIP6)].into_iter().fold(vips(), |config, (name, vip)| {
            let at = SocketAddr::new(vip, PORT);
            let mut service = over_all(lab, name, at, Protocol::Udp, HTTP_PORT);
            "ipip".clone_into(&mut service.mode);
            service.check = Some(r#"{ type = "none" }"#.to_owned());
            config.service(service)
        })
    });
    for (vip, headers, fits) in [(VIP4, 28, "mtu 1480"), (VIP6, 48, "mtu 1460")] {
        // A socket is told of the error by its next call.
        let send = |length: usize| {
            let talk = UdpTalk::open(stage.client(), SocketAddr::new(vip, PORT)).unwrap();
            talk.send(&vec![7; length - headers]).unwrap();
        };
        let sent = || stage.pend.counter("transmit").unwrap();
        let before = sent();
        send(1500);
        wait_until(SHORT, &format!("{vip}: {fits}"), || {
            stage.client().ip(&format!("route get {vip}")).unwrap().contains(fits).then_some(())
        })
        .map_err(|error| stage.pend.with_log(&error))
        .unwrap();
        assert_eq!(sent(), before, "the datagram that was too big did not go on");
        send(1460);
        wait_until(SHORT, "one that fits goes on", || (sent() == before + 1).then_some(()))
            .unwrap();
    }
    assert_eq!(stage.pend.counter("too-big-reply").unwrap(), 2);
}

/// The client's first full segments fit the client's network and the server's own interface, but not
/// the one between them. Its kernel is told, and cuts what it sends again.
#[test]
fn an_upload_over_a_way_that_is_narrower_in_between_arrives_intact() {
    const PORT: u16 = 9998;
    let at = SocketAddr::new(VIP4, PORT);
    let nets = TwoNetworks::build();
    let balancer = &nets.lab.balancer().netns;
    balancer.ip("link set dev eth1 mtu 1400").unwrap();
    let sink = ["10.88.0.11", "10.88.0.12"]
        .into_iter()
        .fold(ServiceText::dsr("sink", at, Protocol::Tcp, HTTP_PORT), |service, address| {
            service.backend(None, address.parse().unwrap())
        });
    let config = nets.config(&["eth0", "eth1"]).service(sink);
    let mut pend = Pend::start(balancer, &config).unwrap();
    pend.wait_ready(6).unwrap();

    let upload: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 7 % 251).to_le_bytes()[0]).collect();
    let (arrived, uploads) = mpsc::channel();
    for backend in &nets.backends {
        let (listener, arrived) = (backend.run(|| TcpListener::bind(at)).unwrap(), arrived.clone());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            // The test may have failed meanwhile.
            let _ = arrived.send(bytes);
        });
    }
    let client = &nets.lab.client().netns;
    let mut stream = client.run(|| TcpStream::connect_timeout(&at, SHORT)).unwrap();
    stream.write_all(&upload).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let received = uploads.recv_timeout(SHORT).map_err(|_| pend.log()).expect("all of it arrives");
    assert!(received == upload, "{} of {} bytes, or others", received.len(), upload.len());
    assert!(pend.counter("too-big-reply").unwrap() > 0);
    assert!(client.ip(&format!("route get {VIP4}")).unwrap().contains("mtu 1400"));
}
