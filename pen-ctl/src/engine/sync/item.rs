//! What peers tell each other, and its form on the wire. Nothing in it means something on one node
//! only: a service is its address, port and protocol, a backend its address and port, and times are
//! ages. All numbers are big-endian.

use pen_common::abi::{ServiceKey, Tuple};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::bytes::{Malformed, Reader, Writer};

/// Slots that one [`Fact::Bases`] speaks of.
pub const BLOCK: u32 = 16;
/// Backends that one [`Fact::Usable`] speaks of.
pub const FEW: usize = BLOCK as usize;
/// On the wire, blocks from here on are [`Part::Usable`]: no table has so many slots, so that peers which do
/// not know of that part take it for bases of slots that they do not have, and go on. Times [`BLOCK`]
/// it fits in 32 bits.
pub(super) const BEYOND: u32 = 0x0fff_0000;
/// Most bytes of an item: a block of slots whose bases all differ.
pub const MOST: usize = 400;

/// A backend of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
}

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic {
    /// The service.
    pub service: ServiceKey,
    /// What of it.
    pub part: Part,
}

/// A part of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// How it is configured, and who holds its address.
    Service,
    /// A backend.
    Backend(Place),
    /// The slots from [`BLOCK`] times this number on.
    Slots(u32),
    /// Which backends the holder of the address can use; [`FEW`] in each of these numbers.
    Usable(u32),
}

/// What holds until it is told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Of [`Part::Service`].
    Service(Outline),
    /// Of [`Part::Backend`].
    Backend(Standing),
    /// Of [`Part::Slots`]: the unsettled ones, by their number within the block, and their bases.
    Bases(Vec<(u8, Place)>),
    /// Of [`Part::Usable`]: backends that take packets, at least those of the flows that they have.
    Usable(Vec<Place>),
}

/// How a service is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The sender holds its address: the other facts and the records are about its flows.
    pub mastered: bool,
    /// Mode, as [`pen_common::abi::Service::mode`].
    pub mode: u8,
    /// Slots of its table.
    pub slots: u32,
    /// Digest of its backends and their weights.
    pub backends: u64,
    /// Digest of whatever else decides about its flows.
    pub rest: u64,
    /// Digest of what decides when the holder of its address counts as dead.
    pub patience: u64,
}

/// How a backend stands at the holder of the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its weight in the table that `current` of all slots follows; 0 if it takes no new flows.
    pub weight: u32,
    /// Rises when it dies: records of another life are void.
    pub life: u32,
    /// What the operator wishes, as [`pen_common::abi::Backend::admin`].
    pub admin: u16,
    /// Weight that the operator set at run time.
    pub set_weight: Option<u32>,
    /// Since when it is drained, if it is.
    pub draining_since: Option<Moment>,
}

/// To whom a flow or a client belongs, or what its ends become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The service.
    pub service: ServiceKey,
    /// The backend.
    pub backend: Place,
    /// When it was last used.
    pub seen: Moment,
    /// Of what.
    pub of: Of,
}

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A flow.
    Flow {
        /// Source address.
        client: Addr,
        /// Source port.
        source_port: Be16,
        /// Destination port.
        port: Be16,
        /// [`Standing::life`] of the backend.
        life: u32,
    },
    /// A client.
    Client {
        /// Source address, cut to the service's prefix.
        client: Addr,
        /// [`Standing::life`] of the backend.
        life: u32,
    },
    /// A translation.
    Translation {
        /// Ends of a packet.
        ends: Tuple,
        /// What they become.
        to: Tuple,
        /// As [`pen_common::abi::Translation::flags`].
        flags: u32,
    },
}

/// A message of the stream. They arrive in order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Everything is told anew, because the receiver asked for that under this number. Facts that are
    /// not among those up to the next [`Item::Commit`] hold no more.
    Begin(u32),
    /// A fact, or that it holds no more.
    Fact(Topic, Option<Fact>),
    /// The facts so far belong together and may be acted on.
    Commit,
    /// A record.
    Record(Record),
    /// Everything has been told.
    Done(u32),
    /// Something was left out; whoever wants it has to ask for everything.
    Gap,
}

mod tag {
    pub(super) const BEGIN: u8 = 1;
    pub(super) const COMMIT: u8 = 2;
    pub(super) const DONE: u8 = 3;
    pub(super) const GAP: u8 = 4;
    pub(super) const SERVICE: u8 = 5;
    pub(super) const BACKEND: u8 = 6;
    pub(super) const SLOTS: u8 = 7;
    pub(super) const FLOW: u8 = 8;
    pub(super) const CLIENT: u8 = 9;
    pub(super) const TRANSLATION: u8 = 10;
}

impl Item {
    /// Appends it; ages are those of `now`.
    pub(super) fn write(&self, now: Moment, to: &mut Writer) {
        match self {
            Self::Begin(serial) => {
                to.u8(tag::BEGIN);
                to.u32(*serial);
            }
            Self::Commit => to.u8(tag::COMMIT),
            Self::Done(serial) => {
                to.u8(tag::DONE);
                to.u32(*serial);
            }
            Self::Gap => to.u8(tag::GAP),
            Self::Fact(topic, fact) => write_fact(topic, fact.as_ref(), now, to),
            Self::Record(record) => write_record(record, now, to),
        }
    }

    /// Reads one; times are counted back from `now`.
    pub(super) fn read(now: Moment, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let tag = from.u8()?;
        Ok(match tag {
            tag::BEGIN => Self::Begin(from.u32()?),
            tag::COMMIT => Self::Commit,
            tag::DONE => Self::Done(from.u32()?),
            tag::GAP => Self::Gap,
            tag::SERVICE | tag::BACKEND | tag::SLOTS => read_fact(tag, now, from)?,
            tag::FLOW | tag::CLIENT | tag::TRANSLATION => {
                Self::Record(read_record(tag, now, from)?)
            }
            other => return Err(Malformed::Item(other)),
        })
    }
}

fn write_fact(topic: &Topic, fact: Option<&Fact>, now: Moment, to: &mut Writer) {
    to.u8(match topic.part {
        Part::Service => tag::SERVICE,
        Part::Backend(_) => tag::BACKEND,
        Part::Slots(_) | Part::Usable(_) => tag::SLOTS,
    });
    write_service(&topic.service, to);
    match topic.part {
        Part::Service => {}
        Part::Backend(place) => write_place(&place, to),
        Part::Slots(block) => to.u32(block),
        Part::Usable(number) => to.u32(BEYOND + number),
    }
    to.flag(fact.is_some());
    match fact {
        None => {}
        Some(Fact::Service(outline)) => {
            to.flag(outline.mastered);
            to.u8(outline.mode);
            to.u32(outline.slots);
            to.u64(outline.backends);
            to.u64(outline.rest);
            to.u64(outline.patience);
        }
        Some(Fact::Backend(standing)) => {
            to.u32(standing.weight);
            to.u32(standing.life);
            to.u16(standing.admin);
            to.flag(standing.set_weight.is_some());
            to.u32(standing.set_weight.unwrap_or(0));
            to.flag(standing.draining_since.is_some());
            to.age(standing.draining_since.unwrap_or(now), now);
        }
        Some(Fact::Bases(bases)) => {
            to.u8(u8::try_from(bases.len()).expect("at most one of each slot of a block"));
            for (offset, base) in bases {
                to.u8(*offset);
                write_place(base, to);
            }
        }
        Some(Fact::Usable(places)) => {
            to.u8(u8::try_from(places.len()).expect("a few"));
            for (offset, place) in (0..).zip(places) {
                to.u8(offset);
                write_place(place, to);
            }
        }
    }
}

fn read_fact(tag: u8, now: Moment, from: &mut Reader<'_>) -> Result<Item, Malformed> {
    let service = read_service(from)?;
    let part = match tag {
        tag::SERVICE => Part::Service,
        tag::BACKEND => Part::Backend(read_place(from)?),
        _ => match from.u32()? {
            block @ ..BEYOND => Part::Slots(block),
            number => Part::Usable(number - BEYOND),
        },
    };
    let topic = Topic { service, part };
    if !from.flag()? {
        return Ok(Item::Fact(topic, None));
    }
    let fact = match part {
        Part::Service => Fact::Service(Outline {
            mastered: from.flag()?,
            mode: from.u8()?,
            slots: from.u32()?,
            backends: from.u64()?,
            rest: from.u64()?,
            patience: from.u64()?,
        }),
        Part::Backend(_) => {
            let (weight, life, admin) = (from.u32()?, from.u32()?, from.u16()?);
            let (is_set, set_weight) = (from.flag()?, from.u32()?);
            let (drains, since) = (from.flag()?, from.age(now)?);
            Fact::Backend(Standing {
                weight,
                life,
                admin,
                set_weight: is_set.then_some(set_weight),
                draining_since: drains.then_some(since),
            })
        }
        Part::Slots(_) => Fact::Bases(read_bases(from)?),
        Part::Usable(_) => {
            Fact::Usable(read_bases(from)?.into_iter().map(|(_, place)| place).collect())
        }
    };
    Ok(Item::Fact(topic, Some(fact)))
}

fn read_bases(from: &mut Reader<'_>) -> Result<Vec<(u8, Place)>, Malformed> {
    let mut bases = Vec::new();
    for _ in 0..from.u8()? {
        let offset = from.u8()?;
        if u32::from(offset) >= BLOCK {
            return Err(Malformed::Slot(offset));
        }
        bases.push((offset, read_place(from)?));
    }
    Ok(bases)
}

fn write_record(record: &Record, now: Moment, to: &mut Writer) {
    to.u8(match record.of {
        Of::Flow { .. } => tag::FLOW,
        Of::Client { .. } => tag::CLIENT,
        Of::Translation { .. } => tag::TRANSLATION,
    });
    write_service(&record.service, to);
    write_place(&record.backend, to);
    to.age(record.seen, now);
    match &record.of {
        Of::Flow { client, source_port, port, life } => {
            to.addr(client);
            to.u16(source_port.value());
            to.u16(port.value());
            to.u32(*life);
        }
        Of::Client { client, life } => {
            to.addr(client);
            to.u32(*life);
        }
        Of::Translation { ends, to: ends_after, flags } => {
            write_ends(ends, to);
            write_ends(ends_after, to);
            to.u32(*flags);
        }
    }
}

fn read_record(tag: u8, now: Moment, from: &mut Reader<'_>) -> Result<Record, Malformed> {
    let (service, backend, seen) = (read_service(from)?, read_place(from)?, from.age(now)?);
    let of = match tag {
        tag::FLOW => Of::Flow {
            client: from.addr()?,
            source_port: Be16::new(from.u16()?),
            port: Be16::new(from.u16()?),
            life: from.u32()?,
        },
        tag::CLIENT => Of::Client { client: from.addr()?, life: from.u32()? },
        _ => {
            let (ends, to) = (read_ends(from)?, read_ends(from)?);
            Of::Translation { ends, to, flags: from.u32()? }
        }
    };
    Ok(Record { service, backend, seen, of })
}

fn write_service(service: &ServiceKey, to: &mut Writer) {
    to.addr(&service.vip);
    to.u16(service.port.value());
    to.u8(service.protocol);
}

fn read_service(from: &mut Reader<'_>) -> Result<ServiceKey, Malformed> {
    Ok(ServiceKey::new(from.addr()?, Be16::new(from.u16()?), from.u8()?))
}

fn write_place(place: &Place, to: &mut Writer) {
    to.addr(&place.addr);
    to.u16(place.port.value());
}

fn read_place(from: &mut Reader<'_>) -> Result<Place, Malformed> {
    Ok(Place { addr: from.addr()?, port: Be16::new(from.u16()?) })
}

fn write_ends(ends: &Tuple, to: &mut Writer) {
    to.addr(&ends.source);
    to.u16(ends.source_port.value());
    to.addr(&ends.destination);
    to.u16(ends.port.value());
    to.u8(ends.protocol);
}

fn read_ends(from: &mut Reader<'_>) -> Result<Tuple, Malformed> {
    let (source, source_port) = (from.addr()?, Be16::new(from.u16()?));
    let (destination, port) = (from.addr()?, Be16::new(from.u16()?));
    Ok(Tuple::new(source, source_port, destination, port, from.u8()?))
}
