//! Reads what a check of type `http` asks, and which answers are right.

use toml::de::DeValue;

use super::{answer, tls};
use crate::config::error::{CheckError, ErrorKind};
use crate::config::raw::{self, At, Read, Report, Table};
use crate::config::system::System;
use crate::config::{Codes, Http};

/// Keys of a check that only this type has, besides `expect`.
pub(super) const KEYS: [&str; 6] = ["method", "path", "host", "headers", "body", "body_regex"];

/// Right if nothing else is said: an answer, and no error.
const USUAL: &str = "200-399";

pub(super) fn read(table: &Table<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Http> {
    let method = valid(table, "method", is_token, report);
    let path = valid(table, "path", is_path, report);
    let host = valid(table, "host", is_value, report);
    let headers = headers(table, report);
    let expect = expect(table, report);
    let body = answer(table, "body", "body_regex", report);
    let tls = tls::optional(table, system, report);
    Ok(Http {
        method: method?.unwrap_or_else(|| "GET".to_owned()),
        path: path?.unwrap_or_else(|| "/".to_owned()),
        host: host?,
        headers: headers?,
        expect: expect?,
        body: body?,
        tls: tls?,
    })
}

/// A text that may stand in the head of a request.
fn valid(
    table: &Table<'_>,
    key: &'static str,
    is_valid: fn(&str) -> bool,
    report: &mut Report<'_>,
) -> Read<Option<String>> {
    match table.text(key, report)? {
        Some(At { place, value }) if !is_valid(value) => {
            let kind = CheckError::NotInRequest { key, text: value.to_owned() };
            Err(report.add(place, kind.into()))
        }
        found => Ok(found.map(|at| at.value.to_owned())),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// An absolute path and perhaps a query, as they go over the wire (RFC 3986): what is not ASCII is
/// written with `%`.
fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"#<>\"\\^`{|}".contains(&byte))
}

/// The value of a field: on one line, and without blanks around it.
fn is_value(text: &str) -> bool {
    let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    !text.is_empty() && text.trim() == text && text.bytes().all(printable)
}

fn headers(table: &Table<'_>, report: &mut Report<'_>) -> Read<Vec<(String, String)>> {
    let Some(At { place, value }) = table.get("headers") else { return Ok(Vec::new()) };
    let expected = "a table, written `{ Name = \"value\" }`";
    let DeValue::Table(entries) = value else {
        return Err(raw::wrong_type(place, expected, value, report));
    };
    let mut all = Vec::new();
    let mut wrong = None;
    for (name, value) in raw::entries(place, entries) {
        let text = match raw::text(value, "a string in quotes", report) {
            Ok(text) => text,
            Err(reported) => {
                wrong = Some(reported);
                continue;
            }
        };
        // The request has its own, of which a second one would be ambiguous.
        let ours = ["host", "connection", "content-length", "transfer-encoding"];
        let kind = if ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            CheckError::OwnHeader { name: name.to_owned() }
        } else if !is_token(name) || !is_value(text.value) {
            let text = format!("{name}: {}", text.value);
            CheckError::NotInRequest { key: "headers", text }
        } else {
            all.push((name.to_owned(), text.value.to_owned()));
            continue;
        };
        wrong = Some(report.add(text.place, kind.into()));
    }
    wrong.map_or(Ok(all), Err)
}

/// One code as a number, or several as a text.
fn expect(table: &Table<'_>, report: &mut Report<'_>) -> Read<Codes> {
    let (place, text) = match table.get("expect") {
        None => (table.place, USUAL.to_owned()),
        Some(At { place, value: DeValue::Integer(code) }) => (place, code.to_string()),
        Some(at) => {
            let At { place, value } =
                raw::text(at, "a code, or codes such as \"200-399\"", report)?;
            (place, value.to_owned())
        }
    };
    Codes::parse(&text)
        .ok_or_else(|| report.add(place, ErrorKind::from(CheckError::NoCodes { text })))
}
