//! A network namespace with a name, deleted when the last handle goes.
//!
//! Programs are started inside with `nsenter`, not `ip netns exec`: the latter also mounts a new
//! /sys, in which the pinned maps below /sys/fs/bpf would be out of sight.

use std::{
    ffi::OsStr,
    fs::{self, File},
    panic,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::{
    paths::unique,
    process::{Output, SHORT, run, run_ok},
    prune::{NAMESPACES, prune_once, remove_namespace},
};

/// A handle to a namespace. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Netns {
    /// Makes an empty namespace with `lo` up, called after `role` ("client", "b1": the shorter the
    /// better).
    pub fn new(role: &str) -> Result<Self> {
        prune_once();
        let name = unique(&format!("pen-{role}"));
        run_ok(Command::new("ip").args(["netns", "add", &name]))?;
        let file = File::open(Path::new(NAMESPACES).join(&name));
        let file = file.inspect_err(|_| remove_namespace(&name))?;
        let netns = Self(Arc::new(Inner { name, file }));
        // Addresses are usable at once (no duplicate detection), and only those that the lab gives
        // out exist.
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/dad_transmits"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/router_solicitations"), "0")?;
        }
        // New namespaces inherit the machine's choice here; tests that need a router say so.
        netns.sysctl("net/ipv4/ip_forward", "0")?;
        // Whatever the machine prefers: after losses, of which a busy veth has many, BBR may wait with
        // nothing under way, and send one segment per probe of the window. Every kernel has Reno, and
        // lets a namespace choose it.
        netns.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        netns.ip("link set dev lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a closure inside; sockets that it makes stay inside.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        // A thread of its own, because a namespace is a property of the thread and ours has to keep
        // its own.
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0.file, CloneFlags::CLONE_NEWNET)
                    .expect("an open namespace can be entered by root");
                inside()
            });
            worker.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
        })
    }

    /// A command that will run inside. It is the program itself that is started, under the pid that
    /// `spawn` shows.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMESPACES}/{}", self.0.name)).arg("--").arg(program);
        command
    }

    /// Runs a short command inside to its end: `netns.output("ip", ["route"])`.
    pub fn output<const N: usize>(&self, program: &str, args: [&str; N]) -> Result<Output> {
        run(self.command(program).args(args), SHORT)
    }

    /// `ip` inside, with its arguments as one would type them; has to succeed.
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut command = Command::new("ip");
        run_ok(command.args(["-n", &self.0.name]).args(args.split_whitespace()))
    }

    /// Sets a sysctl of the namespace, `key` with slashes: "net/ipv4/ip_forward".
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| fs::write(Path::new("/proc/sys").join(key), value))
            .with_context(|| format!("cannot set {key} to {value} in {}", self.0.name))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove_namespace(&self.name);
    }
}
