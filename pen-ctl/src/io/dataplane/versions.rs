//! Pins of other versions of pen. Maps of another layout cannot be read, but the link that attaches
//! a program to an interface is the same in all versions: its program is replaced in one step, so that
//! an upgrade loses no packet. `v<ABI version>/link-<ifindex>-<mode>` and the secret at the begin of
//! `CFG` are therefore a promise from version to version.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp};
use nix::errno::Errno;
use pen_common::ABI_VERSION;
use pen_common::abi::map;
use pen_common::hash::Secret;

use super::attach;
use super::error::chain;

/// The folder of our version.
pub(super) fn own(pins: &Path) -> PathBuf {
    pins.join(format!("v{ABI_VERSION}"))
}

/// The version that a folder belongs to.
pub(super) fn of_folder(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

/// Folders of all versions that have pins of ours.
pub(super) fn all(pins: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(pins) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path());
    // Somebody else's folder may have such a name; what is in ours cannot be mistaken.
    let ours = |path: &PathBuf| {
        of_folder(path).is_some()
            && (path.join(map::CFG).exists() || !attach::pinned(path).is_empty())
    };
    let mut folders: Vec<PathBuf> = folders.filter(ours).collect();
    folders.sort();
    folders
}

/// Folders of other versions that have pins of ours.
pub(super) fn others(pins: &Path) -> Vec<PathBuf> {
    let own = own(pins);
    all(pins).into_iter().filter(|folder| *folder != own).collect()
}

/// Interfaces on which programs of other versions forward.
pub(super) fn forwarding(pins: &Path) -> BTreeSet<u32> {
    others(pins).iter().flat_map(|folder| attach::pinned(folder)).collect()
}

/// The secret of another version: with the same one, flows keep their slots.
pub(super) fn secret(pins: &Path) -> Option<Secret> {
    others(pins).iter().find_map(|folder| read_secret(&folder.join(map::CFG)).ok().flatten())
}

fn read_secret(pin: &Path) -> Result<Option<Secret>, MapError> {
    fn words<const N: usize>(data: MapData) -> Result<Option<Secret>, MapError> {
        let array: Array<MapData, [u64; N]> = Array::try_from(Map::from_map_data(data)?)?;
        Ok(array.get(&0, 0)?.first_chunk().copied())
    }
    let data = MapData::from_pin(pin)?;
    // aya wants the size of a value to be known when it is compiled.
    let secret = match data.info()?.value_size() {
        16 => words::<2>(data),
        24 => words::<3>(data),
        32 => words::<4>(data),
        40 => words::<5>(data),
        48 => words::<6>(data),
        56 => words::<7>(data),
        64 => words::<8>(data),
        _ => Ok(None),
    };
    Ok(secret?.filter(|secret| *secret != [0, 0]))
}

/// Puts our program into the link that another version attached to an interface, and makes the pin
/// of the link ours. Does nothing if there is none.
///
/// # Errors
///
/// If the kernel refuses; the other version's program then goes on forwarding.
pub(super) fn take_over(pins: &Path, program: &mut Xdp, ifindex: u32) -> Result<(), String> {
    for folder in others(pins) {
        for (pin, _) in attach::pins(&folder).into_iter().filter(|(_, found)| *found == ifindex) {
            match replace(program, &pin) {
                Ok(()) => {
                    let name = pin.file_name().unwrap_or_default();
                    fs::rename(&pin, own(pins).join(name))
                        .map_err(|error| format!("{}: {error}", pin.display()))?;
                }
                // The interface is another one by now.
                Err(Refused::Gone) => {
                    let _ = fs::remove_file(&pin);
                }
                Err(Refused::Kernel(error)) => {
                    return Err(format!(
                        "the program of another version of pen ({}) goes on forwarding, for it \
                         cannot be replaced: {error}",
                        folder.display()
                    ));
                }
            }
        }
    }
    sweep(pins);
    Ok(())
}

enum Refused {
    /// The link's interface is gone.
    Gone,
    Kernel(String),
}

fn replace(program: &mut Xdp, pin: &Path) -> Result<(), Refused> {
    let kernel = |error: &dyn std::error::Error| Refused::Kernel(chain(error));
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(|error| kernel(&error))?);
    let link = XdpLink::try_from(link).map_err(|error| kernel(&error))?;
    let id = program
        .attach_to_link(link)
        .map_err(|error| if is_gone(&error) { Refused::Gone } else { kernel(&error) })?;
    // The pin keeps the link; our handle is not needed.
    program.take_link(id).map(drop).map_err(|error| kernel(&error))
}

/// `ENOLINK` (bpf_xdp_link_update in net/core/dev.c).
fn is_gone(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32)
        }
        _ => false,
    }
}

/// Detaches programs of other versions from all interfaces but these.
pub(super) fn detach_others(pins: &Path, keep: &BTreeSet<u32>) {
    for folder in others(pins) {
        for (pin, ifindex) in attach::pins(&folder) {
            if !keep.contains(&ifindex) {
                let _ = fs::remove_file(pin);
            }
        }
    }
    sweep(pins);
}

/// Removes the maps of other versions that forward nowhere any more.
pub(super) fn sweep(pins: &Path) {
    for folder in others(pins) {
        if attach::pinned(&folder).is_empty() {
            // What cannot be removed is tried again by the next daemon.
            let _ = remove(&folder);
        }
    }
}

/// Removes all pins of a folder and the folder.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(folder)
}
