//! `penctl reload` and `penctl diff`: one line for each difference.

use super::table::{Paint, Style, cell, painted};
use crate::api::{ChangeKind, Changes, ConfigChange};

/// All differences, and what was done with them.
#[must_use]
pub fn changes(changes: &Changes, style: Style) -> String {
    let mut text = String::new();
    for change in &changes.changes {
        let paint = match change.kind {
            ChangeKind::Added => Paint::Good,
            ChangeKind::Removed => Paint::Bad,
            ChangeKind::Changed => Paint::Odd,
        };
        text.push_str(&painted(&cell(line(change), paint), style));
        text.push('\n');
    }
    text.push_str(match (changes.changes.is_empty(), changes.dry_run) {
        (true, _) => "nothing changed in the configuration\n",
        (false, true) => "nothing was done yet: `penctl reload` does it\n",
        (false, false) => "done\n",
    });
    text
}

/// The same for the log.
#[must_use]
pub fn change_lines(changes: &Changes) -> Vec<String> {
    changes.changes.iter().map(line).collect()
}

fn line(change: &ConfigChange) -> String {
    let ConfigChange { subject, was, now, .. } = change;
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut line = match (change.kind, &change.key) {
        (ChangeKind::Added, _) => format!("+ {subject}: {}", value(now)),
        (ChangeKind::Removed, _) => format!("- {subject}: {}", value(was)),
        (ChangeKind::Changed, key) => {
            let key = value(key);
            match (was, now) {
                (Some(was), Some(now)) => format!("~ {subject}: {key} {was} -> {now}"),
                (Some(was), None) => format!("~ {subject}: {key} without {was}"),
                (None, now) => format!("~ {subject}: {key} with {}", value(now)),
            }
        }
    };
    if change.moves_flows {
        line.push_str(match change.kind {
            ChangeKind::Removed => " (its connections end)",
            ChangeKind::Added | ChangeKind::Changed => " (its connections may move or end)",
        });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, key: Option<&str>, was: &str, now: &str) -> ConfigChange {
        let value = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let subject = "service web".to_owned();
        let key = key.map(str::to_owned);
        ConfigChange { kind, subject, key, was: value(was), now: value(now), moves_flows: false }
    }

    #[test]
    fn each_change_is_a_line_of_its_own() {
        use ChangeKind::{Added, Changed, Removed};
        let vital = ConfigChange {
            moves_flows: true,
            ..change(Changed, Some("affinity"), "client", "flow")
        };
        let all = Changes {
            changes: vec![
                change(Added, None, "", "192.0.2.10:80/tcp"),
                ConfigChange { moves_flows: true, ..change(Removed, None, "mode dsr", "") },
                vital,
                change(Changed, Some("allow"), "10.0.0.0/8", ""),
                change(Changed, Some("allow"), "", "10.0.0.0/9"),
            ],
            dry_run: true,
        };
        assert_eq!(
            changes(&all, Style::default()).lines().collect::<Vec<_>>(),
            [
                "+ service web: 192.0.2.10:80/tcp",
                "- service web: mode dsr (its connections end)",
                "~ service web: affinity client -> flow (its connections may move or end)",
                "~ service web: allow without 10.0.0.0/8",
                "~ service web: allow with 10.0.0.0/9",
                "nothing was done yet: `penctl reload` does it",
            ]
        );
        let colour = Style { aligned: true, colour: true };
        assert!(changes(&all, colour).starts_with("\x1b[32m+ service web"));
    }

    #[test]
    fn the_end_says_whether_something_was_done() {
        let none = Changes { changes: vec![], dry_run: true };
        let text = changes(&none, Style::default());
        assert_eq!(text, "nothing changed in the configuration\n");
        let added = change(ChangeKind::Added, None, "", "mode dsr");
        let done = Changes { changes: vec![added], dry_run: false };
        assert!(changes(&done, Style::default()).ends_with("\ndone\n"));
    }
}
