//! End-to-end tests in network namespaces, with real servers. They need root: `cargo xtask test`
//! runs them.

mod lab;
mod readme;
