//! End-to-end tests in network namespaces, with real servers. They need root: `cargo xtask test`
//! runs them.
//!
//! Each file is one theme, each test one scenario with a network of its own; [`stage`] builds what
//! most of them start from.
#![cfg(test)]

mod access;
mod bench;
mod bystanders;
mod carp_attacks;
mod carp_clock;
mod carp_groups;
mod carp_machine;
mod carp_net;
mod carp_nodes;
mod carp_own;
mod carp_reload;
mod carp_ucarp;
mod carp_xdp;
mod config;
mod control;
mod crash;
mod decap;
mod docs;
mod downloads;
mod draining;
mod dsr;
mod effort;
mod emergency;
mod explain;
mod health;
mod icmp;
mod judged;
mod jumbo;
mod lab;
mod links;
mod listings;
mod names;
mod nat;
mod neighbours;
mod notify;
mod numbers;
mod operator;
mod output;
mod ports;
mod probe;
mod probes;
mod proxy;
mod reach;
mod readme;
mod reload;
mod signals;
mod stage;
mod start;
mod stop;
mod sync;
mod tls;
mod troubles;
mod tunnel;
mod upgrade;
mod ways;
