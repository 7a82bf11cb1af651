//! The envelope of a datagram: who speaks to whom, under a tag that only holders of the shared key
//! can make. Whatever is not sealed with it is thrown away before anything of it is read.
//!
//! ```text
//! magic 3 | version 1 | kind 1 | from 8 | to 8 | number 8 | heard 8 | next 8 | beyond 8 | wants 4 | body | tag 16
//! ```
//!
//! The tag is HMAC-SHA256 over all before it, cut to 128 bits (RFC 2104 section 5).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::bytes::{Reader, Writer};

const MAGIC: [u8; 3] = *b"pnS";
/// Of the datagrams' form.
const VERSION: u8 = 1;
const TAG: usize = 16;
const HEADER: usize = 57;
/// Longest datagram: with the headers of IPv6 and UDP it fits through an Ethernet, and a tunnel.
pub const LONGEST: usize = 1400;
/// Longest body.
pub(super) const BODY: usize = LONGEST - HEADER - TAG;

/// The key that peers share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// What a datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who speaks; sent now and then.
    Hello,
    /// A part of the stream.
    Data,
    /// Nothing but what every header says.
    Ack,
}

/// The header of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The sender's session.
    pub(super) from: u64,
    /// The receiver's session, as far as the sender knows it; or 0.
    pub(super) to: u64,
    /// Rises with each datagram of a session.
    pub(super) number: u64,
    /// The highest number that the sender has heard in the receiver's session; or 0.
    pub(super) heard: u64,
    /// The part of the other direction's stream that is expected next: all before it have come.
    pub(super) next: u64,
    /// Bit `n`: part `next + 1 + n` has come.
    pub(super) beyond: u64,
    /// Tell me everything, under this number; 0 if that is not wanted.
    pub(super) wants: u32,
}

/// Why a datagram is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its length cannot be right.
    Length,
    /// It is something else, or of another version.
    Magic,
    /// It was not sealed with our key.
    Tag,
    /// No such kind.
    Kind,
}

impl Key {
    /// From what the file holds.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"))
    }

    /// Something that tells two values apart without telling them.
    #[must_use]
    pub fn fingerprint(&self, value: &[u8]) -> u64 {
        let mut mac = self.0.clone();
        mac.update(b"fingerprint");
        mac.update(value);
        first(&mac.finalize().into_bytes())
    }

    fn tag(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac
    }
}

/// A number that stands for a text.
#[must_use]
pub fn digest(text: &str) -> u64 {
    first(&Sha256::digest(text.as_bytes()))
}

/// Random numbers out of a seed that nobody knows.
#[derive(Debug)]
pub(super) struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    pub(super) const fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Never 0.
    pub(super) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes());
        first(&hash.finalize()).max(1)
    }
}

fn first(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Makes a datagram.
pub(super) fn seal(key: &Key, header: &Header, body: &[u8]) -> Vec<u8> {
    let mut datagram = Writer(Vec::with_capacity(HEADER + body.len() + TAG));
    datagram.0.extend(MAGIC);
    datagram.u8(VERSION);
    datagram.u8(match header.kind {
        Kind::Hello => 1,
        Kind::Data => 2,
        Kind::Ack => 3,
    });
    let Header { from, to, number, heard, next, beyond, wants, .. } = *header;
    for word in [from, to, number, heard, next, beyond] {
        datagram.u64(word);
    }
    datagram.u32(wants);
    datagram.0.extend(body);
    let tag = key.tag(&datagram.0).finalize().into_bytes();
    datagram.0.extend(&tag[..TAG]);
    datagram.0
}

/// Opens a datagram.
pub(super) fn open<'a>(key: &Key, datagram: &'a [u8]) -> Result<(Header, &'a [u8]), Refused> {
    if datagram.len() > LONGEST {
        return Err(Refused::Length);
    }
    let (sealed, tag) = datagram.split_last_chunk::<TAG>().ok_or(Refused::Length)?;
    let (head, body) = sealed.split_at_checked(HEADER).ok_or(Refused::Length)?;
    let Some([a, b, c, VERSION, kind]) = head.first_chunk() else { return Err(Refused::Magic) };
    if [*a, *b, *c] != MAGIC {
        return Err(Refused::Magic);
    }
    // In constant time.
    key.tag(sealed).verify_truncated_left(tag).map_err(|_| Refused::Tag)?;
    let kind = match kind {
        1 => Kind::Hello,
        2 => Kind::Data,
        3 => Kind::Ack,
        _ => return Err(Refused::Kind),
    };
    let mut words = Reader::new(&head[5..]);
    let mut word = || words.u64().map_err(|_| Refused::Length);
    let (from, to, number, heard) = (word()?, word()?, word()?, word()?);
    let (next, beyond) = (word()?, word()?);
    let wants = words.u32().map_err(|_| Refused::Length)?;
    Ok((Header { kind, from, to, number, heard, next, beyond, wants }, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let kind = Kind::Data;
        Header { kind, from: 1, to: 2, number: 3, heard: 4, next: 5, beyond: 6, wants: 7 }
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_key() {
        let key = Key::new(b"shared");
        for kind in [Kind::Hello, Kind::Data, Kind::Ack] {
            let header = Header { kind, ..header() };
            let datagram = seal(&key, &header, b"body");
            assert_eq!(datagram.len(), HEADER + 4 + TAG);
            assert_eq!(open(&key, &datagram), Ok((header, &b"body"[..])));
        }
    }

    #[test]
    fn each_changed_bit_and_each_other_length_is_noticed() {
        let key = Key::new(b"shared");
        let datagram = seal(&key, &header(), b"body");
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 32 { Refused::Magic } else { Refused::Tag };
            assert_eq!(open(&key, &changed), Err(expected));
        }
        for length in 0..datagram.len() {
            let expected = if length < HEADER + TAG { Refused::Length } else { Refused::Tag };
            assert_eq!(open(&key, &datagram[..length]), Err(expected));
        }
        assert_eq!(open(&key, &[datagram, vec![0; LONGEST]].concat()), Err(Refused::Length));
    }

    #[test]
    fn another_key_does_not_open_it() {
        let datagram = seal(&Key::new(b"shared"), &header(), b"");
        assert_eq!(open(&Key::new(b"other"), &datagram), Err(Refused::Tag));
    }

    #[test]
    fn a_kind_of_a_later_version_is_refused() {
        let key = Key::new(b"shared");
        let mut datagram = seal(&key, &header(), b"");
        datagram.truncate(HEADER);
        datagram[4] = 9;
        let tag = key.tag(&datagram).finalize().into_bytes();
        datagram.extend(&tag[..TAG]);
        assert_eq!(open(&key, &datagram), Err(Refused::Kind));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_tag_is_that_of_the_standard() {
        let tag = Key::new(b"Jefe").tag(b"what do ya want for nothing?").finalize().into_bytes();
        let expected = [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e];
        assert_eq!(tag[..8], expected);
    }
}
