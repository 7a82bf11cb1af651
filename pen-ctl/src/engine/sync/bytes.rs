//! Numbers, addresses and ages as bytes.

use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::Addr;

/// Why bytes say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// They end too early.
    Short,
    /// There are more than belong to it.
    Long,
    /// No such item.
    Item(u8),
    /// No such family of addresses.
    Family(u8),
    /// Neither yes nor no.
    Flag(u8),
    /// A slot outside of its block.
    Slot(u8),
    /// A name that is no text.
    Name,
}

/// Takes bytes apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.take().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::Flag(other)),
        }
    }

    pub(super) fn addr(&mut self) -> Result<Addr, Malformed> {
        match self.u8()? {
            4 => self.take().map(Addr::v4),
            6 => self.take().map(Addr::v6),
            other => Err(Malformed::Family(other)),
        }
    }

    /// A time that was so long ago.
    pub(super) fn age(&mut self, now: Moment) -> Result<Moment, Malformed> {
        let age = Duration::from_millis(self.u32()?.into());
        let nanos = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Ok(Moment(now.0.saturating_sub(nanos)))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Malformed::Name)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Long) }
    }
}

/// Puts bytes together.
#[derive(Clone, Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// An IPv4 address takes five bytes, another one seventeen.
    pub(super) fn addr(&mut self, addr: &Addr) {
        if addr.is_v4() {
            self.u8(4);
            self.0.extend(addr.v4_bytes());
        } else {
            self.u8(6);
            self.0.extend(addr.bytes());
        }
    }

    /// In milliseconds; 49 days at most.
    pub(super) fn age(&mut self, then: Moment, now: Moment) {
        self.u32(u32::try_from(now.since(then).as_millis()).unwrap_or(u32::MAX));
    }

    /// The first 63 bytes of it, at most.
    pub(super) fn text(&mut self, text: &str) {
        const MOST: usize = 63;
        let end = (0..=text.len().min(MOST)).rev().find(|end| text.is_char_boundary(*end));
        let text = &text[..end.unwrap_or(0)];
        self.u8(u8::try_from(text.len()).expect("it was cut"));
        self.0.extend(text.as_bytes());
    }
}
