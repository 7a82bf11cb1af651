//! dnsmasq as a backend: a real DNS server, over UDP and TCP.
//!
//! The TXT record of `who.pen.test` is the name of the backend that answered.

use anyhow::Result;

use super::wait_for_answer;
use crate::{netns::Netns, paths::Scratch, process::Process};

/// A running dnsmasq; ends on drop.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Process,
    _scratch: Scratch,
}

impl Dnsmasq {
    /// The name to ask for, with type TXT.
    pub const WHO: &str = "who.pen.test";

    /// Starts it on all addresses at port 53; on return it answers.
    pub fn start(netns: &Netns, name: &str) -> Result<Self> {
        Self::start_with(netns, name, &[])
    }

    /// The same with more of its options, such as `--host-record=app.pen.test,10.77.0.11,1`.
    pub fn start_with(netns: &Netns, name: &str, options: &[String]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut command = netns.command("dnsmasq");
        // Nothing of the machine's own settings, and no other server to ask.
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args(["--pid-file=", "--user=root", "--log-facility=-"]);
        // DNSSEC needs a cache.
        if !options.iter().any(|option| option.starts_with("--cache-size=")) {
            command.arg("--cache-size=0");
        }
        command.arg(format!("--txt-record={},{name}", Self::WHO)).args(options);
        let mut process = Process::start(name, command, &scratch.file("log"))?;
        wait_for_answer(&mut process, netns, 53)?;
        Ok(Self { process, _scratch: scratch })
    }

    /// The process behind it, to be killed for instance.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
