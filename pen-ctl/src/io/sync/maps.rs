//! The maps that are synced, through handles of its own: what the kernel tells of new records, all
//! records one by one, and writing those of a peer.

use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use nix::errno::Errno;
use pen_common::abi::{ClientKey, FlowKey, Record, Translation, Tuple, map};
use pen_common::event::Event;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::engine::sync::view::Entry;

/// Entries of the ring buffer that are taken at once.
const BATCH: usize = 1024;
/// Keys of a scan that are read at once.
const SLICE: usize = 256;
/// `BPF_NOEXIST` (linux/bpf.h).
const NO_EXIST: u64 = 1;

/// The maps.
pub(super) struct Maps {
    folder: PathBuf,
    flows: HashMap<MapData, FlowKey, Record>,
    clients: HashMap<MapData, ClientKey, Record>,
    translations: HashMap<MapData, Tuple, Translation>,
    missed: PerCpuArray<MapData, u64>,
    /// How many were missed when it was last asked.
    missed_before: u64,
    ring: AsyncFd<RingBuf<MapData>>,
}

/// Keys of a scan.
#[derive(Debug)]
pub(super) enum Found {
    /// Some.
    Keys(Vec<Key>),
    /// These were all of them; or not, because they change too fast.
    End(bool),
}

/// Of an entry of one of the maps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    Flow(FlowKey),
    Client(ClientKey),
    Translation(Tuple),
}

impl Maps {
    /// Those that are pinned in this folder.
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        let ring = RingBuf::try_from(Map::RingBuf(MapData::from_pin(folder.join(map::EVENTS))?))?;
        let missed = MapData::from_pin(folder.join(map::MISSED))?;
        let mut maps = Self {
            folder: folder.to_owned(),
            flows: open(folder, map::FLOWS)?.0,
            clients: open(folder, map::CLIENTS)?.0,
            translations: open(folder, map::NAT)?.0,
            missed: PerCpuArray::try_from(Map::PerCpuArray(missed))?,
            missed_before: 0,
            ring: watch(ring)?,
        };
        maps.missed_before = maps.count_missed();
        Ok(maps)
    }

    /// Waits until the kernel has something to tell.
    pub(super) async fn news(&mut self) -> io::Result<Vec<Entry>> {
        let mut guard = self.ring.readable_mut().await?;
        let entries = take(guard.get_inner_mut());
        if entries.len() < BATCH {
            guard.clear_ready();
        }
        Ok(entries)
    }

    /// What it has told by now, without waiting.
    pub(super) fn told(&mut self) -> Vec<Entry> {
        take(self.ring.get_mut())
    }

    /// Whether there was no room for something since it was last asked.
    pub(super) fn has_missed(&mut self) -> bool {
        let missed = self.count_missed();
        std::mem::replace(&mut self.missed_before, missed) != missed
    }

    fn count_missed(&self) -> u64 {
        self.missed.get(&0, 0).map_or(0, |counts| counts.iter().sum())
    }

    /// Reads the entry of a key; `None` if it has gone.
    pub(super) fn read(&self, key: Key) -> Option<Entry> {
        Some(match key {
            Key::Flow(key) => Entry::Flow(key, self.flows.get(&key, 0).ok()?),
            Key::Client(key) => Entry::Client(key, self.clients.get(&key, 0).ok()?),
            Key::Translation(key) => Entry::Translation(key, self.translations.get(&key, 0).ok()?),
        })
    }

    /// Writes an entry; unless `replace` only where there is none.
    pub(super) fn write(&mut self, entry: &Entry, replace: bool) -> Result<(), MapError> {
        let flags = if replace { 0 } else { NO_EXIST };
        let written = match entry {
            Entry::Flow(key, record) => self.flows.insert(key, record, flags),
            Entry::Client(key, record) => self.clients.insert(key, record, flags),
            Entry::Translation(key, to) => self.translations.insert(key, to, flags),
        };
        match written {
            Err(error) if exists(&error) => Ok(()),
            other => other,
        }
    }

    /// Starts to list all keys, on a thread of its own: a million take a second.
    pub(super) fn scan(&self) -> mpsc::Receiver<Found> {
        let (sender, receiver) = mpsc::channel(2);
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || {
            let whole = list::<_, Record>(&folder, map::FLOWS, Key::Flow, &sender)
                && list::<_, Record>(&folder, map::CLIENTS, Key::Client, &sender)
                && list::<_, Translation>(&folder, map::NAT, Key::Translation, &sender);
            // Without a receiver nobody wants to know.
            let _ = sender.blocking_send(Found::End(whole));
        });
        receiver
    }
}

#[expect(deprecated, reason = "the other way is unsafe; a ring keeps its descriptor to its end")]
fn watch(ring: RingBuf<MapData>) -> Result<AsyncFd<RingBuf<MapData>>, MapError> {
    AsyncFd::new(ring).map_err(MapError::IoError)
}

fn open<K: Pod, V: Pod>(
    folder: &Path,
    name: &str,
) -> Result<(HashMap<MapData, K, V>, u32), MapError> {
    let data = MapData::from_pin(folder.join(name))?;
    let entries = data.info()?.max_entries();
    Ok((HashMap::try_from(Map::LruHashMap(data))?, entries))
}

/// Sends all keys of a map; false if that did not come to its end.
fn list<K: Pod, V: Pod>(
    folder: &Path,
    name: &str,
    key: impl Fn(K) -> Key,
    sender: &mpsc::Sender<Found>,
) -> bool {
    let Ok((map, entries)) = open::<K, V>(folder, name) else { return false };
    let mut keys = Vec::new();
    for (found, step) in map.keys().zip(0..) {
        let Ok(found) = found else { return false };
        // Where the key goes at which the walk stands, the kernel begins again.
        if step >= 2 * u64::from(entries) {
            return false;
        }
        keys.push(key(found));
        if keys.len() == SLICE
            && sender.blocking_send(Found::Keys(std::mem::take(&mut keys))).is_err()
        {
            return false;
        }
    }
    sender.blocking_send(Found::Keys(keys)).is_ok()
}

fn take(ring: &mut RingBuf<MapData>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < BATCH
        && let Some(entry) = ring.next()
    {
        entries.extend(Event::read(&entry).map(|event| match event {
            Event::Flow(key, record) => Entry::Flow(key, record),
            Event::Client(key, record) => Entry::Client(key, record),
            Event::Translation(key, to) => Entry::Translation(key, to),
        }));
    }
    entries
}

fn exists(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(Errno::EEXIST as i32)
        }
        _ => false,
    }
}
