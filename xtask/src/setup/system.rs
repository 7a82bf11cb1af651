//! What the lab and the tests expect of the system beside a compiler: programs, a mounted bpffs, and a
//! kernel that describes its types.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;

/// A program that tests or the lab run.
#[derive(Debug)]
pub(super) struct Tool {
    command: &'static str,
    /// Debian's name of the package.
    pub(super) package: &'static str,
    purpose: &'static str,
}

const fn tool(command: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { command, package, purpose }
}

const TOOLS: &[Tool] = &[
    tool("ip", "iproute2", "makes namespaces, links, addresses and routes"),
    tool("bridge", "iproute2", "shows what a bridge has learnt"),
    tool("ethtool", "ethtool", "switches checksum offload off on veth"),
    tool("sysctl", "procps", "tells servers to keep silent about virtual addresses"),
    tool("openssl", "openssl", "makes the secret of the README's configuration"),
    tool("nginx", "nginx-light", "is the HTTP backend"),
    tool("haproxy", "haproxy", "speaks the PROXY protocol, and is what the proxy is compared with"),
    tool(NGINX_STREAM, "libnginx-mod-stream", "lets nginx be compared with the proxy"),
    tool("pen", "pen", "is pen's ancestor, for comparison"),
    tool("wrk", "wrk", "makes load for the bench of the proxy"),
    tool("dnsmasq", "dnsmasq-base", "is the DNS backend"),
    tool("dig", "bind9-dnsutils", "is the DNS client"),
    tool("smtpd", "opensmtpd", "is the SMTP backend"),
    tool("socat", "socat", "is the agent of a backend"),
    tool("curl", "curl", "is the HTTP client"),
    tool("jq", "jq", "reads penctl's JSON in examples"),
    tool("tcpdump", "tcpdump", "captures what passes in a failing test"),
    tool("ping", "iputils-ping", "asks an address whether it is there"),
    tool("arping", "arping", "asks who has an address (IPv4)"),
    tool("ucarp", "ucarp", "is the peer of CARP"),
    tool("faketime", "faketime", "shows a daemon a clock that is stepped"),
    tool("python3", "python3-minimal", "checks advertisements without our code"),
    tool("ndisc6", "ndisc6", "asks who has an address (IPv6)"),
];

/// A module is no command, but a file that is there or not.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const BPFFS: &str = "/sys/fs/bpf";
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn missing_tools() -> Vec<&'static Tool> {
    one_per_package(TOOLS.iter().filter(|tool| cmd::which(tool.command).is_none()))
}

fn one_per_package(tools: impl Iterator<Item = &'static Tool>) -> Vec<&'static Tool> {
    let mut wanted: Vec<&Tool> = Vec::new();
    for tool in tools {
        if !wanted.iter().any(|other| other.package == tool.package) {
            wanted.push(tool);
        }
    }
    wanted
}

/// For systems whose packages we cannot install.
pub(super) fn to_install_by_hand(tools: &[&Tool]) -> String {
    tools.iter().fold(
        "setup can install packages only with apt, which this system lacks. Install these commands \
         and run it again:"
            .to_owned(),
        |text, tool| {
            let Tool { command, package, purpose } = tool;
            text + &format!("\n  {command:10} {purpose} (Debian's package: {package})")
        },
    )
}

pub(super) fn bpffs_mounted() -> Result<bool> {
    fs::read_to_string("/proc/mounts").map(|mounts| has_bpffs(&mounts)).context("/proc/mounts")
}

/// Asked before mounting: a second mount would hide what is pinned in the first.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

pub(super) fn mount_bpffs() -> Result<()> {
    cmd::capture(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
        .with_context(|| format!("cannot mount bpffs; the kernel must have it and {BPFFS}"))?;
    println!("setup: bpffs mounted at {BPFFS}");
    Ok(())
}

/// Not an error: the programs load without it, but aya cannot check them against this kernel.
pub(super) fn warn_about_the_kernel() {
    if !Path::new(KERNEL_BTF).exists() {
        eprintln!(
            "setup: warning: no {KERNEL_BTF}; use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bpffs_at_the_usual_place_counts() {
        for (mounts, mounted) in [
            ("bpf /sys/fs/bpf bpf rw,nosuid,mode=700 0 0\n", true),
            ("none /sys/fs/bpf bpf rw 0 0\n", true),
            ("sysfs /sys sysfs rw 0 0\nbpf /run/bpf bpf rw 0 0\n", false),
            ("tmpfs /sys/fs/bpf tmpfs rw 0 0\n", false),
            ("", false),
        ] {
            assert_eq!(has_bpffs(mounts), mounted, "{mounts}");
        }
    }

    #[test]
    fn a_package_is_installed_once_for_two_commands() {
        let wanted = one_per_package(TOOLS.iter().filter(|tool| tool.package == "iproute2"));
        assert_eq!(wanted.len(), 1);
    }

    #[test]
    fn without_apt_the_user_learns_what_to_install() {
        let text = to_install_by_hand(&[&TOOLS[0]]);
        assert!(text.contains("\n  ip "), "{text}");
        assert!(text.contains("iproute2"), "{text}");
    }
}
