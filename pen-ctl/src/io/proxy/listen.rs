//! Listening sockets: one for each thread on the same address, among which the kernel spreads the
//! connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::heir::Estate;

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;
/// A peer that is silent is asked for after this time, and given up after four times that.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How a dead peer is found out, for those that hold the timeouts of the operator.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3)
}

/// Listens on an address, `count` times, unless sockets for it were left by another daemon. `foreign`
/// addresses need not be those of the machine.
///
/// # Errors
///
/// If the address is not to be had, also if somebody else listens there who would share it.
pub(super) fn listen(
    address: SocketAddr,
    foreign: bool,
    count: usize,
    estate: &mut Estate,
) -> io::Result<Vec<TcpListener>> {
    if let Some(inherited) = estate.listeners(address) {
        return Ok(inherited);
    }
    // Sockets that share a port do so with any of the same user: without this another daemon would
    // get half of the connections, and nobody would notice.
    let alone = bound(address, foreign, false)?;
    alone.listen(1)?;
    drop(alone);
    (0..count)
        .map(|_| {
            let socket = bound(address, foreign, true)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn bound(address: SocketAddr, foreign: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    match address {
        SocketAddr::V4(_) if foreign => socket.set_freebind_v4(true)?,
        SocketAddr::V6(v6) => {
            // `::` stands for all addresses of the machine, of both families.
            socket.set_only_v6(!v6.ip().is_unspecified())?;
            socket.set_freebind_v6(foreign)?;
        }
        SocketAddr::V4(_) => {}
    }
    // Accepted sockets inherit these: no system call for each of them. Not TCP_USER_TIMEOUT: it would
    // also end connections of clients that are there and only read nothing for a while.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: SocketAddr, foreign: bool, count: usize) -> io::Result<Vec<TcpListener>> {
        super::listen(address, foreign, count, &mut Estate::default())
    }

    #[test]
    fn an_address_that_is_taken_is_an_error_even_if_it_would_be_shared() {
        let first = listen(([127, 0, 0, 1], 0).into(), false, 1).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        let error = listen(address, false, 2).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(listen(address, false, 2).expect("free again").len(), 2);
    }

    #[test]
    fn only_a_foreign_address_need_not_be_the_machines() {
        let nobodys = ([192, 0, 2, 1], 0).into();
        let error = listen(nobodys, false, 1).expect_err("not here");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(listen(nobodys, true, 1).is_ok());
        let nobodys = "[2001:db8::1]:0".parse().expect("literal");
        assert!(listen(nobodys, true, 1).is_ok());
    }
}
