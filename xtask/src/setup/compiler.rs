//! The compiler for eBPF: any rustc with the sources of `core` beside it, since nobody ships `core`
//! compiled for BPF. On Debian it is `rustc-web`, which comes with the LLVM that the linker needs and
//! changes rarely; elsewhere a rustup nightly with `rust-src`, whose LLVM is usually newer than any
//! that a distribution has. What is complete on the machine is taken without asking a network.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::Apt;
use super::version::{self, Version};
use super::{linker, slow};
use crate::cmd;
use crate::progress::{Finished, Step};

/// pen-common is compiled by this compiler too: the workspace's `rust-version` applies.
const OLDEST_RUST: Version = Version { major: 1, minor: 95 };

/// `core` and `compiler_builtins`, where `-Zbuild-std` looks for them below the sysroot.
const LIBRARY: &str = "lib/rustlib/src/rust/library/core";

/// Debian's compiler for its browsers: newer than the release, kept current by its security team.
const DEBIAN_RUSTC: &str = "rustc-web";
const DEBIAN_PACKAGES: [&str; 2] = [DEBIAN_RUSTC, "rust-web-src"];

/// A compiler with sources, and a linker for the same LLVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    candidate: Candidate,
    linker: PathBuf,
}

/// A compiler with sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    sysroot: PathBuf,
    rust: Version,
    llvm: u32,
}

impl Compiler {
    /// A cargo that compiles with this compiler; the caller adds what to compile.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let own_cargo = self.candidate.sysroot.join("bin/cargo");
        let mut cargo = cmd::cargo();
        if own_cargo.is_file() {
            // A nightly's library may need a newer cargo than the one that runs us.
            let mut own = Command::new(own_cargo);
            own.env_remove("LD_LIBRARY_PATH");
            cargo = own;
        }
        let linker_dir = self.linker.parent().context("a linker is in a folder")?.to_owned();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([linker_dir].into_iter().chain(env::split_paths(&path)))?;
        cargo
            .env("PATH", path)
            .env("RUSTC", self.candidate.rustc())
            // `-Zbuild-std` also with a compiler that calls itself stable.
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER");
        Ok(cargo)
    }

    pub(crate) fn linker(&self) -> &Path {
        &self.linker
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.candidate, self.linker.display())
    }
}

impl Candidate {
    fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// The compiler of a sysroot, if there is one that has the sources and is new enough.
    fn in_sysroot(sysroot: &Path) -> Option<Self> {
        if !sysroot.join(LIBRARY).is_dir() {
            return None;
        }
        let mut rustc = Command::new(sysroot.join("bin/rustc"));
        rustc.arg("-vV").env_remove("LD_LIBRARY_PATH");
        let (rust, llvm) = version::of_rustc(&cmd::capture(&mut rustc).ok()?)?;
        (rust >= OLDEST_RUST).then(|| Self { sysroot: sysroot.to_owned(), rust, llvm })
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { major, minor } = self.rust;
        write!(f, "{} ({major}.{minor}, LLVM {})", self.rustc().display(), self.llvm)
    }
}

/// A compiler and linker that go together, if this machine has them.
pub(super) fn find_complete() -> Result<Option<Compiler>> {
    let linkers = linker::installed()?;
    Ok(choose(&candidates(), |llvm| linker::matching(&linkers, llvm)))
}

/// The first candidate that has a linker.
fn choose(
    candidates: &[Candidate],
    linker_for: impl Fn(u32) -> Option<PathBuf>,
) -> Option<Compiler> {
    candidates.iter().find_map(|candidate| {
        let linker = linker_for(candidate.llvm)?;
        Some(Compiler { candidate: candidate.clone(), linker })
    })
}

fn candidates() -> Vec<Candidate> {
    sysroots().iter().filter_map(|sysroot| Candidate::in_sysroot(sysroot)).collect()
}

/// Where a compiler may be, the preferred first: the system's, because it does not change from day
/// to day, then nightlies, then other toolchains of rustup.
fn sysroots() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")));
    let mut toolchains: Vec<PathBuf> = rustup
        .and_then(|rustup| fs::read_dir(rustup.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    toolchains.sort_by_key(|path| (!is_nightly(path), path.clone()));
    toolchains.insert(0, PathBuf::from("/usr"));
    toolchains
}

fn is_nightly(toolchain: &Path) -> bool {
    toolchain.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
}

/// Makes `find_complete` find something: by the least that does it, and if that is not possible here
/// by the next; fails with the reasons of all.
pub(super) fn install(mut apt: Option<&mut Apt>) -> Result<()> {
    let mut reasons = Vec::new();
    for candidate in candidates() {
        match linker::install(candidate.llvm, apt.as_deref_mut()) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(format!("{candidate}: {reason:#}")),
        }
    }
    let debians = install_debians(apt.as_deref_mut());
    match debians.and_then(|found| linker::install(found.llvm, apt.as_deref_mut())) {
        Ok(()) => return Ok(()),
        Err(reason) => reasons.push(format!("Debian's {DEBIAN_RUSTC}: {reason:#}")),
    }
    match add_with_rustup().and_then(|found| linker::install(found.llvm, apt)) {
        Ok(()) => return Ok(()),
        Err(reason) => reasons.push(format!("a rustup nightly with rust-src: {reason:#}")),
    }
    bail!(
        "cannot get a compiler for eBPF. Install a rustup nightly with rust-src and a bpf-linker for \
         its LLVM by hand. Tried:\n- {}",
        reasons.join("\n- ")
    )
}

/// Failing at once is normal here: machines without rustup's server are why there is another way.
fn add_with_rustup() -> Result<Candidate> {
    let has_nightly = sysroots().iter().any(|path| is_nightly(path));
    let (args, usually, limit) = if has_nightly {
        (&["component", "add", "rust-src", "--toolchain", "nightly"][..], "5 s", 60)
    } else {
        let args =
            &["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        (&args[..], "1 minute", 300)
    };
    let step = Step {
        name: "sources of core with rustup",
        limit: Some(Duration::from_secs(limit)),
        verdict: |finished: &Finished| if finished.success { "ok" } else { "not possible here" },
        ..slow(usually)
    };
    let finished = step.run(cmd::rustup().args(args))?;
    ensure!(finished.success, "rustup: {}", last_error(&finished.output));
    candidates().into_iter().find(|found| is_nightly(&found.sysroot)).with_context(
        || "rustup reports success, but there are no sources (or the nightly is too old)",
    )
}

/// The line that says what went wrong, out of a page of retries and advice.
fn last_error(output: &str) -> &str {
    let mut lines = output.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next().unwrap_or_default();
    lines.find(|line| line.starts_with("error")).unwrap_or(last)
}

fn install_debians(apt: Option<&mut Apt>) -> Result<Candidate> {
    let apt = apt.context("this system has no apt")?;
    apt.update()?;
    let candidate = apt.candidate(DEBIAN_RUSTC)?.context("no such package here")?;
    ensure!(
        Version::parse(&candidate).is_some_and(|version| version >= OLDEST_RUST),
        "version {candidate} is too old; is the security archive missing in apt's sources?"
    );
    apt.install(&DEBIAN_PACKAGES, "half a minute")?;
    Candidate::in_sysroot(Path::new("/usr"))
        .with_context(|| format!("installed, but /usr/{LIBRARY} is not there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(sysroot: &str, llvm: u32) -> Candidate {
        Candidate { sysroot: PathBuf::from(sysroot), rust: OLDEST_RUST, llvm }
    }

    #[test]
    fn a_later_compiler_with_a_linker_beats_an_earlier_one_without() {
        let candidates = [candidate("/usr", 22), candidate("/nightly", 23)];
        let linker_for = |llvm| (llvm == 23).then(|| PathBuf::from("/bin/bpf-linker"));
        let chosen = choose(&candidates, linker_for).expect("23 has a linker");
        assert_eq!(chosen.candidate.sysroot, Path::new("/nightly"));
        assert_eq!(choose(&candidates[..1], linker_for), None);
    }

    #[test]
    fn nightlies_are_known_by_their_name() {
        assert!(is_nightly(Path::new("/r/toolchains/nightly-x86_64-unknown-linux-gnu")));
        assert!(!is_nightly(Path::new("/r/toolchains/stable-x86_64-unknown-linux-gnu")));
    }

    #[test]
    fn rustups_reason_is_its_error_line() {
        let output = "info: downloading\nerror: could not download file\n\nCaused by:\n  dns\n";
        assert_eq!(last_error(output), "error: could not download file");
        assert_eq!(last_error("gave up\n"), "gave up");
    }
}
