//! What the XDP program tells the controller of new records, so that peers hear of them: entries of
//! the ring buffer `EVENTS`, told apart by their size and their kind. Only if [`crate::abi::Cfg::SYNC`]
//! is set.

use core::mem::offset_of;

use crate::abi::{ClientKey, FlowKey, Record, Translation, Tuple};
use crate::net::{Addr, Be16};

/// Bytes of the ring buffer: some ten thousand entries.
pub const RING: u32 = 1 << 20;

/// A record of a flow or a client was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordMade {
    /// [`RecordMade::FLOW`] or [`RecordMade::CLIENT`].
    pub kind: u32,
    /// Zero.
    pub _pad: u32,
    /// Of which flow; of a client the ports are zero.
    pub key: FlowKey,
    /// The record.
    pub record: Record,
}
const _: () = assert!(size_of::<RecordMade>() == 48);

impl RecordMade {
    /// Of a flow.
    pub const FLOW: u32 = 1;
    /// Of a client.
    pub const CLIENT: u32 = 2;
}

/// A translation was made, or has other flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslationMade {
    /// The ends.
    pub ends: Tuple,
    /// What they become.
    pub to: Translation,
}
const _: () = assert!(size_of::<TranslationMade>() == 96);

/// An entry of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow's record.
    Flow(FlowKey, Record),
    /// A client's record.
    Client(ClientKey, Record),
    /// A translation.
    Translation(Tuple, Translation),
}

impl Event {
    /// Reads an entry; `None` if it is none of ours.
    #[must_use]
    pub fn read(entry: &[u8]) -> Option<Self> {
        if entry.len() == size_of::<TranslationMade>() {
            let at = offset_of!(TranslationMade, to);
            return Some(Self::Translation(tuple(entry)?, translation(entry.get(at..)?)?));
        }
        if entry.len() != size_of::<RecordMade>() {
            return None;
        }
        let key = entry.get(offset_of!(RecordMade, key)..)?;
        let record = record(entry.get(offset_of!(RecordMade, record)..)?)?;
        let client = addr(key, offset_of!(FlowKey, client))?;
        let service = word(key, offset_of!(FlowKey, service))?;
        match word(entry, 0)? {
            RecordMade::FLOW => {
                let source_port = port(key, offset_of!(FlowKey, source_port))?;
                let port = port(key, offset_of!(FlowKey, port))?;
                Some(Self::Flow(FlowKey { client, service, source_port, port }, record))
            }
            RecordMade::CLIENT => {
                Some(Self::Client(ClientKey { client, service, _pad: 0 }, record))
            }
            _ => None,
        }
    }
}

fn record(bytes: &[u8]) -> Option<Record> {
    Some(Record {
        backend: word(bytes, offset_of!(Record, backend))?,
        generation: word(bytes, offset_of!(Record, generation))?,
        last_seen_ns: long(bytes, offset_of!(Record, last_seen_ns))?,
    })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    Some(Tuple::new(
        addr(bytes, offset_of!(Tuple, source))?,
        port(bytes, offset_of!(Tuple, source_port))?,
        addr(bytes, offset_of!(Tuple, destination))?,
        port(bytes, offset_of!(Tuple, port))?,
        *bytes.get(offset_of!(Tuple, protocol))?,
    ))
}

fn translation(bytes: &[u8]) -> Option<Translation> {
    Some(Translation {
        source: addr(bytes, offset_of!(Translation, source))?,
        destination: addr(bytes, offset_of!(Translation, destination))?,
        source_port: port(bytes, offset_of!(Translation, source_port))?,
        port: port(bytes, offset_of!(Translation, port))?,
        flags: word(bytes, offset_of!(Translation, flags))?,
        service: word(bytes, offset_of!(Translation, service))?,
        backend: word(bytes, offset_of!(Translation, backend))?,
        last_seen_ns: long(bytes, offset_of!(Translation, last_seen_ns))?,
    })
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn addr(bytes: &[u8], at: usize) -> Option<Addr> {
    chunk(bytes, at).map(Addr::v6)
}

fn port(bytes: &[u8], at: usize) -> Option<Be16> {
    chunk(bytes, at).map(Be16)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    chunk(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_of_ours_is_left_out() {
        assert_eq!(Event::read(&[]), None);
        assert_eq!(Event::read(&[0; 47]), None);
        assert_eq!(Event::read(&[0; 48]), None, "no such kind");
        assert_eq!(Event::read(&[0; 95]), None);
        assert_eq!(Event::read(&[0; 97]), None);
    }

    #[test]
    fn entries_are_read_as_they_lie_in_memory() {
        let mut entry = [0; 48];
        entry[0..4].copy_from_slice(&RecordMade::FLOW.to_ne_bytes());
        entry[18..24].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        entry[24..28].copy_from_slice(&5_u32.to_ne_bytes());
        entry[28..32].copy_from_slice(&[0x10, 0x20, 0, 80]);
        entry[32..36].copy_from_slice(&7_u32.to_ne_bytes());
        entry[36..40].copy_from_slice(&8_u32.to_ne_bytes());
        entry[40..48].copy_from_slice(&9_u64.to_ne_bytes());
        let client = Addr::v4([192, 0, 2, 1]);
        let (source_port, port) = (Be16::new(0x1020), Be16::new(80));
        let record = Record { backend: 7, generation: 8, last_seen_ns: 9 };
        let key = FlowKey { client, service: 5, source_port, port };
        assert_eq!(Event::read(&entry), Some(Event::Flow(key, record)));
        entry[0..4].copy_from_slice(&RecordMade::CLIENT.to_ne_bytes());
        let key = ClientKey { client, service: 5, _pad: 0 };
        assert_eq!(Event::read(&entry), Some(Event::Client(key, record)));
    }
}
