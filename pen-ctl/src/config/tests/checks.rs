//! What a check may say, type by type, and what can be wrong with it. In a snippet of `web!` the
//! check is line 5.

use std::time::Duration;

use super::errors::Case;
use super::{lines, parse_with_base};
use crate::config::{Check, CheckKind};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { path = "/health", body = "ok" }"#), &[
        r#"5:11: `path` says nothing to a check of type "tcp"; remove it, or use `type = "http"`"#,
        r#"5:29: `body` says nothing to a check of type "tcp"; remove it, or use `type = "http"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "none", port = 81 }"#), &[
        r#"5:26: `port` says nothing to a check of type "none"; remove it, or use `type = "tcp" or "tls" or "http" or "grpc" or "udp" or "dns" or "smtp" or "exec"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", path = "health", method = "GET /", host = " www", expect = 20 }"#), &[
        r#"5:33: `path` cannot stand in a request: "health"; begin it with `/`, and write what is not ASCII as `%` and two digits"#,
        r#"5:52: `method` cannot stand in a request: "GET /"; write one such as "GET" or "HEAD""#,
        r#"5:68: `host` cannot stand in a request: " www"; use printable ASCII, without blanks around it"#,
        r#"5:85: `20` is no list of status codes; write one like 200, "200-399" or "200, 204""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", headers = { Host = "www", Connection = "keep-alive", "X Y" = "1", A = 1 } }"#), &[
        "5:45: the field `Host` is written by pen itself; use the key `host`",
        "5:65: the field `Connection` is written by pen itself; remove it",
        r#"5:87: `headers` cannot stand in a request: "X Y: 1"; use printable ASCII, without blanks around it"#,
        "5:96: expected a string in quotes, found an integer",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", headers = ["X: 1"] }"#), &[
        r#"5:36: expected a table, written `{ Name = "value" }`, found an array"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { jitter = "51%" }"#), &[
        r#"5:20: `51%` is no share of the interval; write one from "0%" to "50%""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { jitter = "+5 %" }"#), &[
        r#"5:20: `+5 %` is no share of the interval; write one from "0%" to "50%""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", body_regex = "(ok" }"#), &[
        "5:39: no regular expression (unclosed group); correct it, or search for a plain text instead",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", body = "ok", body_regex = "ok" }"#), &[
        "5:52: both `body` and `body_regex` are given; keep one of the two",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "udp", send = "a", send_hex = "00", expect_hex = "0" }"#), &[
        "5:32: both `send` and `send_hex` are given; keep one of the two",
        r#"5:67: `0` are no bytes in hexadecimal digits; write two for each, like "00 ff""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "udp", expect = "a", expect_hex = "00" }"#), &[
        "5:52: both `expect` and `expect_hex` are given; keep one of the two",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "dns", record = "AAA", rcode = "OK" }"#), &[
        r#"5:9: `check` lacks `name`; add `name = "www.example"`"#,
        "5:34: unknown record `AAA`; did you mean `AAAA`?",
        "5:49: unknown rcode `OK`; use one of: NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "dns", name = "www..example", rcode = "NXDOMAIN", answer = "10.0.0.1" }"#), &[
        r#"5:32: `www..example` is no name of DNS; write one like "www.example""#,
        "5:77: with NXDOMAIN there is no `answer`; remove one of the two",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "smtp", hello = "pen\r\nQUIT" }"#), &[
        "5:34: `pen\r\nQUIT` is no name to greet with; write that of this machine, without blanks",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "exec" }"#), &[
        r#"5:9: `check` lacks `command`; add `command = ["/usr/local/bin/check"]`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "exec", command = ["check --all"] }"#), &[
        "5:37: `check --all` is no program; begin `command` with its whole path, and give each argument in quotes of its own: no shell reads them",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "exec", command = ["/bin/check", "a\u0000b"] }"#), &[
        "5:51: an argument with a zero byte cannot be given to a program; remove it",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { fast_interval = "2s" }"#), &[
        "5:27: `fast_interval` is 2s, and so above the interval 1s; lower it",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { down_interval = "500ms" }"#), &[
        "5:27: `down_interval` is 500ms, and so below the interval 1s; raise it, or use `fast_interval`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tcp", address = "10.0.0.11:80", init = "ready" }"#), &[
        r#"5:35: `10.0.0.11:80` is no IP address; write one like "10.0.0.11", and the port as `port`"#,
        "5:58: unknown init `ready`; use one of: first, up, down",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
mode = "ipip"
check = { type = "tcp", address = "10.0.0.12", tunnel = true }"#), &[
        "6:35: through the tunnel the virtual address is asked, and no other; remove `address` or `tunnel`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["unix:/run/a.sock"]
mode = "proxy"
check = { type = "tcp", address = "10.0.0.12" }"#), &[
        "6:9: the check has an address, but the backend unix:/run/a.sock is a Unix socket, where it connects as clients do; leave `address` out",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { agent = { interval = "1s" } }"#), &[
        "5:19: `agent` lacks `port`; add `port = 9999`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { agent = { port = 9999, timeout = "2s" } }"#), &[
        "5:44: the timeout 2s is above the interval 1s; lower the timeout or raise the interval",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["unix:/run/a.sock"]
mode = "proxy"
check = { agent = { port = 9999 } }"#), &[
        "6:9: the check has an agent, but the backend unix:/run/a.sock is a Unix socket, and no agent has a port there; leave `agent` out",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", ca = "/etc/pen/ca.pem" }"#), &[
        "5:31: `ca` has no effect without `tls = true`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "http", certificate = { chain = "/etc/pen/site.pem" } }"#), &[
        "5:40: `certificate` has no effect without `tls = true`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", certificate = { chain = "/etc/pen/nowhere.pem" } }"#), &[
        "5:49: /etc/pen/nowhere.pem: no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", verify = "dates", ca = "/etc/pen/ca.pem" }"#), &[
        r#"5:48: `ca` has no effect without `verify = "full"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", verify = "none", expires_in = "14days" }"#), &[
        r#"5:55: `expires_in` has no effect without `verify = "dates"` or "full"; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", server_name = "*.example", verify = "all" }"#), &[
        r#"5:39: `*.example` is no name of DNS; write one like "www.example""#,
        "5:61: unknown verify `all`; use one of: none, dates, full",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", ca = "/etc/pen/site.pem" }"#), &[
        "5:30: /etc/pen/site.pem: no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tls", verify = "full" }"#), &[
        "5:34: /etc/ssl/certs/ca-certificates.crt: no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`",
    ]),
];

#[test]
fn a_datagram_that_is_too_long_is_an_error() {
    let send = "x".repeat(1201);
    let text = format!(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\n\
         check = {{ type = \"udp\", send = \"{send}\" }}\n"
    );
    assert_eq!(
        lines(&parse_with_base(&text).unwrap_err()),
        ["5:32: a datagram of 1201 bytes may not arrive; send at most 1200"]
    );
}

#[test]
fn an_agent_has_times_of_its_own() {
    let shown = |keys: &str| check(keys).agent.map(|agent| agent.to_string());
    assert_eq!(shown("type = \"none\""), None);
    assert_eq!(
        shown("type = \"none\", agent = { port = 9999 }").as_deref(),
        Some("agent at port 9999, interval 1s, timeout 500ms")
    );
    assert_eq!(
        shown("interval = \"5s\", agent = { port = 1, interval = \"100ms\", send = \"b1\\n\" }")
            .as_deref(),
        Some("agent at port 1, interval 100ms, timeout 100ms, which is told \"b1\\n\"")
    );
}

#[test]
fn what_a_question_to_an_agent_is_has_its_limit() {
    let send = "x".repeat(1201);
    let text = format!(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\n\
         check = {{ agent = {{ port = 9999, send = \"{send}\" }} }}\n"
    );
    assert_eq!(
        lines(&parse_with_base(&text).unwrap_err()),
        ["5:41: a question of 1201 bytes is too long for an agent; send at most 1200"]
    );
}

#[test]
fn what_asks_at_no_port_needs_none() {
    for (kind, kinds) in [("icmp", ""), ("exec", ", command = [\"/bin/check\"]")] {
        let text = format!(
            "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:0\"\nbackends = [\"10.0.0.11\"]\n\
             mode = \"ipip\"\ncheck = {{ type = \"{kind}\"{kinds} }}\n"
        );
        let config = parse_with_base(&text).unwrap_or_else(|errors| panic!("{errors:#?}"));
        assert!(!config.services[0].check.tunnel, "{kind}");
    }
}

fn check(keys: &str) -> Check {
    let text = format!(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\n\
         check = {{ {keys} }}\n"
    );
    let config = parse_with_base(&text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    config.services[0].check.clone()
}

#[test]
fn a_check_says_what_it_asks_and_expects() {
    for (keys, shown) in [
        ("type = \"tcp\"", "tcp"),
        ("type = \"none\"", "none"),
        ("type = \"http\"", "http GET / expecting 200-399"),
        (
            "type = \"http\", method = \"HEAD\", path = \"/up?full=1\", host = \"www.example\", \
             headers = { X-Token = \"secret\", Accept = \"*/*\" }, expect = \"200, 204\"",
            "http HEAD /up?full=1 of www.example with X-Token with Accept expecting 200, 204",
        ),
        (
            "type = \"http\", expect = 200, body = \"all \\\"ok\\\"\"",
            "http GET / expecting 200 and a body with \"all \\\"ok\\\"\"",
        ),
        ("type = \"tls\"", "tls"),
        ("type = \"tls\", verify = \"none\"", "tls with any certificate"),
        (
            "type = \"tls\", server_name = \"a.b\", ca = \"/etc/pen/ca.pem\", expires_in = \"14days\"",
            "tls of a.b signed by /etc/pen/ca.pem valid for 14days",
        ),
        ("type = \"http\", tls = true", "http GET / expecting 200-399 over tls"),
        (
            "type = \"tls\", certificate = { chain = \"/etc/pen/site.pem\", key = \"/etc/pen/site.key\" }",
            "tls, shown /etc/pen/site.pem",
        ),
        ("type = \"http\", version = \"2\"", "http/2 GET / expecting 200-399"),
        ("type = \"grpc\"", "grpc"),
        (
            "type = \"grpc\", service = \"a.B\", host = \"a.b\", tls = true",
            "grpc for a.B of a.b over tls",
        ),
        ("type = \"http\", tls = false", "http GET / expecting 200-399"),
        ("type = \"udp\"", "udp with 0 bytes expecting any answer"),
        (
            "type = \"udp\", send_hex = \"00 ff:0a\", expect_hex = \"c0\"",
            "udp with 3 bytes expecting 0xc0",
        ),
        (
            "type = \"udp\", send = \"ping\", expect = \"pong\"",
            "udp with 4 bytes expecting \"pong\"",
        ),
        (
            "type = \"dns\", name = \"www.example.\"",
            "dns for A of www.example over udp expecting NOERROR",
        ),
        (
            "type = \"dns\", name = \"a.b\", record = \"TXT\", answer = \"x\", transport = \"tcp\"",
            "dns for TXT of a.b over tcp expecting NOERROR with \"x\"",
        ),
        ("type = \"smtp\"", "smtp as pen"),
        ("type = \"icmp\"", "icmp"),
        (
            "type = \"exec\", command = [\"/bin/check\", \"-v\"], user = \"web\"",
            "exec /bin/check -v as web",
        ),
        (
            "type = \"http\", body_regex = '^\\d+ users$'",
            "http GET / expecting 200-399 and a body with /^\\d+ users$/",
        ),
    ] {
        assert_eq!(check(keys).kind.to_string(), shown);
    }
}

#[test]
fn the_other_intervals_are_the_usual_one_unless_told_otherwise() {
    let times = |keys| {
        let Check { interval, fast_interval, down_interval, .. } = check(keys);
        [interval, fast_interval, down_interval].map(|time: Duration| time.as_millis())
    };
    assert_eq!(times("interval = \"2s\""), [2000; 3]);
    let keys = "interval = \"2s\", fast_interval = \"200ms\", down_interval = \"10s\"";
    assert_eq!(times(keys), [2000, 200, 10_000]);
}

#[test]
fn a_check_of_http_may_ask_at_another_port() {
    let Check { kind, port, .. } = check("type = \"http\", port = 8080");
    assert!(matches!(kind, CheckKind::Http(_)));
    assert_eq!(port, Some(8080));
}
