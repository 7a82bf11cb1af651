//! The part of a URL after `?`: names and values, percent-encoded (RFC 3986 section 2.1).

use super::route::{Refused, refuse};
use crate::api::{OneBackend, RecordQuery};

/// The pairs of a query, decoded.
pub(super) fn pairs(query: &str) -> Result<Vec<(String, String)>, Refused> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (decode(name), decode(value)) {
                (Some(name), Some(value)) => Ok((name, value)),
                _ => Err(not_understood(part, "encode it as URLs do")),
            }
        })
        .collect()
}

/// Which records are asked for.
pub(super) fn records(query: &str) -> Result<RecordQuery, Refused> {
    let mut wanted = RecordQuery::default();
    for (name, value) in pairs(query)? {
        let bad = |cure: &str| not_understood(&format!("{name}={value}"), cure);
        match name.as_str() {
            "service" => wanted.service = Some(value),
            "backend" => wanted.backend = Some(value),
            "client" => {
                wanted.client = Some(value.parse().map_err(|_| bad("ask for client=CIDR"))?);
            }
            "limit" => wanted.limit = value.parse().map_err(|_| bad("ask for limit=NUMBER"))?,
            _ => return Err(bad("ask for service, backend, client and limit")),
        }
    }
    Ok(wanted)
}

/// The query that asks for these records, with its `?`.
pub(super) fn of_records(wanted: &RecordQuery) -> String {
    let mut query = format!("?limit={}", wanted.limit);
    let client = wanted.client.map(|client| client.to_string());
    for (name, value) in
        [("service", &wanted.service), ("backend", &wanted.backend), ("client", &client)]
    {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    query
}

/// Which backend is asked for.
pub(super) fn one_backend(query: &str) -> Result<OneBackend, Refused> {
    let (mut service, mut backend) = (None, None);
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "service" => service = Some(value),
            "backend" => backend = Some(value),
            _ => return Err(not_understood(&name, "ask for service and backend")),
        }
    }
    match (service, backend) {
        (Some(service), Some(backend)) => Ok(OneBackend { service, backend }),
        _ => Err(not_understood(query, "ask with ?service=NAME&backend=NAME")),
    }
}

/// The query that asks for it, with its `?`.
pub(super) fn of_backend(wanted: &OneBackend) -> String {
    format!("?service={}&backend={}", encode(&wanted.service), encode(&wanted.backend))
}

pub(super) fn not_understood(what: &str, cure: &str) -> Refused {
    refuse(400, format!("the query `{what}` is not understood"), cure)
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            // Two digits and nothing else: a number may have a sign.
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_as_a_whole() {
        let found = one_backend("service=web&backend=b%201").expect("both are there");
        assert_eq!((found.service.as_str(), found.backend.as_str()), ("web", "b 1"));
        for query in ["", "service=web", "backend=b1", "service=web&backend=b1&more=1"] {
            assert!(one_backend(query).is_err(), "{query}");
        }
    }

    #[test]
    fn names_of_any_characters_go_through_a_url() {
        for name in ["web", "b 1", "100%", "a&b=c", "größe", "?#+"] {
            let wanted = RecordQuery {
                service: Some(name.to_owned()),
                backend: Some("10.0.0.1".to_owned()),
                client: Some("2001:db8::/32".parse().expect("literal")),
                limit: 7,
            };
            let query = of_records(&wanted);
            assert!(query.is_ascii() && !query.contains([' ', '#']), "{query}");
            assert_eq!(records(query.trim_start_matches('?')), Ok(wanted));
        }
    }

    #[test]
    fn without_a_question_all_records_are_asked_for() {
        assert_eq!(records(""), Ok(RecordQuery::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        for query in [
            "limit=-1",
            "limit=",
            "client=all",
            "colour=red",
            "service=%",
            "service=%+1",
            "service=%ff",
        ] {
            let (status, refusal) = records(query).expect_err(query);
            assert_eq!(status, 400);
            assert!(refusal.error.contains("is not understood"), "{refusal}");
        }
    }
}
