//! pen's controller. The daemon `pend` keeps the maps of the XDP program right; `penctl` talks to
//! it. This library holds everything but the parsing of their arguments.
//!
//! # Architecture
//!
//! **Deciding is separate from doing.** [`engine`] decides: synchronous, pure, no clock, no
//! socket. `io` does: sockets, maps, netlink, files; it has no policy. `daemon` connects the two.
//!
//! ```text
//! config.toml --config--> Config --+
//! netlink, probes, control --------+--> engine --> actions --> io --> maps, probes, netlink
//! ```
//!
//! A change of anything goes one way: [`config`] turns text into a [`config::Config`] that can only
//! hold valid values (or into all errors at once); the engine merges it with what it knows and
//! computes the [`engine::tables::Tables`] that the maps should hold; [`engine::tables::diff`]
//! yields the writes in an order that is right for the packets in between.
//!
//! The kernel decides about packets with `pen_common::forward::decide` over the maps; the engine
//! explains with the same function over the same tables.
//!
//! Without the feature `io` only [`config`], [`api`] and [`engine`] are built: the compiler then
//! proves that they touch nothing of the system but files.
// Lifted in `io/sys.rs` only, for system calls that no crate offers safely.
#![deny(unsafe_code)]

pub mod api;
pub mod config;
#[cfg(feature = "io")]
pub mod daemon;
#[cfg(feature = "io")]
pub mod detach;
pub mod engine;
#[cfg(feature = "io")]
pub mod io;
pub mod show;
