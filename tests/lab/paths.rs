//! Where things are: the programs under test, the objects for the kernel, and the lab's own scratch
//! folders.
//!
//! Everything that outlives a process carries its pid in the name, `pen-…-<pid>-<n>`, so that
//! [`crate::prune`] can tell what a dead run has left from what belongs to a living one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::pend::mount_bpffs;

/// Where scratch folders are made: short, because a socket's path has at most 107 bytes.
pub(crate) const SCRATCH: &str = "/tmp";
/// Below it each daemon of the lab has a folder for its pinned maps.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// A name nobody else uses, which says whose it is.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The process that made this name with [`unique`]; none for a name that is not ours.
pub(crate) fn owner(name: &str) -> Option<u32> {
    let (stem, number) = name.rsplit_once('-')?;
    let (stem, pid) = stem.rsplit_once('-')?;
    number.parse::<u32>().ok()?;
    stem.starts_with("pen-").then(|| pid.parse().ok())?
}

/// A program of this workspace, for example `pend`: from `$PEN_BIN_DIR`, else from beside the
/// running one.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = program_dir()?.join(name);
    if !path.exists() {
        bail!("{} is not built; `cargo xtask build` does it", path.display());
    }
    Ok(path)
}

/// The folder with the programs of this workspace.
pub fn program_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("PEN_BIN_DIR") {
        return Ok(dir.into());
    }
    let running = env::current_exe().context("cannot tell which program this is")?;
    let dir = running.parent().ok_or_else(|| anyhow!("{} has no folder", running.display()))?;
    // Test programs lie one deeper than the others.
    Ok(if dir.ends_with("deps") { dir.join("..").canonicalize()? } else { dir.to_owned() })
}

/// The workspace's `target` folder.
pub fn target_dir() -> Result<PathBuf> {
    let dir = program_dir()?;
    dir.parent().map(Path::to_owned).ok_or_else(|| anyhow!("{} has no parent", dir.display()))
}

/// The XDP program that passes everything: from `$PEN_PASS_OBJECT`, else where a build leaves it.
pub(crate) fn pass_object() -> Result<PathBuf> {
    if let Some(path) = env::var_os("PEN_PASS_OBJECT") {
        return Ok(path.into());
    }
    let target = target_dir()?;
    ["ebpf/pass.bpf.o", "debug/pass.bpf.o", "pass.bpf.o", "ebpf/bpfel-unknown-none/release/pass"]
        .into_iter()
        .map(|place| target.join(place))
        .find(|path| path.exists())
        .ok_or_else(|| anyhow!("pass.bpf.o is not built; `cargo xtask build` does it"))
}

/// A folder for one server's files, removed with everything in it on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty folder.
    pub fn new() -> Result<Self> {
        let path = Path::new(SCRATCH).join(unique("pen-lab"));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-overs in /tmp are removed by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder below bpffs that nobody else uses, removed with its pins on drop.
#[derive(Debug)]
pub struct Pins(PathBuf);

impl Pins {
    /// Names the folder; whoever pins makes it.
    pub fn new() -> Result<Self> {
        mount_bpffs()?;
        Ok(Self(Path::new(BPFFS).join(unique("pen-pins"))))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // A data plane that was detached has removed it already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        assert_eq!(owner(&unique("pen-client")), Some(process::id()));
        assert_eq!(owner("pen-b-side-17-3"), Some(17));
        for foreign in
            ["pen", "pen-lab", "pen-17", "blue-x-17-3", "pen-x-17-y", "pen-x-y-3", "docker-1-2"]
        {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
