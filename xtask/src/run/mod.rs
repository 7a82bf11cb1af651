//! `cargo xtask run`: from a fresh clone to a working balancer with one command.
//!
//! Without arguments it builds the lab and demonstrates (`demo`); with an interface or a
//! configuration it runs pend on this machine (`real`). Either way it first sets the machine up and
//! builds.

mod demo;
mod listen;
mod real;
mod traffic;

use std::{ffi::OsString, net::IpAddr};

use anyhow::{Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use crate::build::{self, Profile};
use crate::setup::{self, Need};
use listen::Listen;

/// Arguments of `cargo xtask run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without arguments: a lab in network namespaces; nothing of this machine's network is touched.
On a real interface:
  cargo xtask run --interface eth0 --listen 192.0.2.10:80/tcp \\
    --backend 10.0.0.11 --backend 10.0.0.12
  cargo xtask run -- --config /etc/pen/pen.toml")]
pub(crate) struct RunArgs {
    /// End after the demonstration: status 0 if all went well
    #[arg(long, conflicts_with_all = ["interface", "pend"])]
    exit_after_demo: bool,
    /// Balance on this interface of this machine
    #[arg(long, requires = "listen", requires = "backends")]
    interface: Option<String>,
    // An attribute: rustdoc would take an IPv6 address for a link.
    #[arg(
        long,
        requires = "interface",
        help = "A virtual address to balance: 192.0.2.10:80/tcp or [2001:db8::10]:53/udp; \
                may be repeated"
    )]
    listen: Vec<Listen>,
    /// Address of a server on the interface's network; may be repeated
    #[arg(long = "backend", requires = "interface")]
    backends: Vec<IpAddr>,
    /// Arguments for pend
    #[arg(last = true)]
    pend: Vec<OsString>,
}

/// Arguments of the hidden `cargo xtask demo-server`, which the lab starts on its backends.
#[derive(Args, Debug)]
pub(crate) struct DemoServerArgs {
    /// What it answers
    #[arg(long)]
    name: String,
    /// HTTP port
    #[arg(long)]
    port: u16,
    /// UDP port; the same number unless given
    #[arg(long)]
    udp_port: Option<u16>,
}

/// Runs `cargo xtask run`.
pub(crate) fn run(args: RunArgs) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "this needs root, for network namespaces and XDP: \
             try `sudo -E env \"PATH=$PATH\" cargo xtask run`"
        );
    }
    prepare()?;
    match args.interface {
        Some(interface) => real::on_interface(&interface, &args.listen, &args.backends, &args.pend),
        None if !args.pend.is_empty() => real::with_arguments(&args.pend),
        None => demo::run(args.exit_after_demo),
    }
}

/// Runs `cargo xtask demo-server`.
pub(crate) fn demo_server(args: &DemoServerArgs) -> Result<()> {
    pen_tests::server::demo::serve(&args.name, args.port, args.udp_port.unwrap_or(args.port))
}

/// All that `run` needs from the rest of xtask: pend, penctl and the kernel's objects, ready to
/// start.
fn prepare() -> Result<()> {
    setup::ensure(Need::Lab)?;
    build::build(Profile::Dev)?;
    Ok(())
}
