//! Typed access to all maps: read them back whole, carry one write out, sum counters up.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::{Ebpf, Pod};
use pen_common::abi::{
    AclKey, AddrEntry, Backend, CHUNK, Cfg, ClientKey, Count, FlowKey, Group, INNER_MAP,
    MAX_BACKENDS, MAX_GROUPS, Record, Service, ServiceKey, Signals, Slot, SlotChunk, TABLE_CHUNKS,
    TABLE_SLOTS, map,
};
use pen_common::net::Addr;
use pen_common::verdict::Counter;

use super::DataplaneError;
use super::listens::Listens;
use crate::api::Counts;
use crate::engine::event::SignalsRead;
use crate::engine::tables::{Prefix, Records, Tables, Write};

pub(super) struct Maps {
    cfg: Array<MapData, Cfg>,
    addrs: HashMap<MapData, Addr, AddrEntry>,
    services: HashMap<MapData, ServiceKey, Service>,
    listens: Listens,
    tables: ArrayOfMaps<MapData, Array<MapData, SlotChunk>>,
    large_tables: ArrayOfMaps<MapData, Array<MapData, SlotChunk>>,
    /// A table without a slot in use, for all services that are gone.
    no_table: Option<Array<MapData, SlotChunk>>,
    backends: Array<MapData, Backend>,
    carp: Array<MapData, Group>,
    tx: DevMapHash<MapData>,
    counters: PerCpuArray<MapData, Count>,
    service_counters: PerCpuArray<MapData, Count>,
    backend_counters: PerCpuArray<MapData, Count>,
    signals: PerCpuArray<MapData, Signals>,
    acl: LpmTrie<MapData, AclKey, u32>,
    flows: HashMap<MapData, FlowKey, Record>,
    clients: HashMap<MapData, ClientKey, Record>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(
            ebpf: &mut Ebpf,
            name: &str,
        ) -> Result<T, DataplaneError> {
            let map = ebpf
                .take_map(name)
                .ok_or_else(|| DataplaneError::Object(format!("has no map {name}")))?;
            T::try_from(map).map_err(DataplaneError::Map)
        }
        let addrs: HashMap<MapData, Addr, AddrEntry> = typed(ebpf, map::ADDRS)?;
        let services: HashMap<MapData, ServiceKey, Service> = typed(ebpf, map::SERVICES)?;
        let listens = Listens::new(
            typed(ebpf, map::LISTENS)?,
            addrs.iter().collect::<Result<_, _>>().map_err(DataplaneError::Map)?,
            services.iter().collect::<Result<_, _>>().map_err(DataplaneError::Map)?,
        );
        Ok(Self {
            cfg: typed(ebpf, map::CFG)?,
            addrs,
            services,
            listens,
            tables: typed(ebpf, map::TABLES)?,
            large_tables: typed(ebpf, map::LARGE_TABLES)?,
            no_table: None,
            backends: typed(ebpf, map::BACKENDS)?,
            carp: typed(ebpf, map::CARP)?,
            tx: typed(ebpf, map::TX)?,
            counters: typed(ebpf, map::COUNTERS)?,
            service_counters: typed(ebpf, map::SERVICE_COUNTERS)?,
            backend_counters: typed(ebpf, map::BACKEND_COUNTERS)?,
            signals: typed(ebpf, map::SIGNALS)?,
            acl: typed(ebpf, map::ACL)?,
            flows: typed(ebpf, map::FLOWS)?,
            clients: typed(ebpf, map::CLIENTS)?,
        })
    }

    pub(super) fn read(&self) -> Result<Tables, MapError> {
        let services: BTreeMap<ServiceKey, Service> =
            self.services.iter().collect::<Result<_, _>>()?;
        let mut slots = BTreeMap::new();
        for service in services.values() {
            // One of many ports has but the same table.
            if let Entry::Vacant(new) = slots.entry(service.id) {
                new.insert(self.read_table(service)?);
            }
        }
        let mut tables = Tables {
            cfg: self.cfg.get(&0, 0)?,
            addrs: self.addrs.iter().collect::<Result<_, _>>()?,
            services,
            slots,
            egress: self.tx.keys().collect::<Result<_, _>>()?,
            prefixes: Arc::new(
                self.acl
                    .iter()
                    .map(|entry| entry.map(|(key, verdict)| (prefix(&key), verdict)))
                    .collect::<Result<_, _>>()?,
            ),
            ..Tables::default()
        };
        for id in 1..MAX_BACKENDS {
            let backend = self.backends.get(&id, 0)?;
            if backend != Backend::default() {
                tables.backends.insert(id, backend);
            }
        }
        for index in 0..MAX_GROUPS {
            let group = self.carp.get(&index, 0)?;
            if group != Group::default() {
                tables.groups.insert(index, group);
            }
        }
        Ok(tables)
    }

    /// A daemon that was killed between two writes may leave a service whose table is missing; it
    /// counts as empty and is written anew.
    fn read_table(&self, service: &Service) -> Result<Arc<[Slot]>, MapError> {
        let of_size = if service.slots <= TABLE_SLOTS { &self.tables } else { &self.large_tables };
        let table = match of_size.get(&service.id, 0) {
            Ok(table) => table,
            Err(error) if is_missing(&error) => return Ok(Arc::from([])),
            Err(error) => return Err(error),
        };
        let chunks: Vec<SlotChunk> = table.iter().collect::<Result<_, _>>()?;
        Ok(chunks.into_iter().flatten().take(service.slots as usize).collect())
    }

    pub(super) fn group(&self, index: u32) -> Result<Group, MapError> {
        self.carp.get(&index, 0)
    }

    /// Carries writes out, in their order; stops at the first that fails.
    pub(super) fn write_all(&mut self, writes: &[Write]) -> Result<(), MapError> {
        for write in writes {
            self.listens.follow_before(Some(write))?;
            self.write(write)?;
            self.listens.note(write);
        }
        self.listens.follow_before(None)
    }

    fn write(&mut self, write: &Write) -> Result<(), MapError> {
        match write {
            Write::SetCfg(cfg) => self.cfg.set(0, cfg, 0),
            Write::SetGroup(index, group) => self.carp.set(*index, group, 0),
            Write::AddEgress(ifindex) => {
                self.tx.insert(*ifindex, *ifindex, None, 0).map_err(xdp_map_error)
            }
            Write::SetBackend(id, backend) => {
                // A backend that gets an id starts to count from zero.
                if self.backends.get(id, 0)?.generation != backend.generation {
                    clear(&mut self.backend_counters, *id)?;
                    clear(&mut self.signals, *id)?;
                }
                self.backends.set(*id, backend, 0)
            }
            Write::SetTable(id, slots) => self.set_table(*id, slots),
            Write::SetService(key, service) => self.services.insert(key, service, 0),
            Write::SetPrefix(prefix, verdict) => self.acl.insert(&acl_key(prefix), *verdict, 0),
            Write::RemovePrefix(prefix) => self.acl.remove(&acl_key(prefix)),
            Write::SetAddr(addr, entry) => self.addrs.insert(addr, entry, 0),
            Write::RemoveAddr(addr) => self.addrs.remove(addr),
            Write::RemoveService(key) => self.services.remove(key),
            Write::RemoveTable(id) => {
                self.remove_table(*id)?;
                clear(&mut self.service_counters, *id)
            }
            Write::RemoveEgress(ifindex) => match self.tx.remove(*ifindex) {
                // The kernel removes an interface that is gone by itself.
                Err(error) if is_missing(&error) => Ok(()),
                other => other,
            },
        }
    }

    /// Fills a new table and puts it in place of the old one in one update: a packet sees either
    /// the one or the other. 64 slots a system call: 16381 slots take about 0.2 ms.
    fn set_table(&mut self, id: u32, slots: &[Slot]) -> Result<(), MapError> {
        let is_large = slots.len() > TABLE_SLOTS as usize;
        let (chunks, flags) = if is_large {
            let chunks = slots.len().div_ceil(CHUNK as usize);
            (u32::try_from(chunks).expect("a table has fewer than 2^32 chunks"), INNER_MAP)
        } else {
            (TABLE_CHUNKS, 0)
        };
        let mut table: Array<MapData, SlotChunk> = Array::create(chunks, flags)?;
        for (index, part) in (0_u32..).zip(slots.chunks(CHUNK as usize)) {
            let mut chunk: SlotChunk = [Slot::default(); CHUNK as usize];
            for (to, from) in chunk.iter_mut().zip(part) {
                *to = *from;
            }
            table.set(index, chunk, 0)?;
        }
        let of_size = if is_large { &mut self.large_tables } else { &mut self.tables };
        of_size.set(id, &table, 0)
    }

    /// An array of maps has no "delete" in aya: an empty table takes the place, in which all services
    /// that are gone find themselves.
    fn remove_table(&mut self, id: u32) -> Result<(), MapError> {
        match self.large_tables.get(&id, 0) {
            Ok(_) => self.large_tables.set(id, &Array::create(1, INNER_MAP)?, 0)?,
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
        let none = match self.no_table.take() {
            Some(none) => none,
            None => Array::create(TABLE_CHUNKS, 0)?,
        };
        self.tables.set(id, &none, 0)?;
        self.no_table = Some(none);
        Ok(())
    }

    pub(super) fn counts(&self, tables: &Tables) -> Result<Counts, MapError> {
        let mut counts = Counts::default();
        for counter in Counter::ALL {
            counts.verdicts.push(sum(&self.counters, *counter as u32)?);
        }
        for id in tables.slots.keys() {
            counts.services.insert(*id, sum(&self.service_counters, *id)?);
        }
        for id in tables.backends.keys() {
            counts.backends.insert(*id, sum(&self.backend_counters, *id)?);
            counts.signals.insert(*id, sum_signals(&self.signals, *id)?);
        }
        Ok(counts)
    }

    /// What packets have told of the backends of these tables; `None` if that is no more than what
    /// was read with this total.
    pub(super) fn signals(
        &self,
        tables: &Tables,
        known: Option<Signals>,
    ) -> Result<Option<SignalsRead>, MapError> {
        let total = sum_signals(&self.signals, 0)?;
        if known == Some(total) {
            return Ok(None);
        }
        let ids = tables.backends.keys();
        let of = ids.map(|id| Ok((*id, sum_signals(&self.signals, *id)?)));
        Ok(Some(SignalsRead { total, of: of.collect::<Result<_, MapError>>()? }))
    }
}

impl Records for Maps {
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.flows.get(key, 0).ok()
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.clients.get(key, 0).ok()
    }
}

/// Bits of the list's number, which come before those of the address.
const LIST_BITS: u32 = 32;

fn acl_key(prefix: &Prefix) -> Key<AclKey> {
    let data = AclKey { list: prefix.list.to_be_bytes(), addr: prefix.addr.bytes() };
    Key::new(LIST_BITS + u32::from(prefix.bits), data)
}

fn prefix(key: &Key<AclKey>) -> Prefix {
    let data = key.data();
    let bits = key.prefix_len().saturating_sub(LIST_BITS);
    Prefix {
        list: u32::from_be_bytes(data.list),
        addr: Addr::v6(data.addr),
        bits: u8::try_from(bits).unwrap_or(128),
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32)
        }
        _ => false,
    }
}

fn sum(map: &PerCpuArray<MapData, Count>, index: u32) -> Result<Count, MapError> {
    let total = map.get(&index, 0)?.iter().fold(Count::default(), |total, count| Count {
        packets: total.packets + count.packets,
        bytes: total.bytes + count.bytes,
    });
    Ok(total)
}

fn sum_signals(map: &PerCpuArray<MapData, Signals>, index: u32) -> Result<Signals, MapError> {
    let total = map.get(&index, 0)?.iter().fold(Signals::default(), |total, of_cpu| Signals {
        refused: total.refused + of_cpu.refused,
        unanswered: total.unanswered + of_cpu.unanswered,
        unreachable: total.unreachable + of_cpu.unreachable,
        answered: total.answered + of_cpu.answered,
    });
    Ok(total)
}

fn clear<T: Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> Result<(), MapError> {
    let zeros: Vec<T> = map.get(&index, 0)?.iter().map(|_| T::default()).collect();
    let zeros = aya::maps::PerCpuValues::try_from(zeros).map_err(MapError::IoError)?;
    map.set(index, zeros, 0)
}

fn xdp_map_error(error: aya::maps::xdp::XdpMapError) -> MapError {
    match error {
        aya::maps::xdp::XdpMapError::MapError(error) => error,
        // Only asked for with a program in the entry, which we never have.
        aya::maps::xdp::XdpMapError::ChainedProgramNotSupported => MapError::KeyNotFound,
    }
}
