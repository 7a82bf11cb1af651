//! How backends are checked: what is asked of them, which answer is the right one, and how often.

mod kinds;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use regex::bytes::Regex;

pub use kinds::{Dns, Exchange, Exec, Grpc};
pub use tls::{ProbeTls, Verify};

use crate::config::{CheckError, Endpoint, UnixPath};

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The probe.
    pub kind: CheckKind,
    /// The address that is asked; `None` is each backend's own.
    pub address: Option<IpAddr>,
    /// The port that is asked; `None` is each backend's own.
    pub port: Option<u16>,
    /// It goes through the tunnel to the virtual address; only in modes with a tunnel.
    pub tunnel: bool,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// The same while results contradict the state, or nothing is known. Not above the interval.
    pub fast_interval: Duration,
    /// The same while a backend is down. Not below the interval.
    pub down_interval: Duration,
    /// Each wait is longer or shorter by up to so many percent, at random; at most 50.
    pub jitter: u32,
    /// A probe that takes longer has failed. Not above the interval.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// What a backend is taken for before its first probe has ended.
    pub init: Init,
    /// Says how much a backend can take, beside the probe.
    pub agent: Option<Agent>,
}

/// What a backend is taken for before anything is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// It takes nothing, and its first probe decides.
    First,
    /// It is up, until `fall` probes have failed.
    Up,
    /// It is down, until `rise` probes have succeeded.
    Down,
}

/// A program on each backend that says how much it can take, in the words of HAProxy's agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its TCP port.
    pub port: u16,
    /// From one question to the next.
    pub interval: Duration,
    /// Whoever takes longer has not answered. Not above the interval.
    pub timeout: Duration,
    /// What is said to it first; may be empty.
    pub send: Arc<str>,
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, interval, timeout, send } = self;
        let [interval, timeout] = [interval, timeout].map(|time| format_duration(*time));
        write!(f, "agent at port {port}, interval {interval}, timeout {timeout}")?;
        if send.is_empty() { Ok(()) } else { write!(f, ", which is told {send:?}") }
    }
}

impl Check {
    /// Who is asked about this backend.
    #[must_use]
    pub fn target(&self, backend: Endpoint) -> Endpoint {
        match backend {
            Endpoint::Inet(at) => {
                let address = self.address.unwrap_or_else(|| at.ip());
                SocketAddr::new(address, self.port.unwrap_or_else(|| at.port())).into()
            }
            Endpoint::Unix(_) => backend,
        }
    }

    /// Whether a backend can be asked so that is a Unix socket.
    pub(super) fn fits_socket(&self, socket: UnixPath) -> Result<(), CheckError> {
        match &self.kind {
            CheckKind::Udp(_) | CheckKind::Dns(_) | CheckKind::Icmp => {
                Err(CheckError::NeedsAddress { socket })
            }
            _ if self.port.is_some() => Err(CheckError::PortOfSocket { socket }),
            _ if self.address.is_some() => Err(CheckError::AddressOfSocket { socket }),
            _ if self.agent.is_some() => Err(CheckError::AgentOfSocket { socket }),
            CheckKind::None
            | CheckKind::Tcp
            | CheckKind::Tls(_)
            | CheckKind::Http(_)
            | CheckKind::Grpc(_)
            | CheckKind::Smtp { .. }
            | CheckKind::Exec(_) => Ok(()),
        }
    }
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// None: a backend is up as long as its Ethernet address is known.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// TLS is agreed upon, with a certificate that is right.
    Tls(Arc<ProbeTls>),
    /// A request of HTTP/1.1 is answered as expected.
    Http(Arc<Http>),
    /// A server of gRPC says that it serves.
    Grpc(Arc<Grpc>),
    /// A datagram is answered as expected.
    Udp(Arc<Exchange>),
    /// A question of DNS is answered as expected.
    Dns(Arc<Dns>),
    /// A mail server greets.
    Smtp {
        /// How this machine calls itself.
        hello: Arc<str>,
    },
    /// The host answers an echo of ICMP.
    Icmp,
    /// A program ends well.
    Exec(Arc<Exec>),
}

impl CheckKind {
    /// Whether something is asked at a port, which may have to be named.
    #[must_use]
    pub const fn needs_port(&self) -> bool {
        match self {
            Self::None | Self::Icmp | Self::Exec(_) => false,
            Self::Tcp
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Grpc(_)
            | Self::Udp(_)
            | Self::Dns(_)
            | Self::Smtp { .. } => true,
        }
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp => f.write_str("tcp"),
            Self::Tls(tls) => tls.fmt(f),
            Self::Http(http) => http.fmt(f),
            Self::Grpc(grpc) => grpc.fmt(f),
            Self::Udp(exchange) => exchange.fmt(f),
            Self::Dns(dns) => dns.fmt(f),
            Self::Smtp { hello } => write!(f, "smtp as {hello}"),
            Self::Icmp => f.write_str("icmp"),
            Self::Exec(exec) => exec.fmt(f),
        }
    }
}

// === Http ===

/// A request, and the answers that are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Method, a token.
    pub method: String,
    /// What is asked for: an absolute path, perhaps with a query.
    pub path: String,
    /// The field `Host`; `None` is the address that is asked.
    pub host: Option<String>,
    /// Other fields, in their order.
    pub headers: Vec<(String, String)>,
    /// Status codes that are right.
    pub expect: Codes,
    /// What the body has to hold.
    pub body: Option<Pattern>,
    /// It is spoken in TLS.
    pub tls: Option<ProbeTls>,
    /// Which one.
    pub version: HttpVersion,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// 1.1.
    One,
    /// 2, without being asked whether.
    Two,
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version == HttpVersion::Two { "http/2" } else { "http" };
        write!(f, "{version} {} {}", self.method, self.path)?;
        if let Some(host) = &self.host {
            write!(f, " of {host}")?;
        }
        // Without the values: there are secrets among them.
        for (name, _) in &self.headers {
            write!(f, " with {name}")?;
        }
        write!(f, " expecting {}", self.expect)?;
        if let Some(body) = &self.body {
            write!(f, " and a body with {body}")?;
        }
        self.tls.as_ref().map_or(Ok(()), |tls| write!(f, " over {tls}"))
    }
}

/// Status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes(Vec<RangeInclusive<u16>>);

impl Codes {
    /// Reads `200`, `200-399` or `200, 204, 300-399`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let code = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|code| digits && (100..600).contains(code))
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (code(first.trim())?, code(last.trim())?);
            (first <= last).then_some(first..=last)
        };
        text.split(',').map(|part| range(part.trim())).collect::<Option<_>>().map(Self)
    }

    /// Whether a code is one of them.
    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

// === Pattern ===

/// What an answer has to hold.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// This text.
    Text(String),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A match of this expression.
    Regex(Regex),
}

impl Pattern {
    /// Whether an answer holds it.
    #[must_use]
    pub fn is_in(&self, answer: &[u8]) -> bool {
        match self {
            Self::Text(text) => holds(answer, text.as_bytes()),
            Self::Bytes(bytes) => holds(answer, bytes),
            Self::Regex(regex) => regex.is_match(answer),
        }
    }
}

fn holds(answer: &[u8], part: &[u8]) -> bool {
    // In nothing there is nothing that an answer could lack.
    part.is_empty() || answer.windows(part.len()).any(|window| window == part)
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Bytes(one), Self::Bytes(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Regex(regex) => write!(f, "/{}/", regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_are_written() {
        for (text, shown) in
            [("200", "200"), ("200-399", "200-399"), (" 200,204 , 300 - 399", "200, 204, 300-399")]
        {
            assert_eq!(Codes::parse(text).map(|codes| codes.to_string()).as_deref(), Some(shown));
        }
        let wrong = [
            "",
            "20",
            "0200",
            "+20",
            "200-",
            "399-200",
            "200,",
            "600",
            "099",
            "2xx",
            "200-299-399",
        ];
        for text in wrong {
            assert_eq!(Codes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_listed_codes_are_right() {
        let codes = Codes::parse("200, 300-302").expect("valid");
        let right: Vec<u16> = (100..600).filter(|code| codes.contains(*code)).collect();
        assert_eq!(right, [200, 300, 301, 302]);
    }

    #[test]
    fn a_pattern_is_found_wherever_it_is() {
        let regex = |text| Pattern::Regex(Regex::new(text).expect("valid"));
        let text = |text: &str| Pattern::Text(text.to_owned());
        for (pattern, answer, found) in [
            (text("ok"), &b"all ok here"[..], true),
            (text("ok"), b"o", false),
            (text("ok"), b"OK", false),
            (text(""), b"", true),
            (Pattern::Bytes(vec![0, 0xff]), b"\x01\x00\xff", true),
            (Pattern::Bytes(vec![0, 0xff]), b"\xff\x00", false),
            (regex("^(?i)ok$"), b"OK", true),
            (regex("^ok$"), b"not ok", false),
            (regex("\\d+ users"), b"\xff 17 users", true),
        ] {
            assert_eq!(pattern.is_in(answer), found, "{pattern} in {answer:?}");
        }
    }

    #[test]
    fn patterns_are_the_same_if_they_are_written_so() {
        let regex = || Pattern::Regex(Regex::new("ok").expect("valid"));
        assert_eq!(regex(), regex());
        assert_ne!(regex(), Pattern::Text("ok".to_owned()));
        assert_eq!(regex().to_string(), "/ok/");
    }
}
