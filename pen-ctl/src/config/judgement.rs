//! How the backends of a service are judged together: when there are too few of them, how many
//! may be left alone at a time, how one returns, and whose check it is that decides.

use std::time::Duration;

use crate::config::Service;
use crate::config::error::ErrorKind;
use crate::config::probe::duration;
use crate::config::raw::{self, At, Names, Read, Report, Table};

/// How the backends of a service are judged together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What is done while too few backends are usable.
    pub panic: PanicPolicy,
    /// Too few are less than so many percent of those that are wanted; 0 is never.
    pub panic_threshold: u32,
    /// So many percent of the backends that are wanted may be ejected at a time, and one at least
    /// unless this is 0.
    pub max_ejected: u32,
    /// With fewer usable backends the service has lost its quorum.
    pub quorum: Option<u32>,
    /// So many more are needed to regain it.
    pub quorum_hysteresis: u32,
    /// The weight of a backend that returns grows for so long.
    pub slow_start: Duration,
    /// Name of another service whose checks decide; all backends of this one are among its own.
    pub track: Option<String>,
}

/// What is done while too few backends of a service are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPolicy {
    /// All are used, whatever checks say: perhaps it is the checks that fail.
    FailOpen,
    /// New clients are turned away: those that are left would only fail under the load.
    FailClosed,
    /// The backend for emergencies takes all new clients.
    Emergency,
}

/// Keys of a service that belong here.
pub(super) const KEYS: [&str; 7] = [
    "max_ejected",
    "panic",
    "panic_threshold",
    "quorum",
    "quorum_hysteresis",
    "slow_start",
    "track",
];

/// A quorum of more than any service has.
const MOST: u32 = 10_000;
const HOUR: Duration = Duration::from_secs(3600);

impl Judgement {
    /// What a service has that says nothing of it.
    #[must_use]
    pub const fn usual() -> Self {
        Self {
            panic: PanicPolicy::FailOpen,
            panic_threshold: 0,
            max_ejected: 100,
            quorum: None,
            quorum_hysteresis: 0,
            slow_start: Duration::ZERO,
            track: None,
        }
    }
}

/// Reads the keys of a service.
pub(super) fn read(table: &Table<'_>, report: &mut Report<'_>) -> Read<Judgement> {
    let panic = table.word("panic", report);
    let panic_threshold = table.integer("panic_threshold", 1..=100, report);
    let max_ejected = table.integer("max_ejected", 0..=100, report);
    let quorum = table.integer("quorum", 1..=MOST, report);
    let hysteresis = table.integer("quorum_hysteresis", 0..=MOST, report);
    let slow_start = duration(table, "slow_start", Duration::ZERO, HOUR, report);
    let track = table.text("track", report);
    for (key, other, needs) in [
        ("panic", "panic_threshold", "`panic_threshold = 50`"),
        ("quorum_hysteresis", "quorum", "`quorum = 2`"),
    ] {
        if let Some(At { place, .. }) = table.get(key).filter(|_| !table.has(other)) {
            return Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
    }
    let usual = Judgement::usual();
    let panic = panic?.unwrap_or(usual.panic);
    if panic == PanicPolicy::Emergency
        && !table.has("emergency")
        && let Some(At { place, .. }) = table.get("panic")
    {
        let needs = "`emergency = \"10.0.0.99:80\"`";
        return Err(report.add(place, ErrorKind::NoEffect { key: "panic", needs }));
    }
    if let Some(At { place, .. }) = table.get("check").filter(|_| table.has("track")) {
        return Err(report.add(place, ErrorKind::CheckAndTrack));
    }
    Ok(Judgement {
        panic,
        panic_threshold: panic_threshold?.unwrap_or(usual.panic_threshold),
        max_ejected: max_ejected?.unwrap_or(usual.max_ejected),
        quorum: quorum?,
        quorum_hysteresis: hysteresis?.unwrap_or(usual.quorum_hysteresis),
        slow_start: slow_start?.map_or(usual.slow_start, |time| time.value),
        track: track?.map(|name| name.value.to_owned()),
    })
}

/// Gives services that track another one that one's check.
pub(super) fn follow(
    tables: &[Read<Table<'_>>],
    services: &mut [Service],
    names: &Names<String>,
    report: &mut Report<'_>,
) -> Read<()> {
    let before = services.to_vec();
    let mut result = Ok(());
    for (table, service) in tables.iter().zip(&*services) {
        let (Some(quorum), Ok(table)) = (service.judgement.quorum, table) else { continue };
        let count = service.backends.len();
        // How many a name stands for is not known here.
        if quorum as usize > count
            && service.names.is_empty()
            && let Some(At { place, .. }) = table.get("quorum")
        {
            let (found, min, max) = (quorum.to_string(), "1".to_owned(), count.to_string());
            let kind = ErrorKind::OutOfRange { key: "quorum", found, min, max };
            result = Err(report.add(place, kind));
        }
    }
    for (table, service) in tables.iter().zip(services) {
        let (Some(name), Ok(table)) = (&service.judgement.track, table) else { continue };
        let place = table.get("track").map_or(table.place, |track| track.place);
        if !service.names.is_empty() {
            result = Err(report.add(place, ErrorKind::NamesAndTrack));
            continue;
        }
        let Some(tracked) = before.iter().find(|tracked| tracked.name == *name) else {
            let near = raw::nearest(name, &names.in_order());
            let kind = || ErrorKind::UndeclaredService { name: name.clone(), near };
            result = Err(names.missing(place, kind, report));
            continue;
        };
        if tracked.judgement.track.is_some() {
            let service = name.clone();
            result = Err(report.add(place, ErrorKind::TracksATracker { service }));
            continue;
        }
        let lacks = service.all_backends().find(|backend| tracked.counterpart(backend).is_none());
        if let Some(backend) = lacks {
            let (backend, service) = (backend.name.clone(), name.clone());
            result = Err(report.add(place, ErrorKind::NoCounterpart { backend, service }));
            continue;
        }
        service.check = tracked.check.clone();
    }
    result
}
