//! Compares pinned maps with the layout that this program expects. A pin of another layout is
//! refused: reading it would misread every value, and the program that uses it still forwards.

use std::path::Path;

use aya::maps::{MapInfo, MapType};
use pen_common::abi::{self, map};
use pen_common::event;
use pen_common::net::Addr;
use pen_common::verdict::MAX_COUNTERS;

use super::DataplaneError;

struct Layout {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn layout(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
) -> Layout {
    Layout { name, kind, key, value, entries }
}

const LAYOUTS: [Layout; map::ALL.len()] = [
    layout(map::CFG, MapType::Array, 4, size_of::<abi::Cfg>(), 1),
    layout(
        map::ADDRS,
        MapType::Hash,
        size_of::<Addr>(),
        size_of::<abi::AddrEntry>(),
        abi::MAX_ADDRS,
    ),
    layout(
        map::SERVICES,
        MapType::Hash,
        size_of::<abi::ServiceKey>(),
        size_of::<abi::Service>(),
        abi::MAX_LISTENS,
    ),
    layout(map::LISTENS, MapType::ArrayOfMaps, 4, 4, 1),
    layout(map::TABLES, MapType::ArrayOfMaps, 4, 4, abi::MAX_SERVICES),
    layout(map::LARGE_TABLES, MapType::ArrayOfMaps, 4, 4, abi::MAX_SERVICES),
    layout(map::BACKENDS, MapType::Array, 4, size_of::<abi::Backend>(), abi::MAX_BACKENDS),
    layout(map::CARP, MapType::Array, 4, size_of::<abi::Group>(), abi::MAX_GROUPS),
    // ifindex and a program's descriptor (struct bpf_devmap_val).
    layout(map::TX, MapType::DevMapHash, 4, 8, abi::MAX_EGRESS),
    layout(map::COUNTERS, MapType::PerCpuArray, 4, size_of::<abi::Count>(), MAX_COUNTERS),
    layout(
        map::SERVICE_COUNTERS,
        MapType::PerCpuArray,
        4,
        size_of::<abi::Count>(),
        abi::MAX_SERVICES,
    ),
    layout(
        map::BACKEND_COUNTERS,
        MapType::PerCpuArray,
        4,
        size_of::<abi::Count>(),
        abi::MAX_BACKENDS,
    ),
    layout(
        map::FLOWS,
        MapType::LruHash,
        size_of::<abi::FlowKey>(),
        size_of::<abi::Record>(),
        ANY_SIZE,
    ),
    layout(
        map::CLIENTS,
        MapType::LruHash,
        size_of::<abi::ClientKey>(),
        size_of::<abi::Record>(),
        ANY_SIZE,
    ),
    layout(
        map::FRAGS,
        MapType::LruHash,
        size_of::<abi::FragKey>(),
        size_of::<abi::Frag>(),
        abi::MAX_FRAGS,
    ),
    layout(
        map::NAT,
        MapType::LruHash,
        size_of::<abi::Tuple>(),
        size_of::<abi::Translation>(),
        ANY_SIZE,
    ),
    // The prefix's length comes before the key.
    layout(map::ACL, MapType::LpmTrie, 4 + size_of::<abi::AclKey>(), 4, abi::MAX_PREFIXES),
    layout(map::RATE, MapType::LruHash, size_of::<abi::RateKey>(), 8, abi::MAX_SOURCES),
    layout(map::VALVES, MapType::PerCpuArray, 4, size_of::<abi::Window>(), abi::VALVE_COUNT),
    layout(map::EVENTS, MapType::RingBuf, 0, 0, event::RING),
    layout(map::MISSED, MapType::PerCpuArray, 4, 8, 1),
    layout(map::SIGNALS, MapType::PerCpuArray, 4, size_of::<abi::Signals>(), abi::MAX_BACKENDS),
];

/// The configuration gives the size of this map; one that is adopted keeps its own.
const ANY_SIZE: u32 = 0;

/// Verifies all maps that are pinned in this folder.
pub(super) fn verify(folder: &Path) -> Result<(), DataplaneError> {
    for layout in &LAYOUTS {
        let path = folder.join(layout.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(DataplaneError::Map)?;
        let found = (
            info.map_type().map_err(DataplaneError::Map)?,
            info.key_size() as usize,
            info.value_size() as usize,
            if layout.entries == ANY_SIZE { ANY_SIZE } else { info.max_entries() },
        );
        let expected = (layout.kind, layout.key, layout.value, layout.entries);
        if found != expected {
            let (kind, key, value, entries) = found;
            let difference = format!(
                "pinned map is {kind:?} with key {key}, value {value} and {entries} entries, not \
                 {:?} with key {}, value {} and {} entries",
                layout.kind, layout.key, layout.value, layout.entries
            );
            return Err(DataplaneError::Layout { path, difference });
        }
    }
    Ok(())
}
