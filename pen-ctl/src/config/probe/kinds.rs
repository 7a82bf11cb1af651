//! Reads what checks of other types than HTTP ask, and which answers are right.

use std::sync::Arc;

use super::answer;
use crate::config::error::CheckError;
use crate::config::raw::{self, At, Place, Read, Report, Table};
use crate::config::{Dns, Exchange, Exec, Pattern, Protocol, Rcode, Record};

/// Keys of the type `udp`, besides `expect`.
pub(super) const UDP: [&str; 4] = ["send", "send_hex", "expect_regex", "expect_hex"];
/// Keys of the type `dns`.
pub(super) const DNS: [&str; 5] = ["name", "record", "rcode", "answer", "transport"];
/// Keys of the type `smtp`.
pub(super) const SMTP: [&str; 1] = ["hello"];
/// Keys of the type `exec`.
pub(super) const EXEC: [&str; 2] = ["command", "user"];

/// A datagram of so many bytes reaches everybody (IPv6 takes 1280, with headers and a tunnel's).
const MAX_DATAGRAM: usize = 1200;
/// Of a name of DNS (RFC 1035 section 2.3.4), and of one of its parts.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

pub(super) fn udp(table: &Table<'_>, report: &mut Report<'_>) -> Read<Exchange> {
    let send = bytes(table, "send", "send_hex", report);
    let expect = match (
        table.get("expect_hex"),
        table.get("expect").or_else(|| table.get("expect_regex")),
    ) {
        (Some(At { place, .. }), Some(_)) => {
            let (text, other) = ("expect", "expect_hex");
            Err(report.add(place, CheckError::TwoPatterns { text, regex: other }.into()))
        }
        (Some(_), None) => hex(table, "expect_hex", report).map(|bytes| bytes.map(Pattern::Bytes)),
        (None, _) => answer(table, "expect", "expect_regex", report),
    };
    Ok(Exchange { send: send?, expect: expect? })
}

/// Bytes, as text or in hexadecimal digits.
fn bytes(
    table: &Table<'_>,
    text: &'static str,
    digits: &'static str,
    report: &mut Report<'_>,
) -> Read<Vec<u8>> {
    let (plain, coded) = (table.text(text, report)?, hex(table, digits, report)?);
    let place = table.get(text).or_else(|| table.get(digits)).map_or(table.place, |at| at.place);
    let bytes = match (plain, coded) {
        (Some(_), Some(_)) => {
            return Err(report.add(place, CheckError::TwoPatterns { text, regex: digits }.into()));
        }
        (Some(At { value, .. }), None) => value.as_bytes().to_vec(),
        (None, coded) => coded.unwrap_or_default(),
    };
    match bytes.len() {
        length if length > MAX_DATAGRAM => {
            Err(report.add(place, CheckError::LongDatagram { length, max: MAX_DATAGRAM }.into()))
        }
        _ => Ok(bytes),
    }
}

fn hex(table: &Table<'_>, key: &str, report: &mut Report<'_>) -> Read<Option<Vec<u8>>> {
    let Some(At { place, value: text }) = table.text(key, report)? else { return Ok(None) };
    let digits: Vec<u8> = text.bytes().filter(|byte| !b" :".contains(byte)).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(pair, 16).ok().filter(|_| is_hex)
    };
    match digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>() {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(report.add(place, CheckError::NoHex { text: text.to_owned() }.into())),
    }
}

pub(super) fn dns(table: &Table<'_>, report: &mut Report<'_>) -> Read<Dns> {
    let name = name(table, report);
    let record = table.word("record", report);
    let rcode = table.word("rcode", report);
    let transport = table.word("transport", report);
    let answer = table.text("answer", report);
    let rcode = rcode?.unwrap_or(Rcode::NoError);
    let answer = match answer? {
        Some(At { place, .. }) if rcode != Rcode::NoError => {
            Err(report.add(place, CheckError::AnswerOfError { rcode }.into()))
        }
        answer => Ok(answer.map(|at| at.value.to_owned())),
    };
    Ok(Dns {
        name: name?,
        record: record?.unwrap_or(Record::A),
        rcode,
        answer: answer?,
        transport: transport?.unwrap_or(Protocol::Udp),
    })
}

fn name(table: &Table<'_>, report: &mut Report<'_>) -> Read<String> {
    let At { place, value } = table.required_text("name", "\"www.example\"", report)?;
    let bare = value.strip_suffix('.').unwrap_or(value);
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(allowed)
    };
    if bare.len() > MAX_NAME || !bare.split('.').all(is_label) {
        return Err(report.add(place, CheckError::NoDnsName { text: value.to_owned() }.into()));
    }
    Ok(bare.to_owned())
}

pub(super) fn smtp(table: &Table<'_>, report: &mut Report<'_>) -> Read<Arc<str>> {
    match table.text("hello", report)? {
        None => Ok("pen".into()),
        Some(At { place, value }) => {
            let fits = (1..=MAX_NAME).contains(&value.len());
            if !fits || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                let kind = CheckError::NoHello { text: value.to_owned() };
                return Err(report.add(place, kind.into()));
            }
            Ok(value.into())
        }
    }
}

pub(super) fn exec(table: &Table<'_>, report: &mut Report<'_>) -> Read<Exec> {
    let command = program("command", table, report);
    let user = user(table, report);
    Ok(Exec { words: command?, user: user? })
}

/// Whose rights a program has.
pub(in crate::config) fn user(table: &Table<'_>, report: &mut Report<'_>) -> Read<String> {
    let user = table.text("user", report)?;
    Ok(user.map_or_else(|| "nobody".to_owned(), |at| at.value.to_owned()))
}

/// A program and its arguments.
pub(in crate::config) fn program(
    key: &'static str,
    table: &Table<'_>,
    report: &mut Report<'_>,
) -> Read<Vec<String>> {
    let Some(At { place, value: words }) = table.array(key, report)? else {
        return Err(table.lacks(key, "[\"/usr/local/bin/check\"]", report));
    };
    let words = words.into_iter().map(|word| raw::text(word, "a string in quotes", report));
    let words: Vec<At<&str>> = words.collect::<Read<_>>()?;
    let program = words.first().map_or("", |word| word.value);
    let at: Place = words.first().map_or(place, |word| word.place);
    if !program.starts_with('/') {
        let kind = CheckError::NoProgram { key, text: program.to_owned() };
        return Err(report.add(at, kind.into()));
    }
    if let Some(word) = words.iter().find(|word| word.value.contains('\0')) {
        let kind = CheckError::ZeroInArgument;
        return Err(report.add(word.place, kind.into()));
    }
    Ok(words.into_iter().map(|word| word.value.to_owned()).collect())
}
