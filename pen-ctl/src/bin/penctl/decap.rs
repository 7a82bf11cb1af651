//! `penctl decap`: the side of the backends, without a daemon.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use pen_ctl::api::Decap;
use pen_ctl::io::decap::{DEFAULT_PINS, DecapError, Mode, Pins, Wish};
use pen_ctl::io::privileges;
use pen_ctl::show::{self, Style};

/// What a backend of a service with mode ipip or gue needs.
pub(crate) const HELP: &str = "\
A backend needs, besides, the virtual address on its loopback interface, as for mode dsr:
  ip addr add 192.0.2.10/32 dev lo
and must accept packets whose answer leaves by another interface, if it does:
  sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.eth0.rp_filter=2
Only pen should be able to send tunnels to it: the backend's firewall sees only what comes out.
After a reboot it has to be attached again.

Example:
  penctl decap attach --interface eth0 --vip 192.0.2.10 --vip 2001:db8::10";

/// What to do on this backend.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Take packets for virtual addresses out of the tunnels (IP in IP, GUE) that arrive on an
    /// interface; if it does so already, replace program and addresses in one step
    Attach(Attach),
    /// Leave tunnels alone again
    Detach {
        /// The interface
        #[arg(long, value_name = "NAME")]
        interface: String,
        #[command(flatten)]
        place: Place,
    },
    /// What is attached where, and what became of all frames
    Status {
        /// Only this interface
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
pub(crate) struct Attach {
    /// The interface on which tunnels arrive
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// A virtual address; what is in tunnels for others is dropped
    #[arg(long = "vip", value_name = "ADDRESS", required = true)]
    vips: Vec<IpAddr>,
    /// An address of this host to which pen sends tunnels [default: all of the interface]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Where XDP runs
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    mode: Xdp,
    /// The XDP program [default: decap.bpf.o beside penctl, or in /usr/lib/pen]
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
pub(crate) struct Place {
    /// Folder on a bpffs for link and maps
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pins: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Xdp {
    /// Native if the driver can, otherwise generic
    Auto,
    /// In the driver
    Native,
    /// In the network stack: works everywhere, slower
    Generic,
}

pub(crate) fn run(verb: Verb, json: bool) -> ExitCode {
    if let Err(missing) = privileges::check() {
        eprintln!("penctl: {missing}");
        return ExitCode::FAILURE;
    }
    match carry_out(verb) {
        Ok(Some(decap)) => print(&decap, json),
        Ok(None) => {}
        Err(error) => {
            eprintln!("penctl: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn carry_out(verb: Verb) -> Result<Option<Vec<Decap>>, DecapError> {
    match verb {
        Verb::Attach(attach) => {
            let unique = |list: Vec<IpAddr>| list.into_iter().collect::<BTreeSet<_>>();
            let wish = Wish {
                interface: attach.interface,
                vips: unique(attach.vips),
                addresses: unique(attach.addresses),
                modes: match attach.mode {
                    Xdp::Auto => vec![Mode::Native, Mode::Generic],
                    Xdp::Native => vec![Mode::Native],
                    Xdp::Generic => vec![Mode::Generic],
                },
            };
            let object = attach.object.unwrap_or_else(object_beside);
            if let Some(refusal) = Pins::open(&attach.place.pins)?.attach(&object, &wish)? {
                eprintln!("penctl: generic mode, which is slow: {refusal}");
            }
            Ok(None)
        }
        Verb::Detach { interface, place } => {
            if !place.pins.exists() {
                return Err(DecapError::NotAttached(interface));
            }
            Pins::open(&place.pins)?.detach(&interface)?;
            Ok(None)
        }
        Verb::Status { interface, place } => {
            Pins::status(&place.pins, interface.as_deref()).map(Some)
        }
    }
}

fn object_beside() -> PathBuf {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join("decap.bpf.o"));
    beside
        .filter(|object| object.exists())
        .unwrap_or_else(|| PathBuf::from("/usr/lib/pen/decap.bpf.o"))
}

fn print(decap: &[Decap], json: bool) {
    let text = if json {
        let json = serde_json::to_string(decap).expect("plain data is JSON");
        format!("{json}\n")
    } else {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        show::decap(decap, Style { aligned: terminal, colour })
    };
    // A reader that closed the pipe has seen enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
