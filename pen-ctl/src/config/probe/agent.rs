//! Reads `agent` of a check.

use std::time::Duration;

use super::duration;
use crate::config::Agent;
use crate::config::error::CheckError;
use crate::config::raw::{At, Read, Report, Spec, Table};

const AGENT: Spec =
    Spec { name: "agent", title: "`agent`", keys: &["port", "interval", "timeout", "send"] };

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
const MIN: Duration = Duration::from_millis(10);
const MAX: Duration = Duration::from_secs(3600);
/// Bytes; a line.
const MAX_QUESTION: usize = 1200;

pub(super) fn read(check: &Table<'_>, report: &mut Report<'_>) -> Read<Option<Agent>> {
    let Some(table) = check.table("agent", &AGENT, report)? else { return Ok(None) };
    let port = table.integer("port", 1..=u32::from(u16::MAX), report);
    let interval = duration(&table, "interval", MIN, MAX, report);
    let timeout = duration(&table, "timeout", Duration::from_millis(1), MAX, report);
    let send = table.text("send", report);
    let (interval, timeout, send) = (interval?, timeout?, send?);
    let Some(port) = port?.and_then(|port| u16::try_from(port).ok()) else {
        return Err(table.lacks("port", "9999", report));
    };
    let interval = interval.map_or(DEFAULT_INTERVAL, |at| at.value);
    let timeout = match timeout {
        Some(At { place, value: timeout }) if timeout > interval => {
            let kind = CheckError::TimeoutAboveInterval { timeout, interval };
            return Err(report.add(place, kind.into()));
        }
        Some(timeout) => timeout.value,
        None => DEFAULT_TIMEOUT.min(interval),
    };
    let send = match send {
        Some(At { place, value }) if value.len() > MAX_QUESTION => {
            let (length, max) = (value.len(), MAX_QUESTION);
            return Err(report.add(place, CheckError::LongQuestion { length, max }.into()));
        }
        send => send.map_or("", |at| at.value),
    };
    Ok(Some(Agent { port, interval, timeout, send: send.into() }))
}
