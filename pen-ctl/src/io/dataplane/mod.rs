//! The XDP program and its maps, pinned below one folder so that they outlive the daemon: loading,
//! adopting what an earlier daemon left, writing what the engine wants, attaching, and the clean
//! end.

mod attach;
mod error;
mod layout;
mod maps;
mod records;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::{Ebpf, EbpfLoader};
use pen_common::ABI_VERSION;
use pen_common::abi::map;

pub use self::attach::AttachError;
pub use self::error::DataplaneError;
use self::maps::Maps;
pub use self::records::{PinnedRecords, RecordReader};
use crate::api::Counts;
use crate::config::Sizes;
use crate::engine::event::Attachment;
use crate::engine::tables::{Records, Tables, Write};

/// Name of the program in the object.
const PROGRAM: &str = "pen";

/// The loaded data plane.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: Maps,
    attached: attach::Links,
    /// Folder of the pins of this ABI version.
    folder: PathBuf,
    /// Interfaces that were attached before this daemon came.
    adopted: BTreeSet<u32>,
    /// Held for as long as this daemon lives: two on the same maps would undo each other's writes.
    _lock: File,
}

impl Dataplane {
    /// Loads the program from the object file. Maps that are pinned below `pins` are adopted with
    /// all they hold, and in the size that they have; the others are made and pinned there.
    ///
    /// # Errors
    ///
    /// If the object, the pins, or the kernel do not allow it; nothing is left behind then.
    pub fn open(object: &Path, pins: &Path, sizes: Sizes) -> Result<Self, DataplaneError> {
        let bytes = fs::read(object)
            .map_err(|source| DataplaneError::NoObject { path: object.to_owned(), source })?;
        let folder = pins.join(format!("v{ABI_VERSION}"));
        // Whoever may open the pins may rewrite the maps.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| DataplaneError::Pins { path: folder.clone(), source })?;
        let lock = lock(pins)?;
        let adopted = attach::pinned(&folder);
        // aya takes a pinned map whatever its layout is, so it is compared here.
        layout::verify(&folder)?;
        match load(&bytes, &folder, sizes) {
            Ok((ebpf, maps)) => {
                let attached = attach::Links::default();
                Ok(Self { ebpf, maps, attached, folder, adopted, _lock: lock })
            }
            Err(error) => {
                if adopted.is_empty() {
                    remove_maps(&folder);
                }
                Err(error)
            }
        }
    }

    /// What the maps have room for.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub fn sizes(&self) -> Result<Sizes, DataplaneError> {
        let entries = |name: &str| {
            let info = MapInfo::from_pin(self.folder.join(name)).map_err(DataplaneError::Map)?;
            Ok(info.max_entries())
        };
        Ok(Sizes {
            flows: entries(map::FLOWS)?,
            clients: entries(map::CLIENTS)?,
            translations: entries(map::NAT)?,
        })
    }

    /// What the maps hold.
    ///
    /// # Errors
    ///
    /// If the kernel does.
    pub fn read(&self) -> Result<Tables, DataplaneError> {
        self.maps.read().map_err(DataplaneError::Map)
    }

    /// Carries writes out, in their order; stops at the first that fails.
    ///
    /// # Errors
    ///
    /// If the kernel refuses one.
    pub fn write(&mut self, writes: &[Write]) -> Result<(), DataplaneError> {
        for write in writes {
            self.maps.write(write).map_err(DataplaneError::Map)?;
        }
        Ok(())
    }

    /// Reads all counters. Costs a system call for each backend and service in use.
    ///
    /// # Errors
    ///
    /// If the kernel does.
    pub fn counts(&self, tables: &Tables) -> Result<Counts, DataplaneError> {
        self.maps.counts(tables).map_err(DataplaneError::Map)
    }

    /// The kernel's records of flows and clients.
    #[must_use]
    pub fn records(&self) -> &dyn Records {
        &self.maps
    }

    /// Reads the same records one by one, from another thread.
    #[must_use]
    pub fn record_reader(&self) -> RecordReader {
        RecordReader::new(&self.folder)
    }

    /// Attaches the program, or replaces the one that an earlier daemon attached, without a gap.
    ///
    /// # Errors
    ///
    /// If the interface does not take it.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: crate::config::XdpMode,
    ) -> Result<Attachment, AttachError> {
        self.attached.attach(&mut self.ebpf, &self.folder, interface, ifindex, mode)
    }

    /// Detaches from all interfaces that are pinned but not among these: an earlier configuration
    /// had them, or they are gone.
    pub fn detach_others(&mut self, keep: &BTreeSet<u32>) {
        self.attached.detach_others(&self.folder, keep);
    }

    /// Whether an earlier daemon left an attachment.
    #[must_use]
    pub fn has_adopted(&self) -> bool {
        !self.adopted.is_empty()
    }

    /// Takes a start back that failed. What an earlier daemon left stays, and goes on forwarding.
    pub fn abandon(mut self) {
        if self.adopted.is_empty() {
            self.detach();
        } else {
            self.attached.detach_others(&self.folder, &self.adopted);
        }
    }

    /// The clean end: detaches everywhere and removes all pins.
    pub fn detach(self) {
        let Self { ebpf, maps, attached, folder, adopted: _, _lock } = self;
        attached.detach(&folder);
        remove_maps(&folder);
        drop((ebpf, maps));
    }

    /// The program, for tests that run it on packets.
    ///
    /// # Errors
    ///
    /// If the object has none.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp, DataplaneError> {
        attach::program(&mut self.ebpf)
    }
}

fn load(object: &[u8], folder: &Path, sizes: Sizes) -> Result<(Ebpf, Maps), DataplaneError> {
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, folder.join(name));
    }
    loader
        .map_max_entries(map::FLOWS, sizes.flows)
        .map_max_entries(map::CLIENTS, sizes.clients)
        .map_max_entries(map::NAT, sizes.translations);
    let mut ebpf = loader.load(object).map_err(DataplaneError::Load)?;
    let program = attach::program(&mut ebpf)?;
    program.load().map_err(DataplaneError::Verify)?;
    let maps = Maps::take(&mut ebpf)?;
    Ok((ebpf, maps))
}

/// Removes the pins of all maps, and their folders if nothing else is in them.
fn remove_maps(folder: &Path) {
    // Whatever cannot be removed is gone already.
    for name in map::ALL {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_dir(folder);
    if let Some(parent) = folder.parent() {
        let _ = fs::remove_dir(parent);
    }
}

/// Locks the folder of the pins; the kernel releases it however the daemon ends.
fn lock(pins: &Path) -> Result<File, DataplaneError> {
    let failed = |source| DataplaneError::Pins { path: pins.to_owned(), source };
    let folder = File::open(pins).map_err(failed)?;
    let in_use = || DataplaneError::InUse { path: pins.to_owned() };
    folder.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => in_use(),
        TryLockError::Error(source) => failed(source),
    })?;
    // A daemon that just ended cleanly may have removed it in between.
    match (folder.metadata(), fs::metadata(pins)) {
        (Ok(locked), Ok(there)) if locked.ino() == there.ino() => Ok(folder),
        _ => Err(in_use()),
    }
}
