//! Running other programs. A program that fails becomes an error that names its command line and
//! ends with the last lines it wrote: what one would otherwise have to run again to see.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How much of a failed program's output an error repeats.
const TAIL_LINES: usize = 40;

/// The cargo that runs us, without the variables it set for us: a nested cargo takes them for the
/// user's wishes (the library path even makes a foreign rustc load the wrong libraries).
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_set_by_cargo) {
            command.env_remove(name);
        }
    }
    command
}

/// rustup, kept from downloading a whole toolchain on its own account.
pub(crate) fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn is_set_by_cargo(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || name == "CARGO"
        || name == "OUT_DIR"
}

/// Runs the command and returns what it printed on standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("{}", failure(command, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the command in our place: the user sees and answers it directly.
pub(crate) fn stream(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    command.get_args().fold(name.into_owned(), |line, arg| line + " " + &arg.to_string_lossy())
}

/// The text of the error for a command that failed having written `output`.
pub(crate) fn failure(command: &Command, output: &str) -> String {
    format!("`{}` failed:\n{}", describe(command), tail(output, TAIL_LINES))
}

pub(crate) fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", describe(command))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where the program is. Looks in the sbin folders too, which a user's PATH often lacks.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The same for what `cargo install` installs, into a folder that need not be on the PATH.
pub(crate) fn which_cargo_tool(name: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let in_home = home.map(|home| home.join("bin").join(name)).filter(|file| file.is_file());
    in_home.or_else(|| which(name))
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `what` completes the sentence "... has to be root".
pub(crate) fn require_root(what: &str) -> Result<()> {
    if !is_root() {
        bail!("{what}: run it as root, e.g. with sudo");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_the_end_of_its_output() {
        let error = capture(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]));
        let text = error.expect_err("it exits with 3").to_string();
        assert!(text.starts_with("`sh -c"), "{text}");
        assert!(text.ends_with("no such thing"), "{text}");
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_nested_cargo_keeps_the_users_variables() {
        for (name, set_by_cargo) in [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO", true),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_HOME", false),
            ("RUSTFLAGS", false),
        ] {
            assert_eq!(is_set_by_cargo(name), set_by_cargo, "{name}");
        }
    }

    #[test]
    fn which_finds_programs_only() {
        assert!(which("sh").is_some());
        assert!(which("no-such-program-anywhere").is_none());
    }
}
