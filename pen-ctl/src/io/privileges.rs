//! Finds out before anything is touched whether this process may do what it has to, so that the
//! operator reads one line instead of an error number.

use std::fmt;
use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Bits of `/proc/self/status`, `CapEff` (capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A capability.
    Capability(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Capability(name) = self;
        write!(f, "missing capability {name}: run as root, or give it with AmbientCapabilities=")
    }
}

/// Checks this process.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check() -> Result<(), Missing> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective(&status) {
        Some(set) => require(set),
        // Without /proc nothing can be said; the first system call will tell.
        None => Ok(()),
    }
}

/// Checks a process that only takes part in CARP.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check_carp() -> Result<(), Missing> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective(&status) {
        // It loads no program.
        Some(set) => require(set | 1 << CAP_BPF),
        None => Ok(()),
    }
}

/// Whether this process may keep all its memory from being swapped out. Who tries it without, and
/// succeeds because it is still small, gets no more memory later.
#[must_use]
pub fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let unlimited =
        getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    unlimited || effective(&status).is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn require(set: u64) -> Result<(), Missing> {
    let has = |bit: u32| set >> bit & 1 == 1;
    if !has(CAP_NET_ADMIN) {
        return Err(Missing::Capability("CAP_NET_ADMIN"));
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        return Err(Missing::Capability("CAP_BPF"));
    }
    if !has(CAP_NET_RAW) {
        return Err(Missing::Capability("CAP_NET_RAW"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_all_and_a_user_misses_the_first() {
        let status = "Name:\tpend\nCapEff:\t000001ffffffffff\n";
        assert_eq!(require(effective(status).expect("a set")), Ok(()));
        assert_eq!(require(0), Err(Missing::Capability("CAP_NET_ADMIN")));
    }

    #[test]
    fn each_capability_is_named() {
        let all = 1 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_NET_RAW;
        assert_eq!(require(all), Ok(()));
        assert_eq!(require(all & !(1 << CAP_BPF)), Err(Missing::Capability("CAP_BPF")));
        assert_eq!(require(all & !(1 << CAP_NET_RAW)), Err(Missing::Capability("CAP_NET_RAW")));
        assert_eq!(require(all & !(1 << CAP_BPF) | 1 << CAP_SYS_ADMIN), Ok(()));
    }

    #[test]
    fn a_status_without_the_line_says_nothing() {
        assert_eq!(effective("Name:\tpend\n"), None);
    }
}
