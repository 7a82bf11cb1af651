//! Probes a backend the way that its traffic goes: a SYN for the virtual address travels through the
//! tunnel, and the answer comes straight back. A backend that does not take the tunnel apart, or does
//! not hold the virtual address, is found out, though its own address accepts connections.
//!
//! Datagrams go the same way, and are answered likewise.
//!
//! The kernel knows nothing of the connection: it is made of hand-written segments, one raw socket
//! that sends them, and one that hears the answer. It is reset through the tunnel at the end.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use pen_common::csum::Checksum;
use pen_common::net::{TcpHeader, protocol};
use socket2::{Domain, Protocol, Socket, Type};

use super::{is_local, random_bytes};
use crate::engine::event::{Outcome, ProbeError, Tunnel};
use crate::io::clock;

/// UDP port of generic UDP encapsulation (IANA).
const GUE_PORT: u16 = 6080;
/// IPv4 in any version (IANA protocol numbers).
const IPV4_INSIDE: i32 = 4;
/// IPv6 in any version.
const IPV6_INSIDE: i32 = 41;
/// Longest answer that is read: a SYN-ACK with IPv4 header and all options.
const ANSWER: usize = 120;

/// Is a connection to the virtual address accepted by the backend at the end of the tunnel?
pub(super) async fn connect(target: SocketAddr, tunnel: Tunnel, limit: Duration) -> Outcome {
    let (backend, port) = (target.ip(), target.port());
    // A thread for each probe under way: the runtime takes raw sockets only by unsafe code.
    let asked = tokio::task::spawn_blocking(move || ask(backend, port, tunnel, limit)).await;
    match asked.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => Err(ProbeError::Refused),
        Ok(None) => Err(ProbeError::NoTunnelAnswer),
        Err(error) if is_local(&error) => Err(ProbeError::Local(error.to_string())),
        Err(error) => Err(ProbeError::System(error.to_string())),
    }
}

/// True for SYN-ACK, false for RST, `None` for no answer in time.
fn ask(backend: IpAddr, port: u16, tunnel: Tunnel, limit: Duration) -> io::Result<Option<bool>> {
    let deadline = clock::now() + limit;
    let source = own_address(backend, tunnel.vip)?;
    // Keeps the port from everybody else for as long as the probe lasts.
    let reserved = TcpListener::bind(SocketAddr::new(source, 0))?;
    let ends =
        Ends { source: reserved.local_addr()?, destination: SocketAddr::new(tunnel.vip, port) };
    let mut ear = Socket::new(Domain::for_address(ends.source), Type::RAW, Some(Protocol::TCP))?;
    ear.bind(&SocketAddr::new(source, 0).into())?;
    let mouth = Mouth::new(backend, &tunnel)?;
    let sequence = u32::from_be_bytes(random_bytes()?);
    mouth.send(&ends.packet(sequence, TcpHeader::SYN))?;
    loop {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return Ok(None);
        }
        ear.set_read_timeout(Some(left))?;
        let mut bytes = [0; ANSWER];
        let length = match ear.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(flags) = ends.answer(&bytes[..length], sequence) else { continue };
        if flags & TcpHeader::RST != 0 {
            return Ok(Some(false));
        }
        // Whatever becomes of it, the backend gives up by itself.
        let _ = mouth.send(&ends.packet(sequence.wrapping_add(1), TcpHeader::RST));
        return Ok(Some(true));
    }
}

/// The address of this machine that the backend is to answer to, of the virtual address's family.
fn own_address(backend: IpAddr, vip: IpAddr) -> io::Result<IpAddr> {
    let towards = if backend.is_ipv4() == vip.is_ipv4() { backend } else { vip };
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // Nothing is sent: the kernel only chooses.
    socket.connect(SocketAddr::new(towards, GUE_PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// The way into the tunnel; the kernel writes the outer header.
struct Mouth {
    socket: Socket,
    backend: SocketAddr,
}

impl Mouth {
    fn new(backend: IpAddr, tunnel: &Tunnel) -> io::Result<Self> {
        let domain = Domain::for_address(SocketAddr::new(backend, 0));
        let (socket, port) = if tunnel.gue {
            (Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?, GUE_PORT)
        } else {
            let inside = if tunnel.vip.is_ipv4() { IPV4_INSIDE } else { IPV6_INSIDE };
            (Socket::new(domain, Type::RAW, Some(Protocol::from(inside)))?, 0)
        };
        Ok(Self { socket, backend: SocketAddr::new(backend, port) })
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self.socket.send_to(packet, &self.backend.into()) {
            // What an earlier packet met; nobody may listen on the port of a tunnel's end.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Datagrams for the virtual address that go through the tunnel; answers come straight back.
pub(super) struct Datagrams {
    ear: tokio::net::UdpSocket,
    mouth: Mouth,
    ends: Ends,
}

impl Datagrams {
    /// `target` is the backend, and the port that is asked there.
    pub(super) fn open(target: SocketAddr, tunnel: Tunnel) -> io::Result<Self> {
        let source = own_address(target.ip(), tunnel.vip)?;
        let ear = UdpSocket::bind(SocketAddr::new(source, 0))?;
        ear.set_nonblocking(true)?;
        let destination = SocketAddr::new(tunnel.vip, target.port());
        let ends = Ends { source: ear.local_addr()?, destination };
        let ear = tokio::net::UdpSocket::from_std(ear)?;
        Ok(Self { ear, mouth: Mouth::new(target.ip(), &tunnel)?, ends })
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.mouth.send(&self.ends.datagram(bytes))
    }

    /// The next datagram from the virtual address.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (length, from) = self.ear.recv_from(buffer).await?;
            if from == self.ends.destination {
                return Ok(length);
            }
        }
    }
}

/// Ends of the connection.
#[derive(Clone, Copy, Debug)]
struct Ends {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Ends {
    /// A segment without data, with its IP header (RFC 9293 section 3.1).
    fn packet(&self, sequence: u32, flags: u8) -> Vec<u8> {
        let mut segment = Vec::with_capacity(60);
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = self.pseudo_header(protocol::TCP, &segment);
        let sum = checksum(sum, &segment);
        segment[16..18].copy_from_slice(&sum);
        self.in_ip(protocol::TCP, &segment)
    }

    /// A datagram with its IP header (RFC 768). The configuration keeps it short.
    fn datagram(&self, bytes: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(8 + bytes.len());
        datagram.extend(self.source.port().to_be_bytes());
        datagram.extend(self.destination.port().to_be_bytes());
        datagram.extend(length_of(8 + bytes.len()));
        datagram.extend([0; 2]);
        datagram.extend(bytes);
        let sum = self.pseudo_header(protocol::UDP, &datagram);
        let sum = match checksum(sum, &datagram) {
            // Zero would say that there is none.
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum);
        self.in_ip(protocol::UDP, &datagram)
    }

    fn in_ip(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let mut packet = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = length_of(20 + segment.len());
                // Version 4, five words; don't fragment; 64 hops.
                let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = checksum(Checksum::default(), &header);
                header[10..12].copy_from_slice(&sum);
                header
            }
            (source, destination) => {
                let [high, low] = length_of(segment.len());
                let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
                header.extend(octets(source));
                header.extend(octets(destination));
                header
            }
        };
        packet.extend(segment);
        packet
    }

    fn pseudo_header(&self, protocol: u8, segment: &[u8]) -> Checksum {
        let addresses = [octets(self.source.ip()), octets(self.destination.ip())].concat();
        let sum = addresses.chunks_exact(4).fold(Checksum::default(), |sum, word| {
            sum.add_bytes([word[0], word[1], word[2], word[3]])
        });
        sum.add(u32::from(protocol)).add(u32::from(u16::from_be_bytes(length_of(segment.len()))))
    }

    /// The flags of an answer to our SYN; `None` for every other packet. IPv4 comes with its header.
    fn answer(&self, packet: &[u8], sequence: u32) -> Option<u8> {
        let header = match self.source {
            SocketAddr::V4(_) => usize::from(packet.first()? & 0x0f) * 4,
            SocketAddr::V6(_) => 0,
        };
        let segment = packet.get(header..)?;
        let ports = [self.destination.port().to_be_bytes(), self.source.port().to_be_bytes()];
        let acknowledged = sequence.wrapping_add(1).to_be_bytes();
        let flags = *segment.get(13)?;
        let ours = segment[..4] == ports.concat()[..]
            && segment[8..12] == acknowledged
            && flags & TcpHeader::ACK != 0
            && flags & (TcpHeader::SYN | TcpHeader::RST) != 0;
        ours.then_some(flags)
    }
}

/// A length on the wire.
fn length_of(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum of words that start with `sum`.
fn checksum(sum: Checksum, bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(4).map(|part| {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        word
    });
    words.fold(sum, Checksum::add_bytes).finish().0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
        }
    }

    #[test]
    fn a_syn_over_ipv4_is_right_to_the_last_byte() {
        let packet = ends("10.0.0.1:40000", "192.0.2.10:80").packet(0x0102_0304, TcpHeader::SYN);
        assert_eq!(packet.len(), 40);
        assert_eq!(checksum(Checksum::default(), &packet[..20]), [0, 0], "header");
        let whole =
            ends("10.0.0.1:40000", "192.0.2.10:80").pseudo_header(protocol::TCP, &packet[20..]);
        assert_eq!(checksum(whole, &packet[20..]), [0, 0], "segment");
        assert_eq!(packet[12..20], [10, 0, 0, 1, 192, 0, 2, 10]);
        assert_eq!(packet[20..24], [0x9c, 0x40, 0, 80]);
        assert_eq!(packet[24..28], [1, 2, 3, 4]);
        assert_eq!(packet[33], TcpHeader::SYN);
    }

    #[test]
    fn a_syn_over_ipv6_is_right_as_well() {
        let ends = ends("[2001:db8::1]:40000", "[2001:db8::10]:80");
        let packet = ends.packet(7, TcpHeader::SYN);
        assert_eq!(packet.len(), 60);
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 20, 6, 64]);
        assert_eq!(
            checksum(ends.pseudo_header(protocol::TCP, &packet[40..]), &packet[40..]),
            [0, 0]
        );
    }

    #[test]
    fn a_datagram_is_right_to_the_last_byte() {
        let ends4 = ends("10.0.0.1:40000", "192.0.2.10:53");
        let packet = ends4.datagram(b"abc");
        assert_eq!(packet.len(), 31);
        assert_eq!(checksum(Checksum::default(), &packet[..20]), [0, 0], "header");
        assert_eq!(packet[2..4], [0, 31]);
        let whole = ends4.pseudo_header(protocol::UDP, &packet[20..]);
        assert_eq!(checksum(whole, &packet[20..]), [0, 0], "datagram");
        assert_eq!(packet[20..26], [0x9c, 0x40, 0, 53, 0, 11]);
        assert_eq!(&packet[28..], b"abc");
        let ends6 = ends("[2001:db8::1]:40000", "[2001:db8::10]:53");
        let packet = ends6.datagram(b"ab");
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 10, 17, 64]);
        let whole = ends6.pseudo_header(protocol::UDP, &packet[40..]);
        assert_eq!(checksum(whole, &packet[40..]), [0, 0]);
    }

    #[test]
    fn only_an_answer_to_this_very_syn_counts() {
        let ends = ends("10.0.0.1:40000", "192.0.2.10:80");
        let back = |flags: u8, acknowledged: u32, from: u16, to: u16| {
            let mut packet = vec![0; 40];
            packet[0] = 0x45;
            packet[20..22].copy_from_slice(&from.to_be_bytes());
            packet[22..24].copy_from_slice(&to.to_be_bytes());
            packet[28..32].copy_from_slice(&acknowledged.to_be_bytes());
            packet[33] = flags;
            packet
        };
        let (syn_ack, reset) = (TcpHeader::SYN | TcpHeader::ACK, TcpHeader::RST | TcpHeader::ACK);
        let yes = back(syn_ack, 8, 80, 40000);
        assert_eq!(ends.answer(&yes, 7), Some(syn_ack));
        assert_eq!(ends.answer(&back(reset, 8, 80, 40000), 7), Some(reset));
        for other in [
            back(syn_ack, 9, 80, 40000),
            back(syn_ack, 8, 81, 40000),
            back(syn_ack, 8, 80, 40001),
            back(TcpHeader::ACK, 8, 80, 40000),
            back(TcpHeader::SYN, 8, 80, 40000),
        ] {
            assert_eq!(ends.answer(&other, 7), None);
        }
        for length in 0..34 {
            assert_eq!(ends.answer(&yes[..length], 7), None, "{length} bytes");
        }
    }
}
