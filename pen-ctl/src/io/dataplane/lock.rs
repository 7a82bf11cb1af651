//! The lock on the folder of the pins: two daemons on the same maps would undo each other's writes.
//! The kernel releases it however a daemon ends.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::DataplaneError;

/// The lock. Dropping it releases it, and removes the folder if nothing is in it.
#[derive(Debug)]
pub struct Lock {
    pins: PathBuf,
    _folder: File,
}

impl Lock {
    /// Makes the folder if need be, and locks it.
    ///
    /// # Errors
    ///
    /// If another daemon has it, or it cannot be made.
    pub fn take(pins: &Path) -> Result<Self, DataplaneError> {
        make(pins).map_err(|source| DataplaneError::Pins { path: pins.to_owned(), source })?;
        Self::of_folder(pins)
    }

    /// Locks the folder, which has to be there.
    ///
    /// # Errors
    ///
    /// If another daemon has it, or there is none.
    pub fn of_folder(pins: &Path) -> Result<Self, DataplaneError> {
        let failed = |source| DataplaneError::Pins { path: pins.to_owned(), source };
        let folder = File::open(pins).map_err(failed)?;
        let in_use = |pid| DataplaneError::InUse { path: pins.to_owned(), pid };
        folder.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => in_use(holder(&folder)),
            TryLockError::Error(source) => failed(source),
        })?;
        // A daemon that just ended cleanly may have removed it in between.
        match (folder.metadata(), fs::metadata(pins)) {
            (Ok(locked), Ok(there)) if locked.ino() == there.ino() => {
                Ok(Self { pins: pins.to_owned(), _folder: folder })
            }
            _ => Err(in_use(None)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}

impl Drop for Lock {
    /// A folder in which nothing is, is of no use to the next one.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.pins);
    }
}

/// Makes a folder for pins. Whoever may open them may rewrite the maps.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The process that holds the lock, if that can be told.
fn holder(folder: &File) -> Option<u32> {
    let metadata = folder.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    find_holder(&locks, &format!("{:02x}:{:02x}:{inode}", major(device), minor(device)))
}

/// In the text of /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF` (proc(5)).
fn find_holder(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, found, ..] if found == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 11 00:1b:42 0 EOF
2: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF
2: -> FLOCK  ADVISORY  WRITE 4712 00:1b:42 0 EOF
3: FLOCK  ADVISORY  READ 12 fe:00:42 0 EOF
";

    #[test]
    fn the_holder_is_told_from_those_who_wait_and_from_other_files() {
        assert_eq!(find_holder(LOCKS, "00:1b:42"), Some(4711));
        assert_eq!(find_holder(LOCKS, "fe:00:42"), Some(12));
        assert_eq!(find_holder(LOCKS, "00:1b:43"), None);
        assert_eq!(find_holder("", "00:1b:42"), None);
    }

    #[test]
    fn a_locked_folder_names_its_holder_and_is_free_again_afterwards() {
        let pins = std::env::temp_dir().join(format!("pen-lock-{}", std::process::id()));
        let first = Lock::take(&pins).expect("nobody has it");
        let error = Lock::take(&pins).expect_err("it is taken");
        let DataplaneError::InUse { path, pid } = &error else { panic!("{error}") };
        assert_eq!((path, *pid), (&pins, Some(std::process::id())));
        let said = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&said), "{error}");
        drop(first);
        drop(Lock::take(&pins).expect("it is free"));
        assert!(!pins.exists(), "nothing was in it");
        let error = Lock::of_folder(&pins).expect_err("there is none");
        assert!(matches!(error, DataplaneError::Pins { .. }), "{error}");
    }
}
