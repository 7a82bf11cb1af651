//! Real servers for the backends. Each answers with its own name, so that a client can tell which
//! one it met.
//!
//! All listen on every address of their namespace: a VIP on `lo` then works, and answers leave from
//! the VIP.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{lab::Host, netns::Netns, paths::program, process::Process, wait::wait_until};

mod agent;
pub mod demo;
mod dnsmasq;
mod nginx;
mod smtpd;

pub use agent::Agent;
pub use dnsmasq::Dnsmasq;
pub use nginx::Nginx;
pub use smtpd::Smtpd;

/// HTTP port of the demo server in the lab.
pub const HTTP_PORT: u16 = 80;
/// UDP port of the demo server in the lab: "echo", the ancestor of all demo services.
pub const UDP_PORT: u16 = 7;

/// The built-in server (`xtask demo-server`) as a process of a backend.
#[derive(Debug)]
pub struct Demo {
    process: Process,
    _scratch: crate::paths::Scratch,
}

impl Demo {
    /// Starts it on a backend, under the backend's name and at the lab's ports.
    pub fn on(host: &Host) -> Result<Self> {
        Self::start(&host.netns, &host.name, HTTP_PORT, UDP_PORT)
    }

    /// Starts it; on return it answers.
    pub fn start(netns: &Netns, name: &str, http: u16, udp: u16) -> Result<Self> {
        let scratch = crate::paths::Scratch::new()?;
        let mut command = netns.command(program("xtask")?);
        command.args(["demo-server", "--name", name]);
        command.args(["--port", &http.to_string(), "--udp-port", &udp.to_string()]);
        let mut process = Process::start(name, command, &scratch.file("log"))?;
        wait_for_answer(&mut process, netns, http)?;
        Ok(Self { process, _scratch: scratch })
    }

    /// The process behind it, to be killed for instance.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Waits until a server accepts connections, or says why it did not get so far.
fn wait_for_answer(process: &mut Process, netns: &Netns, port: u16) -> Result<()> {
    let here = ([127, 0, 0, 1], port).into();
    let waited = wait_until(Duration::from_secs(5), "the server listens", || {
        let open =
            netns.run(|| std::net::TcpStream::connect_timeout(&here, crate::client::PATIENCE));
        (open.is_ok() || !process.is_running()).then_some(())
    });
    if waited.is_err() || !process.is_running() {
        anyhow::bail!("the server does not get up: {}", process.log().trim_end());
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
