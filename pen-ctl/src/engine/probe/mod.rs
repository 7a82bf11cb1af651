//! Judges what backends answer to probes. Pure: `io::health` asks and hands over what came.

pub mod agent;
pub mod dns;
pub mod exec;
pub mod http;
pub mod smtp;
pub mod tls;
pub mod udp;

use super::event::ProbeError;

/// Of what a backend said so many characters are shown.
const SHOWN: usize = 80;

/// What a backend said, fit for a terminal and a log: on one line, short, and without anything that
/// would steer a terminal.
#[must_use]
pub fn quoted(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(SHOWN).is_some() { "..." } else { "" };
    format!("\"{shown}{more}\"")
}

/// It answered something else than was expected.
fn other(found: impl Into<String>, expected: impl Into<String>) -> ProbeError {
    ProbeError::Answered { found: found.into(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_said_is_shown_on_one_short_line() {
        for (said, shown) in [
            (&b"hello"[..], r#""hello""#),
            (b" two\r\nlines\n", r#""two\r\nlines""#),
            (b"\x1b[31mred", r#""\u{1b}[31mred""#),
            ("\u{202e}turned".as_bytes(), r#""\u{202e}turned""#),
            (b"", r#""""#),
        ] {
            assert_eq!(quoted(said), shown);
        }
        assert_eq!(quoted(&[b'x'; 81]), format!("\"{}...\"", "x".repeat(80)));
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_steers_a_terminal(said: Vec<u8>) {
            prop_assert!(!quoted(&said).chars().any(char::is_control));
        }
    }
}
