//! OpenSMTPD as a backend: a real mail server, which takes no mail. One at a time: its queue is the
//! machine's.

use anyhow::Result;

use super::{wait_for_answer, write};
use crate::{netns::Netns, paths::Scratch, process::Process};

/// A running smtpd; ends on drop.
#[derive(Debug)]
pub struct Smtpd {
    process: Process,
    _scratch: Scratch,
}

impl Smtpd {
    /// Starts it on all addresses at port 25; on return it accepts connections.
    pub fn start(netns: &Netns, name: &str) -> Result<Self> {
        Self::start_with(netns, name, "")
    }

    /// The same with more lines of its configuration, such as listeners that refuse.
    pub fn start_with(netns: &Netns, name: &str, more: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.file("smtpd.conf");
        let listen = |address: &str| format!("listen on {address} port 25 hostname {name}.test\n");
        let text = listen("0.0.0.0") + &listen("::") + more + "match from any for any reject\n";
        write(&config, &text)?;
        let mut command = netns.command("smtpd");
        command.arg("-d").arg("-f").arg(&config);
        let mut process = Process::start(name, command, &scratch.file("log"))?;
        wait_for_answer(&mut process, netns, 25)?;
        Ok(Self { process, _scratch: scratch })
    }

    /// The process behind it, to be stopped for instance.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
