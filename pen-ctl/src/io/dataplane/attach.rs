//! Attaches the program to interfaces through BPF links, which are pinned: they outlive the daemon,
//! and the next one replaces the program in them atomically. The pin's name says which interface
//! and which mode: `link-<ifindex>-native` or `link-<ifindex>-generic`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use nix::errno::Errno;

use super::error::chain;
use super::{DataplaneError, PROGRAM};
use crate::config::XdpMode;
use crate::engine::event::Attachment;

/// Why an interface does not take the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Another XDP program is there.
    Busy {
        /// Name of the interface.
        interface: String,
    },
    /// The driver has no native XDP, or not in this configuration.
    NotNative {
        /// Name of the interface.
        interface: String,
        /// What the kernel said.
        error: String,
    },
    /// Anything else.
    Failed {
        /// Name of the interface.
        interface: String,
        /// What the kernel said.
        error: String,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { interface } => write!(
                f,
                "{interface} has another XDP program; see `bpftool net` or `ip link show \
                 {interface}`, and remove it with `ip link set {interface} xdp off`"
            ),
            Self::NotNative { interface, error } => write!(
                f,
                "{interface} refuses native XDP ({error}): lower its MTU to 3498 or less, check \
                 the driver, or set xdp = \"generic\""
            ),
            Self::Failed { interface, error } => {
                write!(f, "XDP cannot be attached to {interface}: {error}")
            }
        }
    }
}

/// Links by index of the interface.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<u32, PinnedLink>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Native,
    Generic,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn pin(self, folder: &Path, ifindex: u32) -> PathBuf {
        folder.join(format!("link-{ifindex}-{}", self.name()))
    }
}

impl Links {
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        folder: &Path,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<Attachment, AttachError> {
        let program = program(ebpf).map_err(|error| AttachError::Failed {
            interface: interface.to_owned(),
            error: error.to_string(),
        })?;
        let modes: &[Mode] = match mode {
            XdpMode::Auto => &[Mode::Native, Mode::Generic],
            XdpMode::Native => &[Mode::Native],
            XdpMode::Generic => &[Mode::Generic],
            XdpMode::Off => &[],
        };
        let mut warning = None;
        // What is there already, in a mode that is wanted, is kept: its program is replaced without
        // a gap.
        for mode in modes {
            let pin = mode.pin(folder, ifindex);
            if let Some(link) = adopt(program, &pin) {
                self.links.insert(ifindex, link);
                if matches!(mode, Mode::Generic) && modes.len() > 1 {
                    warning = Some(format!(
                        "{interface} runs in generic mode, as before; restart with SIGTERM to try \
                         native again"
                    ));
                }
                return Ok(Attachment { native: matches!(mode, Mode::Native), warning });
            }
        }
        // The kernel allows one mode at a time.
        self.links.remove(&ifindex);
        for mode in [Mode::Native, Mode::Generic] {
            let _ = fs::remove_file(mode.pin(folder, ifindex));
        }
        for (index, mode) in modes.iter().enumerate() {
            match create(program, &mode.pin(folder, ifindex), interface, ifindex, *mode) {
                Ok(link) => {
                    self.links.insert(ifindex, link);
                    return Ok(Attachment { native: matches!(mode, Mode::Native), warning });
                }
                Err(error @ AttachError::NotNative { .. }) if index + 1 < modes.len() => {
                    warning = Some(format!("generic mode (slow): {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(AttachError::Failed {
            interface: interface.to_owned(),
            error: "the configuration says xdp = \"off\"".to_owned(),
        })
    }

    pub(super) fn detach_others(&mut self, folder: &Path, keep: &BTreeSet<u32>) {
        for (path, ifindex) in pins(folder) {
            if !keep.contains(&ifindex) {
                let _ = fs::remove_file(path);
            }
        }
        self.links.retain(|ifindex, _| keep.contains(ifindex));
    }

    pub(super) fn detach(self, folder: &Path) {
        for (path, _) in pins(folder) {
            let _ = fs::remove_file(path);
        }
        // The last descriptor of each link closes here, and with it the attachment ends.
        drop(self);
    }
}

/// Interfaces with a pinned link.
pub(super) fn pinned(folder: &Path) -> BTreeSet<u32> {
    pins(folder).into_iter().map(|(_, ifindex)| ifindex).collect()
}

/// All pinned links of a folder.
pub(super) fn pins(folder: &Path) -> Vec<(PathBuf, u32)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let pins = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let (ifindex, _mode) = name.to_str()?.strip_prefix("link-")?.split_once('-')?;
        Some((entry.path(), ifindex.parse().ok()?))
    });
    pins.collect()
}

/// Puts our program into a pinned link. `None` if there is no such link, or its interface is gone.
fn adopt(program: &mut Xdp, pin: &Path) -> Option<PinnedLink> {
    if !pin.exists() {
        return None;
    }
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
    // aya would close the link with the program; the pin keeps it either way.
    drop(program.take_link(id).ok()?);
    PinnedLink::from_pin(pin).ok()
}

fn create(
    program: &mut Xdp,
    pin: &Path,
    interface: &str,
    ifindex: u32,
    mode: Mode,
) -> Result<PinnedLink, AttachError> {
    let how = match mode {
        Mode::Native => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    };
    let failed = |error: String| match mode {
        Mode::Native => AttachError::NotNative { interface: interface.to_owned(), error },
        Mode::Generic => AttachError::Failed { interface: interface.to_owned(), error },
    };
    let id = program.attach_to_if_index(ifindex, how).map_err(|error| {
        if is_busy(&error) {
            AttachError::Busy { interface: interface.to_owned() }
        } else {
            failed(chain(&error))
        }
    })?;
    let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
    // Kernels before 5.9 have no XDP links; what is not pinned would end with the daemon.
    let link = FdLink::try_from(link).map_err(|_| {
        failed("the kernel has no BPF links for XDP: Linux 5.9 or later is needed".to_owned())
    })?;
    link.pin(pin).map_err(|error| AttachError::Failed {
        interface: interface.to_owned(),
        error: format!("{}: {}", pin.display(), chain(&error)),
    })
}

fn is_busy(error: &ProgramError) -> bool {
    let busy = |error: &std::io::Error| error.raw_os_error() == Some(Errno::EBUSY as i32);
    match error {
        ProgramError::SyscallError(error) => busy(&error.io_error),
        error => chain(error).contains("EBUSY") || chain(error).contains("busy"),
    }
}

pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| DataplaneError::Object(format!("has no program {PROGRAM}")))?;
    program
        .try_into()
        .map_err(|_| DataplaneError::Object(format!("has a program {PROGRAM} that is not XDP")))
}
