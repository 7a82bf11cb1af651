//! The first message of a TLS client (`ClientHello`, RFC 8446 4.1.2, RFC 5246 7.4.1.2), read for the
//! name that it asks for (RFC 6066 3) and nothing else: who routes by names alters no byte, and has no
//! key. The bytes may come in pieces of any length, and the message in several records.
//!
//! Pure: bytes in, facts out. What is not known is skipped: GREASE (RFC 8701), the outer part of an
//! encrypted hello, and whatever comes later.

use crate::config::LONGEST_NAME;

/// Longest message that is read. Those of browsers have 0.5 to 2 KiB, with keys of post-quantum
/// algorithms; most libraries take 64 KiB.
pub const LONGEST: usize = 16 * 1024;
/// Longest message with the heads of its records, in bytes of the stream.
pub const LONGEST_STREAM: usize = 2 * LONGEST;
/// Head of a record: type, version, length.
const RECORD_HEAD: usize = 5;
/// Head of a message: type, length.
const MESSAGE_HEAD: usize = 4;
/// Longest fragment in a record (RFC 8446 5.1); no hello is encrypted.
const LONGEST_RECORD: usize = 16 * 1024;

const RECORD_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_HOST: u8 = 0;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The name, in small letters and without a dot at the end. `None` if it says none.
    pub name: Option<String>,
    /// It says which protocols it speaks after this one.
    pub alpn: bool,
}

/// Why the bytes are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// They are not TLS: a client that speaks HTTP, or SSH, or nothing that makes sense.
    NotTls,
    /// TLS, but not what comes first.
    NotHello,
    /// Longer than there is any reason for.
    TooLong,
    /// A length inside it points beyond its end, or a name is none.
    Malformed,
}

/// Reads a hello, piece by piece.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes of a record's head that have come, before the record itself.
    head: [u8; RECORD_HEAD],
    head_filled: usize,
    /// Bytes of the record that are still to come.
    left: usize,
    message: Vec<u8>,
    /// Bytes that were taken from the stream.
    taken: usize,
}

impl Reader {
    /// Takes more bytes of the stream. `None` if still more are needed. Bytes behind the message are
    /// not looked at.
    ///
    /// # Errors
    ///
    /// If this is no hello, whatever else comes.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, Reject> {
        loop {
            if let Some(length) = self.length()?
                && self.message.len() >= length
            {
                return parse(&self.message[MESSAGE_HEAD..length]).map(Some);
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            if self.taken >= LONGEST_STREAM {
                return Err(Reject::TooLong);
            }
            let count = if self.left > 0 {
                let count = bytes.len().min(self.left);
                self.message.extend(&bytes[..count]);
                self.left -= count;
                count
            } else {
                self.head[self.head_filled] = bytes[0];
                self.head_filled += 1;
                self.head()?;
                1
            };
            self.taken += count;
            bytes = &bytes[count..];
        }
    }

    /// Judges what there is of a record's head: what is not TLS is told as soon as it can be.
    fn head(&mut self) -> Result<(), Reject> {
        let [kind, major, _, high, low] = self.head;
        let first = self.message.is_empty();
        match self.head_filled {
            1 if kind == RECORD_HANDSHAKE => Ok(()),
            // An alert, or data, where the message should begin or go on.
            1 if (20..=24).contains(&kind) => Err(Reject::NotHello),
            1 if first => Err(Reject::NotTls),
            1 => Err(Reject::Malformed),
            // All versions of TLS say 3 here, for the sake of what stands between (RFC 8446 5.1).
            2 if major != 3 => Err(Reject::NotTls),
            RECORD_HEAD => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                // Empty ones are forbidden, and would be a way to send heads for ever.
                if length == 0 {
                    return Err(Reject::Malformed);
                }
                if length > LONGEST_RECORD {
                    return Err(Reject::NotTls);
                }
                (self.left, self.head_filled) = (length, 0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Length of the message with its head, once that is there.
    fn length(&self) -> Result<Option<usize>, Reject> {
        if self.message.first().is_some_and(|kind| *kind != MESSAGE_CLIENT_HELLO) {
            return Err(Reject::NotHello);
        }
        let Some(&[_, a, b, c]) = self.message.first_chunk::<MESSAGE_HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > LONGEST {
            return Err(Reject::TooLong);
        }
        Ok(Some(length + MESSAGE_HEAD))
    }
}

/// Takes apart what has lengths in it.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Reject> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Reject::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Reject> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u16, Reject> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows a length of one byte.
    fn short(&mut self) -> Result<&'a [u8], Reject> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    /// What follows a length of two bytes.
    fn long(&mut self) -> Result<&'a [u8], Reject> {
        let length = usize::from(self.word()?);
        self.take(length)
    }
}

fn parse(message: &[u8]) -> Result<Hello, Reject> {
    let mut message = Cursor(message);
    let _version = message.word()?;
    let _random = message.take(32)?;
    let _session = message.short()?;
    let _ciphers = message.long()?;
    let _compressions = message.short()?;
    let mut hello = Hello::default();
    if message.0.is_empty() {
        // TLS 1.2 allows it to say no more.
        return Ok(hello);
    }
    let mut extensions = Cursor(message.long()?);
    while !extensions.0.is_empty() {
        let kind = extensions.word()?;
        let body = extensions.long()?;
        match kind {
            // The first one: a second one is an error that the server will find.
            EXTENSION_SERVER_NAME if hello.name.is_none() => hello.name = server_name(body)?,
            EXTENSION_ALPN => hello.alpn = true,
            _ => {}
        }
    }
    Ok(hello)
}

fn server_name(body: &[u8]) -> Result<Option<String>, Reject> {
    let mut list = Cursor(Cursor(body).long()?);
    while !list.0.is_empty() {
        let kind = list.byte()?;
        let name = list.long()?;
        if kind == NAME_HOST {
            return host_name(name).map(Some);
        }
    }
    Ok(None)
}

/// A name as it is looked up. What is none is refused: it is written to logs, and to other servers.
fn host_name(name: &[u8]) -> Result<String, Reject> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let labels = name.split(|byte| *byte == b'.').all(|label| (1..=63).contains(&label.len()));
    if name.len() > LONGEST_NAME || !labels || !name.iter().all(valid) {
        return Err(Reject::Malformed);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
