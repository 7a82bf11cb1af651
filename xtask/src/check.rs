//! `cargo xtask check`: all that can be judged without root and without running pen. Every step runs
//! even if one before it failed, and shows its output only if it failed itself.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cmd;
use crate::progress::{self, Finished, Step, now, ok_or_failed, seconds};
use crate::setup;
use crate::workspace::workspace;

/// The advisory database comes from outside; without a network that can take its time to fail.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

struct Check {
    name: &'static str,
    command: Command,
}

pub(crate) fn check() -> Result<()> {
    let begin = now();
    setup::ensure_check_tools()?;
    let root = &workspace()?.root;

    let mut failures = Vec::new();
    for Check { name, mut command } in checks(root) {
        let step = Step { verb: "check", name, usually: None, limit: None, verdict: ok_or_failed };
        let finished = step.run(&mut command)?;
        if !finished.success {
            failures.push((name, cmd::describe(&command), finished.output));
        }
    }
    let mut advisories = cargo(root, "deny check advisories");
    let finished = check_advisories(&mut advisories)?;
    if !finished.success && !is_offline(&finished) {
        failures.push(("advisories", cmd::describe(&advisories), finished.output));
    }

    for (name, command, output) in &failures {
        println!("\n==== {name} failed: {command}\n{}", output.trim_end());
    }
    let time = seconds(begin.elapsed());
    if failures.is_empty() {
        println!("check: all passed ({time})");
        return Ok(());
    }
    let names: Vec<&str> = failures.iter().map(|(name, ..)| *name).collect();
    bail!("check failed: {} ({time})", names.join(", "))
}

/// The quick ones first: who waits for the result wants to know early.
fn checks(root: &Path) -> Vec<Check> {
    let check = |name, line| Check { name, command: cargo(root, line) };
    let mut checks = vec![
        check("format", "fmt --all --check"),
        check("licences, bans, sources", "deny check bans licenses sources"),
        check("engine without io", "check --package pen-ctl --no-default-features"),
        check(
            "clippy",
            "clippy --workspace --exclude pen-ebpf --all-targets --no-deps -- -D warnings",
        ),
        // Alone, or cargo would unify its features with userspace's; and for the host, because no
        // clippy comes with a compiler that has `core` for BPF. Nothing is linked, so that works.
        check("clippy of pen-ebpf", "clippy --package pen-ebpf --bins --no-deps -- -D warnings"),
        check("unit tests", "test --no-fail-fast"),
        check("docs", "doc --workspace --exclude pen-ebpf --no-deps --document-private-items"),
    ];
    for check in &mut checks {
        match check.name {
            // The host would want an unwinding panic handler of a program without std.
            "clippy of pen-ebpf" => check.command.env("CARGO_PROFILE_DEV_PANIC", "abort"),
            "docs" => check.command.env("RUSTDOCFLAGS", "-D warnings"),
            _ => &mut check.command,
        };
    }
    checks
}

fn cargo(root: &Path, line: &str) -> Command {
    let mut cargo = cmd::cargo();
    cargo.current_dir(root).args(line.split(' '));
    if io::stdout().is_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    } else {
        // rustfmt goes by this alone, whether or not it writes to a terminal.
        cargo.env("TERM", "dumb");
    }
    cargo
}

/// A found advisory is an error; a database that cannot be had is not: nobody could work offline.
fn check_advisories(command: &mut Command) -> Result<Finished> {
    let verdict = |finished: &Finished| {
        if is_offline(finished) {
            "skipped: warning: cannot fetch the advisory database"
        } else {
            ok_or_failed(finished)
        }
    };
    let limit = Some(FETCH_LIMIT);
    Step { verb: "check", name: "advisories", usually: None, limit, verdict }.run(command)
}

fn is_offline(finished: &Finished) -> bool {
    let Finished { success, output } = finished;
    !success
        && (output.contains("failed to fetch advisory database")
            || output.contains(progress::GAVE_UP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_database_excuses_the_advisories() {
        for (success, output, offline) in [
            (false, "[ERROR] failed to fetch advisory database https://...", true),
            (false, progress::GAVE_UP, true),
            (false, "error[vulnerability]: use after free", false),
            (true, "advisories ok", false),
        ] {
            let finished = Finished { success, output: output.to_owned() };
            assert_eq!(is_offline(&finished), offline, "{output}");
        }
    }

    #[test]
    fn every_cargo_line_names_a_subcommand_first() {
        for check in checks(Path::new("/")) {
            let first = check.command.get_args().next().expect("has arguments");
            assert!(!first.to_string_lossy().starts_with('-'), "{}", check.name);
        }
    }
}
