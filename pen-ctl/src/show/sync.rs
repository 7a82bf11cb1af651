//! `penctl sync`.

use std::fmt::Write;
use std::time::Duration;

use super::table::{Cell, Paint, Style, Table, cell, painted, plain, short};
use crate::api::{Sync, SyncPeer};

/// Peers, and what is wrong.
#[must_use]
pub fn sync(sync: &Sync, style: Style) -> String {
    let mut table = Table::new(&[
        "PEER",
        "ADDRESS",
        "STATE",
        "HEARD",
        "BEHIND",
        "ACK",
        "TOLD",
        "TAKEN",
        "IGNORED",
        "RESENT",
        "LEFT-OUT",
        "REPLAYED",
        "MALFORMED",
    ]);
    for peer in &sync.peers {
        let heard = peer.heard_ms.map_or_else(|| "never".to_owned(), ago);
        table.row([
            plain(name(peer)),
            plain(peer.address),
            cell(&peer.state, paint(peer)),
            plain(heard),
            plain(peer.behind),
            plain(format!("{}ms", peer.ack_ms)),
            plain(peer.told),
            plain(peer.taken),
            plain(peer.ignored),
            plain(peer.resent),
            plain(peer.left_out),
            plain(peer.replayed),
            plain(peer.malformed),
        ]);
    }
    let mut text = table.render(style);
    let mut say = |what: String, paint: Paint| {
        let _ = writeln!(text, "{}", painted(&cell(what, paint), style));
    };
    if let Some(error) = &sync.error {
        say(format!("peers cannot be heard: {error}"), Paint::Bad);
    }
    if !sync.complete {
        say("this node does not know everything yet".to_owned(), Paint::Odd);
    }
    for peer in &sync.peers {
        for what in &peer.differs {
            say(format!("{} has something else than this node: {what}", name(peer)), Paint::Odd);
        }
    }
    if sync.refused > 0 {
        say(format!("{} datagrams were not those of a peer", sync.refused), Paint::Odd);
    }
    if sync.missed > 0 {
        say(format!("{} times records were told late", sync.missed), Paint::Odd);
    }
    text
}

/// A peer in the status.
pub(super) fn line(peer: &SyncPeer) -> Cell {
    let behind = match peer.behind {
        0 => String::new(),
        behind => format!(", {behind} behind, last word {} ms ago", peer.ack_ms),
    };
    cell(format!("peer {} is {}{behind}", name(peer), peer.state), paint(peer))
}

fn name(peer: &SyncPeer) -> String {
    if peer.name.is_empty() { peer.address.to_string() } else { peer.name.clone() }
}

fn paint(peer: &SyncPeer) -> Paint {
    match peer.state.as_str() {
        "up" => Paint::Good,
        "joining" => Paint::Odd,
        _ => Paint::Bad,
    }
}

fn ago(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { short(Duration::from_millis(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SyncPeer {
        SyncPeer {
            address: "192.0.2.3:7077".parse().expect("literal"),
            name: "edge2".to_owned(),
            state: "up".to_owned(),
            heard_ms: Some(120),
            behind: 0,
            ack_ms: 0,
            told: 5,
            taken: 7,
            ignored: 0,
            resent: 1,
            left_out: 0,
            replayed: 0,
            malformed: 0,
            differs: vec!["service web: mode".to_owned()],
        }
    }

    #[test]
    fn peers_are_rows_and_what_is_wrong_are_lines() {
        let shown = sync(
            &Sync {
                error: Some("192.0.2.2:7077: in use".to_owned()),
                complete: false,
                peers: vec![peer()],
                refused: 2,
                missed: 3,
            },
            Style::default(),
        );
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "PEER\tADDRESS\tSTATE\tHEARD\tBEHIND\tACK\tTOLD\tTAKEN\tIGNORED\tRESENT\tLEFT-OUT\
                 \tREPLAYED\tMALFORMED",
                "edge2\t192.0.2.3:7077\tup\t120ms\t0\t0ms\t5\t7\t0\t1\t0\t0\t0",
                "peers cannot be heard: 192.0.2.2:7077: in use",
                "this node does not know everything yet",
                "edge2 has something else than this node: service web: mode",
                "2 datagrams were not those of a peer",
                "3 times records were told late",
            ]
        );
    }

    #[test]
    fn the_status_says_how_far_a_peer_is_behind() {
        let text = |peer: &SyncPeer| painted(&line(peer), Style::default());
        assert_eq!(text(&peer()), "peer edge2 is up");
        let behind = SyncPeer { behind: 12, ack_ms: 40, name: String::new(), ..peer() };
        assert_eq!(text(&behind), "peer 192.0.2.3:7077 is up, 12 behind, last word 40 ms ago");
    }
}
