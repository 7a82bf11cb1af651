//! Reads `check`. What it means depends on the service, and a pool's check may serve several:
//! [`RawCheck`] is what was written, [`RawCheck::of_service`] what it is for one of them.

use std::time::Duration;

use toml::de::DeValue;

use crate::config::error::ErrorKind;
use crate::config::raw::{self, At, Place, Read, Report, Spec, Table};
use crate::config::words::Word;
use crate::config::{Check, CheckKind, Mode, Protocol};

const CHECK: Spec = Spec {
    name: "check",
    title: "`check`",
    keys: &["type", "port", "tunnel", "interval", "timeout", "rise", "fall"],
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;

/// A check as written; the times and counts are final.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawCheck {
    place: Place,
    kind: Option<Kind>,
    port: Option<u16>,
    tunnel: Option<bool>,
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    Tcp,
}

impl Word for Kind {
    const ALL: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("none", Self::None)];
}

impl RawCheck {
    /// Reads the key `check` of a service or pool.
    pub(super) fn read(owner: &Table<'_>, report: &mut Report<'_>) -> Read<Option<Self>> {
        let Some(table) = owner.table("check", &CHECK, report)? else { return Ok(None) };
        let kind = table.word("type", report);
        let port = table.integer("port", 1..=u32::from(u16::MAX), report);
        let tunnel = table.boolean("tunnel", report);
        let times = times(&table, report);
        let rise = table.integer("rise", 1..=100, report);
        let fall = table.integer("fall", 1..=100, report);
        let (interval, timeout) = times?;
        Ok(Some(Self {
            place: table.place,
            kind: kind?,
            port: port?.and_then(|port| u16::try_from(port).ok()),
            tunnel: tunnel?,
            interval,
            timeout,
            rise: rise?.unwrap_or(DEFAULT_RISE),
            fall: fall?.unwrap_or(DEFAULT_FALL),
        }))
    }

    /// What a service has that says nothing of checks.
    pub(super) const fn absent() -> Self {
        Self {
            place: Place::START,
            kind: None,
            port: None,
            tunnel: None,
            interval: DEFAULT_INTERVAL,
            timeout: DEFAULT_TIMEOUT,
            rise: DEFAULT_RISE,
            fall: DEFAULT_FALL,
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
        let kind = match self.kind {
            Some(Kind::Tcp) if !has_port => {
                return Err(report.add(self.place, ErrorKind::CheckWithoutPort));
            }
            Some(Kind::Tcp) => CheckKind::Tcp { port: self.port },
            None if has_port && by_default => CheckKind::Tcp { port: self.port },
            Some(Kind::None) | None => CheckKind::None,
        };
        let tunnels = matches!(mode, Mode::Ipip | Mode::Gue);
        if self.tunnel == Some(true) && !tunnels {
            return Err(report.add(self.place, ErrorKind::CheckWithoutTunnel { mode }));
        }
        // The way of the traffic is what is to be tried, unless the operator knows better.
        let tunnel = self.tunnel.unwrap_or(tunnels);
        let Self { interval, timeout, rise, fall, .. } = *self;
        Ok(Check { kind, tunnel, interval, timeout, rise, fall })
    }
}

/// Interval and timeout.
fn times(table: &Table<'_>, report: &mut Report<'_>) -> Read<(Duration, Duration)> {
    const MAX: Duration = Duration::from_secs(3600);
    let interval = duration(table, "interval", Duration::from_millis(10), MAX, report);
    let timeout = duration(table, "timeout", Duration::from_millis(1), MAX, report);
    let interval = interval?.map_or(DEFAULT_INTERVAL, |interval| interval.value);
    match timeout? {
        None => Ok((interval, DEFAULT_TIMEOUT.min(interval))),
        Some(At { place, value: timeout }) if timeout > interval => {
            Err(report.add(place, ErrorKind::TimeoutAboveInterval { timeout, interval }))
        }
        Some(timeout) => Ok((interval, timeout.value)),
    }
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
