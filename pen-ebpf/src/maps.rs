//! All maps, and the look-ups that decisions are made of.
#![expect(unsafe_code, reason = "hash look-ups and counters go through pointers into maps")]

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, PerCpuArray},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use pen_common::{
    abi::{
        self, AddrEntry, Backend, CHUNK, Cfg, Count, Group, MAX_ADDRS, MAX_BACKENDS, MAX_EGRESS,
        MAX_GROUPS, MAX_SERVICES, Service, ServiceKey, Slot,
    },
    forward::Lookup,
    hash::Secret,
    moment::Moment,
    net::Addr,
    verdict::{Counter, MAX_COUNTERS},
};

/// `BPF_F_NO_PREALLOC`: memory for what is used, not for the most that may be.
const NO_PREALLOC: usize = 1;
/// Size of the inner map that the verifier sees; real tables have the size of their service.
const TEMPLATE_CHUNKS: usize = 256;

type Table = Array<abi::SlotChunk, TEMPLATE_CHUNKS, { abi::INNER_MAP as usize }>;

#[btf_map]
static CFG: Array<Cfg, 1> = Array::new();
#[btf_map]
static ADDRS: HashMap<Addr, AddrEntry, { MAX_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICES as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static TABLES: ArrayOfMaps<Table, { MAX_SERVICES as usize }> = ArrayOfMaps::new();
#[btf_map]
static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();
#[btf_map]
static CARP: Array<Group, { MAX_GROUPS as usize }> = Array::new();
#[btf_map]
pub(crate) static TX: DevMapHash<{ MAX_EGRESS as usize }> = DevMapHash::new();
#[btf_map]
static COUNTERS: PerCpuArray<Count, { MAX_COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static SERVICE_COUNTERS: PerCpuArray<Count, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<Count, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// The maps as `forward::decide` sees them.
pub(crate) struct Maps;

impl Lookup for Maps {
    #[inline(always)]
    fn addr(&self, addr: &Addr) -> Option<AddrEntry> {
        // SAFETY: the value is copied at once, so that a deletion meanwhile cannot be seen later.
        unsafe { ADDRS.get(addr) }.copied()
    }

    #[inline(always)]
    fn group(&self, index: u32) -> Option<Group> {
        CARP.get(index).copied()
    }

    #[inline(always)]
    fn secret(&self) -> Option<Secret> {
        CFG.get(0).map(|cfg| cfg.secret)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: as in `addr`.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, service: u32, index: u32) -> Option<Slot> {
        let chunk = TABLES.get_value(service, &(index / CHUNK))?;
        chunk.get((index % CHUNK) as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        BACKENDS.get(id).copied()
    }

    #[inline(always)]
    fn now(&self) -> Moment {
        // SAFETY: a helper without arguments.
        Moment(unsafe { bpf_ktime_get_ns() })
    }
}

/// Counts the end of a frame.
#[inline(always)]
pub(crate) fn count(counter: Counter, length: u64) {
    add(COUNTERS.get_ptr_mut(counter as u32), length);
}

/// Counts a frame that is forwarded for a service to a backend.
#[inline(always)]
pub(crate) fn count_forwarded(service: u32, backend: u32, length: u64) {
    add(SERVICE_COUNTERS.get_ptr_mut(service), length);
    add(BACKEND_COUNTERS.get_ptr_mut(backend), length);
}

#[inline(always)]
fn add(count: Option<*mut Count>, length: u64) {
    if let Some(count) = count {
        // SAFETY: the pointer is to this CPU's value, and an XDP program is not interrupted by
        // another one on its CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += length;
        }
    }
}
