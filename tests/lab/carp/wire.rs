//! Looks at the wire, and puts frames on it, with `wire.py`: the digests of Python's standard library
//! and frames made by hand.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::{netns::Netns, paths::Scratch, process::Process, wait::wait_until};

/// How long Python may take to start on a busy machine.
const START: Duration = Duration::from_secs(10);

fn python(netns: &Netns, verb: &str, device: &str) -> Command {
    let mut command = netns.command("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/carp/wire.py");
    command.arg(script).args([verb, device]);
    command
}

/// Something that passed.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// `advert`, `arp`, `ns` or `na`.
    pub kind: String,
    /// When it was received, in seconds of the wall clock.
    pub at: f64,
    /// Source and destination of the frame.
    pub src: String,
    /// Its destination.
    pub dst: String,
    /// The whole frame.
    pub hex: String,
    /// Its source address; of ARP, the sender's.
    #[serde(default)]
    pub ip: String,
    /// Its destination address.
    #[serde(default)]
    pub to: String,
    /// Of an advertisement: everything about it is right.
    #[serde(default)]
    pub good: bool,
    /// Of an advertisement.
    #[serde(default)]
    pub advbase: u8,
    /// Of an advertisement.
    #[serde(default)]
    pub advskew: u8,
    /// Of an advertisement, in hexadecimal digits.
    #[serde(default)]
    pub counter: String,
    /// Time to live or hop limit.
    #[serde(default)]
    pub ttl: u8,
    /// Of ARP: 1 is a request, 2 an answer.
    #[serde(default)]
    pub op: u8,
    /// Hardware address that it tells.
    #[serde(default)]
    pub mac: Option<String>,
    /// Address that is asked for or told.
    #[serde(default)]
    pub target: String,
    /// Of a neighbour advertisement: 4 router, 2 solicited, 1 override.
    #[serde(default)]
    pub flags: u8,
}

impl Seen {
    /// An advertisement of this node.
    pub fn is_advert_of(&self, source: &str) -> bool {
        self.kind == "advert" && self.ip == source
    }

    /// Tells the neighbours unasked where an IPv4 address is.
    pub fn announces(&self, vip: &str) -> bool {
        self.kind == "arp" && self.ip == vip && self.target == vip
    }

    /// An answer to who asked where an IPv4 address is.
    pub fn answers(&self, vip: &str) -> bool {
        self.kind == "arp" && self.op == 2 && self.ip == vip && self.target != vip
    }
}

/// A running watch of a wire; ends on drop.
#[derive(Debug)]
pub struct Watch {
    log: PathBuf,
    _process: Process,
    _scratch: Scratch,
}

impl Watch {
    /// Watches a device, and judges advertisements by the password and addresses, in any order; on
    /// return nothing later is missed.
    pub fn start(netns: &Netns, device: &str, password: &str, vips: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let log = scratch.file("seen");
        let mut command = python(netns, "watch", device);
        command.args([password, &vips.join(",")]);
        let process = ready(Process::start("wire.py", command, &log)?)?;
        Ok(Self { log, _process: process, _scratch: scratch })
    }

    /// All that passed so far.
    pub fn seen(&self) -> Vec<Seen> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A last line without an end is still being written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What passed so far and is wanted.
    pub fn all(&self, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.seen().into_iter().filter(wanted).collect()
    }

    /// Waits for the first that is wanted, also among what has passed.
    pub fn wait(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Result<Seen> {
        wait_until(limit, what, || self.seen().into_iter().find(|seen| wanted(seen)))
            .with_context(|| self.tail())
    }

    /// What passed last, for messages.
    pub fn tail(&self) -> String {
        let mut seen = self.seen();
        let last = seen.split_off(seen.len().saturating_sub(25));
        let line = |seen: &Seen| {
            let Seen { at, kind, ip, advbase, advskew, good, src, target, .. } = seen;
            format!("{at:.4} {kind} {ip} {advbase}/{advskew} good={good} {src} {target}")
        };
        last.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn ready(mut process: Process) -> Result<Process> {
    wait_until(START, "wire.py is ready", || {
        (process.log().contains("\"ready\"") || !process.is_running()).then_some(())
    })?;
    if !process.is_running() {
        bail!("wire.py: {}", process.log());
    }
    Ok(process)
}

/// Asks for the MAC of an address all the time; ends on drop.
#[derive(Debug)]
pub struct Asker {
    _process: Process,
    _scratch: Scratch,
}

impl Asker {
    /// Asks every `gap`; the answers show in a [`Watch`].
    pub fn start(netns: &Netns, device: &str, gap: Duration, own: &str, vip: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut command = python(netns, "ask", device);
        command.args([&gap.as_millis().to_string(), own, vip]);
        let process = ready(Process::start("wire.py", command, &scratch.file("log"))?)?;
        Ok(Self { _process: process, _scratch: scratch })
    }
}

/// Puts frames on a wire.
#[derive(Debug)]
pub struct Injector {
    child: Child,
    orders: ChildStdin,
    log: PathBuf,
    sent: usize,
    _scratch: Scratch,
}

impl Injector {
    /// Sends from a device.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let log = scratch.file("log");
        let file = fs::File::create(&log)?;
        let mut child = python(netns, "send", device)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start python3")?;
        let orders = child.stdin.take().context("it was asked for")?;
        let injector = Self { child, orders, log, sent: 0, _scratch: scratch };
        injector.wait_lines("ready", 1)?;
        Ok(injector)
    }

    /// Sends what `wish` describes (see `build` in `wire.py`); on return it is on the wire. Yields
    /// when that was, in seconds of the wall clock.
    pub fn send(&mut self, wish: &Value) -> Result<f64> {
        writeln!(self.orders, "{wish}")?;
        self.orders.flush()?;
        self.sent += 1;
        let lines = self.wait_lines("sent", self.sent)?;
        lines.last().and_then(|line| line["at"].as_f64()).context("wire.py says when")
    }

    fn wait_lines(&self, kind: &str, count: usize) -> Result<Vec<Value>> {
        let mut last = String::new();
        wait_until(START, &format!("wire.py: {kind}"), || {
            last = fs::read_to_string(&self.log).unwrap_or_default();
            let lines = last.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let lines: Vec<_> = lines.filter(|line| line["kind"] == kind).collect();
            (lines.len() >= count).then_some(lines)
        })
        .with_context(|| last.clone())
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // Nothing more can be done in a drop; the namespace kills what is left in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
