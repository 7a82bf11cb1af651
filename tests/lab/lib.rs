//! The lab: a small network on one machine, made of network namespaces, real servers and the real
//! daemon.
//!
//! Every test and `cargo xtask run` build the same picture: one switch, and hosts plugged into it.
//! ```text
//!   client .2 ──┐                        ┌── b1 .11   real servers; the VIPs sit on
//!               ├── switch (a bridge) ───┼── b2 .12   their `lo`, silent for ARP
//!  balancer .1 ─┘                        └── b3 .13
//!    (pend)           10.77.0.0/24 and fd77::/64, VIPs .100 and ::100
//! ```
//! Nothing here touches the machine's own interfaces. All waiting is bounded, and whatever was
//! started is stopped on drop, so also when a test panics; what a SIGKILL leaves behind, the next
//! lab removes ([`prune`]).

pub mod capture;
pub mod carp;
pub mod client;
pub mod config;
pub mod decap;
pub mod lab;
pub mod link;
pub mod netns;
pub mod numbers;
pub mod paths;
pub mod pend;
pub mod process;
pub mod prune;
pub mod server;
pub mod wait;

pub use capture::Capture;
pub use config::{ConfigText, Protocol, ServiceText};
pub use decap::Decap;
pub use lab::{Host, Lab, VIP4, VIP6};
pub use netns::Netns;
pub use pend::Pend;
pub use process::{Output, Process};
pub use server::{Agent, Demo, Dnsmasq, Nginx, Smtpd};
pub use wait::wait_until;
