//! Sockets of UDP: those that clients send to, one for each thread on the same address, among which
//! the kernel spreads clients by a hash of both ends; and the connected ones of flows.
//!
//! An answer has to come from the address that was asked. A socket that is bound to it sees to that by
//! itself; one that is bound to all of the machine's learns it of each datagram (IP_PKTINFO, ip(7);
//! RFC 3542 section 6).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::io::proxy::assume::assume;
use crate::io::proxy::heir::Estate;

/// Bytes that may wait in the kernel; it cuts them to `net.core.rmem_max`. A datagram of full length
/// takes several times its own.
const BACKLOG: usize = 4 * 1024 * 1024;

/// A socket of a flow that tells by itself when something can be read, or has failed.
pub(super) type Connected = AsyncFd<UdpSocket>;

/// Where a datagram comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// Who sent it.
    pub(super) client: SocketAddr,
    /// To which address, if the socket has several.
    pub(super) asked: Option<IpAddr>,
}

/// Binds to an address, `count` times, unless sockets for it were left by another daemon. `foreign` addresses need not be those of the machine.
///
/// # Errors
///
/// If the address is not to be had, also if somebody else has it who would share it.
pub(in crate::io::proxy) fn listen(
    address: SocketAddr,
    foreign: bool,
    count: usize,
    estate: &mut Estate,
) -> io::Result<Vec<UdpSocket>> {
    if let Some(inherited) = estate.datagrams(address) {
        return Ok(inherited);
    }
    // As with TCP: sockets that share a port do so with any of the same user.
    drop(bound(address, foreign, false)?);
    (0..count).map(|_| bound(address, foreign, true).map(Into::into)).collect()
}

fn bound(address: SocketAddr, foreign: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(shared)?;
    // Not to be had in full without a right that pend may have given up: then a smaller one does.
    let _ = socket.set_recv_buffer_size(BACKLOG);
    let everywhere = address.ip().is_unspecified();
    match address {
        SocketAddr::V4(_) => {
            if everywhere {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            }
            if foreign {
                socket.set_freebind_v4(true)?;
            }
        }
        SocketAddr::V6(_) => {
            // `::` stands for all addresses of the machine, of both families.
            socket.set_only_v6(!everywhere)?;
            if everywhere {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            socket.set_freebind_v6(foreign)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a thread has of the sockets that clients send to.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<UdpSocket>,
    /// It is bound to all addresses.
    everywhere: bool,
    /// Room for what the kernel says beside a datagram.
    notes: Vec<u8>,
}

impl Listener {
    /// # Errors
    ///
    /// If the runtime does not take it.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let everywhere = socket.local_addr()?.ip().is_unspecified();
        let socket = watch(socket, Interest::READABLE)?;
        let notes = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        Ok(Self { socket, everywhere, notes })
    }

    /// Its half that answers.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for it.
    pub(super) fn replier(&self) -> io::Result<Replier> {
        Ok(Replier { socket: self.socket.get_ref().try_clone()?, everywhere: self.everywhere })
    }

    /// Waits until there is something to receive.
    pub(super) async fn readable(&self) {
        // Only a runtime that ends makes this fail, and then nobody listens any more.
        let _ = self.socket.ready(Interest::READABLE).await;
    }

    /// A datagram, if there is one: its length, and where it comes from.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Origin)> {
        let Self { socket, everywhere, notes } = self;
        socket.try_io(Interest::READABLE, |socket| {
            if !*everywhere {
                let (length, client) = socket.recv_from(buffer)?;
                return Ok((length, Origin { client, asked: None }));
            }
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::empty();
            let found =
                recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(notes), flags)?;
            let asked = found.cmsgs()?.find_map(|note| match note {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())))
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
                }
                _ => None,
            });
            let client = found.address.as_ref().and_then(peer).ok_or(Errno::EINVAL)?;
            Ok((found.bytes, Origin { client, asked }))
        })
    }
}

fn peer(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Answers clients.
#[derive(Debug)]
pub(super) struct Replier {
    socket: UdpSocket,
    everywhere: bool,
}

impl Replier {
    /// Sends a datagram to who asked, from where was asked.
    pub(super) fn reply(&self, datagram: &[u8], to: &Origin) -> io::Result<()> {
        let asked = to.asked.filter(|_| self.everywhere);
        let slices = [IoSlice::new(datagram)];
        let send = |notes: &[ControlMessage<'_>]| {
            let (socket, client) = (self.socket.as_raw_fd(), SockaddrStorage::from(to.client));
            sendmsg(socket, &slices, notes, MsgFlags::empty(), Some(&client))
        };
        match asked {
            None => self.socket.send_to(datagram, to.client).map(drop),
            Some(IpAddr::V4(v4)) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Ok(send(&[ControlMessage::Ipv4PacketInfo(&info)]).map(drop)?)
            }
            Some(IpAddr::V6(v6)) => {
                let scope = match to.client {
                    SocketAddr::V6(client) => client.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let address = libc::in6_addr { s6_addr: v6.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: scope };
                Ok(send(&[ControlMessage::Ipv6PacketInfo(&info)]).map(drop)?)
            }
        }
    }
}

/// A socket of its own for a flow to this server, that comes from the client's address if one is
/// given.
///
/// # Errors
///
/// If this machine has none, or knows no way to the server.
pub(super) fn connect(server: SocketAddr, source: Option<IpAddr>) -> io::Result<Connected> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    assume(&socket, source)?;
    socket.connect(&server.into())?;
    // An ICMP error makes it readable only to those that ask for errors as well.
    watch(socket.into(), Interest::READABLE | Interest::ERROR)
}

/// Not tokio's own UdpSocket: it would also ask to be told whenever something can be written, which is
/// after each datagram.
#[expect(
    deprecated,
    reason = "its successor is unsafe, since a type may close its descriptor early; std's does not"
)]
fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

/// What an error of a flow's socket means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// This datagram is lost, and that is all.
    Datagram,
    /// The server, or the way to it.
    Server,
    /// This machine lacks something.
    Machine,
}

/// What an error of a flow's socket means.
pub(super) fn trouble(error: &io::Error) -> Trouble {
    let number = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    match number {
        Errno::ECONNREFUSED
        | Errno::EHOSTUNREACH
        | Errno::EHOSTDOWN
        | Errno::ENETUNREACH
        | Errno::ENETDOWN
        | Errno::ENOPROTOOPT
        | Errno::EPROTO
        | Errno::EACCES => Trouble::Server,
        // Linux gives out no more ports: EAGAIN, from a socket that is not even connected.
        Errno::EMFILE
        | Errno::ENFILE
        | Errno::ENOMEM
        | Errno::EADDRNOTAVAIL
        | Errno::EADDRINUSE => Trouble::Machine,
        _ => Trouble::Datagram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_an_error_even_if_it_would_be_shared() {
        let first = listen(([127, 0, 0, 1], 0).into(), false, 1, &mut Estate::default())
            .expect("a free port");
        let address = first[0].local_addr().expect("bound");
        let error = listen(address, false, 2, &mut Estate::default()).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(listen(address, false, 2, &mut Estate::default()).expect("free again").len(), 2);
    }

    #[test]
    fn errors_are_put_down_to_whom_they_concern() {
        for (number, expected) in [
            (Errno::ECONNREFUSED, Trouble::Server),
            (Errno::EHOSTUNREACH, Trouble::Server),
            (Errno::EMFILE, Trouble::Machine),
            (Errno::EADDRNOTAVAIL, Trouble::Machine),
            (Errno::EAGAIN, Trouble::Datagram),
            (Errno::EMSGSIZE, Trouble::Datagram),
            (Errno::ENOBUFS, Trouble::Datagram),
        ] {
            assert_eq!(trouble(&io::Error::from(number)), expected, "{number}");
        }
    }

    /// What comes to a socket of all addresses, and goes back: over loopback, which has 127/8.
    fn round(listen_at: &str, ask: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            let sockets =
                listen(listen_at.parse().expect("literal"), false, 1, &mut Estate::default())
                    .expect("a port");
            let port = sockets[0].local_addr().expect("bound").port();
            let socket = sockets.into_iter().next().expect("one");
            let mut listener = Listener::new(socket).expect("a listener");
            let server = SocketAddr::new(ask.parse().expect("literal"), port);
            let client = UdpSocket::bind(match server {
                SocketAddr::V4(_) => "127.0.0.1:0",
                SocketAddr::V6(_) => "[::1]:0",
            });
            let client = client.expect("a port");
            client.connect(server).expect("loopback");
            client.send(b"").expect("sent");
            client.send(b"hello").expect("sent");
            let mut buffer = [0; 16];
            for expected in [0, 5] {
                let (length, from) = loop {
                    listener.readable().await;
                    match listener.receive(&mut buffer) {
                        Ok(found) => break found,
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                };
                assert_eq!(length, expected);
                let asked = from.asked.map(|asked| asked.to_canonical());
                assert_eq!(asked, Some(server.ip()), "{from:?}");
                let replier = listener.replier().expect("a descriptor");
                replier.reply(&buffer[..length], &from).expect("sent");
                // It is connected: from another address it would hear nothing.
                assert_eq!(client.recv(&mut [0; 16]).expect("an answer"), expected);
            }
        });
    }

    #[test]
    fn answers_come_from_the_address_that_was_asked() {
        round("0.0.0.0:0", "127.0.0.7");
        round("[::]:0", "127.0.0.7");
        round("[::]:0", "::1");
    }
}
