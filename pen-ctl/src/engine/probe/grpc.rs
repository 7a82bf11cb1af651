//! Asks a server of gRPC how it is (`grpc.health.v1.Health/Check`), and judges what it says. Its two
//! messages have a field each, so that no protobuf is needed.

use super::{other, quoted};
use crate::engine::event::{Outcome, ProbeError};

/// Where a server is asked.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status of HTTP.
    pub http: u16,
    /// The fields `grpc-status` and `grpc-message`, wherever they were.
    pub status: Option<String>,
    /// As above.
    pub message: Option<String>,
    /// As much of the body as was read.
    pub body: Vec<u8>,
}

/// The question for a service; an empty name is the whole server.
#[must_use]
pub fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, a string.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    // Not compressed.
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// Judges an answer.
///
/// # Errors
///
/// If it does not say that the service is well.
pub fn judge(answer: &Answer) -> Outcome {
    const SERVING: &str = "SERVING";
    if answer.http != 200 {
        return Err(other(answer.http.to_string(), "200 and a word of gRPC"));
    }
    match answer.status.as_deref() {
        Some("0") => {}
        Some(status) => return Err(other(failure(status, answer.message.as_deref()), SERVING)),
        None => return Err(other("without a status", "gRPC")),
    }
    match word(&answer.body) {
        Some(1) => Ok(()),
        Some(0) => Err(other("UNKNOWN", SERVING)),
        Some(2) => Err(other("NOT_SERVING", SERVING)),
        Some(3) => Err(other("SERVICE_UNKNOWN", SERVING)),
        Some(number) => Err(other(format!("word {number}"), SERVING)),
        None => Err(not_health(&answer.body)),
    }
}

fn not_health(body: &[u8]) -> ProbeError {
    other(quoted(body), "a message of grpc.health.v1")
}

/// A status of gRPC that is no success, by its name and with its message.
fn failure(status: &str, message: Option<&str>) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let name = status.parse().ok().and_then(|number: usize| NAMES.get(number).copied());
    let name = name.map_or_else(|| format!("status {}", quoted(status.as_bytes())), str::to_owned);
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{name} with {}", quoted(message.as_bytes())),
        None => name,
    }
}

/// The status in a message of health; `None` if the body has none such.
fn word(body: &[u8]) -> Option<u64> {
    let (head, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    let mut message = rest.get(..usize::try_from(length).ok()?)?;
    if head[0] != 0 {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            // Fields of later versions.
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(body: &[u8]) -> Answer {
        Answer { http: 200, status: Some("0".to_owned()), message: None, body: body.to_vec() }
    }

    #[test]
    fn the_question_names_the_service() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), [&[0, 0, 0, 0, 5, 0x0a, 3][..], b"a.B"].concat());
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn each_other_answer_is_told_apart() {
        let with = |status: &str, message: &str| Answer {
            status: Some(status.to_owned()),
            message: Some(message.to_owned()),
            ..answer(&[])
        };
        for (answer, error) in [
            (answer(&[0, 0, 0, 0, 2, 8, 1]), None),
            (answer(&[0, 0, 0, 0, 6, 0x12, 2, 7, 7, 8, 1]), None),
            (answer(&[0, 0, 0, 0, 0]), Some("answered UNKNOWN, expected SERVING")),
            (answer(&[0, 0, 0, 0, 2, 8, 2]), Some("answered NOT_SERVING, expected SERVING")),
            (answer(&[0, 0, 0, 0, 2, 8, 3]), Some("answered SERVICE_UNKNOWN, expected SERVING")),
            (answer(&[0, 0, 0, 0, 3, 8, 0x80, 1]), Some("answered word 128, expected SERVING")),
            (
                answer(&[1, 0, 0, 0, 2, 8, 1]),
                Some(
                    "answered \"\\u{1}\\0\\0\\0\\u{2}\\u{8}\\u{1}\", expected a message of grpc.health.v1",
                ),
            ),
            (answer(b"ok"), Some("answered \"ok\", expected a message of grpc.health.v1")),
            (
                with("5", "unknown service"),
                Some("answered NOT_FOUND with \"unknown service\", expected SERVING"),
            ),
            (with("12", ""), Some("answered UNIMPLEMENTED, expected SERVING")),
            (with("77", ""), Some("answered status \"77\", expected SERVING")),
            (
                Answer { status: None, ..answer(b"hello") },
                Some("answered without a status, expected gRPC"),
            ),
            (
                Answer { http: 404, ..answer(&[]) },
                Some("answered 404, expected 200 and a word of gRPC"),
            ),
        ] {
            let found = judge(&answer).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error, "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_answered_makes_a_panic(body: Vec<u8>, cut in 0_usize..12) {
            let _ = judge(&answer(&body));
            let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
            let framed = [&[0, 0, 0, 0, length][..], &body].concat();
            let _ = judge(&answer(&framed[..framed.len().saturating_sub(cut)]));
        }
    }
}
