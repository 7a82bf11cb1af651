//! Removes what a killed run could not: namespaces with their processes, pinned maps and scratch
//! folders.
//!
//! Only things whose name carries the pid of a process that no longer lives are touched; see
//! [`crate::paths`].

use std::{
    fs,
    path::Path,
    process::{self, Command},
    sync::Once,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    paths::{BPFFS, SCRATCH, owner},
    process::run_ok,
};

pub(crate) const NAMESPACES: &str = "/run/netns";

/// Does it, and says what was removed. Whatever cannot be removed is left for the next time.
pub fn prune() -> Vec<String> {
    let mut removed = Vec::new();
    for name in orphans(NAMESPACES) {
        remove_namespace(&name);
        removed.push(format!("namespace {name}"));
    }
    for place in [BPFFS, SCRATCH] {
        for name in orphans(place) {
            let path = Path::new(place).join(name);
            if fs::remove_dir_all(&path).is_ok() {
                removed.push(format!("folder {}", path.display()));
            }
        }
    }
    removed
}

/// As [`prune`], the first time it is called in this process.
pub(crate) fn prune_once() {
    static PRUNED: Once = Once::new();
    PRUNED.call_once(|| drop(prune()));
}

/// Ends whatever still runs in a namespace of ours, then deletes it.
pub(crate) fn remove_namespace(name: &str) {
    let pids = run_ok(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if pid.unsigned_abs() != process::id() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    // Called from drops: another run may have pruned it already, and there is nobody to tell.
    let _ = run_ok(Command::new("ip").args(["netns", "del", name]));
}

fn orphans(place: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_of_a_dead_process_is_removed_and_that_of_a_living_one_kept() {
        // Above the largest pid that Linux ever gives out (2^22).
        let dead = Path::new(SCRATCH).join("pen-lab-4999999-0");
        let alive = crate::paths::Scratch::new().unwrap();
        fs::create_dir_all(&dead).unwrap();
        prune();
        assert!(!dead.exists());
        assert!(alive.path().exists());
    }
}
