//! The real daemon in a namespace, and penctl talking to it.
//!
//! Each one has its own configuration, socket, log and folder of pinned maps, so that several can
//! run side by side, and so that a crash (`kill9`) and a restart meet the same pins as on a real
//! router.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    config::ConfigText,
    netns::Netns,
    paths::{BPFFS, Scratch, program, unique},
    process::{Output, Process, SHORT, run, run_ok},
    wait::wait_until,
};

/// How long the daemon may take to leave.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may take to be replaced.
const REPLACED: Duration = Duration::from_secs(10);
/// How many lines of its log an error shows.
const LOG_TAIL: usize = 30;

/// A daemon, running or not. Dropping it stops it and removes its pins.
#[derive(Debug)]
pub struct Pend {
    process: Option<Process>,
    netns: Netns,
    pins: PathBuf,
    /// The pins belong to another one, which removes them.
    foreign_pins: bool,
    config: PathBuf,
    socket: PathBuf,
    wrapper: Vec<String>,
    args: Vec<String>,
    scratch: Scratch,
}

impl Pend {
    /// Starts the daemon; whether it gets up is for [`Pend::wait_ready`].
    pub fn start(netns: &Netns, config: &ConfigText) -> Result<Self> {
        Self::start_with(netns, config, &[])
    }

    /// Starts it with more arguments.
    pub fn start_with(netns: &Netns, config: &ConfigText, args: &[&str]) -> Result<Self> {
        let mut pend = Self::prepare(netns)?.with_args(args);
        pend.write_config(&config.render(Some(&pend.socket)))?;
        pend.launch()?;
        Ok(pend)
    }

    /// Everything but the start, for those who change something before [`Pend::launch`].
    pub fn prepare(netns: &Netns) -> Result<Self> {
        mount_bpffs()?;
        let scratch = Scratch::new()?;
        Ok(Self {
            process: None,
            netns: netns.clone(),
            pins: Path::new(BPFFS).join(unique("pen-lab")),
            foreign_pins: false,
            config: scratch.file("pen.toml"),
            socket: scratch.file("pend.sock"),
            wrapper: Vec::new(),
            args: Vec::new(),
            scratch,
        })
    }

    /// Keeps the configuration somewhere else, where it survives.
    pub fn config_at(mut self, config: PathBuf) -> Self {
        self.config = config;
        self
    }

    /// Starts it with more arguments from now on.
    pub fn with_args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// Starts it through another program, for example `setpriv`, from now on.
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Uses the pins of another one.
    pub fn pins_of(mut self, other: &Self) -> Self {
        other.pins.clone_into(&mut self.pins);
        self.foreign_pins = true;
        self
    }

    /// Writes the configuration file; a running daemon reads it with `penctl reload`.
    pub fn write_config(&self, text: &str) -> Result<()> {
        fs::write(&self.config, text)
            .with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Starts the daemon with the configuration as it is.
    pub fn launch(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("pend already runs");
        }
        self.process = Some(self.spawn(&[])?);
        Ok(())
    }

    fn spawn(&self, more: &[&str]) -> Result<Process> {
        let mut words = self.wrapper.iter().map(Into::into).chain([program("pend")?]);
        let mut command = self.netns.command(words.next().context("there is at least pend")?);
        command.args(words);
        command.arg("--config").arg(&self.config).arg("--pins").arg(&self.pins);
        command.arg("--state").arg(self.scratch.file("state")).args(&self.args);
        command.args(more);
        let process = Process::start("pend", command, &self.scratch.file("pend.log"))?;
        Ok(process.with_grace(GRACE))
    }

    /// Starts another one that takes over from this one; yields how this one ended.
    pub fn replace(&mut self) -> Result<ExitStatus> {
        self.overtake()?.wait(REPLACED)
    }

    /// Starts another one that takes over from this one, and waits until it has; yields this one,
    /// which may go on for a while.
    pub fn overtake(&mut self) -> Result<Process> {
        let old = self.process.take().context("pend does not run")?;
        self.process = Some(self.spawn(&["--replace"])?);
        let answers = || {
            let status = self.penctl_json(["status"]).ok()?;
            (status["pid"].as_u64() == self.pid().map(u64::from)).then_some(())
        };
        wait_until(REPLACED, "the new pend answers", answers)?;
        Ok(old)
    }

    /// Lets it leave the kernel forwarding; yields how it ended.
    pub fn leave(&mut self) -> Result<ExitStatus> {
        let output = self.penctl(["leave"])?;
        if !output.status.success() {
            bail!("penctl leave: {}: {}", output.status, output.stderr.trim_end());
        }
        self.wait_end()
    }

    /// Makes its pins those of another version of pen, as far as anybody can tell.
    pub fn age_pins(&self, from: u32, to: u32) -> Result<()> {
        let folder = |version: u32| self.pins.join(format!("v{version}"));
        fs::rename(folder(from), folder(to)).context("cannot rename the folder of the pins")
    }

    /// Waits until the daemon answers and at least `usable` backends, counted over all services,
    /// can be used.
    pub fn wait_ready(&mut self, usable: usize) -> Result<()> {
        let mut last = String::from("no answer yet");
        let waited = wait_until(Duration::from_secs(10), "pend is ready", || {
            if let Some(status) = self.process.as_mut().and_then(Process::exit_status) {
                return Some(Err(anyhow!("pend ended: {status}")));
            }
            match self.penctl_json(["status"]).and_then(|_| self.usable_backends()) {
                Ok(count) if count >= usable => return Some(Ok(())),
                Ok(count) => last = format!("{count} of {usable} backends are usable"),
                Err(error) => last = format!("{error:#}"),
            }
            None
        });
        waited.flatten().map_err(|error| self.with_log(&error.context(last)))
    }

    /// How many backends can be used, counted over all services.
    pub fn usable_backends(&self) -> Result<usize> {
        let rows = self.penctl_json(["backends"])?;
        let rows = rows.as_array().context("penctl backends: not a list")?;
        Ok(rows.iter().filter(|row| row["usable"] == true).count())
    }

    /// The row of one backend from `penctl backends`.
    pub fn backend(&self, service: &str, name: &str) -> Result<Value> {
        let rows = self.penctl_json(["backends"])?;
        let mut rows = rows.as_array().into_iter().flatten();
        rows.find(|row| row["service"] == service && row["name"] == name)
            .cloned()
            .with_context(|| format!("penctl knows no backend {service}/{name}"))
    }

    /// Waits until a backend's `health` reads "up", "down" …, and yields its row.
    pub fn wait_health(&self, service: &str, name: &str, health: &str) -> Result<Value> {
        let what = format!("{service}/{name} is {health}");
        wait_until(SHORT, &what, || {
            self.backend(service, name).ok().filter(|row| row["health"] == health)
        })
        .map_err(|error| self.with_log(&error))
    }

    /// The texts of all events of a kind, oldest first.
    pub fn events(&self, kind: &str) -> Result<Vec<String>> {
        let rows = self.penctl_json(["events"])?;
        let rows = rows.as_array().into_iter().flatten().filter(|row| row["kind"] == kind);
        Ok(rows.filter_map(|row| row["text"].as_str().map(str::to_owned)).collect())
    }

    /// How many packets a counter of `penctl counters` has seen; 0 for one that is not listed.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let rows = self.penctl_json(["counters"])?;
        let mut rows = rows.as_array().into_iter().flatten();
        Ok(rows
            .find(|row| row["name"] == name)
            .and_then(|row| row["packets"].as_u64())
            .unwrap_or(0))
    }

    /// Runs penctl against this daemon.
    pub fn penctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        let mut command = Command::new(program("penctl")?);
        command.arg("--socket").arg(&self.socket).args(args);
        run(&mut command, SHORT)
    }

    /// Runs `penctl --json`, which has to succeed.
    pub fn penctl_json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Value> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output =
            self.penctl([OsStr::new("--json")].into_iter().chain(args.iter().map(OsStr::new)))?;
        if !output.status.success() {
            bail!("penctl {args:?}: {}: {}", output.status, output.stderr.trim_end());
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("penctl {args:?}: not JSON: {}", output.stdout))
    }

    /// Kills it as a crash would; the pins stay, and so does forwarding.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().context("pend does not run")?.kill9()
    }

    /// Asks it to leave, and waits; an end by another signal is an error.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end_with(Signal::SIGTERM)
    }

    /// As [`Pend::terminate`], with a signal that means the same.
    pub fn end_with(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait_end()
    }

    /// Waits for an end that it comes to by itself; that by a signal's default action is an error.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("pend does not run")?;
        let status = process.wait(GRACE)?;
        match status.signal() {
            Some(signal) => Err(anyhow!("pend was ended by signal {signal}:\n{}", process.log())),
            None => Ok(status),
        }
    }

    /// Stops it in order and starts it again with the same configuration and pins.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.launch()
    }

    /// Sends a signal, for example SIGHUP.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("pend does not run")?.signal(signal)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Everything it has said, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.file("pend.log")).unwrap_or_default()
    }

    /// An error together with the last that the daemon has said.
    pub fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        let counters = self.penctl(["counters"]).map(|output| output.stdout).unwrap_or_default();
        anyhow!("{error:#}\npend said:\n{last}\n{counters}")
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The folder of its pinned maps.
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}

impl Drop for Pend {
    fn drop(&mut self) {
        // First the daemon, then its pins: it would complain about maps that go while it runs.
        self.process = None;
        // After an orderly end there is nothing to remove.
        if !self.foreign_pins {
            let _ = fs::remove_dir_all(&self.pins);
        }
    }
}

/// Pins need a BPF file system. Mounted at most once: a second mount would hide the first one's
/// pins.
pub fn mount_bpffs() -> Result<()> {
    // Tests run side by side; only one of them may find it missing.
    let lock = fs::File::create(Path::new("/run").join("pen-lab.lock"))?;
    lock.lock()?;
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    run_ok(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    Ok(())
}
