//! The XDP program and its maps, pinned below one folder so that they outlive the daemon: loading,
//! adopting what an earlier daemon left, writing what the engine wants, attaching, and the clean
//! end.

mod attach;
mod error;
mod layout;
mod leftovers;
mod listens;
mod lock;
mod maps;
mod records;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, MapInfo};
use aya::{Ebpf, EbpfLoader};
use pen_common::abi::{Group, Signals, map};
use pen_common::hash::Secret;

pub use self::attach::{AttachError, Build};
pub use self::error::DataplaneError;
pub use self::leftovers::Leftovers;
pub use self::lock::Lock;
use self::maps::Maps;
pub use self::records::{PinnedRecords, RecordReader};
use crate::api::Counts;
use crate::config::Sizes;
use crate::engine::event::{Attachment, SignalsRead};
use crate::engine::tables::{Records, Tables, Write};
use crate::io::cause::chain;

/// The loaded data plane.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: Maps,
    attached: attach::Links,
    /// Folder of the pins of this ABI version.
    folder: PathBuf,
    /// Interfaces that were attached before this daemon came.
    adopted: BTreeSet<u32>,
    /// Held for as long as this daemon lives.
    lock: Lock,
}

impl Dataplane {
    /// Locks the pins, and then as [`Dataplane::open_locked`].
    ///
    /// # Errors
    ///
    /// If the object, the pins, or the kernel do not allow it; nothing is left behind then.
    pub fn open(object: &Path, pins: &Path, sizes: Sizes) -> Result<Self, DataplaneError> {
        Self::open_locked(object, Lock::take(pins)?, sizes)
    }

    /// Loads the program from the object file. Maps that are pinned below the locked folder are
    /// adopted with all they hold, and in the size that they have; the others are made and pinned there.
    ///
    /// # Errors
    ///
    /// If the object, the pins, or the kernel do not allow it; nothing is left behind then.
    pub fn open_locked(object: &Path, lock: Lock, sizes: Sizes) -> Result<Self, DataplaneError> {
        let folder = versions::own(lock.pins());
        let adopted = attach::pinned(&folder);
        versions::sweep(lock.pins());
        match load(object, &folder, sizes) {
            Ok((ebpf, mut maps)) => {
                // The daemon before may have died in the middle of a change.
                maps.write_all(&[]).map_err(DataplaneError::Map)?;
                let attached = attach::Links::default();
                Ok(Self { ebpf, maps, attached, folder, adopted, lock })
            }
            Err(error) => {
                // Maps of another layout belong to a program that forwards.
                if adopted.is_empty() && !matches!(error, DataplaneError::Layout { .. }) {
                    remove_maps(&folder);
                }
                Err(error)
            }
        }
    }

    /// Finds out whether [`Dataplane::open`] would succeed, while another daemon has the pins: looks
    /// at the layout of its maps, and loads the program once without pins and with small maps.
    ///
    /// # Errors
    ///
    /// If the object, the pins or the kernel would not allow it.
    pub fn rehearse(object: &Path, pins: &Path) -> Result<(), DataplaneError> {
        const FEW: u32 = 64;
        layout::verify(&versions::own(pins))?;
        let mut loader = EbpfLoader::new();
        size(&mut loader, Sizes { flows: FEW, clients: FEW, translations: FEW });
        let mut ebpf = loader.load(&read(object)?).map_err(DataplaneError::Load)?;
        attach::program(&mut ebpf, Build::Linear).map(drop)
    }

    /// Folder of the pinned maps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
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
        self.maps.write_all(writes).map_err(DataplaneError::Map)
    }

    /// What the map `CARP` holds of these groups.
    ///
    /// # Errors
    ///
    /// If the kernel does.
    pub fn groups(
        &self,
        indexes: impl IntoIterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Group>, DataplaneError> {
        let groups = indexes.into_iter().map(|index| Ok((index, self.maps.group(index)?)));
        groups.collect::<Result<_, MapError>>().map_err(DataplaneError::Map)
    }

    /// Writes entries of the map `CARP`, from another thread.
    ///
    /// # Errors
    ///
    /// If the pinned map cannot be opened.
    pub fn role_writer(
        &self,
    ) -> Result<impl FnMut(u32, Group) -> Result<(), String> + Send + use<>, DataplaneError> {
        let data = MapData::from_pin(self.folder.join(map::CARP)).map_err(DataplaneError::Map)?;
        let mut carp: Array<_, Group> =
            Array::try_from(Map::Array(data)).map_err(DataplaneError::Map)?;
        Ok(move |index, group| carp.set(index, group, 0).map_err(|error| chain(&error)))
    }

    /// Reads all counters. Costs a system call for each backend and service in use.
    ///
    /// # Errors
    ///
    /// If the kernel does.
    pub fn counts(&self, tables: &Tables) -> Result<Counts, DataplaneError> {
        self.maps.counts(tables).map_err(DataplaneError::Map)
    }

    /// Reads what packets have told of the backends of these tables; `None` if that is no more than
    /// what was read with this total. Costs a system call then, else one for each backend in use.
    ///
    /// # Errors
    ///
    /// If the kernel does.
    pub fn signals(
        &self,
        tables: &Tables,
        known: Option<Signals>,
    ) -> Result<Option<SignalsRead>, DataplaneError> {
        self.maps.signals(tables, known).map_err(DataplaneError::Map)
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

    /// Whether a program of another version of pen forwards on some interface.
    #[must_use]
    pub fn has_other_version(&self) -> bool {
        !versions::forwarding(self.lock.pins()).is_empty()
    }

    /// The secret of another version of pen.
    #[must_use]
    pub fn inherited_secret(&self) -> Option<Secret> {
        versions::secret(self.lock.pins())
    }

    /// Attaches the program, or replaces the one that an earlier daemon attached, also one of another
    /// version, without a gap. The MTU tells which build of the program to try first.
    ///
    /// # Errors
    ///
    /// If the interface does not take it.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mtu: u32,
        mode: crate::config::XdpMode,
    ) -> Result<Attachment, AttachError> {
        let failed = |error: String| AttachError::Failed { interface: interface.to_owned(), error };
        let program = attach::program(&mut self.ebpf, Build::first_choice(mtu));
        let program = program.map_err(|error| failed(error.to_string()))?;
        versions::take_over(self.lock.pins(), program, ifindex).map_err(failed)?;
        let nic = attach::Nic { name: interface, ifindex, mtu };
        self.attached.attach(&mut self.ebpf, &self.folder, nic, mode)
    }

    /// Detaches from all interfaces that are pinned but not among these: an earlier configuration
    /// had them, or they are gone.
    pub fn detach_others(&mut self, keep: &BTreeSet<u32>) {
        self.attached.detach_others(&self.folder, keep);
        versions::detach_others(self.lock.pins(), keep);
    }

    /// Whether an earlier daemon left an attachment.
    #[must_use]
    pub fn has_adopted(&self) -> bool {
        !self.adopted.is_empty() || self.has_other_version()
    }

    /// Leaves everything as it is, for the next daemon: the kernel goes on forwarding.
    pub fn leave(self) {
        drop(self);
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
        let Self { ebpf, maps, attached, folder, adopted: _, lock } = self;
        attached.detach(&folder);
        remove_maps(&folder);
        drop((ebpf, maps));
        // Last: it removes the folder.
        drop(lock);
    }

    /// A program, for tests that run it on packets.
    ///
    /// # Errors
    ///
    /// If the object has none, or the kernel refuses it.
    pub fn program(&mut self, build: Build) -> Result<&mut aya::programs::Xdp, DataplaneError> {
        attach::program(&mut self.ebpf, build)
    }
}

fn read(object: &Path) -> Result<Vec<u8>, DataplaneError> {
    fs::read(object).map_err(|source| DataplaneError::NoObject { path: object.to_owned(), source })
}

fn size(loader: &mut EbpfLoader<'_>, sizes: Sizes) {
    loader
        .map_max_entries(map::FLOWS, sizes.flows)
        .map_max_entries(map::CLIENTS, sizes.clients)
        .map_max_entries(map::NAT, sizes.translations);
}

fn load(object: &Path, folder: &Path, sizes: Sizes) -> Result<(Ebpf, Maps), DataplaneError> {
    let object = read(object)?;
    lock::make(folder)
        .map_err(|source| DataplaneError::Pins { path: folder.to_owned(), source })?;
    // aya takes a pinned map whatever its layout is, so it is compared here.
    layout::verify(folder)?;
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, folder.join(name));
    }
    size(&mut loader, sizes);
    let mut ebpf = loader.load(&object).map_err(DataplaneError::Load)?;
    attach::program(&mut ebpf, Build::Linear)?;
    let maps = Maps::take(&mut ebpf)?;
    Ok((ebpf, maps))
}

/// Removes the pins of all maps, and their folder if nothing else is in it.
fn remove_maps(folder: &Path) {
    // Whatever cannot be removed is gone already.
    for name in map::ALL {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_dir(folder);
}
