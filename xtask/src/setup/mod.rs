//! `cargo xtask setup`: finds out what this machine lacks and installs it, one line per item. Looking
//! costs milliseconds and keeps no record, so every verb looks again before it relies on anything.

mod apt;
mod compiler;
mod linker;
mod system;
mod version;

use std::fs::{self, File};

use anyhow::{Context as _, Result, bail};

use self::apt::Apt;
pub(crate) use self::compiler::Compiler;
use self::system::Tool;
use crate::cmd;
use crate::progress::{Step, ok_or_failed};

/// The release of cargo-deny that deny.toml was written for.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// What the caller is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compile: the eBPF compiler and its linker.
    Build,
    /// Load programs, and run them between namespaces: all but the tools of `check`.
    Lab,
}

/// What this machine lacks. Empty when all is well.
#[derive(Default)]
struct Missing {
    compiler: bool,
    tools: Vec<&'static Tool>,
    bpffs: bool,
}

impl Missing {
    fn find(need: Need) -> Result<Self> {
        let compiler = compiler::find_complete()?.is_none();
        Ok(match need {
            Need::Build => Self { compiler, ..Self::default() },
            Need::Lab => {
                Self { compiler, tools: system::missing_tools(), bpffs: !system::bpffs_mounted()? }
            }
        })
    }

    fn is_empty(&self) -> bool {
        !self.compiler && self.tools.is_empty() && !self.bpffs
    }
}

/// The verb: everything, for all the other verbs.
pub(crate) fn setup() -> Result<()> {
    let compiler = ensure(Need::Lab)?;
    ensure_check_tools()?;
    println!("setup: complete; eBPF is compiled by {compiler}");
    Ok(())
}

/// Installs what is missing for `need`; says nothing when nothing is.
pub(crate) fn ensure(need: Need) -> Result<Compiler> {
    if !Missing::find(need)?.is_empty() {
        cmd::require_root("setup has to install packages or mount bpffs")?;
        let _lock = lock()?;
        // Looked up again: another setup may have done it while we waited.
        install(&Missing::find(need)?)?;
    }
    if need == Need::Lab {
        system::warn_about_the_kernel();
    }
    compiler::find_complete()?.context("setup ended without an eBPF compiler: this is a bug")
}

/// Installs what only `cargo xtask check` uses. None of it needs root.
pub(crate) fn ensure_check_tools() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        let subcommand = program.trim_start_matches("cargo-");
        if cmd::capture(cmd::cargo().args([subcommand, "--version"])).is_err() {
            let step = Step { name: component, ..slow("a few seconds") };
            step.run_or_fail(cmd::rustup().args(["component", "add", component]))?;
        }
    }
    if cmd::which_cargo_tool("cargo-deny").is_none() {
        let step = Step { name: "cargo-deny, from source", ..slow("5 minutes") };
        step.run_or_fail(cmd::cargo().args(["install", "--locked", CARGO_DENY]))?;
    }
    Ok(())
}

fn install(missing: &Missing) -> Result<()> {
    let mut apt = Apt::find();
    if !missing.tools.is_empty() {
        let Some(apt) = &mut apt else { bail!("{}", system::to_install_by_hand(&missing.tools)) };
        let packages: Vec<&str> = missing.tools.iter().map(|tool| tool.package).collect();
        apt.install(&packages, "half a minute")?;
    }
    if missing.bpffs {
        system::mount_bpffs()?;
    }
    if missing.compiler {
        compiler::install(apt.as_mut())?;
    }
    Ok(())
}

/// The usual kind of step here: slow, and an error when it fails.
fn slow(usually: &str) -> Step<'_> {
    Step { verb: "setup", name: "", usually: Some(usually), limit: None, verdict: ok_or_failed }
}

/// One setup at a time on a machine: two would mount bpffs twice, and wait for each other's apt.
fn lock() -> Result<File> {
    let folder = "/run/lock";
    fs::create_dir_all(folder)?;
    let file = File::create(format!("{folder}/pen-setup"))?;
    file.lock().context("cannot lock /run/lock/pen-setup")?;
    Ok(file)
}
