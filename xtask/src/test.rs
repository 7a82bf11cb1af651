//! `cargo xtask test`: first what needs nothing (unit tests), then the end-to-end tests as root in
//! network namespaces. Sets up and builds first, so that it is the only command CI has to know.

use std::path::Path;

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::cmd;
use crate::progress::{now, seconds};
use crate::setup::{self, Need};
use crate::workspace::workspace;

#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Passed to the test programs
    #[arg(last = true)]
    args: Vec<String>,
}

impl TestArgs {
    /// The end of the command line of `cargo test`.
    pub(crate) fn harness_args(&self) -> Vec<&str> {
        let mut args: Vec<&str> = self.filter.iter().map(String::as_str).collect();
        if !self.args.is_empty() {
            args.push("--");
            args.extend(self.args.iter().map(String::as_str));
        }
        args
    }
}

pub(crate) fn test(args: &TestArgs) -> Result<()> {
    cmd::require_root("the end-to-end tests make network namespaces and load XDP programs")?;
    let begin = now();
    setup::ensure(Need::Lab)?;
    let built = build::build(Profile::Dev)?;
    // A test runs it, and `cargo test` builds only its unit tests.
    build::build_bench(Profile::Dev)?;
    let built_after = begin.elapsed();
    println!("test: set up and built in {}", seconds(built_after));

    // Both run even if the first fails: one round shows all that is broken.
    let unit = cargo_test(args, None);
    let system = cargo_test(args, Some(&built.bin_dir));

    let time = seconds(begin.elapsed());
    match (unit, system) {
        (Ok(()), Ok(())) => println!("test: all passed ({time})"),
        (Err(_), Ok(())) => bail!("unit tests failed ({time})"),
        (Ok(()), Err(_)) => bail!("end-to-end tests failed ({time})"),
        (Err(_), Err(_)) => bail!("unit and end-to-end tests failed ({time})"),
    }
    Ok(())
}

/// Unit tests of the default members, or the end-to-end tests with the programs in `bin_dir`.
fn cargo_test(args: &TestArgs, bin_dir: Option<&Path>) -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.current_dir(&workspace()?.root).args(["test", "--no-fail-fast"]);
    match bin_dir {
        Some(bin_dir) => {
            println!("test: end-to-end tests");
            cargo.args(["--package", "pen-tests"]).env("PEN_BIN_DIR", bin_dir);
        }
        None => println!("test: unit tests"),
    }
    cmd::stream(cargo.args(args.harness_args()))
}
