//! Reads `[sync]`: how nodes of a group tell each other of connections.

use std::net::{IpAddr, SocketAddr};

use crate::config::carp;
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::raw::{self, At, Names, Read, Report, Spec};
use crate::config::system::System;
use crate::config::{StateSync, vip};

const SYNC: Spec = Spec { name: "sync", title: "[sync]", keys: &["listen", "peers", "key_file"] };

const LISTEN: &str = "\"192.0.2.2:7077\"";
const PEERS: &str = "[\"192.0.2.3:7077\"]";

/// `[sync]`.
pub(super) fn sync(
    roots: &Roots<'_>,
    vips: &Names<IpAddr>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<StateSync>> {
    let Some(table) = roots.one(&SYNC, report)? else { return Ok(None) };
    let listen = table
        .required_text("listen", LISTEN, report)
        .and_then(|text| endpoint("listen", text, vips, report));
    let peers = table.array("peers", report);
    let key = table
        .required_text("key_file", "\"/etc/pen/sync.key\"", report)
        .and_then(|file| carp::key(file, system, report));
    let peers = match peers? {
        Some(At { value: peers, .. }) if !peers.is_empty() => peers,
        _ => return Err(table.lacks("peers", PEERS, report)),
    };
    let mut taken = Names::new("peer");
    let peers: Vec<_> = peers
        .into_iter()
        .map(|element| {
            let text = raw::text(element, "an address such as \"192.0.2.3:7077\"", report)?;
            let peer = endpoint("peers", text, vips, report);
            let At { place, value: peer } = taken.claim(peer, report)?;
            match listen {
                Ok(At { value: listen, .. }) if listen == peer => {
                    Err(report.add(place, ErrorKind::PeerIsSelf { address: peer.ip() }))
                }
                Ok(At { value: listen, .. }) if listen.is_ipv4() != peer.is_ipv4() => {
                    let kind = ErrorKind::SyncFamily { peer: peer.ip(), listen: listen.ip() };
                    Err(report.add(place, kind))
                }
                _ => Ok(peer),
            }
        })
        .collect();
    let peers = peers.into_iter().collect::<Read<_>>();
    Ok(Some(StateSync { listen: listen?.value, peers: peers?, key: key? }))
}

/// An address of a node, which does not move, with a port.
fn endpoint(
    key: &'static str,
    At { place, value: text }: At<&str>,
    vips: &Names<IpAddr>,
    report: &mut Report<'_>,
) -> Read<At<SocketAddr>> {
    let Some(found) = vip::socket_address(text).filter(|found| found.port() != 0) else {
        return Err(report.add(place, ErrorKind::InvalidEndpoint { text: text.to_owned() }));
    };
    let address = vip::usable(place, found.ip(), report)?;
    if let Some(vip) = vips.find(&address) {
        let vip = report.position(vip);
        return Err(report.add(place, ErrorKind::NodeIsVip { key, address, vip }));
    }
    Ok(At { place, value: SocketAddr::new(address, found.port()) })
}
