//! Clients that show certificates.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use pen_tests::{Lab, wait_until};

use super::{Pki, SITE, finish, secure, serve};
use crate::proxy::{LONG, Server, lab};

/// What a server is told before the client's own bytes, and these.
fn header(
    lab: &Lab,
    pki: &Pki,
    client: Option<&str>,
    config: Option<rustls::ClientConfig>,
) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let config = Arc::new(config.unwrap_or_else(|| pki.client_as(client)));
    let mut stream = secure(&lab.client().netns, SITE, &config, "site.example")?;
    stream.write_all(b"my own bytes")?;
    let all = finish(&mut stream)?;
    assert_eq!(&all[..12], b"\r\n\r\n\0\r\nQUIT\n", "{all:?}");
    let length = usize::from(u16::from_be_bytes([all[14], all[15]]));
    let (header, rest) = all.split_at(16 + length);
    Ok((header.to_vec(), rest.to_vec()))
}

/// A value of a header's fields, or of fields within one.
fn value(mut fields: &[u8], kind: u8) -> Option<&[u8]> {
    while let [found, high, low, rest @ ..] = fields {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if *found == kind {
            return Some(value);
        }
        fields = rest;
    }
    None
}

fn common_name(header: &[u8]) -> Option<String> {
    // Behind the addresses of IPv4, and behind what the kind says of the certificate.
    let ssl = value(&header[28..], 0x20)?;
    assert_eq!(&ssl[..5], [7, 0, 0, 0, 0], "shown, and good");
    Some(String::from_utf8(value(&ssl[5..], 0x22)?.to_vec()).unwrap())
}

/// A lab whose server says back what it got, and certificates for clients.
fn prepared() -> (Lab, Pki, Server) {
    let (lab, pki) = (lab(1), Pki::new());
    for name in ["site", "alice", "bob"] {
        pki.issue(name, &[&format!("{name}.example")]);
    }
    let host = &lab.backends[0];
    let server = Server::start(&host.netns, (host.v4.into(), 80), |mut stream| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = stream.write_all(&bytes);
    });
    (lab, pki, server)
}

#[test]
fn only_who_shows_a_good_certificate_is_served_and_the_server_is_told_who_it_is() {
    let (lab, pki, _server) = prepared();
    let keys = format!(
        "{}, alpn = [\"echo\"], client_auth = \"required\", client_ca = \"{}\"",
        pki.list(&["site"]),
        pki.file("root.pem")
    );
    let pend = serve(&lab, &keys, "send_proxy = \"v2\"");
    let mut config = pki.client_as(Some("alice"));
    config.alpn_protocols = vec![b"echo".to_vec()];
    let (told, rest) = header(&lab, &pki, None, Some(config)).unwrap();
    assert_eq!(rest, b"my own bytes");
    assert_eq!(common_name(&told).as_deref(), Some("alice"));
    assert_eq!(value(&told[28..], 0x01), Some(&b"echo"[..]));
    assert_eq!(value(&told[28..], 0x02), Some(&b"site.example"[..]));
    let ssl = value(&told[28..], 0x20).unwrap();
    assert_eq!(value(&ssl[5..], 0x21), Some(&b"TLSv1.3"[..]));
    let cipher = value(&ssl[5..], 0x23).unwrap();
    assert!(cipher.starts_with(b"TLS_AES_"), "{cipher:?}");
    assert!(header(&lab, &pki, None, None).is_err(), "none is shown");
    // Of another authority.
    let other = Pki::new();
    other.issue("alice", &["alice.example"]);
    for name in ["alice.pem", "alice.key"] {
        pki.write(&name.replace("alice", "false"), other.read(name));
    }
    assert!(header(&lab, &pki, Some("false"), None).is_err());
    wait_until(LONG, "both are counted", || {
        (pend.counter("proxy-bad-client-certificate").unwrap() == 2).then_some(())
    })
    .unwrap();
    assert_eq!(pend.backend("site", "b1").unwrap()["proxy"]["total"], 1, "no server was asked");
    // openssl is asked for one, and names of authorities come with the question.
    let output = pki.s_client(&lab.client().netns, SITE, "-cert alice.pem -key alice.key");
    assert!(
        output.stdout.contains("Acceptable client certificate CA names\nCN = root"),
        "{output:?}"
    );
}

#[test]
fn where_it_is_optional_all_are_served_but_those_whose_certificate_was_taken_back() {
    let (lab, pki, _server) = prepared();
    pki.write("index", "");
    pki.write(
        "ca.conf",
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index\ndefault_md=sha256\ncrlnumber=number\n",
    );
    pki.write("number", "01\n");
    let ca = "ca -config ca.conf -cert inter.pem -keyfile inter.key";
    pki.openssl(&format!("{ca} -revoke bob.pem"));
    pki.openssl(&format!("{ca} -gencrl -crldays 30 -out list.crl"));
    let keys = format!(
        "{}, client_auth = \"optional\", client_ca = \"{}\", client_crl = \"{}\"",
        pki.list(&["site"]),
        pki.file("root.pem"),
        pki.file("list.crl")
    );
    let pend = serve(&lab, &keys, "send_proxy = \"v2\"");
    let (told, _) = header(&lab, &pki, Some("alice"), None).unwrap();
    assert_eq!(common_name(&told).as_deref(), Some("alice"));
    let (told, _) = header(&lab, &pki, None, None).unwrap();
    let ssl = value(&told[28..], 0x20).unwrap();
    assert_eq!(&ssl[..5], [1, 0, 0, 0, 1], "TLS, and no certificate");
    assert!(header(&lab, &pki, Some("bob"), None).is_err());
    wait_until(LONG, "it is counted", || {
        (pend.counter("proxy-bad-client-certificate").unwrap() == 1).then_some(())
    })
    .unwrap();
}
