//! Asks whether a host is there by an ICMP echo (RFC 792, RFC 4443). Through a tunnel there is no
//! such thing: the host's own address is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pen_common::csum::Checksum;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Limit, failure, random};
use crate::engine::event::{Outcome, ProbeError};

const ECHO_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Header of an echo: type, code, checksum, identifier and number.
const HEADER: usize = 8;

pub(super) async fn ask(address: IpAddr, limit: &Limit) -> Outcome {
    let asking = async {
        // Identifier, number and what comes after them: nobody else's answer looks like that.
        let token: [u8; 12] = random()?;
        exchange(address, token).await.map_err(|error| failure(&error))
    };
    limit.wait(asking, ProbeError::Timeout).await
}

async fn exchange(address: IpAddr, token: [u8; 12]) -> io::Result<()> {
    let target = SocketAddr::new(address, 0);
    let protocol = if address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // From now on it hears nobody else, and errors on the way are told.
    socket.connect(&target.into())?;
    // To the runtime it is a socket that sends and receives packets, as one of UDP is.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&echo(address.is_ipv4(), token)).await?;
    loop {
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer).await?;
        if is_reply(address.is_ipv4(), &answer[..length], token) {
            return Ok(());
        }
    }
}

/// The kernel fills in the checksum of ICMPv6, which covers addresses as well.
fn echo(v4: bool, token: [u8; 12]) -> Vec<u8> {
    let mut packet = vec![if v4 { ECHO_V4 } else { ECHO_V6 }, 0, 0, 0];
    packet.extend(token);
    if v4 {
        let words = packet.chunks_exact(4);
        let sum = words.fold(Checksum::default(), |sum, word| {
            sum.add_bytes([word[0], word[1], word[2], word[3]])
        });
        packet[2..4].copy_from_slice(&sum.finish().0);
    }
    packet
}

/// IPv4 comes with its header.
fn is_reply(v4: bool, packet: &[u8], token: [u8; 12]) -> bool {
    let header = if v4 { packet.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4) } else { 0 };
    let wanted = if v4 { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    packet.get(header..).is_some_and(|message| {
        message.len() >= HEADER && message[0] == wanted && message[4..].starts_with(&token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: [u8; 12] = *b"0123456789ab";

    #[test]
    fn this_machine_answers_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let limit = Limit::of(std::time::Duration::from_secs(30));
            for address in ["127.0.0.1", "::1"] {
                let outcome = ask(address.parse().expect("literal"), &limit).await;
                assert_eq!(outcome, Ok(()), "{address}");
            }
        });
    }

    #[test]
    fn an_echo_is_right_to_the_last_byte() {
        let packet = echo(true, TOKEN);
        assert_eq!(packet.len(), HEADER + 8);
        assert_eq!((packet[0], packet[1]), (8, 0));
        let words = packet.chunks_exact(4);
        let sum = words.fold(Checksum::default(), |sum, word| {
            sum.add_bytes([word[0], word[1], word[2], word[3]])
        });
        assert_eq!(sum.finish().0, [0, 0]);
        assert_eq!(echo(false, TOKEN)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_the_reply_to_this_very_echo_counts() {
        let message = |kind: u8| [&[kind, 0, 0, 0][..], &TOKEN].concat();
        let in_ipv4 = |message: Vec<u8>| [&[0x45][..], &[0; 19], &message].concat();
        assert!(is_reply(false, &message(129), TOKEN));
        assert!(!is_reply(false, &message(128), TOKEN), "our own");
        assert!(!is_reply(false, &message(129), [0; 12]), "another one's");
        assert!(is_reply(true, &in_ipv4(message(0)), TOKEN));
        assert!(!is_reply(true, &in_ipv4(message(3)), TOKEN), "unreachable");
        for length in 0..32 {
            assert!(!is_reply(true, &in_ipv4(message(0))[..length], TOKEN), "{length} bytes");
        }
    }
}
