//! The demonstration's traffic: who answered how often, and what clients notice while a backend is
//! dying.

use std::{
    collections::BTreeMap, fmt::Write, net::SocketAddr, sync::OnceLock, thread, time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pen_tests::{
    Netns, Pend, VIP4, VIP6, client,
    server::HTTP_PORT,
    wait::{Stopwatch, interrupted, pace},
    wait_until,
};

/// How long detecting may take: generous, for a busy machine; the check itself needs well below one
/// second.
const DETECTION: Duration = Duration::from_secs(5);
/// How many requests have to succeed once a backend is known to be down.
const AFTERWARDS: u32 = 200;

/// Who answered, for each kind of request.
#[derive(Default)]
pub(super) struct Tally(Vec<Row>);

#[derive(Default)]
struct Row {
    asked: String,
    answers: BTreeMap<String, u32>,
    failed: u32,
    last_error: String,
}

impl Tally {
    /// Asks `times` times, one after the other.
    pub(super) fn ask(
        &mut self,
        what: &str,
        times: u32,
        request: impl Fn() -> Result<String, String>,
    ) -> Result<()> {
        let mut row = Row { asked: what.to_owned(), ..Row::default() };
        for _ in 0..times {
            ensure!(!interrupted(), "interrupted");
            match request() {
                Ok(name) => *row.answers.entry(name).or_default() += 1,
                Err(error) => {
                    row.failed += 1;
                    row.last_error = error;
                }
            }
        }
        self.0.push(row);
        Ok(())
    }

    /// One line for each kind of request, one column for each backend.
    pub(super) fn table(&self, names: &[&str]) -> String {
        let width = self.0.iter().map(|row| row.asked.len()).max().unwrap_or(0);
        let mut table = format!("  {:width$}", "answered by");
        for name in names.iter().chain(&["failed"]) {
            write!(table, "  {name:>6}").expect("writing to a String cannot fail");
        }
        table.push('\n');
        for row in &self.0 {
            write!(table, "  {:width$}", row.asked).expect("writing to a String cannot fail");
            let counts = names.iter().map(|name| row.answers.get(*name).copied().unwrap_or(0));
            for count in counts.chain([row.failed]) {
                write!(table, "  {count:>6}").expect("writing to a String cannot fail");
            }
            table.push('\n');
        }
        table
    }

    /// Fails if a request did.
    pub(super) fn has_no_failure(&self) -> Result<()> {
        match self.0.iter().find(|row| row.failed > 0) {
            Some(row) => bail!(
                "{}: {} requests failed; the last one: {}",
                row.asked,
                row.failed,
                row.last_error
            ),
            None => Ok(()),
        }
    }

    /// Fails if a backend was left out.
    pub(super) fn was_answered_by_all(&self, names: &[&str]) -> Result<()> {
        for row in &self.0 {
            if let Some(name) = names.iter().find(|name| !row.answers.contains_key(**name)) {
                bail!("{}: {name} never answered", row.asked);
            }
        }
        Ok(())
    }
}

/// One HTTP request with curl.
pub(super) fn curl(netns: &Netns, at: SocketAddr) -> Result<String, String> {
    client::curl(netns, &format!("http://{at}/"))
}

/// One datagram.
pub(super) fn datagram(netns: &Netns, at: SocketAddr) -> Result<String, String> {
    client::udp_ask(netns, at).ok_or_else(|| "no answer".to_owned())
}

/// Requests that were sent in one phase.
#[derive(Default)]
pub(super) struct Phase {
    /// All of them.
    pub(super) sent: u32,
    /// Those without an answer.
    pub(super) failed: u32,
    /// What the last one of these met.
    pub(super) last_error: String,
}

/// What clients noticed of a backend's death.
pub(super) struct Outage {
    /// From the call until penctl showed the backend as unusable in all services.
    pub(super) detected: Duration,
    /// Sent before that.
    pub(super) before: Phase,
    /// Sent after it.
    pub(super) after: Phase,
}

/// Goes on asking, in both families, from just after a backend's death until well after its
/// detection.
pub(super) fn through_outage(pend: &Pend, client: &Netns, victim: &str) -> Result<Outage> {
    let clock = Stopwatch::start();
    let detected = OnceLock::new();
    let (mut before, mut after) = (Phase::default(), Phase::default());
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let result = wait_usable(pend, victim, false).map(|()| clock.elapsed());
            detected.get_or_init(|| result.as_ref().ok().copied());
            result
        });
        for vip in [VIP4, VIP6].into_iter().cycle() {
            let phase = match detected.get() {
                None => &mut before,
                Some(Some(_)) if after.sent < AFTERWARDS && !interrupted() => &mut after,
                Some(_) => break,
            };
            phase.sent += 1;
            if let Err(error) = client::http(client, SocketAddr::new(vip, HTTP_PORT)) {
                phase.failed += 1;
                phase.last_error = error.to_string();
            }
            pace(Duration::from_millis(2));
        }
        watcher.join().expect("the watcher does not panic")
    })
    .map(|detected| Outage { detected, before, after })
}

/// Waits until a backend is usable, or unusable, in all services that it is part of.
pub(super) fn wait_usable(pend: &Pend, name: &str, usable: bool) -> Result<()> {
    let what = format!("{name} is {}", if usable { "usable again" } else { "known to be down" });
    wait_until(DETECTION, &what, || {
        let rows = pend.penctl_json(["backends"]).ok()?;
        let mut rows = rows.as_array()?.iter().filter(|row| row["name"] == name).peekable();
        rows.peek()?;
        rows.all(|row| row["usable"] == usable).then_some(())
    })
    .map_err(|error| pend.with_log(&error))
}

/// Waits until the tables of all UDP services are at rest: until then UDP flows stay where they were.
pub(super) fn wait_settled(pend: &Pend) -> Result<()> {
    wait_until(DETECTION, "the tables of UDP services have settled", || {
        let rows = pend.penctl_json(["services"]).ok()?;
        let mut udp = rows.as_array()?.iter().filter(|row| row["protocol"] == "udp");
        udp.all(|row| row["settled"] == 100.0).then_some(())
    })
    .map_err(|error| pend.with_log(&error))
}

/// The daemon's own account of a backend, oldest first.
pub(super) fn events_about(pend: &Pend, name: &str) -> Result<Vec<String>> {
    let events = pend.penctl_json(["events"])?;
    let events = events.as_array().context("penctl events: not a list")?;
    let about = events.iter().filter_map(|event| {
        let subject = event["subject"].as_str()?;
        let down = event["kind"] == "backend-down" && subject.ends_with(&format!("/{name}"));
        down.then(|| format!("{subject}: {}", event["text"].as_str().unwrap_or_default()))
    });
    Ok(about.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_shows_who_answered_and_notices_who_did_not() {
        let mut tally = Tally::default();
        tally.ask("curl v4", 3, || Ok("b1".to_owned())).unwrap();
        assert!(tally.was_answered_by_all(&["b1"]).is_ok());
        assert!(tally.was_answered_by_all(&["b1", "b2"]).unwrap_err().to_string().contains("b2"));
        assert!(tally.has_no_failure().is_ok());
        tally.ask("udp", 2, || Err("no answer".to_owned())).unwrap();
        assert!(tally.has_no_failure().unwrap_err().to_string().contains("no answer"));
        assert_eq!(
            tally.table(&["b1", "b2"]),
            "  answered by      b1      b2  failed\n\
             \x20 curl v4       3       0       0\n\
             \x20 udp           0       0       2\n"
        );
    }
}
