//! Reads how long a service remembers, what a client is to it, and how many slots its table has.

use std::time::Duration;

use crate::config::error::ErrorKind;
use crate::config::probe::duration;
use crate::config::raw::{At, Read, Report, Table};
use crate::config::{Memory, Protocol};

/// Keys of a service that belong here.
pub(super) const KEYS: [&str; 5] =
    ["affinity_prefix_v4", "affinity_prefix_v6", "affinity_ttl", "settle", "slots"];

/// Numbers of slots that may be asked for: primes, as Maglev needs them, each about twice the one
/// before. About 100 slots for each backend keep the shares within 1 %.
pub const SLOT_COUNTS: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Memory {
    /// What a service has that says nothing of it.
    #[must_use]
    pub const fn of(protocol: Protocol) -> Self {
        let settle = match protocol {
            Protocol::Tcp => Duration::from_secs(3600),
            Protocol::Udp => Duration::from_secs(60),
        };
        Self {
            slots: 16381,
            settle,
            affinity_ttl: Duration::from_secs(3600),
            prefix_v4: 32,
            prefix_v6: 64,
        }
    }
}

/// Reads the keys of a service.
pub(super) fn read(
    table: &Table<'_>,
    protocol: Read<Protocol>,
    report: &mut Report<'_>,
) -> Read<Memory> {
    const MIN: Duration = Duration::from_secs(1);
    let slots = slots(table, report);
    let settle = duration(table, "settle", MIN, DAY, report);
    let affinity_ttl = duration(table, "affinity_ttl", MIN, DAY * 365, report);
    let prefix_v4 = table.integer("affinity_prefix_v4", 1..=32, report);
    let prefix_v6 = table.integer("affinity_prefix_v6", 1..=128, report);
    let default = Memory::of(protocol?);
    let length = |bits: Option<u32>, default| {
        bits.map_or(default, |bits| u8::try_from(bits).expect("at most 128"))
    };
    Ok(Memory {
        slots: slots?.unwrap_or(default.slots),
        settle: settle?.map_or(default.settle, |settle| settle.value),
        affinity_ttl: affinity_ttl?.map_or(default.affinity_ttl, |ttl| ttl.value),
        prefix_v4: length(prefix_v4?, default.prefix_v4),
        prefix_v6: length(prefix_v6?, default.prefix_v6),
    })
}

fn slots(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<u32>> {
    let Some(slots) = table.integer("slots", 1..=u32::MAX, report)? else { return Ok(None) };
    if SLOT_COUNTS.contains(&slots) {
        return Ok(Some(slots));
    }
    let place = table.get("slots").map_or(table.place, |At { place, .. }| place);
    Err(report.add(place, ErrorKind::UnusableSlots { slots, valid: SLOT_COUNTS.to_vec() }))
}
