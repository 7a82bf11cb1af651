//! The PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt): who the client of a
//! connection really is, said in a few bytes before all others. Pure: bytes in, facts out, and the
//! other way round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::config::ProxyVersion as Version;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LINE: usize = 107;
/// The longest header of version 2 that is read; its length field would allow 64 KiB.
pub const LONGEST: usize = 2048;
/// Type of the field that tells one connection from all others.
const UNIQUE_ID: u8 = 0x05;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes.
    pub length: usize,
    /// The client, and what it has asked for; `None` if it is the sender itself (a check), or of a
    /// kind that has no such addresses.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// It begins like neither version.
    NoHeader,
    /// Longer than there is any reason for.
    TooLong,
    /// The line of version 1 is not understood.
    BadLine,
    /// Version 2 says another version, command or protocol.
    BadKind,
    /// Version 2 is too short for the addresses that it says to have.
    TooShort,
}

/// Reads a header at the beginning of a stream. `None` if more bytes are needed to tell.
///
/// # Errors
///
/// If it is none, whatever else comes.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Reject> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return binary(bytes);
    }
    let prefix = b"PROXY ";
    let common = bytes.len().min(prefix.len());
    if bytes[..common] == prefix[..common] {
        return line(bytes);
    }
    Err(Reject::NoHeader)
}

fn line(bytes: &[u8]) -> Result<Option<Header>, Reject> {
    let Some(end) = bytes.windows(2).take(LINE - 1).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= LINE { Err(Reject::TooLong) } else { Ok(None) };
    };
    let length = end + 2;
    let text = str::from_utf8(&bytes[..end]).map_err(|_| Reject::BadLine)?;
    let words: Vec<&str> = text.split(' ').collect();
    let ends = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            let address = |text: &str| text.parse().map(IpAddr::V4).map_err(|_| Reject::BadLine);
            Some((end_of(address(from)?, from_port)?, end_of(address(to)?, to_port)?))
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            let address = |text: &str| text.parse().map(IpAddr::V6).map_err(|_| Reject::BadLine);
            Some((end_of(address(from)?, from_port)?, end_of(address(to)?, to_port)?))
        }
        _ => return Err(Reject::BadLine),
    };
    Ok(Some(Header { length, ends }))
}

fn end_of(address: IpAddr, port: &str) -> Result<SocketAddr, Reject> {
    // `parse` alone would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or(Reject::BadLine)?;
    Ok(SocketAddr::new(address, port))
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, Reject> {
    let Some((head, rest)) = bytes.split_at_checked(16) else { return Ok(None) };
    let (kind, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length + 16 > LONGEST {
        return Err(Reject::TooLong);
    }
    let known = match kind {
        // LOCAL: the sender speaks for itself.
        0x20 => false,
        0x21 => true,
        _ => return Err(Reject::BadKind),
    };
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let ends = match (known, family) {
        (true, 0x11) => {
            let Some((fields, _)) = body.split_first_chunk::<12>() else {
                return Err(Reject::TooShort);
            };
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *fields;
            let end = |address: [u8; 4], port: [u8; 2]| {
                let port = u16::from_be_bytes(port);
                SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(address), port))
            };
            Some((end([a, b, c, d], [i, j]), end([e, f, g, h], [k, l])))
        }
        (true, 0x21) => {
            let Some((fields, _)) = body.split_first_chunk::<36>() else {
                return Err(Reject::TooShort);
            };
            let end = |at: usize, port: usize| {
                let mut address = [0; 16];
                address.copy_from_slice(&fields[at..at + 16]);
                let port = u16::from_be_bytes([fields[port], fields[port + 1]]);
                SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(address), port, 0, 0))
            };
            Some((end(0, 32), end(16, 34)))
        }
        // Unspecified, and Unix sockets, which have no address that would say anything here.
        (false, _) | (true, 0x00 | 0x31) => None,
        (true, _) => return Err(Reject::BadKind),
    };
    Ok(Some(Header { length: length + 16, ends }))
}

/// The header of a connection between these ends: the client, and what it has asked for. Without, as
/// for a client of a Unix socket, it says that they are unknown. `id` tells the connection from all
/// others, where there is room to say so.
#[must_use]
pub fn encode(version: Version, ends: Option<(SocketAddr, SocketAddr)>, id: u64) -> Vec<u8> {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let ends = ends.map(|(client, asked)| (canonical(client), canonical(asked)));
    match version {
        Version::V1 => {
            let unknown = || b"PROXY UNKNOWN\r\n".to_vec();
            let Some((client, asked)) = ends else { return unknown() };
            let family = match (client, asked) {
                (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
                (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
                _ => return unknown(),
            };
            let (from, to) = (client.ip(), asked.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), asked.port())
                .into_bytes()
        }
        Version::V2 => {
            let mut body = Vec::new();
            let ips = ends.map(|(client, asked)| (client.ip(), asked.ip()));
            let family = match ips {
                Some((IpAddr::V4(from), IpAddr::V4(to))) => {
                    body.extend([from.octets(), to.octets()].concat());
                    0x11
                }
                Some((IpAddr::V6(from), IpAddr::V6(to))) => {
                    body.extend([from.octets(), to.octets()].concat());
                    0x21
                }
                _ => 0x00,
            };
            if let Some((client, asked)) = ends.filter(|_| family != 0) {
                body.extend([client.port().to_be_bytes(), asked.port().to_be_bytes()].concat());
            }
            let id = format!("{id:016x}");
            body.extend([UNIQUE_ID, 0, 16]);
            body.extend(id.as_bytes());
            let length = u16::try_from(body.len()).expect("at most 36 + 19");
            // Without addresses LOCAL: every receiver has to accept that, whereas haproxy closes what is
            // relayed and of no family.
            let kind = if family == 0 { 0x20 } else { 0x21 };
            let head = [&SIGNATURE[..], &[kind, family], &length.to_be_bytes()].concat();
            [head, body].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("literal")
    }

    fn v2(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short");
        [&SIGNATURE[..], &[kind, family], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn lines_of_version_1_say_who_the_client_is() {
        for (text, ends) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\n",
                Some(("192.0.2.1:5000", "198.51.100.2:80")),
            ),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some(("[2001:db8::1]:1", "[::1]:65535"))),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN anything at all\r\n", None),
        ] {
            let with_more = format!("{text}GET / HTTP/1.1\r\n\r\n");
            let expected =
                Header { length: text.len(), ends: ends.map(|(from, to)| (at(from), at(to))) };
            assert_eq!(parse(with_more.as_bytes()), Ok(Some(expected)), "{text}");
            for end in 0..text.len() {
                assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end} bytes of {text}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_rejected_for_its_reason() {
        let long = format!("PROXY {}", "x".repeat(200));
        for (bytes, reject) in [
            (&b"GET / HTTP/1.1\r\n"[..], Reject::NoHeader),
            (b"PROXX", Reject::NoHeader),
            (b"\r\n\r\nx", Reject::NoHeader),
            (long.as_bytes(), Reject::TooLong),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", Reject::BadLine),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", Reject::BadLine),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n", Reject::BadLine),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", Reject::BadLine),
            (b"PROXY TCP4 ::1 5.6.7.8 1 2\r\n", Reject::BadLine),
            (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Reject::BadLine),
            (b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", Reject::BadLine),
            (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", Reject::BadLine),
            (b"PROXY \xff\r\n", Reject::BadLine),
            (&v2(0x11, 0x11, &[0; 12]), Reject::BadKind),
            (&v2(0x22, 0x11, &[0; 12]), Reject::BadKind),
            (&v2(0x21, 0x12, &[0; 12]), Reject::BadKind),
            (&v2(0x21, 0x11, &[0; 11]), Reject::TooShort),
            (&v2(0x21, 0x21, &[0; 35]), Reject::TooShort),
            (&v2(0x21, 0x11, &[0; LONGEST - 15]), Reject::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(reject), "{bytes:?}");
        }
    }

    #[test]
    fn a_check_of_the_sender_and_fields_that_are_not_known_are_no_error() {
        for (bytes, ends) in [
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &[1; 12]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (
                v2(0x21, 0x11, &[192, 0, 2, 1, 198, 51, 100, 2, 0, 9, 0, 80, 0x04, 0, 1, 7]),
                Some((at("192.0.2.1:9"), at("198.51.100.2:80"))),
            ),
        ] {
            assert_eq!(parse(&bytes), Ok(Some(Header { length: bytes.len(), ends })));
        }
    }

    #[test]
    fn ends_of_two_families_are_unknown_and_mapped_ones_are_ipv4() {
        let mapped = at("[::ffff:192.0.2.1]:9");
        let encode = |version, client, asked| encode(version, Some((client, asked)), 1);
        let line = encode(Version::V1, mapped, at("198.51.100.2:80"));
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.2 9 80\r\n");
        let mixed = encode(Version::V1, at("[::1]:9"), at("198.51.100.2:80"));
        assert_eq!(mixed, b"PROXY UNKNOWN\r\n");
        let mixed = encode(Version::V2, at("[::1]:9"), at("198.51.100.2:80"));
        let header = parse(&mixed).expect("valid").expect("complete");
        assert_eq!(header, Header { length: mixed.len(), ends: None });
    }

    #[test]
    fn who_has_no_address_is_unknown_and_the_connection_is_still_told_from_others() {
        assert_eq!(encode(Version::V1, None, 7), b"PROXY UNKNOWN\r\n");
        let bytes = encode(Version::V2, None, 7);
        assert_eq!(bytes[12..14], [0x20, 0x00], "nothing is said of its ends");
        assert!(bytes.ends_with(b"0000000000000007"));
        let header = Header { length: bytes.len(), ends: None };
        assert_eq!(parse(&bytes), Ok(Some(header)));
    }

    fn any_end(v4: bool) -> impl Strategy<Value = SocketAddr> {
        (any::<u128>(), any::<u16>()).prop_map(move |(bits, port)| {
            let [.., a, b, c, d] = bits.to_be_bytes();
            let v6 = bits | 0x20 << 120;
            match v4 {
                true => SocketAddr::from(([a, b, c, d], port)),
                false => SocketAddr::from((v6.to_be_bytes(), port)),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_understood(
            (client, asked) in any::<bool>().prop_flat_map(|v4| (any_end(v4), any_end(v4))),
            id: u64,
            second: bool,
        ) {
            let version = if second { Version::V2 } else { Version::V1 };
            let bytes = encode(version, Some((client, asked)), id);
            prop_assert!(version == Version::V2 || bytes.len() <= LINE);
            let expected = Header { length: bytes.len(), ends: Some((client, asked)) };
            prop_assert_eq!(parse(&bytes), Ok(Some(expected)));
            for end in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..end]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_do_no_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..80), begin in 0..3_usize,
        ) {
            let begin: &[u8] = [&[][..], &SIGNATURE[..], b"PROXY TCP4 "][begin];
            let bytes = [begin, &bytes].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }
    }
}
