//! Reads `[[notify]]`: who is told of events, of which, and how often at most.

mod webhook;

use std::time::Duration;

use humantime::format_duration;

pub use self::webhook::Webhook;
use crate::config::Exec;
use crate::config::error::ErrorKind;
pub use crate::config::error::NotifyError;
use crate::config::load::Roots;
use crate::config::probe::{duration, program, user};
use crate::config::raw::{self, At, Names, Read, Report, Spec, Table};
use crate::config::system::System;

const NOTIFY: Spec = Spec {
    name: "notify",
    title: "[[notify]]",
    keys: &["name", "program", "user", "webhook", "ca", "events", "rate_limit", "timeout"],
};

/// Receivers; each may have a message under way.
const MOST: usize = 32;
const DEFAULT_RATE: u32 = 10;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the patience of the control interface, which waits for tests.
const LONGEST: Duration = Duration::from_secs(40);
/// Stands for all events.
const ALL: &str = "all";

/// Events that can be told, and `all`.
pub(crate) const EVENTS: [&str; 62] = [
    "admin",
    "adopted",
    "agent",
    "agent-silent",
    ALL,
    "attach-failed",
    "attached",
    "backend-down",
    "backend-up",
    "carp-address-failed",
    "carp-addresses",
    "carp-backup",
    "carp-deaf",
    "carp-demotion",
    "carp-fault",
    "carp-hook-failed",
    "carp-late",
    "carp-leaving",
    "carp-master",
    "carp-missed",
    "carp-order",
    "carp-peer-config",
    "carp-peer-key",
    "carp-peer-vips",
    "carp-refused",
    "carp-role-failed",
    "carp-send",
    "carp-take",
    "carp-twin",
    "census-failed",
    "certificate-broken",
    "certificate-expires",
    "certificate-renewed",
    "doubted",
    "drained",
    "ejected",
    "ejection-over",
    "emergency",
    "emergency-over",
    "link-down",
    "link-gone",
    "link-up",
    "name-changed",
    "name-resolved",
    "name-unresolved",
    "not-listening",
    "not-probed",
    "notify-failed",
    "notify-works",
    "panic",
    "panic-over",
    "quorum-lost",
    "quorum-regained",
    "reload-refused",
    "reloaded",
    "service-down",
    "service-up",
    "started",
    "warning",
    "weight",
    "write-failed",
    "xdp-warning",
];

/// A receiver of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Unique name.
    pub name: String,
    /// Who it is.
    pub to: To,
    /// Kinds of events that it is told; `None`: those that need attention.
    pub events: Option<Vec<String>>,
    /// Messages in a minute; of more one tells how many they were.
    pub rate_limit: u32,
    /// A program is killed and a request given up after this time.
    pub timeout: Duration,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// A program, which is started for each message.
    Program(Exec),
    /// A server of HTTP, which gets a request for each message.
    Webhook(Webhook),
}

impl Notify {
    /// Whether it is told events of a kind, which need attention or do not.
    #[must_use]
    pub fn wants(&self, kind: &str, warning: bool) -> bool {
        match &self.events {
            None => warning,
            Some(kinds) => kinds.iter().any(|wanted| wanted == kind || wanted == ALL),
        }
    }
}

impl std::fmt::Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program(exec) => write!(f, "program {} as {}", exec.words.join(" "), exec.user),
            Self::Webhook(webhook) => webhook.fmt(f),
        }
    }
}

impl std::fmt::Display for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { to, rate_limit, timeout, .. } = self;
        write!(f, "{to}, rate_limit {rate_limit}, timeout {}", format_duration(*timeout))
    }
}

/// `[[notify]]`.
pub(super) fn notify(
    roots: &Roots<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Vec<Notify>> {
    let mut names = Names::new("notify");
    let mut all = Vec::new();
    for (number, table) in roots.all(&NOTIFY, report).into_iter().enumerate() {
        if let Ok(table) = &table
            && number == MOST
        {
            report.add(table.place, ErrorKind::TooMany { what: "[[notify]]", max: MOST });
        }
        all.push(receiver(table, &mut names, system, report));
    }
    all.into_iter().collect()
}

fn receiver(
    table: Read<Table<'_>>,
    names: &mut Names<String>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Notify> {
    let name = table
        .and_then(|table| table.required_text("name", "\"pager\"", report))
        .and_then(|name| raw::name(name, report));
    let name = names.claim(name, report);
    let table = table?;
    let to = to(&table, system, report);
    let events = events(&table, report);
    let rate_limit = table.integer("rate_limit", 1..=1000, report);
    let timeout = duration(&table, "timeout", Duration::from_millis(100), LONGEST, report);
    Ok(Notify {
        name: name?.value,
        to: to?,
        events: events?,
        rate_limit: rate_limit?.unwrap_or(DEFAULT_RATE),
        timeout: timeout?.map_or(DEFAULT_TIMEOUT, |timeout| timeout.value),
    })
}

fn to(table: &Table<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<To> {
    let useless = |key: &'static str, needs, report: &mut Report<'_>| match table.get(key) {
        Some(At { place, .. }) => Err(report.add(place, ErrorKind::NoEffect { key, needs })),
        None => Ok(()),
    };
    match (table.has("program"), table.get("webhook")) {
        (true, Some(At { place, .. })) => Err(report.add(place, NotifyError::Both.into())),
        (true, None) => {
            useless("ca", "`webhook`", report)?;
            let words = program("program", table, report);
            let user = user(table, report);
            Ok(To::Program(Exec { words: words?, user: user? }))
        }
        (false, Some(_)) => {
            useless("user", "`program`", report)?;
            webhook::read(table, system, report).map(To::Webhook)
        }
        (false, None) => {
            let misspelt = table.misspelt("program").or_else(|| table.misspelt("webhook"));
            Err(misspelt.unwrap_or_else(|| report.add(table.place, NotifyError::Neither.into())))
        }
    }
}

fn events(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<Vec<String>>> {
    let Some(At { place, value: words }) = raw::texts(table, "events", report)? else {
        return Ok(None);
    };
    if words.is_empty() {
        return Err(report.add(place, NotifyError::NoEvents.into()));
    }
    let mut names = Names::new("event");
    let kinds: Vec<_> = words
        .into_iter()
        .map(|At { place, value }| {
            if !EVENTS.contains(&value) {
                let near = raw::nearest(value, &EVENTS);
                let kind = NotifyError::UnknownEvent { found: value.to_owned(), near };
                return Err(report.add(place, kind.into()));
            }
            names.claim(Ok(At { place, value: value.to_owned() }), report).map(|at| at.value)
        })
        .collect();
    kinds.into_iter().collect::<Read<_>>().map(Some)
}
