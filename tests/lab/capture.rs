//! Watches a wire with tcpdump.
//!
//! Frames sent by native XDP_TX never pass the sender's own packet sockets: to see what a balancer
//! transmits, listen at its port of the switch (`lab.switch.netns()`, device "balancer") or at the
//! receiver.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::{netns::Netns, paths::Scratch, process::Process, wait::wait_until};

/// A running tcpdump; ends on drop.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    packets: PathBuf,
    // After the process: its files go when it no longer writes to them.
    _scratch: Scratch,
}

impl Capture {
    /// Starts listening with a filter in tcpdump's language; on return no later packet is missed.
    pub fn start(netns: &Netns, device: &str, filter: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let packets = scratch.file("packets");
        let mut tcpdump = netns.command("sh");
        // The shell splits packets from complaints, then becomes tcpdump.
        // In immediate mode each packet takes a slot of the snap length: by default the buffer has
        // room for eight.
        let script =
            r#"exec tcpdump -i "$1" -nn -e -l --immediate-mode -s 2048 -B 16384 "$2" >"$3""#;
        tcpdump.args(["-c", script, "sh"]);
        tcpdump.args([device, filter]).arg(&packets);
        let mut process = Process::start("tcpdump", tcpdump, &scratch.file("log"))?;
        wait_until(Duration::from_secs(5), "tcpdump listens", || {
            (process.log().contains("listening on") || !process.is_running()).then_some(())
        })?;
        if !process.is_running() {
            bail!("tcpdump: {}", process.log().trim_end());
        }
        Ok(Self { process, packets, _scratch: scratch })
    }

    /// One line for each packet so far: time, MAC addresses, protocol, what tcpdump makes of it.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.packets).unwrap_or_default();
        // A last line without an end is still being written; an empty one is the farewell of SIGINT.
        text.split_inclusive('\n')
            .filter_map(|line| Some(line.strip_suffix('\n')?.to_owned()))
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Waits for a packet whose line satisfies `wanted`.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        wait_until(Duration::from_secs(3), what, || {
            self.lines().into_iter().find(|line| wanted(line))
        })
    }

    /// Stops listening: all packets seen. An error if some were missed.
    pub fn stop(mut self) -> Result<Vec<String>> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(3))?;
        let log = self.process.log();
        if !log.contains("\n0 packets dropped by kernel") {
            bail!("tcpdump was too slow: {}", log.trim_end());
        }
        Ok(self.lines())
    }
}

/// Writes the packets of a wire to a pcap file until dropped, for a person to look at.
pub fn record(netns: &Netns, device: &str, file: &std::path::Path) -> Result<Process> {
    let mut tcpdump: Command = netns.command("tcpdump");
    tcpdump.args(["-i", device, "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(file);
    let log = file.with_extension("log");
    let mut process = Process::start("tcpdump", tcpdump, &log)?;
    wait_until(Duration::from_secs(5), "tcpdump listens", || {
        (process.log().contains("listening on") || !process.is_running()).then_some(())
    })?;
    Ok(process)
}
