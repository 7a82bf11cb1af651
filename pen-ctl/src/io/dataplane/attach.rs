//! Attaches the program to interfaces through BPF links, which are pinned: they outlive the daemon,
//! and the next one replaces the program in them atomically. The pin's name says which interface
//! and which mode: `link-<ifindex>-native` or `link-<ifindex>-generic`.
//!
//! There are two builds of the program ([`Build`]); which one a driver takes depends on its frames.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use nix::errno::Errno;

use super::DataplaneError;
use super::error::chain;
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
        /// Its MTU.
        mtu: u32,
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
            Self::NotNative { interface, mtu, error } => write!(
                f,
                "{interface} refuses native XDP ({error}) with MTU {mtu}, also for frames in \
                 fragments: check the driver, lower its MTU to {LINEAR_MTU} or less, or set xdp = \
                 \"generic\""
            ),
            Self::Failed { interface, error } => {
                write!(f, "XDP cannot be attached to {interface}: {error}")
            }
        }
    }
}

/// Up to this MTU all drivers hand frames over in one piece: a page, less what veth keeps of it for
/// head and tail room and for the Ethernet header. Most other drivers need less.
const LINEAR_MTU: u32 = 3498;

/// How long the end of an attachment may take after its last handle has gone: the kernel lets go of a
/// pin when no CPU can look at it any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// A program of the object. Both are the same but for the kind of frames that they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// For frames in one piece.
    Linear,
    /// For frames in fragments too (`xdp.frags`); a driver may not have it.
    Frags,
}

impl Build {
    const fn name(self) -> &'static str {
        match self {
            Self::Linear => "pen",
            Self::Frags => "pen_frags",
        }
    }

    /// The one that suits the frames of an interface with this MTU.
    pub(super) const fn first_choice(mtu: u32) -> Self {
        if mtu > LINEAR_MTU { Self::Frags } else { Self::Linear }
    }
}

/// An interface.
#[derive(Clone, Copy)]
pub(super) struct Nic<'a> {
    pub(super) name: &'a str,
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
}

/// Links by index of the interface.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<u32, PinnedLink>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// In which order modes and builds are tried.
fn choices(mode: XdpMode, mtu: u32) -> Vec<(Mode, Build)> {
    let native = match Build::first_choice(mtu) {
        Build::Linear => [(Mode::Native, Build::Linear), (Mode::Native, Build::Frags)],
        // Some drivers take long frames in one piece, with pages of 64 KiB for example.
        Build::Frags => [(Mode::Native, Build::Frags), (Mode::Native, Build::Linear)],
    };
    // The kernel puts frames together for a program that does not take fragments.
    let generic = [(Mode::Generic, Build::Linear)];
    match mode {
        XdpMode::Auto => [&native[..], &generic].concat(),
        XdpMode::Native => native.into(),
        XdpMode::Generic => generic.into(),
        XdpMode::Off => Vec::new(),
    }
}

impl Links {
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        folder: &Path,
        nic: Nic<'_>,
        mode: XdpMode,
    ) -> Result<Attachment, AttachError> {
        let choices = choices(mode, nic.mtu);
        let mut warning = None;
        // What is there already, in a mode that is wanted, is kept: its program is replaced without
        // a gap.
        for (mode, build) in &choices {
            let pin = mode.pin(folder, nic.ifindex);
            if !pin.exists() {
                continue;
            }
            if let Some(link) = adopt(loaded(ebpf, *build, nic)?, &pin) {
                self.links.insert(nic.ifindex, link);
                if *mode == Mode::Generic && choices.len() > 1 {
                    warning = Some(format!(
                        "{} runs in generic mode, as before; restart with SIGTERM to try native \
                         again",
                        nic.name
                    ));
                }
                return Ok(attachment(*mode, *build, warning));
            }
        }
        // The kernel allows one mode at a time.
        let mut patience = Duration::ZERO;
        self.links.remove(&nic.ifindex);
        for mode in [Mode::Native, Mode::Generic] {
            if fs::remove_file(mode.pin(folder, nic.ifindex)).is_ok() {
                patience = PATIENCE;
            }
        }
        let mut refusal = None;
        for (mode, build) in choices {
            let pin = mode.pin(folder, nic.ifindex);
            match create(loaded(ebpf, build, nic)?, &pin, nic, mode, patience) {
                Ok(link) => {
                    self.links.insert(nic.ifindex, link);
                    if mode == Mode::Generic {
                        let generic = |refusal| format!("generic mode (slow): {refusal}");
                        warning = refusal.as_ref().map(generic);
                    }
                    return Ok(attachment(mode, build, warning));
                }
                // Of two native builds, the reason of the one that suits the MTU is told.
                Err(error @ AttachError::NotNative { .. }) => {
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| AttachError::Failed {
            interface: nic.name.to_owned(),
            error: "the configuration says xdp = \"off\"".to_owned(),
        }))
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

fn attachment(mode: Mode, build: Build, warning: Option<String>) -> Attachment {
    Attachment { native: mode == Mode::Native, frags: build == Build::Frags, warning }
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

/// Puts our program into a pinned link. `None` if there is no such link, its interface is gone, or
/// does not take this build.
fn adopt(program: &mut Xdp, pin: &Path) -> Option<PinnedLink> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
    // aya would close the link with the program; the pin keeps it either way.
    drop(program.take_link(id).ok()?);
    PinnedLink::from_pin(pin).ok()
}

fn create(
    program: &mut Xdp,
    pin: &Path,
    nic: Nic<'_>,
    mode: Mode,
    patience: Duration,
) -> Result<PinnedLink, AttachError> {
    let interface = || nic.name.to_owned();
    let how = match mode {
        Mode::Native => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    };
    let failed = |error: String| match mode {
        Mode::Native => AttachError::NotNative { interface: interface(), mtu: nic.mtu, error },
        Mode::Generic => AttachError::Failed { interface: interface(), error },
    };
    let id = attach_within(program, nic.ifindex, how, patience).map_err(|error| {
        if is_busy(&error) {
            AttachError::Busy { interface: interface() }
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
        interface: interface(),
        error: format!("{}: {}", pin.display(), chain(&error)),
    })
}

/// Attaches, and tries again for as long as this if the other mode is still there.
#[expect(clippy::disallowed_methods, reason = "io owns the clock; some milliseconds, and rarely")]
fn attach_within(
    program: &mut Xdp,
    ifindex: u32,
    how: AyaMode,
    patience: Duration,
) -> Result<XdpLinkId, ProgramError> {
    let begin = Instant::now();
    loop {
        match program.attach_to_if_index(ifindex, how) {
            Err(error) if is(Errno::EEXIST, &error) && begin.elapsed() < patience => {
                thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

fn is_busy(error: &ProgramError) -> bool {
    is(Errno::EBUSY, error) || chain(error).contains("EBUSY") || chain(error).contains("busy")
}

fn is(errno: Errno, error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(errno as i32),
        _ => false,
    }
}

/// The program for this interface.
fn loaded<'a>(ebpf: &'a mut Ebpf, build: Build, nic: Nic<'_>) -> Result<&'a mut Xdp, AttachError> {
    program(ebpf, build).map_err(|error| AttachError::Failed {
        interface: nic.name.to_owned(),
        error: error.to_string(),
    })
}

/// A program of the object, in the kernel: it is brought there when it is first asked for.
pub(super) fn program(ebpf: &mut Ebpf, build: Build) -> Result<&mut Xdp, DataplaneError> {
    let name = build.name();
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DataplaneError::Object(format!("has no program {name}")))?;
    let program: &mut Xdp = program
        .try_into()
        .map_err(|_| DataplaneError::Object(format!("has a program {name} that is not XDP")))?;
    if program.fd().is_err() {
        load(program).map_err(DataplaneError::Verify)?;
    }
    Ok(program)
}

/// The verifier gives up with EAGAIN when a signal is pending (bpf_check in the kernel's verifier.c),
/// and expects to be asked again.
fn load(program: &mut Xdp) -> Result<(), ProgramError> {
    const ATTEMPTS: usize = 10;
    let is_interrupted = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 1..ATTEMPTS {
        match program.load() {
            Err(error) if is_interrupted(&error) => {}
            other => return other,
        }
    }
    program.load()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: (Mode, Build) = (Mode::Native, Build::Linear);
    const FRAGS: (Mode, Build) = (Mode::Native, Build::Frags);
    const GENERIC: (Mode, Build) = (Mode::Generic, Build::Linear);

    #[test]
    fn the_build_that_suits_the_mtu_is_tried_first_and_generic_mode_last() {
        assert_eq!(choices(XdpMode::Auto, 1500), [NATIVE, FRAGS, GENERIC]);
        assert_eq!(choices(XdpMode::Auto, LINEAR_MTU), [NATIVE, FRAGS, GENERIC]);
        assert_eq!(choices(XdpMode::Auto, LINEAR_MTU + 1), [FRAGS, NATIVE, GENERIC]);
        assert_eq!(choices(XdpMode::Native, 9000), [FRAGS, NATIVE]);
        assert_eq!(choices(XdpMode::Generic, 9000), [GENERIC]);
        assert_eq!(choices(XdpMode::Off, 1500), []);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let (interface, error) = ("eth0".to_owned(), "out of range".to_owned());
        let text = AttachError::NotNative { interface, mtu: 9000, error }.to_string();
        for word in ["eth0", "9000", "out of range", "lower its MTU to 3498", "\"generic\""] {
            assert!(text.contains(word), "{text}");
        }
    }
}
