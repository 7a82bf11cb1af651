//! The UDP socket that peers speak to.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::UdpSocket;

use crate::engine::sync::LONGEST;

/// Bytes that may wait at each end: what a peer sends in one go.
const BUFFER: usize = 1 << 20;

/// The socket.
pub(super) struct Socket {
    socket: UdpSocket,
    buffer: Cell<Vec<u8>>,
}

impl Socket {
    pub(super) fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // With less it works as well, only slower.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.bind(&SockAddr::from(listen))?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, buffer: Cell::new(vec![0; LONGEST + 1]) })
    }

    /// Sends, or not.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let _ = self.socket.try_send_to(datagram, to);
    }

    /// Waits for datagrams.
    pub(super) async fn readable(&self) {
        // Whatever is wrong, reading tells.
        let _ = self.socket.readable().await;
    }

    /// A datagram that is there; `None` if there is none. A peer that is not there any more may have
    /// sent an error instead, which says nothing new.
    pub(super) fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        const ERRORS: usize = 16;
        let mut buffer = self.buffer.take();
        let mut received = None;
        for _ in 0..ERRORS {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    received = Some((from, buffer[..length].to_vec()));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        self.buffer.set(buffer);
        received
    }
}
