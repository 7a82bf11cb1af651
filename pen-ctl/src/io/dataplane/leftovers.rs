//! What a daemon that was killed, or that left, has left behind: pinned links, which go on
//! forwarding, and pinned maps. Finds and removes it, unless a daemon uses it.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError};
use pen_common::abi::{AddrEntry, map};
use pen_common::net::Addr;

use super::error::DataplaneError;
use super::lock::Lock;
use super::{attach, layout, versions};

/// The left-overs below a folder of pins.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Index and mode of interfaces that are attached.
    pub links: Vec<(u32, String)>,
    /// IPv6 addresses whose solicitations an interface receives.
    pub solicited: Vec<(u32, Ipv6Addr)>,
    /// Folders with pins.
    pub folders: Vec<PathBuf>,
    /// Held meanwhile.
    _lock: Option<Lock>,
}

impl Leftovers {
    /// Finds them. No daemon can start with these pins while this lives.
    ///
    /// # Errors
    ///
    /// If a daemon runs with these pins.
    pub fn find(pins: &Path) -> Result<Self, DataplaneError> {
        if !pins.exists() {
            return Ok(Self::default());
        }
        let lock = Lock::of_folder(pins).map_err(|error| match error {
            DataplaneError::InUse { path, pid } => DataplaneError::Runs { path, pid },
            other => other,
        })?;
        let folders = versions::all(pins);
        let links = folders.iter().flat_map(|folder| attach::pins(folder));
        let links = links.filter_map(|(pin, ifindex)| {
            let (_, mode) = pin.file_name()?.to_str()?.rsplit_once('-')?;
            Some((ifindex, mode.to_owned()))
        });
        let links = links.collect();
        // Without them the list is shorter, which is no reason to leave everything else.
        let solicited = solicited(&versions::own(pins)).unwrap_or_default();
        Ok(Self { links, solicited, folders, _lock: Some(lock) })
    }

    /// Removes the pins: forwarding ends.
    ///
    /// # Errors
    ///
    /// If one cannot be removed; those before it are gone.
    pub fn remove(self) -> Result<(), DataplaneError> {
        for folder in &self.folders {
            versions::remove(folder)
                .map_err(|source| DataplaneError::Pins { path: folder.clone(), source })?;
        }
        Ok(())
    }
}

/// The IPv6 addresses that the maps of our version hold.
fn solicited(folder: &Path) -> Result<Vec<(u32, Ipv6Addr)>, MapError> {
    if layout::verify(folder).is_err() {
        return Ok(Vec::new());
    }
    let data = MapData::from_pin(folder.join(map::ADDRS))?;
    let addrs: HashMap<MapData, Addr, AddrEntry> = HashMap::try_from(Map::from_map_data(data)?)?;
    let mut solicited = Vec::new();
    for entry in addrs.iter() {
        let (addr, AddrEntry { ifindex, .. }) = entry?;
        if let IpAddr::V6(address) = addr.into() {
            solicited.push((ifindex, address));
        }
    }
    Ok(solicited)
}
