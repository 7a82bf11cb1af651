//! The control interface: HTTP/1.1 with JSON on a Unix socket. [`server`] is the daemon's half,
//! [`client`] that of `penctl`; `route` is the one place that knows paths.

pub mod client;
mod query;
mod route;
pub mod server;
