//! `penctl carp`: groups of virtual addresses as text.

use std::fmt::Write;
use std::time::Duration;

use super::table::{Cell, Paint, Style, Table, cell, painted, plain, short};
use crate::api::carp::{CarpOrdered, CarpState};
use crate::api::{CarpGroup, Refusal};

/// `penctl carp`.
#[must_use]
pub fn carp_groups(groups: &[CarpGroup], style: Style) -> String {
    let mut table = Table::new(&[
        "GROUP",
        "VHID",
        "INTERFACE",
        "STATE",
        "SINCE",
        "MASTER",
        "SEEN",
        "INTERVAL",
        "DEMOTION",
        "ADDRESSES",
        "NOTE",
    ]);
    for group in groups {
        let addresses: Vec<_> = group.vips.iter().map(ToString::to_string).collect();
        let (master, seen) = match &group.master {
            Some(master) => {
                (master.address.to_string(), short(Duration::from_millis(master.seen_ms)))
            }
            None if group.state == CarpState::Master => ("this node".to_owned(), "-".to_owned()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row([
            plain(&group.name),
            plain(group.vhid),
            plain(&group.interface),
            state(group),
            plain(short(Duration::from_millis(group.since_ms))),
            plain(master),
            plain(seen),
            plain(micros(group.interval_us)),
            plain(group.demotion),
            plain(addresses.join(",")),
            plain(note(group)),
        ]);
    }
    table.render(style)
}

fn state(group: &CarpGroup) -> Cell {
    match group.state {
        CarpState::Master if group.leaving => cell("leaving", Paint::Odd),
        CarpState::Master => cell("master", Paint::Good),
        CarpState::Backup => cell("backup", Paint::Plain),
        CarpState::Init => cell("init", Paint::Bad),
    }
}

/// What is out of the ordinary.
fn note(group: &CarpGroup) -> String {
    let mut notes = group.faults.clone();
    notes.extend(group.order.map(|order| format!("ordered to {order}")));
    let demoted = group.demoted_by.iter();
    notes.extend(demoted.map(|(reason, weight)| format!("{reason} ({weight})")));
    if notes.is_empty() { "-".to_owned() } else { notes.join("; ") }
}

/// `penctl carp show GROUP`.
#[must_use]
pub fn carp_group(group: &CarpGroup, style: Style) -> String {
    let mut text = carp_groups(std::slice::from_ref(group), style);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("authentication", group.auth.clone());
    line("silence until take-over", micros(group.down_us));
    for (name, time) in [
        ("next advertisement in", group.advert_in_us),
        ("take-over in", group.takeover_in_us),
        ("role ends unless renewed in", group.lease_us),
    ] {
        if let Some(time) = time {
            line(name, micros(time));
        }
    }
    if let Some(name) = &group.sync_group {
        line("moves together with", format!("all of {name}"));
    }
    line("advertisements", format!("{} sent, {} accepted", group.sent, group.received));
    line("neighbours told", format!("{} times", group.announced));
    line("frames not sent", group.send_errors.to_string());
    line("timers served too late", group.late.to_string());
    line("changes of the role", group.transitions.to_string());
    let refused: Vec<_> = group.drops.iter().filter(|(_, count)| **count > 0).collect();
    for (reason, count) in &refused {
        line("refused", format!("{count} {reason}"));
    }
    if refused.is_empty() {
        line("refused", "nothing".to_owned());
    }
    for peer in &group.peers {
        let mut facts = vec![
            format!("heard {} ago", short(Duration::from_millis(peer.seen_ms))),
            format!("interval {}", micros(peer.interval_us)),
        ];
        facts.extend((peer.demotion > 0).then(|| format!("demoted by {}", peer.demotion)));
        facts.extend(peer.key.map(|key| format!("key {key}")));
        facts.extend((peer.same_vips == Some(false)).then(|| "has other addresses".to_owned()));
        facts.extend(
            (peer.same_config == Some(false)).then(|| "has another configuration".to_owned()),
        );
        facts
            .extend((peer.same_name == Some(true)).then(|| "HAS THE NAME OF THIS NODE".to_owned()));
        let odd = peer.same_vips == Some(false)
            || peer.same_config == Some(false)
            || peer.same_name == Some(true);
        let paint = if odd { Paint::Odd } else { Paint::Plain };
        line(
            "peer",
            painted(&cell(format!("{}, {}", peer.address, facts.join(", ")), paint), style),
        );
    }
    text
}

/// Why there is nothing to show.
#[must_use]
pub fn no_such_group(name: &str, groups: &[CarpGroup]) -> Refusal {
    let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
    Refusal {
        error: format!("there is no group `{name}`"),
        cure: match names[..] {
            [] => "the configuration has no [[carp]]".to_owned(),
            _ => format!("there are: {}", names.join(", ")),
        },
    }
}

/// `penctl carp promote`, `demote` and `release`.
#[must_use]
pub fn carp_ordered(ordered: &CarpOrdered) -> String {
    let CarpOrdered { group, order, was, state, dry_run } = ordered;
    let verb = if *dry_run { "would be ordered" } else { "is ordered" };
    let before = was.map_or_else(|| "nothing was ordered".to_owned(), |was| format!("was {was}"));
    format!("{group} ({state}) {verb}: {order} ({before})\n")
}

fn micros(time: u64) -> String {
    humantime::format_duration(Duration::from_micros(time)).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::carp::{CarpMaster, CarpOrder, CarpPeer};

    fn group(state: CarpState) -> CarpGroup {
        CarpGroup {
            name: "main".into(),
            group: 1,
            interface: "eth0".into(),
            vhid: 7,
            vips: vec!["192.0.2.10".parse().expect("literal")],
            auth: "sha256".into(),
            state,
            since_ms: 65_000,
            faults: Vec::new(),
            leaving: false,
            order: None,
            master: None,
            interval_us: 139_062,
            down_us: 400_000,
            advert_in_us: None,
            takeover_in_us: None,
            lease_us: None,
            demotion: 0,
            demoted_by: BTreeMap::new(),
            sync_group: None,
            sent: 3,
            received: 4,
            announced: 1,
            send_errors: 0,
            late: 0,
            transitions: 2,
            drops: BTreeMap::from([("bad-tag".into(), 5), ("replayed".into(), 0)]),
            peers: Vec::new(),
        }
    }

    fn row(group: CarpGroup) -> String {
        let text = carp_groups(&[group], Style::default());
        text.lines().nth(1).expect("a row").to_owned()
    }

    #[test]
    fn a_group_says_who_is_master_and_what_is_out_of_the_ordinary() {
        assert_eq!(
            row(group(CarpState::Master)),
            "main\t7\teth0\tmaster\t1m5s\tthis node\t-\t139ms 62us\t0\t192.0.2.10\t-"
        );
        let master = Some(CarpMaster {
            address: "192.0.2.2".parse().expect("literal"),
            seen_ms: 40,
            interval_us: 100_000,
        });
        let order = Some(CarpOrder::Demote);
        let demoted_by = BTreeMap::from([("interface eth1 is down".to_owned(), 20)]);
        let backup =
            CarpGroup { master, order, demotion: 20, demoted_by, ..group(CarpState::Backup) };
        let text = row(backup);
        assert!(text.contains("\tbackup\t1m5s\t192.0.2.2\t"), "{text}");
        assert!(text.ends_with("\tordered to demote; interface eth1 is down (20)"), "{text}");
        let leaving = CarpGroup { leaving: true, ..group(CarpState::Master) };
        assert!(row(leaving).contains("\tleaving\t"));
        let faults = vec!["eth0 has no carrier".to_owned()];
        let init = row(CarpGroup { faults, ..group(CarpState::Init) });
        assert!(init.contains("\tinit\t") && init.ends_with("\teth0 has no carrier"), "{init}");
    }

    #[test]
    fn everything_about_a_group_has_what_was_refused_and_peers_that_differ() {
        let peer = CarpPeer {
            address: "192.0.2.2".parse().expect("literal"),
            node: Some(1),
            seen_ms: 1000,
            interval_us: 100_000,
            demotion: 3,
            key: Some(2),
            same_vips: Some(false),
            same_config: Some(true),
            same_name: Some(true),
        };
        let lease_us = Some(285_000);
        let text = carp_group(
            &CarpGroup { peers: vec![peer], lease_us, ..group(CarpState::Master) },
            Style::default(),
        );
        for line in [
            "role ends unless renewed in: 285ms",
            "advertisements: 3 sent, 4 accepted",
            "refused: 5 bad-tag",
            "peer: 192.0.2.2, heard 1s ago, interval 100ms, demoted by 3, key 2, has other addresses, \
             HAS THE NAME OF THIS NODE",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing: {text}");
        }
        assert!(!text.contains("replayed"), "{text}");
    }

    #[test]
    fn an_order_says_what_was_ordered_before() {
        let ordered = CarpOrdered {
            group: "main".into(),
            order: CarpOrder::Release,
            was: Some(CarpOrder::Promote),
            state: CarpState::Master,
            dry_run: true,
        };
        let text = carp_ordered(&ordered);
        assert_eq!(text, "main (master) would be ordered: release (was promote)\n");
        let refusal = no_such_group("mian", &[group(CarpState::Backup)]);
        assert_eq!(refusal.to_string(), "there is no group `mian`; there are: main");
    }
}
