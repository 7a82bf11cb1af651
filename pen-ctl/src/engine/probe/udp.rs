//! Is an answer to a datagram the right one?

use super::{other, quoted};
use crate::config::Exchange;
use crate::engine::event::Outcome;

/// Judges an answer.
///
/// # Errors
///
/// If it is not the one that is expected.
pub fn judge(exchange: &Exchange, answer: &[u8]) -> Outcome {
    match &exchange.expect {
        Some(pattern) if !pattern.is_in(answer) => {
            Err(other(quoted(answer), format!("an answer with {pattern}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pattern;

    #[test]
    fn the_answer_has_to_hold_what_is_expected() {
        let text = Some(Pattern::Text("pong".to_owned()));
        let bytes = Some(Pattern::Bytes(vec![0xff, 0]));
        for (expect, answer, error) in [
            (None, &b""[..], None),
            (text.clone(), b"a pong.", None),
            (bytes.clone(), b"\x01\xff\x00", None),
            (text, b"ping", Some(r#"answered "ping", expected an answer with "pong""#)),
            (
                bytes,
                b"\xff\x01",
                Some("answered \"\u{fffd}\\u{1}\", expected an answer with 0xff00"),
            ),
        ] {
            let outcome = judge(&Exchange { send: Vec::new(), expect }, answer);
            assert_eq!(outcome.err().map(|error| error.to_string()).as_deref(), error);
        }
    }
}
