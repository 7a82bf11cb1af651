//! Ends forwarding where no daemon runs any more: removes the links and pins that one has left, and
//! the memberships in groups that it made.

use std::path::Path;

use anyhow::Context;
use nix::net::if_::if_indextoname;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::io::dataplane::Leftovers;
use crate::io::netlink::Netlink;

/// What was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detached {
    /// One sentence part each, e.g. `link of eth0 (native)`.
    pub removed: Vec<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// Removes what is left below a folder of pins.
///
/// # Errors
///
/// If a daemon runs with these pins, or the system refuses.
pub async fn run(pins: &Path, dry_run: bool) -> anyhow::Result<Detached> {
    let leftovers = Leftovers::find(pins)?;
    let mut removed = Vec::new();
    for (ifindex, mode) in &leftovers.links {
        removed.push(format!("link of {} ({mode})", name(*ifindex)));
    }
    for folder in &leftovers.folders {
        removed.push(format!("pins in {}", folder.display()));
    }
    let solicited = leftovers.solicited.clone();
    if !dry_run {
        // First of all: what else is removed is of use only while packets are forwarded.
        leftovers.remove()?;
    }
    if !solicited.is_empty() {
        let (events, _nobody) = mpsc::channel(1);
        let (netlink, _) = Netlink::connect(events).context("rtnetlink")?;
        for (ifindex, address) in solicited {
            // In another namespace, or after the interface has gone, there is none.
            if dry_run || netlink.leave_solicited(ifindex, address).await.is_ok() {
                removed.push(format!("solicitations for {address} on {}", name(ifindex)));
            }
        }
    }
    Ok(Detached { removed, dry_run })
}

fn name(ifindex: u32) -> String {
    match if_indextoname(ifindex) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("interface {ifindex}"),
    }
}
