//! What a proxy takes of the machine, by the kernel's own books: processor time and memory of a
//! process and of all that descend from it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Clock ticks per second in /proc, on every architecture that pen is for (proc(5), `CLK_TCK`).
const TICKS: u32 = 100;

/// Time that a process tree has had, in userspace and in the kernel for it, all threads.
pub(crate) fn cpu(root: u32) -> Result<Duration> {
    let mut ticks = 0;
    for pid in tree(root) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        ticks += ticks_of(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))?;
    }
    Ok(Duration::from_secs(1) * ticks / TICKS)
}

/// Bytes of memory in userspace of a process tree; shared pages count in parts (proc(5), `Pss`).
pub(crate) fn memory(root: u32) -> Result<f64> {
    let mut kib = 0;
    for pid in tree(root) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        kib += pss_of(&rollup).with_context(|| format!("/proc/{pid}/smaps_rollup"))?;
    }
    Ok(f64::from(kib) * 1024.0)
}

/// Lets this process, and those that it starts, have so many open files.
pub(crate) fn allow_descriptors(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
            .with_context(|| format!("cannot have {wanted} open files"))?;
    }
    Ok(())
}

/// utime and stime, fields 14 and 15. The name before them may have spaces and parentheses.
fn ticks_of(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn pss_of(rollup: &str) -> Option<u32> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        // A process that has gone has no children.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 3 0 99 1 1";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("7 (a) S"), None);
    }

    #[test]
    fn memory_is_the_share_of_the_process() {
        assert_eq!(pss_of("Rss: 9 kB\nPss:      1234 kB\nPss_Dirty: 1 kB\n"), Some(1234));
        assert!(memory(std::process::id()).unwrap() > 0.0);
    }
}
