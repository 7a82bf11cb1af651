//! Whether a process has ended: gone, or a zombie, which has closed all that it had open.

use std::fs;

/// Whether a process of our namespace runs.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !matches!(state(&stat), Some('Z' | 'X')),
        Err(_) => false,
    }
}

/// `4711 (name) S 1 …` (proc_pid_stat(5)); the name may hold anything, also parentheses.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_name_whatever_that_is() {
        assert_eq!(state("4711 (pend) S 1 4711"), Some('S'));
        assert_eq!(state("4711 (a) Z (b)) R 1"), Some('R'));
        assert_eq!(state("4711"), None);
    }

    #[test]
    fn a_zombie_and_one_that_is_gone_have_ended() {
        assert!(is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let pid = child.id();
        // It becomes a zombie, for nobody waits for it.
        while is_running(pid) {
            std::thread::yield_now();
        }
        child.wait().expect("it has ended");
        assert!(!is_running(pid));
    }
}
