//! Which heads are passed on, why others are not, and what a server gets.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const CLIENT: &str = "192.0.2.1";

fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, Reject> {
    Reader::default().read(bytes)
}

fn head(text: &str) -> Head<'_> {
    parse(text.as_bytes()).expect("valid").expect("complete")
}

fn rewritten(text: &str, policy: ForwardedFor) -> String {
    let bytes = head(text).rewrite(policy, CLIENT.parse().ok(), "http");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_head_ends_with_the_empty_line_and_says_what_comes_after_it() {
    for (text, body) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Body::Length(0)),
        ("GET / HTTP/1.0\r\n\r\n", Body::Length(0)),
        ("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", Body::Length(0)),
        ("M-SEARCH http://b/ HTTP/1.1\r\nHOST: a\r\nx:\t y \t\r\n\r\n", Body::Length(0)),
        ("PUT /\u{e4} HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n", Body::Length(7)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Body::Chunked),
    ] {
        let with_more = format!("{text}more\n\0");
        let found = head(&with_more);
        assert_eq!((found.length, found.body), (text.len(), body), "{text}");
        assert_eq!(found.body.limit() == u64::MAX, body == Body::Chunked);
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end} bytes of {text}");
        }
    }
}

#[test]
fn what_may_be_understood_in_two_ways_is_rejected_for_its_reason() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(LONGEST));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(FIELDS));
    let mut seen = BTreeSet::new();
    for (text, reject) in [
        ("\r\n", Reject::NoRequest),
        (" GET / HTTP/1.1\r\n", Reject::NoRequest),
        ("\x16\x03\x01\x02", Reject::NoRequest),
        ("SSH-2.0-OpenSSH_10.0\r\n", Reject::NoRequest),
        ("GET /\r\n", Reject::NoRequest),
        ("GET / HTTP/0.9\r\n", Reject::NoRequest),
        ("GET / HTTP/2.0\r\n", Reject::NoRequest),
        ("GET / http/1.1\r\n", Reject::NoRequest),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::NoRequest),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Reject::NoRequest),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Reject::NoRequest),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reject::Http2),
        (&long, Reject::TooLarge),
        (&many, Reject::TooLarge),
        ("GET /\0", Reject::BadByte),
        ("GET / HTTP/1.1\r\nHost: a\0", Reject::BadByte),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: \x01\r\n\r\n", Reject::BadByte),
        ("GET / HTTP/1.1\n", Reject::BareEnd),
        ("GET / HTTP/1.1\r\r", Reject::BareEnd),
        ("GET / HTTP/1.1\r\nHost: a\n", Reject::BareEnd),
        ("GET / HTTP/1.1\r\nHost: a\rx", Reject::BareEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Reject::BareEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rx", Reject::BareEnd),
        ("GET / HTTP/1.1\r\n Host: a", Reject::Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\n\tb", Reject::Folded),
        ("GET / HTTP/1.1\r\nHost : a", Reject::BadName),
        ("GET / HTTP/1.1\r\nHost\r\n", Reject::BadName),
        ("GET / HTTP/1.1\r\n: a", Reject::BadName),
        ("GET / HTTP/1.1\r\nH\u{f6}st: a", Reject::BadName),
        ("GET / HTTP/1.1\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Reject::Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Reject::Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", Reject::Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", Reject::Length),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            Reject::Length,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n",
            Reject::Length,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Reject::Encoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Reject::Encoding),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
             chunked\r\n\r\n",
            Reject::Encoding,
        ),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Reject::Encoding),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::LengthAndEncoding,
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Reject::Connect),
    ] {
        assert_eq!(parse(text.as_bytes()), Err(reject), "{text:?}");
        let expected = if reject == Reject::TooLarge { Answer::TooLarge } else { Answer::Bad };
        assert_eq!(reject.answer(), expected);
        seen.insert(reject);
    }
    assert_eq!(seen.len(), 12, "each reason: {seen:?}");
}

#[test]
fn a_head_may_be_as_long_as_it_may_be_and_no_longer() {
    let of = |length: usize| {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nx: ";
        format!("{begin}{}\r\n\r\n", "y".repeat(length - begin.len() - 4))
    };
    assert_eq!(head(&of(LONGEST)).length, LONGEST);
    assert_eq!(parse(of(LONGEST + 1).as_bytes()), Err(Reject::TooLarge));
    assert_eq!(parse(&of(LONGEST + 1).as_bytes()[..LONGEST]), Ok(None));
}

#[test]
fn no_byte_is_looked_at_twice() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut reader = Reader::default();
    assert_eq!(reader.read(&text.as_bytes()[..20]), Ok(None));
    // Whoever looked again would find nothing that is a request.
    let changed = ["?".repeat(20).as_str(), &text[20..text.len() - 1], "\r"].concat();
    assert_eq!(reader.read(changed.as_bytes()), Err(Reject::BareEnd));
}

#[test]
fn answers_say_their_status_and_that_the_connection_ends() {
    for (answer, line, cause) in [
        (Answer::Bad, "HTTP/1.1 400 Bad Request", Cause::BadRequest),
        (Answer::Late, "HTTP/1.1 408 Request Timeout", Cause::RequestTimeout),
        (Answer::TooLarge, "HTTP/1.1 431 Request Header Fields Too Large", Cause::RequestTooLarge),
        (Answer::Unavailable(Cause::Full), "HTTP/1.1 503 Service Unavailable", Cause::Full),
    ] {
        let expected = format!("{line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer.bytes(), expected.as_bytes());
        assert_eq!(answer.cause(), cause);
    }
}

#[test]
fn a_server_gets_one_address_of_the_client_whatever_the_client_says() {
    let text = "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nx_forwarded_for: \
                3.3.3.3\r\nX-Forwarded-Proto: https\r\nx-forwarded-FOR: 4.4.4.4\r\nForwarded: \
                for=5.5.5.5\r\nX-Real_IP: 6.6.6.6\r\nX.Forwarded~For: 7.7.7.7\r\nConnection: keep-alive, \
                X-Forwarded-For\r\nKeep-Alive: timeout=5\r\nProxy-Connection: a\r\nTE: \
                trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\nCookie:  b=1 \r\n\r\n";
    let replaced = "GET /x HTTP/1.1\r\nHost: a\r\nCookie: b=1\r\nX-Forwarded-For: \
                    192.0.2.1\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n\r\n";
    assert_eq!(rewritten(text, ForwardedFor::Replace), replaced);
    let appended = "GET /x HTTP/1.1\r\nHost: a\r\nForwarded: for=5.5.5.5\r\nX-Real_IP: \
                    6.6.6.6\r\nCookie: b=1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 4.4.4.4, \
                    192.0.2.1\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n\r\n";
    assert_eq!(rewritten(text, ForwardedFor::Append), appended);
}

#[test]
fn a_client_without_an_address_is_unknown() {
    let head = head("GET / HTTP/1.0\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    for (policy, written) in
        [(ForwardedFor::Replace, "unknown"), (ForwardedFor::Append, "192.0.2.7, unknown")]
    {
        let text = head.rewrite(policy, None, "http");
        let line = format!("\r\nX-Forwarded-For: {written}\r\n");
        assert!(String::from_utf8_lossy(&text).contains(&line), "{policy:?}");
    }
}

#[test]
fn ipv6_addresses_are_written_bare_and_mapped_ones_are_ipv4() {
    let head = head("GET / HTTP/1.0\r\n\r\n");
    for (client, written) in [("2001:db8::1", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")] {
        let client = client.parse().expect("literal");
        let text = head.rewrite(ForwardedFor::Append, Some(client), "https");
        let expected = format!(
            "GET / HTTP/1.0\r\nX-Forwarded-For: {written}\r\nX-Forwarded-Proto: \
             https\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}

#[test]
fn a_websocket_is_passed_on_and_no_other_upgrade() {
    let of = |line: &str, fields: &str| format!("{line}\r\nHost: a\r\n{fields}\r\n");
    let get = "GET / HTTP/1.1";
    let wanted = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    for (text, passed) in [
        (of(get, wanted), true),
        (of(get, "connection: upgrade\r\nUpgrade: h2c, websocket\r\n"), true),
        (of(get, "Upgrade: websocket\r\n"), false),
        (of(get, "Connection: upgrade\r\nUpgrade: h2c\r\n"), false),
        (of(get, "Connection: upgrade\r\n"), false),
        (of("POST / HTTP/1.1", wanted), false),
        (of("GET / HTTP/1.0", wanted), false),
        (of(get, &format!("{wanted}Content-Length: 5\r\n")), false),
        (of(get, &format!("{wanted}Transfer-Encoding: chunked\r\n")), false),
    ] {
        assert_eq!(head(&text).body == Body::Websocket, passed, "{text}");
        let rewritten = rewritten(&text, ForwardedFor::Replace);
        let end = if passed {
            "\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n"
        } else {
            "\r\nConnection: close\r\n\r\n"
        };
        assert!(rewritten.ends_with(end), "{rewritten}");
        assert_eq!(rewritten.contains("Upgrade:"), passed, "{rewritten}");
    }
    assert_eq!(Body::Websocket.limit(), u64::MAX);
}

/// Pieces of heads, put together to something that may be one.
fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /x?y HTTP/1.1\r\n",
        "PATCH * HTTP/1.0\r\n",
        "GET / HTTP/1.1\n",
        "PRI * HTTP/2.0\r\n",
        "GET /\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Host: a\r\n",
        "X-Forwarded-For: 1.1.1.1\r\n",
        "x-forwarded-for: unknown,, ::1\r\n",
        "X_Forwarded_For: 9\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "a:\r\n",
        " folded\r\n",
        "b : c\r\n",
        "d: \u{e4}\r\n",
        "e: \0\r\n",
        "f: g\n",
        "\r\n",
    ]);
    let any = prop::collection::vec(any::<u8>(), 0..8);
    (line, prop::collection::vec(field, 0..8), any).prop_map(|(line, fields, any)| {
        [line.as_bytes(), b"Host: a\r\n", fields.concat().as_bytes(), b"\r\n", &any].concat()
    })
}

/// What comes of a head that arrives in these pieces.
fn in_pieces(bytes: &[u8], ends: &[usize]) -> Result<Option<usize>, Reject> {
    let mut reader = Reader::default();
    for end in ends.iter().copied().chain([bytes.len()]) {
        if let Some(head) = reader.read(&bytes[..end])? {
            return Ok(Some(head.length));
        }
    }
    Ok(None)
}

proptest! {
    #[test]
    fn it_makes_no_difference_in_what_pieces_a_head_comes(
        bytes in any_head(), split: prop::sample::Index,
    ) {
        let whole = parse(&bytes).map(|head| head.map(|head| head.length));
        prop_assert_eq!(in_pieces(&bytes, &[split.index(bytes.len())]), whole);
        let all: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(in_pieces(&bytes, &all), whole);
    }

    #[test]
    fn what_is_written_is_read_again_with_one_address(bytes in any_head(), append: bool) {
        let policy = if append { ForwardedFor::Append } else { ForwardedFor::Replace };
        let Ok(Some(found)) = parse(&bytes) else { return Ok(()) };
        let written = found.rewrite(policy, CLIENT.parse().ok(), "http");
        let again = parse(&written).expect("valid").expect("complete");
        prop_assert_eq!((again.length, again.body), (written.len(), found.body));
        let called = |wanted| again.fields.iter().filter(move |(name, _)| is_called(name, wanted));
        let [(_, value)] = called(FOR).collect::<Vec<_>>()[..] else { panic!("{written:?}") };
        prop_assert!(value.ends_with(CLIENT.as_bytes()));
        let alone = !append || found.elements(FOR).next().is_none();
        prop_assert_eq!(*value == CLIENT.as_bytes(), alone);
        prop_assert_eq!(called(PROTO).count(), 1);
        prop_assert!(again.elements("connection").any(|word| word == b"close"));
    }

    #[test]
    fn any_bytes_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200), begin in 0..3_usize,
    ) {
        let begin: &[u8] = [&b""[..], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\na: b\r\n"][begin];
        let bytes = [begin, &bytes].concat();
        if let Ok(Some(head)) = parse(&bytes) {
            prop_assert!(head.length <= bytes.len());
        }
    }
}
