//! An agent such as haproxy asks: a script that says a line to whoever connects.

use std::fs;

use anyhow::Result;

use super::{wait_for_answer, write};
use crate::{netns::Netns, paths::Scratch, process::Process};

/// A running agent; ends on drop.
#[derive(Debug)]
pub struct Agent {
    _process: Process,
    scratch: Scratch,
}

impl Agent {
    /// Starts it on all addresses at `port`; on return it answers.
    pub fn start(netns: &Netns, name: &str, port: u16, words: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        write(&scratch.file("words"), words)?;
        let mut command = netns.command("socat");
        command.arg(format!("TCP-LISTEN:{port},fork,reuseaddr"));
        command.arg(format!("EXEC:cat {}", scratch.file("words").display()));
        let mut process = Process::start(name, command, &scratch.file("log"))?;
        wait_for_answer(&mut process, netns, port)?;
        Ok(Self { _process: process, scratch })
    }

    /// It says this from now on.
    pub fn says(&self, words: &str) -> Result<()> {
        let next = self.scratch.file("next");
        write(&next, words)?;
        Ok(fs::rename(next, self.scratch.file("words"))?)
    }
}
