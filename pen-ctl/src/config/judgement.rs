//! How the backends of a service are judged together: when there are too few of them, how many
//! may be left alone at a time, how one returns, and whose check it is that decides.

use std::time::Duration;

use crate::config::error::ErrorKind;
use crate::config::probe::duration;
use crate::config::proxy::{DAY, USUAL_DOUBLING};
use crate::config::raw::{self, At, Names, Read, Report, Table};
use crate::config::{Mode, Service};

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
    /// Where the kernel sees what servers answer (`nat`, `masquerade`): one that refuses several
    /// connections in a row gets nothing new for this time, and twice as long each time that it fails
    /// again after its return; zero is never. A proxy has its own: [`crate::config::Proxy::eject`].
    pub eject: Duration,
    /// But never for longer than this.
    pub eject_max: Duration,
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
            eject: Duration::ZERO,
            eject_max: Duration::ZERO,
            track: None,
        }
    }
}

/// Reads the keys of a service.
pub(super) fn read(
    table: &Table<'_>,
    mode: Read<Mode>,
    report: &mut Report<'_>,
) -> Read<Judgement> {
    let panic = table.word("panic", report);
    let panic_threshold = table.integer("panic_threshold", 1..=100, report);
    let max_ejected = table.integer("max_ejected", 0..=100, report);
    let quorum = table.integer("quorum", 1..=MOST, report);
    let hysteresis = table.integer("quorum_hysteresis", 0..=MOST, report);
    let slow_start = duration(table, "slow_start", Duration::ZERO, HOUR, report);
    let track = table.text("track", report);
    let ejection = ejection(table, mode, report);
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
    let (eject, eject_max) = ejection?;
    Ok(Judgement {
        panic,
        panic_threshold: panic_threshold?.unwrap_or(usual.panic_threshold),
        max_ejected: max_ejected?.unwrap_or(usual.max_ejected),
        quorum: quorum?,
        quorum_hysteresis: hysteresis?.unwrap_or(usual.quorum_hysteresis),
        slow_start: slow_start?.map_or(usual.slow_start, |time| time.value),
        eject,
        eject_max,
        track: track?.map(|name| name.value.to_owned()),
    })
}

/// For how long servers are left alone that the kernel sees refusing connections, and at most.
fn ejection(
    table: &Table<'_>,
    mode: Read<Mode>,
    report: &mut Report<'_>,
) -> Read<(Duration, Duration)> {
    let mode = mode?;
    let none = (Duration::ZERO, Duration::ZERO);
    if mode == Mode::Proxy {
        return Ok(none);
    }
    for key in ["eject", "eject_max"] {
        let needs = if !mode.translates() {
            "`mode = \"nat\"`, `\"masquerade\"` or `\"proxy\"`, in which answers are seen"
        } else if !table.has("eject") {
            "`eject = \"10s\"`"
        } else {
            continue;
        };
        if let Some(At { place, .. }) = table.get(key) {
            return Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
    }
    let eject = duration(table, "eject", Duration::ZERO, DAY, report);
    let most = duration(table, "eject_max", Duration::ZERO, DAY, report);
    let eject = eject?.map_or(Duration::ZERO, |eject| eject.value);
    Ok((eject, most?.map_or(eject * USUAL_DOUBLING, |most| most.value.max(eject))))
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
