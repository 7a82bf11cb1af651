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

/// Runs `cargo xtask bench`. Returns only if it cannot: otherwise the program that measures takes
/// our place, so that Ctrl-C reaches it alone and nobody goes before it has cleaned up.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    cmd::require_root("the bench makes network namespaces and loads XDP programs")?;
    setup::ensure(Need::Lab)?;
    let built = build::build(Profile::Release)?;
    let mut program = Command::new(build::build_bench(Profile::Release)?);
    let What::Dataplane(args) = &args.what;
    program.arg("dataplane").args(args.words()).env("PEN_BIN_DIR", built.bin_dir);
    let error = program.exec();
    Err(Error::new(error).context(cmd::cannot_start(&program)))
}

impl DataplaneArgs {
    /// The same as words of a command line.
    fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let flags = [("--json", self.json), ("--quick", self.quick)];
        words.extend(flags.iter().filter(|(_, set)| *set).map(|(name, _)| OsString::from(name)));
        let mut option = |name: &str, value: Option<OsString>| {
            words.extend(value.map(|value| [name.into(), value]).into_iter().flatten());
        };
        option("--seconds", self.seconds.map(|seconds| seconds.to_string().into()));
        option("--filter", self.filter.as_ref().map(Into::into));
        option("--svg", self.svg.as_ref().map(Into::into));
        words
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
    fn a_quick_bench_has_no_length() {
        let words = ["bench", "dataplane", "--quick", "--seconds", "2"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
