//! Where things are: asked from cargo once, since the target folder can be moved by a variable or a
//! settings file, and the names of the eBPF programs stand in pen-ebpf's manifest.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cmd;

/// The package that becomes eBPF objects.
pub(crate) const EBPF_PACKAGE: &str = "pen-ebpf";

/// What cargo says about this workspace.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// The binaries of `EBPF_PACKAGE`: each becomes `NAME.bpf.o`.
    pub(crate) ebpf_programs: Vec<String>,
}

/// Asks cargo the first time (0.1 s), remembers the answer.
pub(crate) fn workspace() -> Result<&'static Workspace> {
    static WORKSPACE: OnceLock<Workspace> = OnceLock::new();
    if let Some(known) = WORKSPACE.get() {
        return Ok(known);
    }
    let text = cmd::capture(
        cmd::cargo()
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")),
    )?;
    let found = parse(&text).context("cannot understand `cargo metadata`")?;
    Ok(WORKSPACE.get_or_init(|| found))
}

fn parse(metadata: &str) -> Result<Workspace> {
    let metadata: Value = serde_json::from_str(metadata)?;
    let path = |key: &str| metadata[key].as_str().map(PathBuf::from).context(key.to_owned());
    let targets = metadata["packages"]
        .as_array()
        .context("packages")?
        .iter()
        .find(|package| package["name"] == EBPF_PACKAGE)
        .and_then(|package| package["targets"].as_array())
        .context(EBPF_PACKAGE)?;
    let ebpf_programs = targets
        .iter()
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    Ok(Workspace {
        root: path("workspace_root")?,
        target: path("target_directory")?,
        ebpf_programs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binaries_of_the_ebpf_package_are_programs() {
        let found = parse(
            r#"{"workspace_root": "/w", "target_directory": "/t", "packages": [
                {"name": "pen-ctl", "targets": [{"kind": ["bin"], "name": "pend"}]},
                {"name": "pen-ebpf", "targets": [
                    {"kind": ["bin"], "name": "pen"}, {"kind": ["bin"], "name": "pen-decap"},
                    {"kind": ["custom-build"], "name": "build-script-build"}]}]}"#,
        )
        .expect("well-formed");
        assert_eq!(found.ebpf_programs, ["pen", "pen-decap"]);
        assert_eq!(found.target, PathBuf::from("/t"));
    }

    #[test]
    fn a_workspace_without_the_ebpf_package_is_an_error() {
        let text = r#"{"workspace_root": "/w", "target_directory": "/t", "packages": []}"#;
        assert!(parse(text).is_err());
    }
}
