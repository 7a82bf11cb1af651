//! Receivers of events in words.

use super::{Field, Id, Item, field};
use crate::api::{ChangeKind, ConfigChange};
use crate::config::{Config, Notify, To};

pub(super) fn receiver(notify: &Notify) -> Item {
    let events = notify.events.clone().unwrap_or_else(|| vec!["warnings".to_owned()]);
    Item {
        id: Id::Notify(notify.name.clone()),
        subject: format!("notify {}", notify.name),
        summary: notify.to.to_string(),
        fields: vec![
            field("to", &notify.to),
            Field { key: "events", values: events, moves_flows: false },
            field("rate_limit", notify.rate_limit),
            field("timeout", humantime::format_duration(notify.timeout)),
        ],
    }
}

/// Webhooks of which only the path is another one: there may be a secret in it, so that it is not
/// shown.
pub(super) fn paths(old: &Config, new: &Config) -> Vec<ConfigChange> {
    let is_other = |notify: &&Notify| {
        let before = old.notify.iter().find(|before| before.name == notify.name);
        match (before.map(|before| &before.to), &notify.to) {
            (Some(To::Webhook(before)), To::Webhook(after)) => before.path != after.path,
            _ => false,
        }
    };
    let change = |notify: &Notify| ConfigChange {
        kind: ChangeKind::Changed,
        subject: format!("notify {}", notify.name),
        key: Some("path".to_owned()),
        was: Some("one".to_owned()),
        now: Some("another one".to_owned()),
        moves_flows: false,
    };
    new.notify.iter().filter(is_other).map(change).collect()
}
