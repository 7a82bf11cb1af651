//! Reads `check`. What it means depends on the service, and a pool's check may serve several:
//! [`RawCheck`] is what was written, [`RawCheck::of_service`] what it is for one of them.

mod agent;
mod http;
mod kinds;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::RegexBuilder;
use toml::de::DeValue;

pub(super) use self::kinds::{program, user};
use crate::config::error::{CheckError, ErrorKind};
use crate::config::raw::{self, At, Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::words::Word;
use crate::config::{Agent, Check, CheckKind, Init, Mode, Pattern, Protocol};

const CHECK: Spec = Spec { name: "check", title: "`check`", keys: &KEYS };
/// Keys that every type has.
const COMMON: [&str; 10] = [
    "type",
    "agent",
    "init",
    "interval",
    "fast_interval",
    "down_interval",
    "jitter",
    "timeout",
    "rise",
    "fall",
];
/// Those of a type that asks at a port, in the direction of the traffic.
const PORT: [&str; 2] = ["address", "port"];
const ASKING: [&str; 3] = ["address", "port", "tunnel"];
const ADDRESS: [&str; 1] = ["address"];
/// What several types call so, each in its own way.
const EXPECT: [&str; 1] = ["expect"];
const KEYS: [&str; 40] = raw::joined(&[
    &COMMON,
    &ASKING,
    &EXPECT,
    &tls::KEYS,
    &tls::SWITCH,
    &http::HOST,
    &http::KEYS,
    &http::GRPC,
    &kinds::UDP,
    &kinds::DNS,
    &kinds::SMTP,
    &kinds::EXEC,
]);

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
/// Percent; with more, checks would follow each other at any time.
const MAX_JITTER: u32 = 50;
/// Bytes that a compiled expression may take.
const MAX_REGEX: usize = 1 << 20;

/// A check as written; the times and counts are final.
#[derive(Clone, Debug)]
pub(super) struct RawCheck {
    place: Place,
    /// `None` if nothing was said.
    kind: Option<CheckKind>,
    address: Option<At<IpAddr>>,
    port: Option<u16>,
    tunnel: Option<bool>,
    times: Times,
    rise: u32,
    fall: u32,
    init: Init,
    agent: Option<Agent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Tls,
    Http,
    Grpc,
    Udp,
    Dns,
    Smtp,
    Icmp,
    Exec,
}

impl Word for Kind {
    const ALL: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("http", Self::Http),
        ("grpc", Self::Grpc),
        ("udp", Self::Udp),
        ("dns", Self::Dns),
        ("smtp", Self::Smtp),
        ("icmp", Self::Icmp),
        ("exec", Self::Exec),
        ("none", Self::None),
    ];
}

impl Kind {
    /// Keys besides [`COMMON`].
    const fn groups(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::None => &[],
            Self::Icmp => &[&ADDRESS],
            Self::Tcp => &[&ASKING],
            Self::Tls => &[&ASKING, &tls::KEYS],
            Self::Http => &[&ASKING, &EXPECT, &http::HOST, &http::KEYS, &tls::SWITCH, &tls::KEYS],
            Self::Grpc => &[&ASKING, &http::HOST, &http::GRPC, &tls::SWITCH, &tls::KEYS],
            Self::Udp => &[&ASKING, &EXPECT, &kinds::UDP],
            Self::Dns => &[&ASKING, &kinds::DNS],
            Self::Smtp => &[&ASKING, &kinds::SMTP],
            Self::Exec => &[&PORT, &kinds::EXEC],
        }
    }

    /// How it is spelled.
    fn word(self) -> &'static str {
        let spelled = Self::ALL.iter().find(|(_, kind)| *kind == self);
        spelled.map_or("", |(word, _)| word)
    }

    fn has(self, key: &str) -> bool {
        self.groups().iter().any(|group| group.contains(&key))
    }

    fn read(
        self,
        table: &Table<'_>,
        system: &dyn System,
        report: &mut Report<'_>,
    ) -> Read<CheckKind> {
        Ok(match self {
            Self::None => CheckKind::None,
            Self::Tcp => CheckKind::Tcp,
            Self::Tls => CheckKind::Tls(Arc::new(tls::read(table, system, report)?)),
            Self::Http => CheckKind::Http(Arc::new(http::read(table, system, report)?)),
            Self::Grpc => CheckKind::Grpc(Arc::new(http::grpc(table, system, report)?)),
            Self::Udp => CheckKind::Udp(Arc::new(kinds::udp(table, report)?)),
            Self::Dns => CheckKind::Dns(Arc::new(kinds::dns(table, report)?)),
            Self::Smtp => CheckKind::Smtp { hello: kinds::smtp(table, report)? },
            Self::Icmp => CheckKind::Icmp,
            Self::Exec => CheckKind::Exec(Arc::new(kinds::exec(table, report)?)),
        })
    }
}

/// Reads the type of a check and what belongs to it, and reports what belongs to others.
fn kind(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<CheckKind>> {
    let written = table.word::<Kind>("type", report)?;
    // Whoever says nothing gets a connection, if anything.
    let kind = written.unwrap_or(Kind::Tcp);
    let mut wrong = None;
    for At { place, value: key } in table.keys() {
        if !KEYS.contains(&key) || COMMON.contains(&key) || kind.has(key) {
            continue;
        }
        let of = Kind::ALL.iter().filter(|(_, other)| other.has(key)).map(|(word, _)| *word);
        let (key, of) = (key.to_owned(), of.collect());
        let kind = CheckError::KeyOfOther { key, kind: kind.word(), of };
        wrong = Some(report.add(place, kind.into()));
    }
    match (wrong, written) {
        (Some(reported), _) => Err(reported),
        (None, Some(kind)) => kind.read(table, system, report).map(Some),
        (None, None) => Ok(None),
    }
}

/// What an answer has to hold, as a plain text or as an expression.
fn answer(
    table: &Table<'_>,
    text: &'static str,
    regex: &'static str,
    report: &mut Report<'_>,
) -> Read<Option<Pattern>> {
    match (table.text(text, report)?, table.text(regex, report)?) {
        (Some(_), Some(At { place, .. })) => {
            Err(report.add(place, CheckError::TwoPatterns { text, regex }.into()))
        }
        (Some(text), None) => Ok(Some(Pattern::Text(text.value.to_owned()))),
        (None, Some(At { place, value })) => {
            match RegexBuilder::new(value).size_limit(MAX_REGEX).build() {
                Ok(regex) => Ok(Some(Pattern::Regex(regex))),
                Err(error) => {
                    // The last of several lines says what is wrong, the others show where.
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    let reason = last.trim_start_matches("error: ").to_owned();
                    Err(report.add(place, CheckError::NoRegex { reason }.into()))
                }
            }
        }
        (None, None) => Ok(None),
    }
}

impl RawCheck {
    /// Reads the key `check` of a service or pool.
    pub(super) fn read(
        owner: &Table<'_>,
        system: &dyn System,
        report: &mut Report<'_>,
    ) -> Read<Option<Self>> {
        let Some(table) = owner.table("check", &CHECK, report)? else { return Ok(None) };
        let kind = kind(&table, system, report);
        let address = address(&table, report);
        let init = table.word("init", report);
        let port = table.integer("port", 1..=u32::from(u16::MAX), report);
        let tunnel = table.boolean("tunnel", report);
        let times = times(&table, report);
        let agent = agent::read(&table, report);
        let rise = table.integer("rise", 1..=100, report);
        let fall = table.integer("fall", 1..=100, report);
        Ok(Some(Self {
            place: table.place,
            kind: kind?,
            address: address?,
            port: port?.and_then(|port| u16::try_from(port).ok()),
            tunnel: tunnel?,
            times: times?,
            rise: rise?.unwrap_or(DEFAULT_RISE),
            fall: fall?.unwrap_or(DEFAULT_FALL),
            init: init?.unwrap_or(Init::First),
            agent: agent?,
        }))
    }

    /// What a service has that says nothing of checks.
    pub(super) const fn absent() -> Self {
        Self {
            place: Place::START,
            kind: None,
            address: None,
            port: None,
            tunnel: None,
            times: Times::USUAL,
            rise: DEFAULT_RISE,
            fall: DEFAULT_FALL,
            init: Init::First,
            agent: None,
        }
    }

    /// Where it is written.
    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// The check of a service. Unless a port is given, that of each backend is tried; backends of
    /// services with many ports, where not `single_port`, have none.
    pub(super) fn of_service(
        &self,
        protocol: Protocol,
        single_port: bool,
        mode: Mode,
        report: &mut Report<'_>,
    ) -> Read<Check> {
        let has_port = self.port.is_some() || single_port;
        // A UDP server need not listen on TCP, so it is tried only on request; a port is one.
        let by_default = self.port.is_some() || protocol == Protocol::Tcp;
        let kind = match &self.kind {
            Some(kind) if kind.needs_port() && !has_port => {
                return Err(report.add(self.place, CheckError::WithoutPort.into()));
            }
            Some(kind) => kind.clone(),
            None if has_port && by_default => CheckKind::Tcp,
            None => CheckKind::None,
        };
        let tunnels = matches!(mode, Mode::Ipip | Mode::Gue);
        if self.tunnel == Some(true) && !tunnels {
            return Err(report.add(self.place, CheckError::WithoutTunnel { mode }.into()));
        }
        if let Some(At { place, .. }) = self.address.filter(|_| self.tunnel == Some(true)) {
            return Err(report.add(place, CheckError::AddressInTunnel.into()));
        }
        // The way of the traffic is what is to be tried, unless the operator knows better.
        let tunnel = self.tunnel.unwrap_or(
            tunnels && self.address.is_none() && (kind.needs_port() || kind == CheckKind::None),
        );
        let Self { port, rise, fall, .. } = *self;
        let Times { interval, fast: fast_interval, down: down_interval, jitter, timeout } =
            self.times;
        Ok(Check {
            kind,
            address: self.address.map(|at| at.value),
            port,
            tunnel,
            interval,
            fast_interval,
            down_interval,
            jitter,
            timeout,
            rise,
            fall,
            init: self.init,
            agent: self.agent.clone(),
        })
    }
}

fn address(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<At<IpAddr>>> {
    let Some(At { place, value }) = table.text("address", report)? else { return Ok(None) };
    match value.parse() {
        Ok(value) => Ok(Some(At { place, value })),
        Err(_) => Err(report.add(place, CheckError::NoAddress { text: value.to_owned() }.into())),
    }
}

/// When probes start, and end at the latest.
#[derive(Clone, Copy, Debug)]
struct Times {
    interval: Duration,
    fast: Duration,
    down: Duration,
    jitter: u32,
    timeout: Duration,
}

impl Times {
    const USUAL: Self = Self {
        interval: DEFAULT_INTERVAL,
        fast: DEFAULT_INTERVAL,
        down: DEFAULT_INTERVAL,
        jitter: 0,
        timeout: DEFAULT_TIMEOUT,
    };
}

fn times(table: &Table<'_>, report: &mut Report<'_>) -> Read<Times> {
    const MIN: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_secs(3600);
    let interval = duration(table, "interval", MIN, MAX, report);
    let fast = duration(table, "fast_interval", MIN, MAX, report);
    let down = duration(table, "down_interval", MIN, MAX, report);
    let jitter = jitter(table, report);
    let timeout = duration(table, "timeout", Duration::from_millis(1), MAX, report);
    let interval = interval?.map_or(DEFAULT_INTERVAL, |interval| interval.value);
    let (fast, down) = (fast?, down?);
    if let Some(At { place, value: fast }) = fast.filter(|fast| fast.value > interval) {
        return Err(report.add(place, CheckError::FastAboveInterval { fast, interval }.into()));
    }
    if let Some(At { place, value: down }) = down.filter(|down| down.value < interval) {
        return Err(report.add(place, CheckError::DownBelowInterval { down, interval }.into()));
    }
    let timeout = match timeout? {
        None => DEFAULT_TIMEOUT.min(interval),
        Some(At { place, value: timeout }) if timeout > interval => {
            let kind = CheckError::TimeoutAboveInterval { timeout, interval };
            return Err(report.add(place, kind.into()));
        }
        Some(timeout) => timeout.value,
    };
    let [fast, down] = [fast, down].map(|at| at.map_or(interval, |at| at.value));
    Ok(Times { interval, fast, down, jitter: jitter?, timeout })
}

/// Reads a share of the interval in percent.
fn jitter(table: &Table<'_>, report: &mut Report<'_>) -> Read<u32> {
    let Some(At { place, value }) = table.text("jitter", report)? else { return Ok(0) };
    let digits = value
        .strip_suffix('%')
        .map(str::trim_end)
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let percent = digits.and_then(|digits| digits.parse().ok());
    percent.filter(|percent| *percent <= MAX_JITTER).ok_or_else(|| {
        report.add(place, CheckError::NoJitter { text: value.to_owned(), max: MAX_JITTER }.into())
    })
}

/// Reads a duration with a unit.
pub(super) fn duration(
    table: &Table<'_>,
    key: &'static str,
    min: Duration,
    max: Duration,
    report: &mut Report<'_>,
) -> Read<Option<At<Duration>>> {
    let Some(At { place, value }) = table.get(key) else { return Ok(None) };
    let found = match value {
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    };
    if let Some(found) = found {
        return Err(report.add(place, ErrorKind::DurationWithoutUnit { key, found }));
    }
    let text = raw::text(At { place, value }, "a duration such as \"1s\"", report)?.value;
    let found = text.to_owned();
    match humantime::parse_duration(text) {
        Err(_) => Err(report.add(place, ErrorKind::InvalidDuration { key, found })),
        Ok(value) if value < min || value > max => {
            let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
            let (min, max) = (min.to_string(), max.to_string());
            Err(report.add(place, ErrorKind::OutOfRange { key, found, min, max }))
        }
        Ok(value) => Ok(Some(At { place, value })),
    }
}
