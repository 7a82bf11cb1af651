//! Installing Debian packages without surprises: the lists are fetched only once and only if something
//! is to be installed, nothing optional comes along, and no service starts (nginx would take port 80).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{slow, version};
use crate::cmd;
use crate::progress::Step;

/// The apt of this system.
pub(super) struct Apt {
    updated: bool,
}

impl Apt {
    pub(super) fn find() -> Option<Self> {
        cmd::which("apt-get").map(|_| Self { updated: false })
    }

    /// Fetches the lists, once. Failing (one broken source is enough) is not final: what is wanted may
    /// well be in the lists that are there.
    pub(super) fn update(&mut self) -> Result<()> {
        if !self.updated {
            self.updated = true;
            Step { name: "apt's package lists", ..slow("10 s") }.run(apt_get().arg("update"))?;
        }
        Ok(())
    }

    /// The version of the package that would be installed.
    pub(super) fn candidate(&self, package: &str) -> Result<Option<String>> {
        let policy =
            cmd::capture(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?;
        Ok(version::apt_candidate(&policy).map(str::to_owned))
    }

    /// Installs packages; those that are there are left alone.
    pub(super) fn install(&mut self, packages: &[&str], usually: &str) -> Result<()> {
        self.update()?;
        let _no_services = NoServices::begin()?;
        let name = format!("packages {}", packages.join(", "));
        let step = Step { name: &name, ..slow(usually) };
        if !step.run(&mut install(packages))?.success {
            // Mirrors change while one reads them; lists fetched anew are the usual cure.
            self.updated = false;
            self.update()?;
            step.run_or_fail(&mut install(packages)).context("apt cannot install packages")?;
        }
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").arg("--quiet");
    // A machine that has just started may be installing its updates.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn install(packages: &[&str]) -> Command {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command
}

const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// 101: "do not start it". The comment tells us that a file left by an interrupted run is ours.
const POLICY: &str =
    "#!/bin/sh\n# Written by pen's `cargo xtask setup`; safe to remove.\nexit 101\n";

/// While it lives, packages do not start their services. Respects a policy of the administrator.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(POLICY_FILE);
        let ours = match fs::read(path) {
            Ok(present) => present == POLICY.as_bytes(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error).context(POLICY_FILE),
        };
        let guard = Self { ours };
        if ours {
            fs::write(path, POLICY).context(POLICY_FILE)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context(POLICY_FILE)?;
        }
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY_FILE)
        {
            eprintln!("setup: cannot remove {POLICY_FILE}, services will not start: {error}");
        }
    }
}
