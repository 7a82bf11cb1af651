//! Reads the kernel's records of flows and clients, through handles of its own, so that a million of
//! them can be read beside the daemon's loop. About one microsecond for each.

use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use pen_common::abi::{ClientKey, FlowKey, Record, Translation, Tuple, map};

use crate::api::{Clients, Flows};
use crate::engine::census::Census;
use crate::engine::records::{ClientList, FlowList};
use crate::engine::tables::Records;

/// Where the records are.
#[derive(Clone, Debug)]
pub struct RecordReader {
    folder: PathBuf,
}

/// The kernel's records, to be looked up.
pub struct PinnedRecords {
    flows: HashMap<MapData, FlowKey, Record>,
    clients: HashMap<MapData, ClientKey, Record>,
}

// === impl RecordReader ===

impl RecordReader {
    /// Records of the maps that are pinned in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Shows all records to a census.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read, or change too fast to be read to their end.
    pub fn count(&self, mut census: Census) -> Result<Census, MapError> {
        let all = self.each(map::FLOWS, &|| true, |key, record| census.see_flow(&key, &record))?
            && self.each(map::CLIENTS, &|| true, |key, record| census.see_client(&key, &record))?;
        if !all {
            let error = "records come and go faster than they can be read";
            return Err(MapError::IoError(io::Error::other(error)));
        }
        Ok(census)
    }

    /// Shows all flows to a list; `go_on` is asked before each, and a no ends the list there.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn flows(&self, mut list: FlowList, go_on: &dyn Fn() -> bool) -> Result<Flows, MapError> {
        let mut all = self.each(map::FLOWS, go_on, |key, record| list.record(key, record))?;
        if list.wants_translations() {
            let see = |key: Tuple, to: Translation| list.translation(key, to);
            all &= self.each(map::NAT, go_on, see)?;
        }
        Ok(list.finish(all))
    }

    /// Shows all clients to a list, likewise.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn clients(
        &self,
        mut list: ClientList,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Clients, MapError> {
        let all = self.each(map::CLIENTS, go_on, |key, record| list.record(key, record))?;
        Ok(list.finish(all))
    }

    /// The records, for who looks them up one by one.
    ///
    /// # Errors
    ///
    /// If the maps cannot be opened.
    pub fn open(&self) -> Result<PinnedRecords, MapError> {
        let (flows, _) = self.map(map::FLOWS)?;
        let (clients, _) = self.map(map::CLIENTS)?;
        Ok(PinnedRecords { flows, clients })
    }

    fn map<K: Pod, V: Pod>(&self, name: &str) -> Result<(HashMap<MapData, K, V>, u32), MapError> {
        let data = MapData::from_pin(self.folder.join(name))?;
        let entries = data.info()?.max_entries();
        Ok((HashMap::try_from(Map::from_map_data(data)?)?, entries))
    }

    /// Shows all entries of a map; false if `go_on` said no before the end. One that goes meanwhile
    /// is left out. Where the key goes at which the walk stands, the kernel begins again: some are
    /// shown twice then, and if that goes on and on, the end is not reached, which is false as well.
    fn each<K: Pod, V: Pod>(
        &self,
        name: &str,
        go_on: &dyn Fn() -> bool,
        mut see: impl FnMut(K, V),
    ) -> Result<bool, MapError> {
        let (map, entries) = self.map::<K, V>(name)?;
        let most = 2 * u64::from(entries);
        for (key, step) in map.keys().zip(0..) {
            if step >= most || !go_on() {
                return Ok(false);
            }
            let key = key?;
            match map.get(&key, 0) {
                Ok(value) => see(key, value),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

// === impl PinnedRecords ===

impl Records for PinnedRecords {
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.flows.get(key, 0).ok()
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.clients.get(key, 0).ok()
    }
}
