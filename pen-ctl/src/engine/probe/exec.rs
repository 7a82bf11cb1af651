//! What the end of a program says of a backend.

use super::quoted;
use crate::engine::event::{Outcome, ProbeError};

/// Judges an end: its code, if no signal ended it, and what the program said before.
///
/// # Errors
///
/// If it is not 0.
pub fn judge(code: Option<i32>, said: &[u8]) -> Outcome {
    let end = match code {
        Some(0) => return Ok(()),
        Some(code) => format!("ended with {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let first = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let why = if first.is_empty() { String::new() } else { format!(": {}", quoted(first)) };
    Err(ProbeError::System(end + &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_why() {
        for (code, said, error) in [
            (Some(0), "whatever", None),
            (Some(2), "no space\nat all\n", Some("ended with 2: \"no space\"")),
            (Some(1), "", Some("ended with 1")),
            (None, "", Some("was ended by a signal")),
        ] {
            let found = judge(code, said.as_bytes()).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error);
        }
    }
}
