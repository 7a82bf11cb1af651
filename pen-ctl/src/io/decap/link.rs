//! The link by which the program is attached. Its pin is named `link-<ifindex>-<mode>`: the mode of a
//! link never changes, and an interface that was made anew has another index.

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use nix::errno::Errno;

use super::{DecapError, Wish};
use crate::io::cause::chain;

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack: works everywhere, slower.
    Generic,
}

/// A pinned link of an interface that is still there.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) mode: Mode,
    pin: PathBuf,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn pin(self, folder: &Path, ifindex: u32) -> PathBuf {
        folder.join(format!("link-{ifindex}-{}", self.name()))
    }
}

impl Link {
    pub(super) fn find(folder: &Path, ifindex: u32) -> Option<Self> {
        let link = |mode: Mode| Self { mode, pin: mode.pin(folder, ifindex) };
        [Mode::Native, Mode::Generic].into_iter().map(link).find(|link| link.pin.exists())
    }
}

/// Whether this is the pin of a link.
pub(super) fn is_link(pin: &Path) -> bool {
    pin.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("link-"))
}

/// Whether what is there may stay.
pub(super) fn check_mode(present: Option<&Link>, wish: &Wish) -> Result<(), DecapError> {
    match present {
        Some(link) if !wish.modes.contains(&link.mode) => {
            let interface = wish.interface.clone();
            Err(DecapError::Mode { interface, mode: link.mode.name() })
        }
        _ => Ok(()),
    }
}

/// Leads the link that is present to this program, or makes one. Tells why it did not get the mode
/// that is wanted most.
pub(super) fn attach(
    program: &mut Xdp,
    folder: &Path,
    ifindex: u32,
    present: Option<Link>,
    wish: &Wish,
) -> Result<Option<DecapError>, DecapError> {
    let interface = || wish.interface.clone();
    if let Some(Link { pin, .. }) = present {
        let replaced = replace(program, &pin).map(|()| None);
        return replaced.map_err(|error| DecapError::Attach { interface: interface(), error });
    }
    // Those of an interface that is no more.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_link(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let mut refused = None;
    for mode in &wish.modes {
        match create(program, &mode.pin(folder, ifindex), ifindex, *mode) {
            Ok(()) => return Ok(refused),
            Err(Refusal::Busy) => return Err(DecapError::Busy(interface())),
            Err(Refusal::Other(error)) => {
                refused = Some(if *mode == Mode::Native {
                    DecapError::NotNative { interface: interface(), error }
                } else {
                    DecapError::Attach { interface: interface(), error }
                });
            }
        }
    }
    let error = || "no mode is wanted".to_owned();
    Err(refused.unwrap_or_else(|| DecapError::Attach { interface: interface(), error: error() }))
}

/// Leads a pinned link to another program, in one step.
fn replace(program: &mut Xdp, pin: &Path) -> Result<(), String> {
    let link = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| chain(&error))?;
    let id = program.attach_to_link(link).map_err(|error| chain(&error))?;
    // aya would close the link with the program; the pin keeps it either way.
    program.take_link(id).map(drop).map_err(|error| chain(&error))
}

enum Refusal {
    Busy,
    Other(String),
}

fn create(program: &mut Xdp, pin: &Path, ifindex: u32, mode: Mode) -> Result<(), Refusal> {
    let how = match mode {
        Mode::Native => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    };
    let other = |error: &dyn std::error::Error| Refusal::Other(chain(error));
    let id = program.attach_to_if_index(ifindex, how).map_err(|error| match &error {
        ProgramError::SyscallError(call)
            if call.io_error.raw_os_error() == Some(Errno::EBUSY as i32) =>
        {
            Refusal::Busy
        }
        _ => other(&error),
    })?;
    let link = program.take_link(id).map_err(|error| other(&error))?;
    let link = FdLink::try_from(link).map_err(|error| other(&error))?;
    link.pin(pin).map(drop).map_err(|error| other(&error))
}
