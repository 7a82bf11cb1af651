//! Reads the kernel's records of flows and clients one by one, through handles of its own, so that a
//! million of them can be read beside the daemon's loop. About one microsecond for each.

use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use pen_common::abi::{ClientKey, FlowKey, Record, map};

use crate::engine::census::Census;

/// Where the records are.
#[derive(Clone, Debug)]
pub struct RecordReader {
    folder: PathBuf,
}

impl RecordReader {
    /// Records of the maps that are pinned in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Shows all records to a census.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn count(&self, mut census: Census) -> Result<Census, MapError> {
        self.flows(|key, record| census.see_flow(key, record))?;
        self.clients(|key, record| census.see_client(key, record))?;
        Ok(census)
    }

    /// Shows all records of flows.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn flows(&self, see: impl FnMut(&FlowKey, &Record)) -> Result<(), MapError> {
        self.each(map::FLOWS, see)
    }

    /// Shows all records of clients.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn clients(&self, see: impl FnMut(&ClientKey, &Record)) -> Result<(), MapError> {
        self.each(map::CLIENTS, see)
    }

    /// Shows all entries of a map. One that goes meanwhile is left out; where many do, the kernel
    /// begins again, and some are shown twice.
    fn each<K: Pod, V: Pod>(
        &self,
        name: &str,
        mut see: impl FnMut(&K, &V),
    ) -> Result<(), MapError> {
        let data = MapData::from_pin(self.folder.join(name))?;
        let map: HashMap<MapData, K, V> = HashMap::try_from(Map::from_map_data(data)?)?;
        for entry in map.iter() {
            let (key, value) = entry?;
            see(&key, &value);
        }
        Ok(())
    }
}
