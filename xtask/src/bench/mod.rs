//! `cargo xtask bench`: builds everything optimised, then hands over to the program that measures
//! (tests/bench), which is built only here.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Error, Result};
use clap::{Args, Subcommand};

use crate::build::{self, Profile};
use crate::cmd;
use crate::setup::{self, Need};

/// Arguments of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The XDP program: time per packet and rate, beside programs that do the least possible
    Dataplane(DataplaneArgs),
    /// The userspace proxy, beside haproxy, nginx and pen's ancestor
    ///
    /// 5 rounds of 2 seconds unless told otherwise. Cases: requests, connections, bulk, latency, idle,
    /// tls-full, tls-resumed, tls-bulk, tls-idle.
    Proxy(RoundsArgs),
    /// Checks of many servers, beside haproxy
    ///
    /// 3 rounds of 10 seconds unless told otherwise. Cases: tcp-1000, http-1000, tcp-5000.
    Health(RoundsArgs),
}

#[derive(Args, Debug)]
struct DataplaneArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// A first impression: fewer flows, shorter runs
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Seconds for each case at each number of flows (1 unless given)
    #[arg(long)]
    seconds: Option<f64>,
    /// Only cases whose name contains this, and those that they are compared with
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Also draw the result, into this file
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
}

/// Of a bench that measures all programs in rounds.
#[derive(Args, Debug)]
struct RoundsArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Seconds for each case of each program in each round
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds, each of which measures all programs; the median counts
    #[arg(long)]
    rounds: Option<usize>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// Runs `cargo xtask bench`. Returns only if it cannot: otherwise the program that measures takes
/// our place, so that Ctrl-C reaches it alone and nobody goes before it has cleaned up.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    cmd::require_root("the bench makes network namespaces and loads XDP programs")?;
    setup::ensure(Need::Lab)?;
    let built = build::build(Profile::Release)?;
    let mut program = Command::new(build::build_bench(Profile::Release)?);
    match &args.what {
        What::Dataplane(args) => program.arg("dataplane").args(args.words()),
        What::Proxy(args) => program.arg("proxy").args(args.words()),
        What::Health(args) => program.arg("health").args(args.words()),
    };
    program.env("PEN_BIN_DIR", built.bin_dir);
    let error = program.exec();
    Err(Error::new(error).context(cmd::cannot_start(&program)))
}

/// The same as words of a command line: flags that are set, and options that are given.
fn words<const F: usize, const O: usize>(
    flags: [(&str, bool); F],
    options: [(&str, Option<OsString>); O],
) -> Vec<OsString> {
    let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| OsString::from(name));
    let options = options.into_iter().filter_map(|(name, value)| Some([name.into(), value?]));
    flags.chain(options.flatten()).collect()
}

/// The same for numbers.
fn word(value: Option<impl ToString>) -> Option<OsString> {
    value.map(|value| value.to_string().into())
}

impl DataplaneArgs {
    fn words(&self) -> Vec<OsString> {
        words(
            [("--json", self.json), ("--quick", self.quick)],
            [
                ("--seconds", word(self.seconds)),
                ("--filter", self.filter.as_ref().map(Into::into)),
                ("--svg", self.svg.as_ref().map(Into::into)),
            ],
        )
    }
}

impl RoundsArgs {
    fn words(&self) -> Vec<OsString> {
        words(
            [("--json", self.json)],
            [
                ("--seconds", word(self.seconds)),
                ("--rounds", word(self.rounds)),
                ("--filter", self.filter.as_ref().map(Into::into)),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn every_word_is_handed_on() {
        let words = ["--json", "--seconds", "0.5", "--filter", "dsr tcp", "--svg", "a.svg"];
        let cli = Cli::try_parse_from(["bench", "dataplane"].iter().chain(&words));
        let Ok(Cli { args: BenchArgs { what: What::Dataplane(args) } }) = cli else {
            panic!("did not parse")
        };
        assert_eq!(args.words(), words);
    }

    #[test]
    fn every_word_for_the_proxy_is_handed_on() {
        let words = ["--json", "--seconds", "0.5", "--rounds", "3", "--filter", "bulk"];
        let cli = Cli::try_parse_from(["bench", "proxy"].iter().chain(&words));
        let Ok(Cli { args: BenchArgs { what: What::Proxy(args) } }) = cli else {
            panic!("did not parse")
        };
        assert_eq!(args.words(), words);
    }

    #[test]
    fn every_word_for_checks_is_handed_on() {
        let words = ["--json", "--seconds", "5", "--rounds", "2", "--filter", "tcp"];
        let cli = Cli::try_parse_from(["bench", "health"].iter().chain(&words));
        let Ok(Cli { args: BenchArgs { what: What::Health(args) } }) = cli else {
            panic!("did not parse")
        };
        assert_eq!(args.words(), words);
    }

    #[test]
    fn a_quick_bench_has_no_length() {
        let words = ["bench", "dataplane", "--quick", "--seconds", "2"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
