//! `tls` of a service: what is accepted, and what is told of what is not.

use super::errors::Case;
use super::parse_with_base;
use crate::config::{
    BackendTls, CertificateFiles, Cipher, ClientAuth, ErrorKind, Tls, TlsError, TlsVersion,
    UnknownName,
};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11"]
tls = { certificates = [{ chain = "site.pem" }] }"#), &[
        r#"5:7: `tls` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
protocol = "udp"
tls = { certificates = [{ chain = "site.pem" }] }"#), &[
        r#"7:7: `tls` has no effect without `protocol = "tcp"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificats = [] }"#), &[
        "6:9: unknown key `certificats`; did you mean `certificates`?",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { alpn = ["", "h 2"], min_version = "1.3", max_version = "1.2" }"#), &[
        r#"6:7: no certificate; write `certificates = [{ chain = "/etc/pen/site.pem", key = "/etc/pen/site.key" }]`"#,
        r#"6:17: `` is no name of a protocol; write 1 to 255 characters, as in "h2" or "http/1.1""#,
        r#"6:21: `h 2` is no name of a protocol; write 1 to 255 characters, as in "h2" or "http/1.1""#,
        "6:64: `min_version` 1.3 is above `max_version` 1.2; exchange the two",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [], ciphers = ["TLS_RSA_WITH_RC4_128_MD5", "TLS_AES_128_GCM_SHA265"] }"#), &[
        r#"6:24: no certificate; write `certificates = [{ chain = "/etc/pen/site.pem", key = "/etc/pen/site.key" }]`"#,
        "6:39: unknown cipher `TLS_RSA_WITH_RC4_128_MD5`; use one of: TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "6:67: unknown cipher `TLS_AES_128_GCM_SHA265`; did you mean `TLS_AES_128_GCM_SHA256`?",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }], ciphers = ["TLS_AES_128_GCM_SHA256"] }"#), &[
        "6:60: `ciphers` has none for TLS 1.2; add one, or exclude that version with `min_version` or `max_version`",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }], max_version = "1.2", ciphers = ["TLS_AES_128_GCM_SHA256"] }"#), &[
        "6:82: TLS_AES_128_GCM_SHA256 is a cipher of TLS 1.3, which is not spoken; remove it, or change `min_version` or `max_version`",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [
{ chain = "site.pem", key = "site.key" }, { chain = "/tmp/site.pem", key = "site.key" },
{ chain = "site.pem", key = "other.key" }, { chain = "site.pem", key = "open.key" },
{ chain = "site.pem", key = "site.key", ocsp = "ocsp.pem" }, { key = "site.key" }, "site.pem"] }"#), &[
        "7:53: /tmp/site.pem: no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`",
        "8:29: /etc/pen/other.key: not the key of the certificate in /etc/pen/site.pem; name the two that belong together",
        "8:72: /etc/pen/open.key: a key with mode 0644 is open to others; `chmod 600` it, or let only group root or pen read it",
        "9:48: /etc/pen/ocsp.pem: no answer of an OCSP responder in DER; `openssl ocsp -respout FILE` writes one",
        r#"9:62: a certificate lacks `chain`; add `chain = "/etc/pen/site.pem"`"#,
        r#"9:84: expected a certificate, written `{ chain = "...", key = "..." }`, found a string"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }], client_ca = "ca.pem" }"#), &[
        r#"6:62: `client_ca` has no effect without `client_auth = "required"` or "optional"; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }], client_auth = "required" }"#), &[
        r#"6:64: nothing says whose certificates clients may show; add `client_ca = "/etc/pen/clients.pem"`"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }], client_auth = "optional", client_ca = "ca.pem", client_crl = "x" }"#), &[
        "6:111: /etc/pen/x: no list in it; it has to begin with `-----BEGIN X509 CRL-----`",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80"]
mode = "proxy"
tls = { certificates = [{ chain = "site.pem" }] }
forwarded_for = "replace""#), &[
        r#"7:17: `forwarded_for` reads requests in the open, and with `tls` they come sealed; remove it, and use `send_proxy = "v2"`"#,
    ]),
    // backend_tls
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:443"]
mode = "proxy"
protocol = "udp"
backend_tls = {}"#), &[
        r#"7:15: `backend_tls` has no effect without `protocol = "tcp"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:443"]
mode = "proxy"
backend_tls = { sni = "app.example", name = "*.example", ca = "site.pem", certificate = { chain = "site.pem", key = "other.key" } }"#), &[
        "6:17: unknown key `sni`; valid keys of `backend_tls`: alpn, ca, certificate, ciphers, max_version, min_version, name, verify",
        "6:45: `*.example` is neither the name of a host nor an address; write what the servers' certificates are for, as in \"app.example\"",
        "6:63: /etc/pen/site.pem: no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`",
        "6:117: /etc/pen/other.key: not the key of the certificate in /etc/pen/site.pem; name the two that belong together",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:443"]
mode = "proxy"
backend_tls = { verify = false, ca = "ca.pem" }
routes = [{ names = ["a.example"], backends = ["10.0.0.11:443"] }]"#), &[
        "6:15: what `routes` passes on is sealed already; remove `backend_tls`, or add `tls`, which ends that of clients",
        "6:38: `ca` has no effect without `verify = true`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:443", r#"backends = ["unix:/run/app.sock"]
mode = "proxy"
backend_tls = {}"#), &[
        r#"6:15: nothing says for whom the certificate of unix:/run/app.sock has to be; add `name = "app.example"`"#,
    ]),
    // routes
    Case(web!("192.0.2.10:443", r#"backends = ["10.0.0.11:80", { address = "10.0.0.12:80", name = "shop" }]
mode = "proxy"
routes = [{ names = ["a.example", "B.example"], backends = ["10.0.0.11:80"] }, { backends = ["shop"] },
{ names = ["b.example", "a b", "*"], backends = ["shop"] }, { names = ["c"], backends = [] }]"#), &[
        r#"6:80: a route lacks `names`; add `names = ["a.example"]`"#,
        "7:12: name of a route `b.example` is given twice, also at /etc/pen/0.toml:6:35; remove or change one",
        r#"7:25: `a b` is no name of a host; write "a.example", or "*.example" for all with one more label"#,
        r#"7:32: `*` is no name of a host; write "a.example", or "*.example" for all with one more label"#,
        r#"7:61: a route lacks `backends`; add `backends = ["b1"]`"#,
    ]),
    Case(web!("192.0.2.10:443", r#"backends = [{ address = "10.0.0.12:80", name = "shop" }]
mode = "proxy"
routes = [{ names = ["a.example"], backends = ["shp", "10.0.0.12:80"] }]"#), &[
        "6:48: no backend of this service is called `shp`; did you mean `shop`?",
        r#"6:55: no backend of this service is called `10.0.0.12:80`; name those in `backends`, as in `{ address = "10.0.0.11:443", name = "b1" }`"#,
    ]),
];

fn tls(keys: &str) -> Tls {
    let text = format!(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:443\"\nmode = \"proxy\"\n\
         backends = [\"10.0.0.11:80\"]\ntls = {{ {keys} }}\n"
    );
    let config = parse_with_base(&text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let proxy = config.services[0].proxy.clone().expect("proxied");
    *proxy.tls.expect("tls")
}

#[test]
fn who_says_nothing_of_tls_gets_what_is_safe() {
    let files = CertificateFiles {
        chain: "/etc/pen/site.pem".into(),
        key: "/etc/pen/site.pem".into(),
        ocsp: None,
    };
    let expected = Tls {
        certificates: vec![files],
        unknown_name: UnknownName::Default,
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V13,
        ciphers: vec![],
        alpn: vec![],
        client_auth: ClientAuth::None,
        client_ca: None,
        client_crl: None,
        resumption: true,
    };
    assert_eq!(tls("certificates = [{ chain = \"site.pem\" }]"), expected);
}

#[test]
fn all_that_can_be_said_of_tls_is_taken() {
    let found = tls(
        "certificates = [{ chain = \"site.pem\", key = \"site.key\", ocsp = \"site.ocsp\" }], \
         unknown_name = \"refuse\", min_version = \"1.3\", ciphers = [\"TLS_AES_128_GCM_SHA256\"], \
         alpn = [\"h2\", \"http/1.1\"], client_auth = \"required\", client_ca = \"ca.pem\", \
         client_crl = \"ca.crl\", resumption = false",
    );
    let files = CertificateFiles {
        chain: "/etc/pen/site.pem".into(),
        key: "/etc/pen/site.key".into(),
        ocsp: Some("/etc/pen/site.ocsp".into()),
    };
    let expected = Tls {
        certificates: vec![files],
        unknown_name: UnknownName::Refuse,
        min_version: TlsVersion::V13,
        max_version: TlsVersion::V13,
        ciphers: vec![Cipher::Aes128Gcm13],
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        client_auth: ClientAuth::Required,
        client_ca: Some("/etc/pen/ca.pem".into()),
        client_crl: Some("/etc/pen/ca.crl".into()),
        resumption: false,
    };
    assert_eq!(found, expected);
}

fn backend_tls(keys: &str) -> BackendTls {
    let text = format!(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:443\"\nmode = \"proxy\"\n\
         backends = [\"10.0.0.11:443\"]\n[service.backend_tls]\n{keys}\n"
    );
    let config = parse_with_base(&text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let proxy = config.services[0].proxy.clone().expect("proxied");
    *proxy.backend_tls.expect("backend_tls")
}

#[test]
fn servers_have_to_show_a_good_certificate_unless_it_is_said_that_they_need_not() {
    let expected = BackendTls {
        verify: true,
        ca: None,
        name: None,
        certificate: None,
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V13,
        ciphers: vec![],
        alpn: vec![],
    };
    assert_eq!(backend_tls(""), expected);
    assert_eq!(backend_tls("verify = false"), BackendTls { verify: false, ..expected });
}

#[test]
fn all_that_can_be_said_of_tls_to_servers_is_taken() {
    let found = backend_tls(
        "ca = \"ca.pem\"\nname = \"App.example\"\nmin_version = \"1.3\"\nalpn = [\"h2\"]\n\
         ciphers = [\"TLS_AES_128_GCM_SHA256\"]\n\
         certificate = { chain = \"site.pem\", key = \"site.key\" }",
    );
    let files = CertificateFiles {
        chain: "/etc/pen/site.pem".into(),
        key: "/etc/pen/site.key".into(),
        ocsp: None,
    };
    let expected = BackendTls {
        verify: true,
        ca: Some("/etc/pen/ca.pem".into()),
        name: Some("app.example".to_owned()),
        certificate: Some(files),
        min_version: TlsVersion::V13,
        max_version: TlsVersion::V13,
        ciphers: vec![Cipher::Aes128Gcm13],
        alpn: vec!["h2".to_owned()],
    };
    assert_eq!(found, expected);
    assert_eq!(backend_tls("name = \"10.0.0.11\"").name.as_deref(), Some("10.0.0.11"));
}

#[test]
fn each_error_of_tls_has_a_text_that_provokes_it() {
    let variant = |error: &TlsError| {
        let text = format!("{error:?}");
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    let errors = CASES.iter().filter_map(|case| parse_with_base(&format!("{}\n", case.0)).err());
    let provoked: std::collections::BTreeSet<_> = errors
        .flatten()
        .filter_map(|error| match error.kind {
            ErrorKind::Tls(error) => Some(variant(&error)),
            _ => None,
        })
        .collect();
    let source = include_str!("../tls/error.rs");
    let (_, body) = source.split_once("pub enum TlsError {").expect("it is there");
    let (body, _) = body.split_once("\n}").expect("its end");
    let declared: std::collections::BTreeSet<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(provoked, declared);
}
