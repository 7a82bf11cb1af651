//! `pen-bench`: measures pen; `cargo xtask bench` builds and starts it. It works only
//! in network namespaces that it makes, and removes them however it ends.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks on both")]

mod account;
mod cases;
mod control;
mod health;
mod measure;
mod progress;
mod proxy;
mod report;
mod rig;
mod stats;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use pen_tests::wait::{interrupted, stop_flag};

use crate::measure::Plan;
use crate::progress::Progress;
use crate::report::Report;
use crate::rig::Rig;

#[derive(Parser)]
#[command(name = "pen-bench", about = "Measures pen")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The XDP program, and the time and memory that its tables take
    Dataplane(Dataplane),
    /// The userspace proxy, beside haproxy, nginx and pen's ancestor
    Proxy(proxy::ProxyArgs),
    /// Checks of many servers, beside haproxy
    Health(health::HealthArgs),
}

#[derive(Args)]
struct Dataplane {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// A first impression: fewer flows, shorter runs
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Seconds for each case at each number of flows
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only cases whose name contains this, and those that they are compared with
    #[arg(long, default_value = "")]
    filter: String,
    /// Also draw the result, into this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        // As the shell reports a program that Ctrl-C ended.
        Err(_) if interrupted() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &What) -> Result<()> {
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        signal_hook::flag::register(signal, Arc::clone(stop_flag()))?;
    }
    match what {
        What::Dataplane(args) => dataplane(args),
        What::Proxy(args) => {
            let result = proxy::run(args, &mut Progress::new())?;
            print!("{result}");
            Ok(())
        }
        What::Health(args) => {
            let result = health::run(args, &mut Progress::new())?;
            print!("{result}");
            Ok(())
        }
    }
}

fn dataplane(args: &Dataplane) -> Result<()> {
    let plan = plan(args)?;
    let cases = cases::filtered(cases::all(), &args.filter);
    ensure!(!cases.is_empty(), "no case has `{}` in its name", args.filter);

    let mut progress = Progress::new();
    progress.note("the controller's side");
    let control = control::measure()?;
    let most_flows = plan.flows.iter().copied().max().unwrap_or(1);
    let mut rig = Rig::new(&cases, most_flows)?;
    let figures = rig.inside(|rig| measure::measure(rig, &cases, &plan, &mut progress))?;
    drop(rig);

    let (kernel, cpu) = Report::machine();
    let report = Report { kernel, cpu, plan, figures, control: Some(control) };
    if args.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    args.svg.as_deref().map_or(Ok(()), |path| write(path, &svg::draw(&report)))
}

fn plan(args: &Dataplane) -> Result<Plan> {
    if args.quick {
        return Ok(Plan { flows: vec![1, 1000], rounds: 5, seconds: 0.1 });
    }
    let seconds = args.seconds;
    ensure!(seconds > 0.0 && seconds <= 3600.0, "--seconds {seconds}: from 0.01 to 3600");
    Ok(Plan { flows: vec![1, 1000, 100_000, 1_000_000], rounds: 15, seconds })
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
