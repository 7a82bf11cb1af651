//! A node with ucarp's command line: the real one, or `pend carp` in its place. Its scripts add and
//! remove the address, and write down when.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::{
    link::NIC,
    netns::Netns,
    paths::{Scratch, program},
    process::Process,
    wait::wait_until,
};

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Debian's ucarp.
    Ucarp,
    /// `pend carp`.
    Pend,
}

/// A run of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    /// When, in seconds of the wall clock.
    pub at: f64,
    /// `up` or `down`.
    pub which: String,
    /// What it was given.
    pub arguments: Vec<String>,
}

/// A node; ends on drop.
#[derive(Debug)]
pub struct Node {
    process: Process,
    hooks: PathBuf,
    scratch: Scratch,
}

impl Node {
    /// Starts a node of vhid 42 with the password `love`: source, virtual address, and more options.
    pub fn start(
        which: Program,
        netns: &Netns,
        source: &str,
        vip: &str,
        more: &[&str],
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let hooks = scratch.file("hooks");
        let password = scratch.file("password");
        fs::write(&password, "love\n")?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let up = script(&scratch, &hooks, "up", "ip address add $2/24 dev $1")?;
        let down = script(&scratch, &hooks, "down", "ip address del $2/24 dev $1 2>/dev/null")?;
        let mut command = match which {
            Program::Ucarp => netns.command("ucarp"),
            Program::Pend => {
                let mut command = netns.command(program("pend")?);
                command.arg("carp");
                command
            }
        };
        command.args(["-i", NIC, "-s", source, "-v", "42", "-a", vip, "-z", "-f", "none"]);
        command.arg("-o").arg(&password).arg("-u").arg(&up).arg("-d").arg(&down).args(more);
        let name = if which == Program::Ucarp { "ucarp" } else { "pend carp" };
        let process = Process::start(name, command, &scratch.file("log"))?;
        Ok(Self { process: process.with_grace(Duration::from_secs(5)), hooks, scratch })
    }

    /// All runs of its scripts.
    pub fn hooks(&self) -> Vec<Hook> {
        let text = fs::read_to_string(&self.hooks).unwrap_or_default();
        text.split_inclusive('\n').filter_map(hook).collect()
    }

    /// How often a script was run.
    pub fn count(&self, which: &str) -> usize {
        self.hooks().iter().filter(|hook| hook.which == which).count()
    }

    /// Waits until a script has been run so often, and yields that run.
    pub fn wait_hook(&self, limit: Duration, which: &str, times: usize) -> Result<Hook> {
        wait_until(limit, &format!("the script {which} is run {times} times"), || {
            self.hooks().into_iter().filter(|hook| hook.which == which).nth(times - 1)
        })
        .map_err(|error| anyhow!("{error:#}\n{:?}\n{}", self.hooks(), self.log()))
    }

    /// Everything it has said.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// A folder of its own.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

fn script(scratch: &Scratch, hooks: &Path, name: &str, work: &str) -> Result<PathBuf> {
    let file = scratch.file(&format!("{name}.sh"));
    let text =
        format!("#!/bin/sh\n{work}\necho \"$(date +%s.%N) {name} $*\" >>{}\n", hooks.display());
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

fn hook(line: &str) -> Option<Hook> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let at = words.next()?.parse().ok()?;
    let which = words.next()?.to_owned();
    Some(Hook { at, which, arguments: words.map(str::to_owned).collect() })
}
