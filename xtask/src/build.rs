//! `cargo xtask build`: the eBPF objects with the compiler that setup found, then the programs of
//! userspace, side by side in one folder because `pend` looks for its object beside itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cmd;
use crate::progress::{now, seconds};
use crate::setup::{self, Compiler, Need};
use crate::workspace::{EBPF_PACKAGE, workspace};

/// Little-endian BPF; every machine that pen is for is little-endian.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// The example of the package of tests that measures.
const BENCH_PROGRAM: &str = "pen-bench";

#[derive(clap::Args)]
pub(crate) struct BuildArgs {
    /// Optimise the userspace programs too (the eBPF object always is)
    #[arg(long)]
    release: bool,
}

/// How the userspace programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// The folder below target/.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// What a build leaves behind.
pub(crate) struct Built {
    /// Holds `pend`, `penctl` and `pen.bpf.o`.
    pub(crate) bin_dir: PathBuf,
}

pub(crate) fn run(args: &BuildArgs) -> Result<()> {
    let begin = now();
    let built = build(if args.release { Profile::Release } else { Profile::Dev })?;
    println!("build: {} ({})", built.bin_dir.display(), seconds(begin.elapsed()));
    Ok(())
}

/// Builds everything that is not up to date; installs the eBPF compiler if it is missing.
pub(crate) fn build(profile: Profile) -> Result<Built> {
    let compiler = setup::ensure(Need::Build)?;
    let workspace = workspace()?;
    let bin_dir = workspace.target.join(profile.folder());

    // Apart from target/: the eBPF build holds its folder's lock and has another compiler.
    let ebpf_target = workspace.target.join("ebpf");
    build_ebpf(&compiler, &workspace.root, &ebpf_target)?;

    let mut cargo = cmd::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--package", "pen-ctl"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cmd::stream(&mut cargo)?;

    for program in &workspace.ebpf_programs {
        let object = ebpf_target.join(BPF_TARGET).join("release").join(program);
        install(&object, &bin_dir.join(format!("{program}.bpf.o")))?;
    }
    Ok(Built { bin_dir })
}

/// Builds the program that measures; yields where it is. It is apart from the others because it takes
/// half the daemon along, which nobody else should have to wait for.
pub(crate) fn build_bench(profile: Profile) -> Result<PathBuf> {
    let workspace = workspace()?;
    let mut cargo = cmd::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--package", "pen-tests"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cmd::stream(cargo.args(["--example", BENCH_PROGRAM]))?;
    Ok(workspace.target.join(profile.folder()).join("examples").join(BENCH_PROGRAM))
}

fn build_ebpf(compiler: &Compiler, root: &Path, target_dir: &Path) -> Result<()> {
    // Encoded flags replace the user's RUSTFLAGS, which are meant for another machine.
    let flags = [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // 32-bit arithmetic and jumps; every kernel that has XDP links knows them.
        "-Ctarget-cpu=v3",
        // Packet headers are not aligned. x86-64 and arm64 read words at any address; without this
        // each address of a packet is read and compared byte by byte.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    ]
    .join("\x1f");
    let mut cargo = compiler.cargo()?;
    cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args(["build", "--package", EBPF_PACKAGE, "--release"])
        .args(["--target", BPF_TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(target_dir);
    cmd::stream(&mut cargo).with_context(|| {
        format!(
            "the eBPF build failed (with {compiler}). If the linker says `Invalid record`, it was \
             built for another LLVM: remove {} and run `cargo xtask setup`",
            compiler.linker().display(),
        )
    })
}

/// Copies by renaming into place: a `pend` that starts now must not see half an object.
fn install(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part)
        .and_then(|_| fs::rename(&part, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
