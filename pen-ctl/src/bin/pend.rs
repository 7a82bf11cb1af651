//! The daemon: reads its configuration, then runs `pen_ctl::daemon` until a signal.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a binary speaks to its operator")]

#[path = "pend/ucarp.rs"]
mod ucarp;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pen_ctl::config;
use pen_ctl::daemon::{self, DEFAULT_PINS, DEFAULT_STATE, Places};
use tracing_subscriber::EnvFilter;

/// Balances TCP and UDP in the kernel with XDP, and keeps the tables right.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  pend --config /etc/pen/pen.toml            run
  pend --config /etc/pen/pen.toml --check    only check the configuration
  pend --config /etc/pen/pen.toml --replace  take over from the pend that runs, without a gap
  pend carp -i eth0 -s 10.1.1.1 -v 1 -o /etc/ucarp.password -a 10.1.1.252 -u UP -d DOWN -z
                                             run in the place of a ucarp, with its arguments

SIGHUP reads the configuration again, as `penctl reload` does. SIGTERM and SIGINT detach from all
interfaces. A daemon that is killed, or left with `penctl leave`, leaves the kernel forwarding; the
next one takes over without a gap.

Exit status: 0 ended by a signal, or the configuration is good; 1 cannot run; 2 bad configuration or
arguments."
)]
struct Args {
    /// Configuration; files in conf.d beside it are read as well
    #[arg(long, value_name = "FILE", default_value = "/etc/pen/pen.toml")]
    config: PathBuf,
    /// Check the configuration and touch nothing
    #[arg(long)]
    check: bool,
    /// Stay in the foreground (pend always does; service managers want to hear it)
    #[arg(long)]
    foreground: bool,
    /// Object file of the XDP program [default: pen.bpf.o beside pend, or in /usr/lib/pen]
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Folder on a bpffs in which maps and links are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pins: PathBuf,
    /// Folder for what has to outlive a restart
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Take over from a pend that runs: it is asked to leave, and the kernel forwards meanwhile
    #[arg(long)]
    replace: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the place of a ucarp: takes its whole command line (see `pend carp --help`)
    #[command(disable_help_flag = true)]
    Carp {
        /// ucarp's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Some(args) = ucarp::by_its_name() {
        return ucarp::main(&args);
    }
    let args = Args::parse();
    if let Some(Command::Carp { args }) = &args.command {
        return ucarp::main(args);
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .with_env_filter(
            EnvFilter::try_from_env("PEN_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
    let config = match config::load(&args.config, &config::RealSystem) {
        Ok(config) => config,
        Err(errors) => {
            for error in &errors {
                eprintln!("{error}");
            }
            let plural = if errors.len() == 1 { "error" } else { "errors" };
            eprintln!("pend: {} {plural} in the configuration; nothing was touched", errors.len());
            return ExitCode::from(2);
        }
    };
    if args.check {
        println!("{}: good", args.config.display());
        return ExitCode::SUCCESS;
    }
    let object = args.object.unwrap_or_else(|| object_beside(std::env::current_exe().ok()));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pend: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (config_file, replace) = (args.config, args.replace);
    let (pins, state) = (args.pins, args.state);
    let places = Places { config: config_file, object, pins, state, replace };
    let result = runtime.block_on(daemon::run(config, places));
    // A long list that somebody asked for must not hold the end up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn object_beside(program: Option<PathBuf>) -> PathBuf {
    let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join("pen.bpf.o"));
    beside
        .filter(|object| object.exists())
        .unwrap_or_else(|| PathBuf::from("/usr/lib/pen/pen.bpf.o"))
}
