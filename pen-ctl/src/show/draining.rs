//! What is still at a backend that gets nothing new, in words.

use std::time::Duration;

use super::table::short;
use crate::api::Draining;

/// A line for a person.
#[must_use]
pub fn draining(draining: &Draining) -> String {
    let Draining { connections, flows, clients, counted_ms, quiet_ms, .. } = draining;
    let time = |millis: u64| short(Duration::from_millis(millis));
    if draining.over {
        return match draining.ended {
            Some(0) => "the deadline is over: nothing was left".to_owned(),
            Some(ended) => format!("the deadline is over: {ended} ended"),
            None => "the deadline is over: what was left was ended".to_owned(),
        };
    }
    let mut text = match draining.left {
        None => "what is left has not been counted".to_owned(),
        Some(_) if draining.empty => "empty: can be switched off".to_owned(),
        Some(_) => {
            let parts = [
                connections.map(|count| (u64::from(count), "connection")),
                flows.map(|count| (count, "flow")),
                clients.map(|count| (count, "client")).filter(|(count, _)| *count > 0),
            ];
            let plural = |(count, what)| match count {
                1 => format!("1 {what}"),
                _ => format!("{count} {what}s"),
            };
            let parts: Vec<_> = parts.into_iter().flatten().map(plural).collect();
            let mut notes = Vec::new();
            // Connections are those of now.
            if let (None, Some(age)) = (connections, counted_ms) {
                notes.push(format!("counted {} ago", time(*age)));
            }
            if let Some(quiet) = quiet_ms {
                notes.push(format!("last packet {} before", time(*quiet)));
            }
            if draining.silent {
                notes.push("silent ones not counted".to_owned());
            }
            let notes = match notes.is_empty() {
                true => String::new(),
                false => format!(" ({})", notes.join(", ")),
            };
            format!("{} left{notes}", parts.join(" and "))
        }
    };
    if let Some(left) = draining.deadline_in_ms {
        text.push_str(&format!("; the rest ends in {}", time(left)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_reads_as_a_sentence() {
        let none = Draining::default();
        let proxied = |connections| Draining {
            left: Some(u64::from(connections)),
            connections: Some(connections),
            counted_ms: Some(300),
            ..none.clone()
        };
        let kernel = Draining {
            left: Some(13),
            flows: Some(12),
            clients: Some(1),
            counted_ms: Some(2_000),
            quiet_ms: Some(61_000),
            ..none.clone()
        };
        let over = |ended| Draining { over: true, ended, ..none.clone() };
        for (what, text) in [
            (none.clone(), "what is left has not been counted"),
            (proxied(1), "1 connection left"),
            (
                Draining { deadline_in_ms: Some(600_000), ..proxied(3) },
                "3 connections left; the rest ends in 10m0s",
            ),
            (Draining { empty: true, ..proxied(0) }, "empty: can be switched off"),
            (
                kernel.clone(),
                "12 flows and 1 client left (counted 2s ago, last packet 1m1s before)",
            ),
            (
                Draining {
                    left: Some(0),
                    flows: Some(0),
                    clients: Some(0),
                    silent: true,
                    quiet_ms: None,
                    ..kernel
                },
                "0 flows left (counted 2s ago, silent ones not counted)",
            ),
            (over(Some(0)), "the deadline is over: nothing was left"),
            (over(Some(3)), "the deadline is over: 3 ended"),
            (over(None), "the deadline is over: what was left was ended"),
        ] {
            assert_eq!(draining(&what), text, "{what:?}");
        }
    }
}
