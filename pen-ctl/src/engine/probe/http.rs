//! Is an answer of HTTP the right one?

use super::{other, quoted};
use crate::config::Http;
use crate::engine::event::{Outcome, ProbeError};

/// Judges an answer: its status, and as much of its body as was read.
///
/// # Errors
///
/// If it is not the one that is expected.
pub fn judge(http: &Http, status: u16, body: &[u8]) -> Outcome {
    if !http.expect.contains(status) {
        return Err(other(status.to_string(), http.expect.to_string()));
    }
    match &http.body {
        Some(pattern) if !pattern.is_in(body) => Err(ProbeError::Answered {
            found: format!("{status} with {}", quoted(body)),
            expected: format!("a body with {pattern}"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Codes, Pattern};

    fn asking(expect: &str, body: Option<&str>) -> Http {
        Http {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            expect: Codes::parse(expect).expect("valid"),
            body: body.map(|text| Pattern::Text(text.to_owned())),
            tls: None,
        }
    }

    #[test]
    fn status_and_body_have_to_be_right() {
        for (expect, body, status, answer, error) in [
            ("200-399", None, 204, "", None),
            ("200-399", None, 500, "", Some("answered 500, expected 200-399")),
            ("200", Some("ok"), 200, "all ok", None),
            ("200", Some("ok"), 503, "ok", Some("answered 503, expected 200")),
            (
                "200",
                Some("ok"),
                200,
                "failing\n",
                Some("answered 200 with \"failing\", expected a body with \"ok\""),
            ),
        ] {
            let outcome = judge(&asking(expect, body), status, answer.as_bytes());
            let found = outcome.err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error, "{status} {answer}");
        }
    }
}
