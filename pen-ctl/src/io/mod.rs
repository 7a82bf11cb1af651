//! The part that does: sockets, maps, netlink, files. No policy here; whatever has to be decided
//! comes as an action of the engine, whatever is learned goes to it as an event. The parts do not
//! know each other; `daemon` connects them.

pub mod answers;
mod anyone;
pub mod carp;
mod cause;
pub mod clock;
pub mod control;
pub mod dataplane;
pub mod decap;
pub mod health;
pub mod names;
pub mod netlink;
pub mod notify;
pub mod privileges;
pub mod process;
mod program;
pub mod proxy;
pub mod store;
pub mod sync;
mod sys;
pub mod syslog;
