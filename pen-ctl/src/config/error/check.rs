//! What can be wrong with a check.

use std::fmt;
use std::time::Duration;

use super::ErrorKind;
use crate::config::{Mode, Rcode, UnixPath};

/// What is wrong with a check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum CheckError {
    TimeoutAboveInterval { timeout: Duration, interval: Duration },
    FastAboveInterval { fast: Duration, interval: Duration },
    DownBelowInterval { down: Duration, interval: Duration },
    WithoutPort,
    WithoutTunnel { mode: Mode },
    PortOfSocket { socket: UnixPath },
    AgentOfSocket { socket: UnixPath },
    AddressOfSocket { socket: UnixPath },
    AddressInTunnel,
    NoAddress { text: String },
    NeedsAddress { socket: UnixPath },
    KeyOfOther { key: String, kind: &'static str, of: Vec<&'static str> },
    NotInRequest { key: &'static str, text: String },
    OwnHeader { name: String },
    NoCodes { text: String },
    NoRegex { reason: String },
    NoHex { text: String },
    LongDatagram { length: usize, max: usize },
    LongQuestion { length: usize, max: usize },
    NoDnsName { text: String },
    AnswerOfError { rcode: Rcode },
    NoHello { text: String },
    NoJitter { text: String, max: u32 },
    NoProgram { key: &'static str, text: String },
    ZeroInArgument,
    TwoPatterns { text: &'static str, regex: &'static str },
}

impl From<CheckError> for ErrorKind {
    fn from(error: CheckError) -> Self {
        Self::Check(error)
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeoutAboveInterval { timeout, interval } => write!(
                f,
                "the timeout {timeout:?} is above the interval {interval:?}; lower the timeout or \
                 raise the interval"
            ),
            Self::FastAboveInterval { fast, interval } => write!(
                f,
                "`fast_interval` is {fast:?}, and so above the interval {interval:?}; lower it"
            ),
            Self::DownBelowInterval { down, interval } => write!(
                f,
                "`down_interval` is {down:?}, and so below the interval {interval:?}; raise it, or \
                 use `fast_interval`"
            ),
            Self::WithoutTunnel { mode } => write!(
                f,
                "mode {mode} has no tunnel that a check could go through; remove `tunnel`, or use \
                 mode ipip or gue"
            ),
            Self::WithoutPort => write!(
                f,
                "the service has many ports, so that the check does not know which to try; add `port = ...`"
            ),
            Self::PortOfSocket { socket } => write!(
                f,
                "the check has a port, but the backend {socket} is a Unix socket, where it connects \
                 as clients do; leave `port` out"
            ),
            Self::AgentOfSocket { socket } => write!(
                f,
                "the check has an agent, but the backend {socket} is a Unix socket, and no agent has \
                 a port there; leave `agent` out"
            ),
            Self::AddressOfSocket { socket } => write!(
                f,
                "the check has an address, but the backend {socket} is a Unix socket, where it \
                 connects as clients do; leave `address` out"
            ),
            Self::AddressInTunnel => write!(
                f,
                "through the tunnel the virtual address is asked, and no other; remove `address` or \
                 `tunnel`"
            ),
            Self::NoAddress { text } => write!(
                f,
                "`{text}` is no IP address; write one like \"10.0.0.11\", and the port as `port`"
            ),
            Self::NeedsAddress { socket } => write!(
                f,
                "the check needs an address, but the backend {socket} is a Unix socket; use type \
                 \"tcp\", \"http\", \"smtp\" or \"exec\""
            ),
            Self::KeyOfOther { key, kind, of } => {
                let of = of.join("\" or \"");
                write!(
                    f,
                    "`{key}` says nothing to a check of type \"{kind}\"; remove it, or use `type = \
                     \"{of}\"`"
                )
            }
            Self::NotInRequest { key, text } => {
                let cure = match *key {
                    "path" => {
                        "begin it with `/`, and write what is not ASCII as `%` and two digits"
                    }
                    "method" => "write one such as \"GET\" or \"HEAD\"",
                    _ => "use printable ASCII, without blanks around it",
                };
                write!(f, "`{key}` cannot stand in a request: {text:?}; {cure}")
            }
            Self::OwnHeader { name } => {
                let cure = match name.eq_ignore_ascii_case("host") {
                    true => "use the key `host`",
                    false => "remove it",
                };
                write!(f, "the field `{name}` is written by pen itself; {cure}")
            }
            Self::NoCodes { text } => write!(
                f,
                "`{text}` is no list of status codes; write one like 200, \"200-399\" or \"200, \
                 204\""
            ),
            Self::NoRegex { reason } => write!(
                f,
                "no regular expression ({reason}); correct it, or search for a plain text instead"
            ),
            Self::NoHex { text } => write!(
                f,
                "`{text}` are no bytes in hexadecimal digits; write two for each, like \"00 ff\""
            ),
            Self::LongDatagram { length, max } => {
                write!(f, "a datagram of {length} bytes may not arrive; send at most {max}")
            }
            Self::LongQuestion { length, max } => write!(
                f,
                "a question of {length} bytes is too long for an agent; send at most {max}"
            ),
            Self::NoDnsName { text } => {
                write!(f, "`{text}` is no name of DNS; write one like \"www.example\"")
            }
            Self::AnswerOfError { rcode } => {
                write!(f, "with {rcode} there is no `answer`; remove one of the two")
            }
            Self::NoHello { text } => write!(
                f,
                "`{text}` is no name to greet with; write that of this machine, without blanks"
            ),
            Self::NoJitter { text, max } => {
                write!(
                    f,
                    "`{text}` is no share of the interval; write one from \"0%\" to \"{max}%\""
                )
            }
            Self::NoProgram { key, text } => write!(
                f,
                "`{text}` is no program; begin `{key}` with its whole path, and give each \
                 argument in quotes of its own: no shell reads them"
            ),
            Self::ZeroInArgument => {
                write!(f, "an argument with a zero byte cannot be given to a program; remove it")
            }
            Self::TwoPatterns { text, regex } => {
                write!(f, "both `{text}` and `{regex}` are given; keep one of the two")
            }
        }
    }
}
