//! A server that only knows its name: HTTP and lines over TCP, and UDP. `xtask demo-server` runs
//! it.
//!
//! Small enough to trust when a test fails, and free of dependencies so that a first run needs
//! nothing installed.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

/// No line of a request may be longer.
const LINE: u64 = 8 * 1024;
/// A silent client is let go after this; long, because tests keep idle connections.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves until the process ends: TCP at `port` and UDP at `udp_port`, on all addresses of both
/// families.
pub fn serve(name: &str, port: u16, udp_port: u16) -> Result<()> {
    for address in own_addresses()? {
        let at = SocketAddr::new(address, udp_port);
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}/udp"))?;
        let name = name.to_owned();
        thread::spawn(move || answer_datagrams(&socket, &name));
    }
    // Takes IPv4 as well.
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}/tcp"))?;
    for stream in listener.incoming() {
        // A client that has gone already, or no file left: the next one may have more luck.
        let Ok(stream) = stream else { continue };
        let name = name.to_owned();
        thread::spawn(move || converse(stream, &name));
    }
    Err(anyhow!("the listener ended"))
}

/// One socket for each address: a single one for all would answer from the address of the route,
/// not from the VIP.
fn own_addresses() -> Result<Vec<IpAddr>> {
    let own = getifaddrs().context("cannot list the interfaces")?;
    Ok(own
        .filter_map(|interface| ip(&interface.address?))
        // pend hears neighbour solicitations by a multicast address of the interface.
        .filter(|ip| !is_link_local(ip) && !ip.is_multicast())
        .collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut datagram = [0; 2048];
    loop {
        // Errors are those of earlier answers (ICMP); the socket stays good.
        if let Ok((_, client)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(format!("{name}\n").as_bytes(), client);
        }
    }
}

/// HTTP if the first line looks like it; anything else is answered line by line, for as long as the
/// client likes.
fn converse(stream: TcpStream, name: &str) {
    // Whatever goes wrong here is the client's business, and the connection's end tells it.
    let _ = stream.set_read_timeout(Some(IDLE)).and_then(|()| answer(stream, name));
}

fn answer(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    let mut line = next_line(&mut lines)?;
    if !line.trim_end().ends_with("HTTP/1.1") && !line.trim_end().ends_with("HTTP/1.0") {
        while !line.is_empty() {
            writeln!(out, "{name}")?;
            line = next_line(&mut lines)?;
        }
        return Ok(());
    }
    let with_body = !line.starts_with("HEAD ");
    while !next_line(&mut lines)?.trim_end().is_empty() {}
    let body = format!("{name}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: pen-demo\r\nX-Backend: {name}\r\nX-Client: {client}\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    out.write_all(if with_body { head + &body } else { head }.as_bytes())?;
    out.shutdown(Shutdown::Write)?;
    // To close with unread input would send RST and could destroy the answer on its way.
    out.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut lines, &mut io::sink()).map(drop)
}

fn next_line(lines: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    lines.by_ref().take(LINE).read_line(&mut line)?;
    Ok(line)
}
