//! What can be wrong with a receiver of events.

use std::fmt;

use super::ErrorKind;

/// What is wrong with a receiver of events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum NotifyError {
    Both,
    Neither,
    NoEvents,
    NoUrl { text: String },
    UnknownEvent { found: String, near: Option<String> },
}

impl From<NotifyError> for ErrorKind {
    fn from(error: NotifyError) -> Self {
        Self::Notify(error)
    }
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Both => f.write_str(
                "both `program` and `webhook` are given; keep one, and write another [[notify]] \
                 for the other",
            ),
            Self::Neither => f.write_str(
                "nobody is told; add `program = [\"/usr/local/bin/alert\"]` or `webhook = \
                 \"https://alerts.example/pen\"`",
            ),
            Self::NoEvents => f.write_str(
                "no events are told; name some, or remove the key: what needs attention is told \
                 then",
            ),
            Self::NoUrl { text } => write!(
                f,
                "`{text}` is no address of a webhook; write one like \
                 \"https://alerts.example/pen\""
            ),
            Self::UnknownEvent { found, near } => {
                write!(f, "there is no event `{found}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => f.write_str(
                        "use kinds that `penctl events` shows, e.g. `backend-down`, or `all`",
                    ),
                }
            }
        }
    }
}
