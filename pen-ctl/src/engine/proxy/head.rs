//! The head of an HTTP/1 request: read strictly, since whoever stands behind may understand what is
//! ambiguous in another way, and written anew with the address of the client (X-Forwarded-For). Pure:
//! bytes in, facts out, and the other way round.
//!
//! Only the first head of a connection is ever read. So it leaves with `Connection: close`: a server
//! answers that one request and no other that the client may have sent behind it.

use std::net::IpAddr;

use super::cause::Cause;
use crate::config::ForwardedFor;

/// The longest head that is read, in bytes, with the empty line at its end.
pub const LONGEST: usize = 16 * 1024;
/// The most fields of a head.
const FIELDS: usize = 128;
/// The longest name of a method. No registered one has more than 17 letters.
const METHOD: usize = 32;
/// What HTTP/2 begins with (RFC 9113, section 3.4), as far as it looks like the line of a request.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0";

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
/// Fields that say in other ways who the client is.
const OTHER_WORDS: [&str; 2] = ["forwarded", "x-real-ip"];
/// Fields that concern the connection to pen, and not the one to the server.
const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "http2-settings", "keep-alive", "proxy-connection", "te", "upgrade"];

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its length in bytes, with the empty line.
    pub length: usize,
    /// What comes after it.
    pub body: Body,
    line: &'a [u8],
    fields: Vec<(&'a str, &'a [u8])>,
}

/// What comes after a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Pieces that say their lengths, which are not read here.
    Chunked,
    /// What a websocket carries.
    Websocket,
}

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reject {
    /// It does not begin with a line of HTTP/1.0 or HTTP/1.1.
    NoRequest,
    /// HTTP/2, which nobody has agreed on.
    Http2,
    /// More than [`LONGEST`] bytes, or too many fields.
    TooLarge,
    /// A byte that has no place in a head, as NUL.
    BadByte,
    /// CR without LF, or LF without CR.
    BareEnd,
    /// A field that goes on in another line.
    Folded,
    /// The name of a field is none, or is not followed by a colon at once.
    BadName,
    /// Not exactly one `Host` in HTTP/1.1, or several of them in HTTP/1.0.
    Host,
    /// `Content-Length` is not one number.
    Length,
    /// `Transfer-Encoding` is not `chunked`, or is there in HTTP/1.0.
    Encoding,
    /// Both of them: servers do not agree on where such a body ends.
    LengthAndEncoding,
    /// A tunnel to somewhere else is asked for.
    Connect,
}

/// What a client is told whose request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is malformed, or may be understood in several ways.
    Bad,
    /// It was not complete in time.
    Late,
    /// It is too large.
    TooLarge,
    /// No server takes it, for this reason.
    Unavailable(Cause),
}

impl Reject {
    /// What the client is told.
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::TooLarge => Answer::TooLarge,
            Self::NoRequest
            | Self::Http2
            | Self::BadByte
            | Self::BareEnd
            | Self::Folded
            | Self::BadName
            | Self::Host
            | Self::Length
            | Self::Encoding
            | Self::LengthAndEncoding
            | Self::Connect => Answer::Bad,
        }
    }
}

impl Body {
    /// Bytes that the server gets after the head; `u64::MAX` if no number is known.
    #[must_use]
    pub const fn limit(self) -> u64 {
        match self {
            Self::Length(bytes) => bytes,
            Self::Chunked | Self::Websocket => u64::MAX,
        }
    }
}

impl Answer {
    /// How the connection ended that was told so.
    #[must_use]
    pub const fn cause(self) -> Cause {
        match self {
            Self::Bad => Cause::BadRequest,
            Self::Late => Cause::RequestTimeout,
            Self::TooLarge => Cause::RequestTooLarge,
            Self::Unavailable(cause) => cause,
        }
    }

    /// All of it. A connection that is told so ends.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let status = match self {
            Self::Bad => "400 Bad Request",
            Self::Late => "408 Request Timeout",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable(_) => "503 Service Unavailable",
        };
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into_bytes()
    }
}

/// Reads the head at the beginning of a stream that comes in pieces. No byte is looked at again when
/// more have come: a client that sends single ones would make others wait.
#[derive(Debug, Default)]
pub struct Reader {
    /// Where the byte after those that were looked at is.
    at: At,
    /// How many those are.
    seen: usize,
}

impl Reader {
    /// Reads on in all the bytes that have come so far. `None` if more are needed.
    ///
    /// # Errors
    ///
    /// If the head is not to be passed on, whatever else comes.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Head<'a>>, Reject> {
        self.length(bytes)?.map(|length| parse(bytes, length)).transpose()
    }
}

/// Reads a head of which it is known where it ends.
fn parse(bytes: &[u8], length: usize) -> Result<Head<'_>, Reject> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&bytes[..length]) {
        Ok(httparse::Status::Complete(found)) if found == length => {}
        Ok(_) => return Err(Reject::NoRequest),
        Err(error) => return Err(reason(error)),
    }
    let (method, version) = (request.method.unwrap_or_default(), request.version);
    let fields = request.headers.iter();
    let fields = fields.map(|field| (field.name, field.value.trim_ascii())).collect();
    let end = bytes.iter().position(|byte| *byte == b'\r').unwrap_or(length);
    let mut head = Head { length, body: Body::Length(0), line: &bytes[..end], fields };
    let hosts = head.values("host").count();
    if hosts > 1 || hosts == 0 && version == Some(1) {
        return Err(Reject::Host);
    }
    head.body = head.read_body(version == Some(1))?;
    match method {
        "CONNECT" => return Err(Reject::Connect),
        "GET" if head.body == Body::Length(0) && version == Some(1) && head.wants_websocket() => {
            head.body = Body::Websocket;
        }
        _ => {}
    }
    Ok(head)
}

fn reason(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::TooManyHeaders => Reject::TooLarge,
        httparse::Error::HeaderName => Reject::BadName,
        httparse::Error::HeaderValue => Reject::BadByte,
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => Reject::NoRequest,
    }
}

/// Where in a head a byte is.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Method,
    RestOfFirst,
    /// At the beginning of a line after the first one.
    Line,
    Name,
    Value,
    /// After the CR of the first line, of another one, or of the empty one.
    FirstEnd,
    LineEnd,
    LastEnd,
}

impl Reader {
    /// Finds the end of a head. Goes by the order of the bytes, so that it makes no difference in what
    /// pieces they come: what is wrong first is what is said.
    fn length(&mut self, bytes: &[u8]) -> Result<Option<usize>, Reject> {
        for (place, byte) in bytes.iter().enumerate().skip(self.seen) {
            if place >= LONGEST {
                return Err(Reject::TooLarge);
            }
            self.at = match (self.at, byte) {
                (At::Method, b' ') if place > 0 => At::RestOfFirst,
                // It may be anything: nothing is worth waiting for.
                (At::Method, byte) if place >= METHOD || !is_of_token(*byte) => {
                    return Err(Reject::NoRequest);
                }
                (At::Method, _) => At::Method,
                (_, 0) => return Err(Reject::BadByte),
                (At::LastEnd, b'\n') => return Ok(Some(place + 1)),
                (At::FirstEnd, b'\n') => {
                    check_version(&bytes[..place - 1])?;
                    At::Line
                }
                (At::LineEnd, b'\n') => At::Line,
                (At::FirstEnd | At::LineEnd | At::LastEnd, _) | (_, b'\n') => {
                    return Err(Reject::BareEnd);
                }
                (At::RestOfFirst, b'\r') => At::FirstEnd,
                (At::RestOfFirst, _) => At::RestOfFirst,
                (At::Line, b'\r') => At::LastEnd,
                (At::Line, b' ' | b'\t') => return Err(Reject::Folded),
                (At::Name, b':') => At::Value,
                (At::Line | At::Name, byte) if !is_of_token(*byte) => return Err(Reject::BadName),
                (At::Line | At::Name, _) => At::Name,
                (At::Value, b'\r') => At::LineEnd,
                (At::Value, _) => At::Value,
            };
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// Of the first line.
fn check_version(line: &[u8]) -> Result<(), Reject> {
    match line {
        HTTP_2 => Err(Reject::Http2),
        line if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") => Ok(()),
        _ => Err(Reject::NoRequest),
    }
}

/// RFC 9110, section 5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a field is called so, also by those servers to which `_` and `-` are the same (CGI, WSGI),
/// or all that is neither a letter nor a digit (CGI of lighttpd).
fn is_called(name: &str, wanted: &str) -> bool {
    let plain = |byte: u8| {
        if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
    };
    name.bytes().map(plain).eq(wanted.bytes())
}

// === Head ===

impl<'a> Head<'a> {
    fn values(&self, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter();
        fields.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
    }

    /// The elements of all lists of this name (RFC 9110, section 5.6.1).
    fn elements(&self, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.values(wanted).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    fn read_body(&self, may_be_chunked: bool) -> Result<Body, Reject> {
        let mut lengths = self.values("content-length");
        let mut encodings = self.values("transfer-encoding");
        match (lengths.next(), encodings.next()) {
            (None, None) => Ok(Body::Length(0)),
            (Some(_), Some(_)) => Err(Reject::LengthAndEncoding),
            (None, Some(encoding)) => {
                let is_chunked = may_be_chunked && encoding.eq_ignore_ascii_case(b"chunked");
                let is_sole = encodings.next().is_none();
                if is_chunked && is_sole { Ok(Body::Chunked) } else { Err(Reject::Encoding) }
            }
            (Some(length), None) => {
                // `parse` alone would take a sign.
                let is_sole = length.iter().all(u8::is_ascii_digit) && lengths.next().is_none();
                let length = str::from_utf8(length).ok().and_then(|text| text.parse().ok());
                length.filter(|_| is_sole).map(Body::Length).ok_or(Reject::Length)
            }
        }
    }

    fn wants_websocket(&self) -> bool {
        let mut connection = self.elements("connection");
        connection.any(|element| element.eq_ignore_ascii_case(b"upgrade"))
            && self.elements("upgrade").any(|element| element.eq_ignore_ascii_case(b"websocket"))
    }

    /// The head as the server gets it: with one `X-Forwarded-For`, one `X-Forwarded-Proto` (by which
    /// the client came), and the word that the connection ends after this request. A client without an
    /// address is `unknown`, as Squid has it.
    #[must_use]
    pub fn rewrite(&self, policy: ForwardedFor, client: Option<IpAddr>, proto: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length + 128);
        out.extend(self.line);
        out.extend(b"\r\n");
        let mut add = |name: &str, value: &[u8]| {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        for (name, value) in self.fields.iter().filter(|(name, _)| !is_dropped(name, policy)) {
            add(name, value);
        }
        let client = client.map(|client| client.to_canonical().to_string());
        let client = client.unwrap_or_else(|| "unknown".to_owned());
        let mut addresses: Vec<&[u8]> = match policy {
            ForwardedFor::Append => self.elements(FOR).collect(),
            ForwardedFor::Replace => Vec::new(),
        };
        addresses.push(client.as_bytes());
        add("X-Forwarded-For", &addresses.join(&b", "[..]));
        add("X-Forwarded-Proto", proto.as_bytes());
        if self.body == Body::Websocket {
            // A server that does not take it has to end the connection as well: what follows was not
            // read here. Nothing but a websocket: after an upgrade to HTTP/2 there would be requests.
            add("Upgrade", b"websocket");
            add("Connection", b"upgrade, close");
        } else {
            add("Connection", b"close");
        }
        out.extend(b"\r\n");
        out
    }
}

/// Fields of the client's that the server does not get.
fn is_dropped(name: &str, policy: ForwardedFor) -> bool {
    is_called(name, FOR)
        || is_called(name, PROTO)
        || OF_THE_CONNECTION.iter().any(|other| name.eq_ignore_ascii_case(other))
        // Nobody before pen is believed.
        || policy == ForwardedFor::Replace && OTHER_WORDS.iter().any(|other| is_called(name, other))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
