//! Reads how often a master speaks and when it counts as dead. Numbers that do not fit into an
//! advertisement are refused: ucarp cut them to eight bits, and 300 seconds became 44.

use std::time::Duration;

use toml::de::DeValue;

use super::AuthWord;
use crate::config::error::ErrorKind;
use crate::config::probe::duration;
use crate::config::raw::{At, Read, Report, Table};

/// Keys of a group that belong here.
pub(super) const KEYS: [&str; 5] = ["advbase", "advskew", "deadratio", "preempt", "preempt_delay"];

const DEFAULT_BASE: Duration = Duration::from_secs(1);
const DEFAULT_RATIO: u32 = 3;
/// The highest of a byte.
const MAX: u64 = 255;
/// More often would be no heartbeat any more, but traffic.
const MIN_OWN: Duration = Duration::from_millis(10);
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// When a master speaks, and when it counts as dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) advbase: Duration,
    pub(super) advskew: u8,
    pub(super) deadratio: u32,
    pub(super) preempt: bool,
    pub(super) preempt_delay: Duration,
}

pub(super) fn read(
    table: &Table<'_>,
    auth: Read<AuthWord>,
    report: &mut Report<'_>,
) -> Read<Timing> {
    let advbase = base(table, auth, report);
    let advskew = skew(table, report);
    let deadratio = table.integer("deadratio", 1..=255, report);
    let preempt = table.boolean("preempt", report);
    let delay = duration(table, "preempt_delay", Duration::ZERO, Duration::from_secs(3600), report);
    let preempt = preempt?.unwrap_or(false);
    let preempt_delay = match delay {
        Ok(Some(At { place, .. })) if !preempt => {
            let kind = ErrorKind::NoEffect { key: "preempt_delay", needs: "`preempt = true`" };
            Err(report.add(place, kind))
        }
        delay => delay.map(|delay| delay.map_or(Duration::ZERO, |delay| delay.value)),
    };
    let (advbase, advskew) = (advbase?, advskew?);
    let place = table.get("advbase").map_or(table.place, |value| value.place);
    if advbase.is_zero() && advskew == 0 {
        return Err(report.add(place, ErrorKind::NoInterval));
    }
    if advbase.as_secs() == MAX && u64::from(advskew) == MAX {
        return Err(report.add(place, ErrorKind::IntervalOfFarewell));
    }
    let deadratio = deadratio?.unwrap_or(DEFAULT_RATIO);
    Ok(Timing { advbase, advskew, deadratio, preempt, preempt_delay: preempt_delay? })
}

fn base(table: &Table<'_>, auth: Read<AuthWord>, report: &mut Report<'_>) -> Read<Duration> {
    const KEY: &str = "advbase";
    let Some(At { place, value }) = duration(table, KEY, Duration::ZERO, FOREVER, report)? else {
        return Ok(DEFAULT_BASE);
    };
    let found = humantime::format_duration(value).to_string();
    if value > Duration::from_secs(MAX) {
        let kept = value.as_secs() % (MAX + 1);
        return Err(report.add(place, ErrorKind::WouldBeCut { key: KEY, found, kept }));
    }
    match auth? {
        AuthWord::Sha256 if value < MIN_OWN => {
            let (min, max) = ("10ms".to_owned(), "255s".to_owned());
            Err(report.add(place, ErrorKind::OutOfRange { key: KEY, found, min, max }))
        }
        AuthWord::Sha256 => Ok(value),
        auth if value.subsec_nanos() != 0 => {
            let auth = auth.name();
            Err(report.add(place, ErrorKind::FractionOfSecond { found, auth }))
        }
        AuthWord::Ucarp | AuthWord::Bsd => Ok(value),
    }
}

fn skew(table: &Table<'_>, report: &mut Report<'_>) -> Read<u8> {
    const KEY: &str = "advskew";
    if let Some(At { place, value: DeValue::Integer(integer) }) = table.get(KEY)
        && let Ok(number) = u64::from_str_radix(integer.as_str(), integer.radix())
        && number > MAX
    {
        let kept = number % (MAX + 1);
        let found = integer.to_string();
        return Err(report.add(place, ErrorKind::WouldBeCut { key: KEY, found, kept }));
    }
    let skew = table.integer(KEY, 0..=255, report)?.unwrap_or(0);
    Ok(u8::try_from(skew).expect("at most 255"))
}
