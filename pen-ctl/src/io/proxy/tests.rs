//! Whole proxies on the loopback, for what cannot be timed from outside.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::{self, ServiceKey};
use pen_common::net::{Addr, Be16, protocol};

use super::{Heir, Proxies, heir};
use crate::config::{Affinity, Limits, Memory, Protocol, Proxy};
use crate::engine::proxy::{Backend, Service, View};
use crate::io::clock;

const LONG: Duration = Duration::from_secs(30);

/// A service at a free port, over one backend.
fn view(port: u16, backend: u16, of: Protocol, starting: bool) -> View {
    let number = if of == Protocol::Tcp { protocol::TCP } else { protocol::UDP };
    let service = Service {
        key: ServiceKey::new(Addr::v4([127, 0, 0, 1]), Be16::new(port), number),
        name: "web".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(),
        virtual_address: false,
        affinity: Affinity::Flow,
        memory: Memory::of(of),
        stubborn: false,
        max_ejected: 100,
        uses_all: false,
        proxy: Proxy::usual(),
        vip_access: None,
        access: None,
        trusted: None,
        routes: None,
        starting,
        slots: Arc::from([abi::Slot::settled(1)]),
        backends: vec![Backend {
            id: 1,
            generation: 1,
            incarnation: 1,
            ejected: false,
            name: "b1".into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, backend)).into(),
            weight: 1,
            state: if starting { abi::Backend::DOWN } else { abi::Backend::UP },
            wanted: true,
            maintenance: false,
            emergency: false,
            limits: Limits::default(),
        }],
    };
    let services = vec![Arc::new(service)];
    View { secret: [1, 2], clients: 10, access_log: None, responder: None, services }
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    any.local_addr().expect("bound").port()
}

#[test]
fn who_comes_before_the_first_checks_have_ended_waits_for_them() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (port, behind) = (free_port(), server.local_addr().expect("bound").port());
    let mut proxies = Proxies::default();
    assert_eq!(proxies.serve(&view(port, behind, Protocol::Tcp, true)), []);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    client.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    let error = client.read(&mut [0]).expect_err("nobody talks, nor turns it away");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(proxies.serve(&view(port, behind, Protocol::Tcp, false)), []);
    let (mut stream, _) = server.accept().expect("it comes now");
    stream.write_all(b"x").expect("it is there");
    client.set_read_timeout(Some(LONG)).expect("a socket");
    client.read_exact(&mut [0]).expect("it is served");
}

#[test]
fn a_datagram_that_comes_as_early_is_kept_as_well() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (port, behind) = (free_port(), server.local_addr().expect("bound").port());
    let mut proxies = Proxies::default();
    assert_eq!(proxies.serve(&view(port, behind, Protocol::Udp, true)), []);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client.send_to(b"early", (Ipv4Addr::LOCALHOST, port)).expect("a socket");
    client.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    assert!(client.recv(&mut [0]).is_err(), "nobody answers");
    assert_eq!(proxies.serve(&view(port, behind, Protocol::Udp, false)), []);
    server.set_read_timeout(Some(LONG)).expect("a socket");
    let mut datagram = [0; 16];
    assert_eq!(server.recv(&mut datagram).expect("it comes now"), 5);
}

#[test]
fn sockets_that_were_left_and_are_not_needed_are_closed_without_any_service_too() {
    let name = format!("pen-proxies-{}.sock", std::process::id());
    let control = std::env::temp_dir().join(name);
    let waiting = Heir::new(&control).expect("a folder");
    let left = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    assert!(heir::leave(&control, &[left.as_fd()]).expect("sent"));
    let address = left.local_addr().expect("bound");
    drop(left);
    let (events, _news) = tokio::sync::mpsc::channel(1);
    let estate = waiting.inherit(std::process::id()).expect("descriptors");
    let mut proxies = Proxies::with(estate, events);
    TcpStream::connect(address).expect("it waits to be accepted");
    let nothing = View {
        secret: [1, 2],
        clients: 10,
        access_log: None,
        responder: None,
        services: Vec::new(),
    };
    assert_eq!(proxies.serve(&nothing), []);
    let error = TcpStream::connect(address).expect_err("nobody would ever accept it");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Waits for something that comes soon.
fn until(happened: impl Fn() -> bool) {
    let limit = clock::now() + LONG;
    while !happened() {
        assert!(clock::now() < limit, "not within {LONG:?}");
        std::thread::yield_now();
    }
}

#[test]
fn it_is_not_over_while_somebody_may_have_accepted_a_client() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (port, behind) = (free_port(), server.local_addr().expect("bound").port());
    let mut proxies = Proxies::default();
    assert!(proxies.is_over());
    assert_eq!(proxies.serve(&view(port, behind, Protocol::Tcp, false)), []);
    // Nobody has come yet, but the next one may be on the way through.
    until(|| !proxies.is_over());
    assert_eq!(proxies.open(), 0);
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let (stream, _) = server.accept().expect("it is served");
    proxies.retire(true);
    assert!(!proxies.is_over(), "it has a connection");
    drop((client, stream));
    until(|| proxies.is_over());
}
