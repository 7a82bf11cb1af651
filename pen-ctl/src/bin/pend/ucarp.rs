//! `pend carp`: what ucarp's process did around its protocol: help, warnings, background, log.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::process::ExitCode;

use nix::unistd;
use pen_ctl::config::RealSystem;
use pen_ctl::config::ucarp::{self, Invocation, Wish};
use pen_ctl::daemon;
use pen_ctl::io::syslog::{DEV_LOG, Syslog};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::prelude::*;

/// Arguments of a pend that is called `ucarp`, by a link in the place of that program.
pub(super) fn by_its_name() -> Option<Vec<String>> {
    let mut args = std::env::args();
    let name = args.next()?;
    (Path::new(&name).file_name()? == "ucarp").then(|| args.collect())
}

/// Beside ucarp's own arguments.
const PRINT: &str = "--print-config";

pub(super) fn main(args: &[String]) -> ExitCode {
    let (print, args): (Vec<_>, Vec<_>) = args.iter().cloned().partition(|arg| arg == PRINT);
    let invocation = match ucarp::read(&args, &RealSystem) {
        Ok(Wish::Run(invocation)) => *invocation,
        Ok(Wish::Help(options)) => {
            println!(
                "Runs in the place of a ucarp, with its arguments.\n\nUsage: pend carp OPTIONS\n\n{options}      \
                 {PRINT}           print the configuration that means the same, and end\n\n\
                 SIGTERM hands the address over and ends, SIGUSR1 logs the state, SIGUSR2 lets another node \
                 be master."
            );
            return ExitCode::SUCCESS;
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("pend carp: {problem}");
            }
            return ExitCode::from(2);
        }
    };
    if !print.is_empty() {
        print!("{}", invocation.to_toml());
        return ExitCode::SUCCESS;
    }
    let Invocation { config, daemonize, debug, facility, warnings, .. } = invocation;
    if daemonize {
        for warning in &warnings {
            eprintln!("pend carp: {warning}");
        }
        // Threads do not survive it: nothing that makes one comes before.
        if let Err(error) = unistd::daemon(true, false) {
            eprintln!("pend carp: cannot run in the background: {error}");
            return ExitCode::FAILURE;
        }
    }
    let syslog = facility.map(|(_, number)| Syslog::connect(Path::new(DEV_LOG), number));
    start_log(debug, syslog.and_then(Result::ok));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon::ucarp::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// To standard error, and to syslog if there is one: as ucarp does it, without a word if not.
fn start_log(debug: bool, syslog: Option<Syslog>) {
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let terminal =
        tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(colour).with_target(false);
    let syslog = syslog.map(|syslog| {
        tracing_subscriber::fmt::layer()
            .with_writer(syslog)
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
    });
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::registry().with(level).with(terminal).with(syslog).init();
}
