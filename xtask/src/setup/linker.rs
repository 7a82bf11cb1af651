//! bpf-linker: reads the compiler's bitcode, so it must be built on the compiler's LLVM (another
//! one ends in `Invalid record`). Which one an installed linker has is read from its bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::apt::Apt;
use super::{slow, version};
use crate::cmd;
use crate::progress::Step;
use crate::workspace::workspace;

const NAME: &str = "bpf-linker";
const VERSION: &str = "0.13.0";
/// The LLVMs that this release can be built on.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// A linker on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Linker {
    path: PathBuf,
    /// Unknown if stripped of everything telling: then it is believed, and the build will show.
    llvm: Option<u32>,
}

/// All linkers, the user's first.
pub(super) fn installed() -> Result<Vec<Linker>> {
    let ours = our_root()?.join("bin").join(NAME);
    [cmd::which_cargo_tool(NAME), ours.is_file().then_some(ours)]
        .into_iter()
        .flatten()
        .map(|path| {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Linker { llvm: version::llvm_inside(&bytes), path })
        })
        .collect()
}

/// One that surely fits, or else one that may.
pub(super) fn matching(linkers: &[Linker], llvm: u32) -> Option<PathBuf> {
    [Some(llvm), None]
        .into_iter()
        .find_map(|wanted| linkers.iter().find(|linker| linker.llvm == wanted))
        .map(|linker| linker.path.clone())
}

/// Builds a linker for this LLVM, unless there is one.
pub(super) fn install(llvm: u32, apt: Option<&mut Apt>) -> Result<()> {
    let present = installed()?;
    if matching(&present, llvm).is_some() {
        return Ok(());
    }
    ensure!(LLVMS.contains(&llvm), "{NAME} {VERSION} cannot be built on LLVM {llvm}");
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if let Some(apt) = apt {
        // libpolly: llvm-config names it among the libraries, but the -dev package lacks it.
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        apt.update()?;
        ensure!(apt.candidate(&packages[0])?.is_some(), "apt knows no {}", packages[0]);
        apt.install(&packages.each_ref().map(String::as_str), "half a minute")?;
    }
    ensure!(
        prefix.join("bin/llvm-config").is_file(),
        "no LLVM {llvm} in {}; a released {NAME} for this LLVM on the PATH will do as well",
        prefix.display()
    );

    let mut cargo = cmd::cargo();
    cargo
        .env("LLVM_PREFIX", &prefix)
        .env_remove("RUSTC_WRAPPER")
        .args(["install", "--locked", &format!("{NAME}@{VERSION}")])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    if !present.is_empty() {
        // The user's own linker has another LLVM, surely for a reason: leave it.
        cargo.arg("--root").arg(our_root()?);
    }
    let name = format!("{NAME} {VERSION} for LLVM {llvm}, from source");
    Step { name: &name, ..slow("70 s on two cores") }.run_or_fail(&mut cargo)?;
    ensure!(matching(&installed()?, llvm).is_some(), "{NAME} was installed, but not where we look");
    Ok(())
}

fn our_root() -> Result<PathBuf> {
    Ok(Path::new(&workspace()?.target).join("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_must_not_be_for_another_llvm() {
        let linker = |path: &str, llvm| Linker { path: PathBuf::from(path), llvm };
        let linkers = [linker("/unknown", None), linker("/twenty-one", Some(21))];
        assert_eq!(matching(&linkers, 21), Some(PathBuf::from("/twenty-one")));
        assert_eq!(matching(&linkers, 22), Some(PathBuf::from("/unknown")));
        assert_eq!(matching(&linkers[1..], 22), None);
    }
}
