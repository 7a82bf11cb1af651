//! pend on a real interface of this machine, in place of this process: signals then reach it
//! without a go-between.
#![expect(clippy::print_stdout, reason = "says what it runs and what else is needed")]

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use pen_tests::paths::{program, target_dir};

use super::listen::{Listen, configuration};

/// Becomes `pend ARGS`.
pub(super) fn with_arguments(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(program("pend")?);
    command.args(args);
    println!("running {}", shown(&command));
    Err(anyhow!(command.exec())).context("cannot run pend")
}

/// Writes a configuration for these services and becomes pend with it.
pub(super) fn on_interface(
    interface: &str,
    listens: &[Listen],
    backends: &[IpAddr],
    more: &[OsString],
) -> Result<()> {
    // Not /sys/class/net, which may show another network namespace.
    if nix::net::if_::if_nametoindex(interface).is_err() {
        bail!("there is no interface {interface} here; `ip link` shows what there is");
    }
    let path = write(&configuration(interface, listens, backends)?.render(None))?;
    println!("configuration: {}", path.display());
    println!("\nIn the mode `dsr` servers answer clients directly. On every server, once:");
    println!("  sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2");
    for (index, vip) in listens.iter().map(|listen| listen.address.ip()).enumerate() {
        if listens[..index].iter().all(|listen| listen.address.ip() != vip) {
            println!("  ip address add {vip}/{} dev lo", if vip.is_ipv4() { 32 } else { 128 });
        }
    }
    println!("\nTo look at it: {} backends", program("penctl")?.display());
    let config = [OsStr::new("--config"), path.as_os_str()].map(OsStr::to_owned);
    with_arguments(&config.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>())
}

fn write(text: &str) -> Result<PathBuf> {
    let dir = target_dir()?.join("run");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // The daemon's own default place for its socket.
    fs::create_dir_all("/run/pen").context("cannot make /run/pen")?;
    let path = dir.join("pen.toml");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
