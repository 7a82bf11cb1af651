//! `cargo xtask`: everything that a person or CI types to get pen ready, built, checked, tested,
//! measured and running. One binary without shell scripts, so that a fresh machine needs only cargo to begin.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks on both")]

mod bench;
mod build;
mod check;
mod cmd;
mod progress;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, check, test, measure and run pen.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; does nothing when nothing is missing
    Setup,
    /// Build the eBPF object and the programs beside it
    Build(build::BuildArgs),
    /// Format, lints, unit tests, docs, licences: what must pass before a commit; no root needed
    Check,
    /// Unit tests, then the end-to-end tests in network namespaces (needs root)
    Test(test::TestArgs),
    /// Try pen: a lab with client, balancer and three backends; or pen on a real interface
    Run(run::RunArgs),
    /// Measure pen, in network namespaces of its own (needs root)
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    DemoServer(run::DemoServerArgs),
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup              once on a new machine, as root
  cargo xtask run                see pen balance in a network of its own
  cargo xtask build --release    pend, penctl and pen.bpf.o in target/release
  cargo xtask check              before each commit
  cargo xtask test               everything; setup and build come first by themselves
  cargo xtask test failover      only tests with `failover` in their name
  cargo xtask test dsr -- --nocapture --test-threads=1
  cargo xtask bench dataplane    time per packet, rate, and how both compare; some minutes";

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup::setup(),
        Verb::Build(args) => build::run(&args),
        Verb::Check => check::check(),
        Verb::Test(args) => test::test(&args),
        Verb::Run(args) => run::run(args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::DemoServer(args) => run::demo_server(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn test_takes_a_filter_and_arguments_for_the_harness() {
        let cli = Cli::try_parse_from(["xtask", "test", "dsr", "--", "--nocapture"]);
        let Ok(Cli { verb: Verb::Test(args) }) = cli else { panic!("did not parse") };
        assert_eq!(args.harness_args(), ["dsr", "--", "--nocapture"]);
    }
}
