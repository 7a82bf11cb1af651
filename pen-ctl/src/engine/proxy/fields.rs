//! What the PROXY protocol, version 2, says of a client's TLS (haproxy's doc/proxy-protocol.txt 2.2):
//! the name that it asked for, what was agreed upon, and who it is by its certificate.

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

/// The client speaks TLS.
const CLIENT_SSL: u8 = 0x01;
/// It showed a certificate: on this connection, or on the one that this one resumes.
const CLIENT_CERT: u8 = 0x02 | 0x04;

/// Head of version 2, before which its length is.
const HEAD: usize = 16;
/// Longest that a name in a certificate may be (RFC 5280, `ub-common-name`), with room.
const LONGEST: usize = 256;

/// What is known of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name that it asked for.
    pub name: Option<String>,
    /// TLS ends here.
    pub tls: Option<Agreed>,
}

/// What was agreed upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Name of the cipher suite.
    pub cipher: String,
    /// The protocol above it.
    pub alpn: Option<Vec<u8>>,
    /// It showed a certificate that is good; its common name, if it has one.
    pub certificate: Option<Option<String>>,
}

/// Adds what is known to a header of version 2.
pub fn add(header: &mut Vec<u8>, facts: &Facts) {
    let mut fields = Vec::new();
    if let Some(name) = &facts.name {
        field(&mut fields, AUTHORITY, name.as_bytes());
    }
    if let Some(agreed) = &facts.tls {
        if let Some(alpn) = &agreed.alpn {
            field(&mut fields, ALPN, alpn);
        }
        let shown = agreed.certificate.is_some();
        let mut ssl = vec![CLIENT_SSL | if shown { CLIENT_CERT } else { 0 }];
        // Zero says that it showed one, and that it is good.
        ssl.extend(u32::from(!shown).to_be_bytes());
        field(&mut ssl, SSL_VERSION, agreed.version.as_bytes());
        if let Some(Some(name)) = &agreed.certificate {
            field(&mut ssl, SSL_CN, name.as_bytes());
        }
        field(&mut ssl, SSL_CIPHER, agreed.cipher.as_bytes());
        field(&mut fields, SSL, &ssl);
    }
    if header.len() < HEAD {
        // It is not said at all who the client is.
        return;
    }
    let length = u16::try_from(header.len() + fields.len() - HEAD).unwrap_or(u16::MAX);
    header[HEAD - 2..HEAD].copy_from_slice(&length.to_be_bytes());
    header.extend(fields);
}

/// Type, length, value. A value that is absurdly long is cut.
fn field(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = if kind == SSL { value } else { &value[..value.len().min(LONGEST)] };
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    to.push(kind);
    to.extend(length.to_be_bytes());
    to.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyVersion;
    use crate::engine::proxy::header::{self, encode, parse};

    fn header() -> Vec<u8> {
        let [from, to] =
            ["192.0.2.1:5000", "198.51.100.2:443"].map(|at| at.parse().expect("literal"));
        encode(ProxyVersion::V2, Some((from, to)), 7)
    }

    #[test]
    fn what_is_known_of_tls_follows_the_addresses() {
        let plain = header();
        let agreed = Agreed {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            alpn: Some(b"h2".to_vec()),
            certificate: Some(Some("alice".to_owned())),
        };
        let mut bytes = plain.clone();
        add(&mut bytes, &Facts { name: Some("a.example".to_owned()), tls: Some(agreed) });
        assert_eq!(&bytes[..14], &plain[..14]);
        let ssl = [
            &b"\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x05alice\x23\0\x16"[..],
            b"TLS_AES_128_GCM_SHA256",
        ]
        .concat();
        let expected = [&b"\x02\0\x09a.example\x01\0\x02h2\x20\0\x30"[..], &ssl].concat();
        assert_eq!(&bytes[plain.len()..], expected);
        assert_eq!(
            parse(&bytes).map(|found| found.map(|found| found.length)),
            Ok(Some(bytes.len()))
        );
    }

    #[test]
    fn who_showed_nothing_is_not_said_to_be_good_and_nothing_adds_nothing() {
        let mut bytes = header();
        add(&mut bytes, &Facts::default());
        assert_eq!(bytes, header());
        let tls = Agreed { version: "TLSv1.2", cipher: "x".to_owned(), ..Agreed::default() };
        add(&mut bytes, &Facts { name: None, tls: Some(tls) });
        let added = &bytes[header().len()..];
        assert_eq!(added, b"\x20\0\x13\x01\0\0\0\x01\x21\0\x07TLSv1.2\x23\0\x01x");
    }

    #[test]
    fn the_longest_names_leave_a_header_that_can_be_read() {
        let long = "x".repeat(5000);
        let agreed = Agreed {
            version: "TLSv1.3",
            cipher: long.clone(),
            alpn: Some(vec![b'x'; 255]),
            certificate: Some(Some(long.clone())),
        };
        let mut bytes = header();
        add(&mut bytes, &Facts { name: Some(long), tls: Some(agreed) });
        assert!(bytes.len() < header::LONGEST);
        assert!(parse(&bytes).expect("valid").is_some());
    }
}
