//! `penctl backends SERVICE/BACKEND`.

use std::time::Duration;

use super::draining;
use super::table::{Paint, Style, Table, cell, plain, short};
use crate::api::Probes;

/// How the last probes of a backend ended, newest first.
#[must_use]
pub fn probes(probes: &Probes, style: Style) -> String {
    let Probes { subject, check, health, signals, results, draining: left } = probes;
    let mut table = Table::new(&["AGO", "TOOK", "RESULT"]);
    for probe in results {
        let (result, paint) = match &probe.error {
            None => ("ok", Paint::Good),
            Some(error) => (error.as_str(), Paint::Bad),
        };
        table.row([
            plain(short(Duration::from_millis(probe.ago_ms))),
            plain(took(probe.took_us)),
            cell(result, paint),
        ]);
    }
    let signals = signals.map_or_else(String::new, |signals| format!("signals: {signals}\n"));
    let left = left.as_ref().map_or_else(String::new, |left| format!("{}\n", draining(left)));
    let table = table.render(style);
    format!("{subject} is {health}, checked by {check}\n{signals}{left}\n{table}")
}

/// In milliseconds, as `ping` tells it.
fn took(micros: u64) -> String {
    format!("{}.{:03}ms", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Health, Probe, Signals};

    #[test]
    fn results_are_listed_with_their_times() {
        let results = vec![
            Probe { ago_ms: 300, took_us: 100_000, error: Some("connection refused".to_owned()) },
            Probe { ago_ms: 1300, took_us: 1042, error: None },
        ];
        let shown = probes(
            &Probes {
                subject: "web/b1".to_owned(),
                check: "http GET / expecting 200-399".to_owned(),
                health: Health::Up,
                signals: Some(Signals { refused: 12, unreachable: 1, ..Signals::default() }),
                results,
                draining: None,
            },
            Style { colour: false, aligned: false },
        );
        assert_eq!(
            shown,
            "web/b1 is up, checked by http GET / expecting 200-399\n\
             signals: 12 refused, 1 unreachable\n\nAGO\tTOOK\tRESULT\n\
             300ms\t100.000ms\tconnection refused\n1s\t1.042ms\tok\n"
        );
    }
}
