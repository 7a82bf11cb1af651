//! The groups of virtual addresses, for people. Of passwords and keys only that they changed is told.

use std::fmt::Display;
use std::path::PathBuf;

use super::{Field, Id, Item, field, maybe};
use crate::api::{ChangeKind, ConfigChange};
use crate::config::{Carp, CarpAuth, CarpTransport, Config};

pub(super) fn group(group: &Carp) -> Item {
    let (advbase, skew) = (humantime::format_duration(group.advbase), group.advskew);
    let auth = group.auth.name();
    let path = |path: &Option<PathBuf>| maybe(path.as_ref().map(|path| path.display()));
    let (transport, multicast) = match &group.transport {
        CarpTransport::Multicast { group } => ("multicast", maybe(Some(group))),
        CarpTransport::Broadcast { group } => ("broadcast", maybe(Some(group))),
        CarpTransport::Unicast { .. } => ("unicast", maybe(None::<String>)),
    };
    let demotion = &group.demotion;
    let mut fields = vec![
        field("interface", &group.interface),
        field("vhid", group.vhid),
        field("advbase", advbase),
        field("advskew", skew),
        field("deadratio", group.deadratio),
        field("preempt", group.preempt),
        field("preempt_delay", humantime::format_duration(group.preempt_delay)),
        field("neutral", group.neutral),
        field("auth", auth),
        field("transport", transport),
        field("group", multicast),
        list("peers", &group.peers),
        list("source", &group.sources),
        field("mac", group.mac),
        field("tie_break", group.tie_break),
        field("ignore_link", group.ignore_link),
        field("sync_group", maybe(group.sync_group.as_ref())),
        field("announce_refresh", maybe(group.announce_refresh.map(humantime::format_duration))),
        field("up", path(&group.hooks.up)),
        field("down", path(&group.hooks.down)),
        field("xparam", maybe(group.hooks.xparam.as_ref())),
        field("down_at_exit", group.hooks.down_at_exit),
        field("addresses", group.addresses),
        field("demote_on no_backend", demotion.no_backend),
        field("demote_on xdp_detached", demotion.xdp_detached),
        field("demote_on sync_incomplete", demotion.sync_incomplete),
    ];
    let tracked = demotion.interfaces.iter().map(|(name, weight)| format!("{name} ({weight})"));
    fields.push(list("demote_on interface", &tracked.collect::<Vec<_>>()));
    if let CarpAuth::Sha256 { keys, active, accept, legacy_peers, .. } = &group.auth {
        let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
        fields.push(list("keys", &ids));
        fields.push(field("active_key", active));
        fields.push(field("accept", accept));
        fields.push(list("legacy_peers", legacy_peers));
    }
    Item {
        id: Id::Group(group.name.clone()),
        subject: format!("carp {}", group.name),
        summary: format!("vhid {} on {}, auth {auth}", group.vhid, group.interface),
        fields,
    }
}

/// Groups whose passwords or keys are others.
pub(super) fn secrets(old: &Config, new: &Config) -> Vec<ConfigChange> {
    let mut changes = Vec::new();
    for group in &new.carp {
        let before = old.carp.iter().find(|before| before.name == group.name);
        if before.is_some_and(|before| secret(&before.auth) != secret(&group.auth)) {
            changes.push(ConfigChange {
                kind: ChangeKind::Changed,
                subject: format!("carp {}", group.name),
                key: Some("secret".to_owned()),
                was: Some("one".to_owned()),
                now: Some("another one".to_owned()),
                moves_flows: false,
            });
        }
    }
    changes
}

fn secret(auth: &CarpAuth) -> Vec<&[u8]> {
    match auth {
        CarpAuth::Ucarp { password } | CarpAuth::Bsd { password } => vec![&password.0],
        CarpAuth::Sha256 { password, keys, .. } => {
            let password = password.iter().map(|password| &*password.0);
            password.chain(keys.iter().map(|key| &*key.secret.0)).collect()
        }
    }
}

fn list(key: &'static str, values: &[impl Display]) -> Field {
    let values = values.iter().map(ToString::to_string).collect();
    Field { key, values, moves_flows: false }
}
