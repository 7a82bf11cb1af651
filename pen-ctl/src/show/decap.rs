//! `penctl decap`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::table::{Paint, Style, Table, cell, plain};
use crate::api::Decap;

/// Interfaces, their lists and counters.
#[must_use]
pub fn decap(interfaces: &[Decap], style: Style) -> String {
    let mut table = Table::new(&["INTERFACE", "XDP", "ADDRESSES", "VIPS"]);
    for decap in interfaces {
        let paint = match decap.xdp.as_str() {
            "native" => Paint::Good,
            "generic" => Paint::Odd,
            _ => Paint::Bad,
        };
        table.row([
            plain(&decap.interface),
            cell(&decap.xdp, paint),
            plain(list(&decap.addresses)),
            plain(list(&decap.vips)),
        ]);
    }
    let text = table.render(style) + "\n";
    let mut table = Table::new(&["INTERFACE", "COUNTER", "PACKETS", "BYTES"]);
    for decap in interfaces {
        for counter in &decap.counters {
            table.row([
                plain(&decap.interface),
                plain(&counter.name),
                plain(counter.packets),
                plain(counter.bytes),
            ]);
        }
    }
    text + &table.render(style)
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
