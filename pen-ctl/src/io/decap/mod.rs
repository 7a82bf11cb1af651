//! Takes packets out of pen's tunnels on a backend: attaches the program `decap` to an interface,
//! replaces it, detaches it, and tells what it did. There is no daemon: link and maps are pinned below
//! one folder, `<folder>/<interface>/`, and the kernel does the rest.
//!
//! A second attachment replaces program and lists in one step: it has maps of its own, which are
//! filled before the pinned link is led to the new program. Only the counters go on.

mod error;
mod link;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapInfo, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use pen_common::abi::Count;
use pen_common::decap::{End, MAX_ADDRS, MAX_ENDS, MAX_VIPS, map};
use pen_common::net::Addr;

pub use self::error::DecapError;
use self::link::Link;
pub use self::link::Mode;
use crate::api::{Decap, DecapCounter};

/// Where links and maps are pinned unless somebody says otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/pen-decap";

/// What is to be attached where.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The interface on which tunnels arrive.
    pub interface: String,
    /// Virtual addresses for which packets may be in them.
    pub vips: BTreeSet<IpAddr>,
    /// Addresses to which they may lead; none: those that the interface has.
    pub addresses: BTreeSet<IpAddr>,
    /// Modes that will do, the better one first.
    pub modes: Vec<Mode>,
}

/// The folder of the pins, locked: two at a time would mix their maps.
pub struct Pins {
    root: PathBuf,
    _lock: File,
}

impl Pins {
    /// Makes the folder if need be, and waits until nobody else works in it.
    ///
    /// # Errors
    ///
    /// If it is not on a bpffs, or may not be opened.
    pub fn open(root: &Path) -> Result<Self, DecapError> {
        // Whoever may open the pins may change what comes out of tunnels.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed(root))?;
        let lock = File::open(root).map_err(failed(root))?;
        lock.lock().map_err(failed(root))?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// Attaches the program, or replaces what is there. Tells why it did not get the first mode.
    ///
    /// # Errors
    ///
    /// If the wish cannot be fulfilled; what was attached before stays.
    pub fn attach(&self, object: &Path, wish: &Wish) -> Result<Option<DecapError>, DecapError> {
        let name = &wish.interface;
        let ifindex = index(name).ok_or_else(|| DecapError::NoInterface(name.clone()))?;
        let addresses = addresses(wish)?;
        let folder = self.folder(name);
        let present = Link::find(&folder, ifindex);
        link::check_mode(present.as_ref(), wish)?;

        let is_new = !folder.exists();
        let attached = self.load(object, &folder).and_then(|mut ebpf| {
            fill(&mut ebpf, map::ADDRS, &addresses, ("addresses", MAX_ADDRS))?;
            fill(&mut ebpf, map::VIPS, &wish.vips, ("virtual addresses", MAX_VIPS))?;
            let refusal = link::attach(program(&mut ebpf)?, &folder, ifindex, present, wish)?;
            pin(&ebpf, &folder)?;
            Ok(refusal)
        });
        if attached.is_err() && is_new {
            let _ = remove(&folder);
        }
        attached
    }

    /// Detaches the program and removes the pins.
    ///
    /// # Errors
    ///
    /// If nothing is attached, or the pins cannot be removed.
    pub fn detach(&self, interface: &str) -> Result<(), DecapError> {
        let folder = self.folder(interface);
        if !folder.exists() {
            return Err(DecapError::NotAttached(interface.to_owned()));
        }
        remove(&folder)
    }

    /// All interfaces below this folder, or the one that is named.
    ///
    /// # Errors
    ///
    /// If a pin cannot be read, or nothing is attached to the interface that is named.
    pub fn status(root: &Path, interface: Option<&str>) -> Result<Vec<Decap>, DecapError> {
        let mut all = Vec::new();
        if root.exists() {
            let pins = Self::open(root)?;
            let entries = fs::read_dir(root).map_err(failed(root))?;
            let names = entries.flatten().filter_map(|entry| interface_of(&entry.path()));
            let wanted = |name: &String| interface.is_none_or(|interface| interface == name);
            let names: BTreeSet<String> = names.filter(wanted).collect();
            all = names.iter().map(|name| pins.status_of(name)).collect::<Result<_, _>>()?;
        }
        match interface {
            Some(name) if all.is_empty() => Err(DecapError::NotAttached(name.to_owned())),
            _ => Ok(all),
        }
    }

    fn status_of(&self, interface: &str) -> Result<Decap, DecapError> {
        let folder = self.folder(interface);
        let present = index(interface).and_then(|ifindex| Link::find(&folder, ifindex));
        Ok(Decap {
            interface: interface.to_owned(),
            xdp: present.map_or("gone", |link| link.mode.name()).to_owned(),
            addresses: list(&folder.join(map::ADDRS))?,
            vips: list(&folder.join(map::VIPS))?,
            counters: counters(&folder.join(map::COUNTERS))?,
        })
    }

    /// A bpffs has no names with dots, and no interface has one with a colon.
    fn folder(&self, interface: &str) -> PathBuf {
        self.root.join(interface.replace('.', ":"))
    }

    fn load(&self, object: &Path, folder: &Path) -> Result<Ebpf, DecapError> {
        let bytes = fs::read(object)
            .map_err(|source| DecapError::NoObject { path: object.to_owned(), source })?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
        let counters = folder.join(map::COUNTERS);
        if !is_as_expected(&counters) {
            let _ = fs::remove_file(&counters);
        }
        EbpfLoader::new()
            .map_pin_path(map::COUNTERS, counters)
            .load(&bytes)
            .map_err(|error| DecapError::kernel(&error))
    }
}

impl Drop for Pins {
    /// A folder in which nothing is, is of no use to the next one.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.root);
    }
}

fn interface_of(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_str()?.replace(':', "."))
}

fn index(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// Addresses to which tunnels may lead.
fn addresses(wish: &Wish) -> Result<BTreeSet<IpAddr>, DecapError> {
    if !wish.addresses.is_empty() {
        return Ok(wish.addresses.clone());
    }
    let all = getifaddrs().map_err(|error| DecapError::kernel(&error))?;
    let found: BTreeSet<IpAddr> = all
        .filter(|entry| entry.interface_name == wish.interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
        })
        .collect();
    if found.is_empty() {
        return Err(DecapError::NoAddress(wish.interface.clone()));
    }
    Ok(found)
}

fn fill(
    ebpf: &mut Ebpf,
    name: &'static str,
    addresses: &BTreeSet<IpAddr>,
    (what, most): (&'static str, u32),
) -> Result<(), DecapError> {
    if addresses.len() > most as usize {
        return Err(DecapError::TooMany { what, most });
    }
    let map = ebpf.map_mut(name).ok_or(DecapError::Object("has not all maps"))?;
    let mut map: HashMap<_, Addr, u32> =
        map.try_into().map_err(|_| DecapError::Object("has a map of another kind"))?;
    for address in addresses {
        map.insert(Addr::from(*address), 1, 0).map_err(|error| DecapError::kernel(&error))?;
    }
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DecapError> {
    let program = ebpf.program_mut("decap").ok_or(DecapError::Object("has no program decap"))?;
    let program: &mut Xdp =
        program.try_into().map_err(|_| DecapError::Object("has a program that is not XDP"))?;
    program.load().map_err(|error| DecapError::kernel(&error))?;
    Ok(program)
}

/// Pins the lists, in the place of those of the program before.
fn pin(ebpf: &Ebpf, folder: &Path) -> Result<(), DecapError> {
    for name in [map::ADDRS, map::VIPS] {
        let map = ebpf.map(name).ok_or(DecapError::Object("has not all maps"))?;
        let (new, place) = (folder.join("new"), folder.join(name));
        let _ = fs::remove_file(&new);
        map.pin(&new).map_err(|error| pins(&new, &error))?;
        fs::rename(&new, &place).map_err(failed(&place))?;
    }
    Ok(())
}

/// Removes all pins of an interface; the link's first, with which the attachment ends.
fn remove(folder: &Path) -> Result<(), DecapError> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).map_err(failed(folder))?.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| !link::is_link(path));
    for path in paths {
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    fs::remove_dir(folder).map_err(failed(folder))
}

fn list(pin: &Path) -> Result<BTreeSet<IpAddr>, DecapError> {
    let map = MapData::from_pin(pin).map_err(|error| pins(pin, &error))?;
    let map: HashMap<_, Addr, u32> =
        HashMap::try_from(Map::HashMap(map)).map_err(|error| pins(pin, &error))?;
    map.keys()
        .map(|key| key.map(IpAddr::from))
        .collect::<Result<_, _>>()
        .map_err(|error| pins(pin, &error))
}

/// Whether there are counters, and of this layout: the kernel would take any.
fn is_as_expected(pin: &Path) -> bool {
    MapInfo::from_pin(pin).is_ok_and(|info| {
        info.key_size() == 4
            && info.value_size() as usize == size_of::<Count>()
            && info.max_entries() == MAX_ENDS
    })
}

fn counters(pin: &Path) -> Result<Vec<DecapCounter>, DecapError> {
    let map = MapData::from_pin(pin).map_err(|error| pins(pin, &error))?;
    let map: PerCpuArray<_, Count> =
        PerCpuArray::try_from(Map::PerCpuArray(map)).map_err(|error| pins(pin, &error))?;
    End::ALL
        .iter()
        .map(|end| {
            let values = map.get(&(*end as u32), 0).map_err(|error| pins(pin, &error))?;
            Ok(DecapCounter {
                name: end.name().to_owned(),
                packets: values.iter().map(|count| count.packets).sum(),
                bytes: values.iter().map(|count| count.bytes).sum(),
            })
        })
        .collect()
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> DecapError {
    let path = path.to_owned();
    move |error| DecapError::Pins { path, error: error.to_string() }
}

fn pins(path: &Path, error: &dyn std::error::Error) -> DecapError {
    DecapError::Pins { path: path.to_owned(), error: crate::io::cause::chain(error) }
}
