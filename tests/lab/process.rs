//! Child processes: short ones that are waited for with a bound, and servers that run until they
//! are dropped.
//!
//! A server leads its own process group: the terminal's Ctrl-C reaches only the lab, which then
//! stops things in order, and a kill takes a server's workers along.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::wait::{Stopwatch, wait_always};

/// How long a short command may take, unless told otherwise.
pub const SHORT: Duration = Duration::from_secs(10);

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a command to its end, or kills it after `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let started = Stopwatch::start();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());

    // Both pipes close when the command ends, so this wakes up without polling.
    let left = |started: &Stopwatch| limit.saturating_sub(started.elapsed());
    let stdout = stdout.recv_timeout(left(&started)).unwrap_or_default();
    let stderr = stderr.recv_timeout(left(&started)).unwrap_or_default();
    let Some(status) = wait_always(left(&started), || child.try_wait().transpose()) else {
        // Already gone is as good as killed.
        let _ = child.kill();
        let _ = child.wait();
        bail!("{command:?} did not end within {limit:?}: {}", stderr.trim_end());
    };
    Ok(Output { status: status?, stdout, stderr })
}

/// Runs a command that has to succeed, and yields what it printed.
pub fn run_ok(command: &mut Command) -> Result<String> {
    let output = run(command, SHORT)?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, output.stderr.trim_end());
    }
    Ok(output.stdout)
}

fn read_aside(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A read error ends the text early; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// A server of the lab: its output goes to a file, and dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Process {
    /// Starts `command` with all its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = open_log(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            grace: Duration::from_secs(1),
        })
    }

    /// How long a drop waits between SIGTERM and SIGKILL (1 s unless told otherwise).
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal to it and to its children.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("{} has already ended", self.name);
        }
        let group = i32::try_from(self.pid())?;
        killpg(Pid::from_raw(group), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_always(limit, || self.exit_status())
            .ok_or_else(|| anyhow!("{} still runs after {limit:?}:\n{}", self.name, self.log()))
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Ends it without a chance to clean up, as a crash would.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(SHORT).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() && self.terminate(self.grace).is_err() {
            // Nothing more can be done in a drop; the namespace kills what is left in it.
            let _ = self.kill9();
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
