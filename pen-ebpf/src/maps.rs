//! All maps, and the look-ups that decisions are made of.
#![expect(unsafe_code, reason = "hash look-ups and counters go through pointers into maps")]

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST, xdp_md},
    btf_maps::{
        Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf,
        lpm_trie,
    },
    helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use pen_common::{
    abi::{
        self, AclKey, AddrEntry, Backend, CHUNK, Cfg, ClientKey, Count, DEFAULT_CLIENTS,
        DEFAULT_FLOWS, DEFAULT_TRANSLATIONS, FlowKey, Frag, FragKey, Group, Listen, MAX_ADDRS,
        MAX_BACKENDS, MAX_EGRESS, MAX_FRAGS, MAX_GROUPS, MAX_LISTENS, MAX_PREFIXES, MAX_SERVICES,
        MAX_SOURCES, RateKey, Record, Service, ServiceKey, Signals, Slot, Translation, Tuple,
        VALVE_COUNT, Valve, Window,
    },
    event::{RING, RecordMade, TranslationMade},
    forward::Lookup,
    hash, limit,
    moment::Moment,
    nat::Translations,
    net::Addr,
    signal::{Opening, Signal},
    verdict::{Counter, MAX_COUNTERS},
};

use crate::head::Head;
use crate::route::Route;

/// `BPF_F_NO_PREALLOC`: memory for what is used, not for the most that may be.
const NO_PREALLOC: usize = 1;
/// Bits of a whole key of the trie: the list's number and an address.
#[expect(clippy::cast_possible_truncation, reason = "160")]
const ACL_BITS: u32 = 8 * size_of::<AclKey>() as u32;

type Listens = Array<Listen, { abi::MAX_FAST_LISTENS as usize }>;
type Table = Array<abi::SlotChunk, { abi::TABLE_CHUNKS as usize }>;
/// Of any size, whatever this one says.
type LargeTable =
    Array<abi::SlotChunk, { abi::TABLE_CHUNKS as usize }, { abi::INNER_MAP as usize }>;

#[btf_map]
static CFG: Array<Cfg, 1> = Array::new();
#[btf_map]
static ADDRS: HashMap<Addr, AddrEntry, { MAX_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, { MAX_LISTENS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static LISTENS: ArrayOfMaps<Listens, 1> = ArrayOfMaps::new();
#[btf_map]
static TABLES: ArrayOfMaps<Table, { MAX_SERVICES as usize }> = ArrayOfMaps::new();
#[btf_map]
static LARGE_TABLES: ArrayOfMaps<LargeTable, { MAX_SERVICES as usize }> = ArrayOfMaps::new();
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
// The loader may give these three other sizes.
#[btf_map]
static FLOWS: LruHashMap<FlowKey, Record, { DEFAULT_FLOWS as usize }> = LruHashMap::new();
#[btf_map]
static CLIENTS: LruHashMap<ClientKey, Record, { DEFAULT_CLIENTS as usize }> = LruHashMap::new();
#[btf_map]
static NAT: LruHashMap<Tuple, Translation, { DEFAULT_TRANSLATIONS as usize }> = LruHashMap::new();
#[btf_map]
static FRAGS: LruHashMap<FragKey, Frag, { MAX_FRAGS as usize }> = LruHashMap::new();
#[btf_map]
static ACL: LpmTrie<AclKey, u32, { MAX_PREFIXES as usize }, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static RATE: LruHashMap<RateKey, u64, { MAX_SOURCES as usize }> = LruHashMap::new();
#[btf_map]
static VALVES: PerCpuArray<Window, { VALVE_COUNT as usize }> = PerCpuArray::new();
#[btf_map]
static EVENTS: RingBuf<RecordMade, { RING as usize }> = RingBuf::new();
#[btf_map]
static MISSED: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static SIGNALS: PerCpuArray<Signals, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// SYNs of the last seconds, for a daemon's life: what is forgotten costs a signal. Of all CPUs
/// together, because a SYN that is repeated may come to another one.
#[btf_map]
static OPENINGS: Array<u64, { 1 << Opening::BITS }> = Array::new();

/// Working memory of this CPU. Neither pinned nor shared: it means nothing after a run.
#[btf_map]
static DESK: PerCpuArray<Desk, 1> = PerCpuArray::new();

/// What is too large for the stack, of which a chain of calls has 512 bytes together.
#[repr(C)]
pub(crate) struct Desk {
    pub(crate) head: Head,
    /// The packet that it quotes.
    pub(crate) quote: Head,
    pub(crate) route: Route,
}

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
    fn cfg(&self) -> Option<&Cfg> {
        CFG.get(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: as in `addr`.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn listen(&self, key: &ServiceKey) -> Option<&Listen> {
        // Nobody writes into an array that is in the map.
        LISTENS.get_value(0, &hash::listen_index(key)).filter(|listen| listen.key == *key)
    }

    #[inline(always)]
    fn slot(&self, service: u32, slots: u32, index: u32) -> Option<Slot> {
        let chunk = if slots <= abi::TABLE_SLOTS {
            TABLES.get_value(service, &(index / CHUNK))?
        } else {
            LARGE_TABLES.get_value(service, &(index / CHUNK))?
        };
        chunk.get((index % CHUNK) as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        // SAFETY: as in `addr`.
        unsafe { FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn client(&self, key: &ClientKey) -> Option<Record> {
        // SAFETY: as in `addr`.
        unsafe { CLIENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn record_flow(&self, key: &FlowKey, record: &Record) -> bool {
        // A record that is there already takes no room.
        let made = FLOWS.insert(key, record, u64::from(BPF_EXIST)).is_ok()
            || passes(Valve::Records, Moment(record.last_seen_ns))
                && FLOWS.insert(key, record, u64::from(BPF_ANY)).is_ok();
        if made && tells() {
            tell_flow(key, record);
        }
        made
    }

    #[inline(always)]
    fn record_client(&self, key: &ClientKey, record: &Record) -> bool {
        let made = CLIENTS.insert(key, record, u64::from(BPF_EXIST)).is_ok()
            || passes(Valve::Records, Moment(record.last_seen_ns))
                && CLIENTS.insert(key, record, u64::from(BPF_ANY)).is_ok();
        if made && tells() {
            tell_client(key, record);
        }
        made
    }

    #[inline(always)]
    fn stamp_flow(&self, key: &FlowKey, now: Moment) {
        if let Some(record) = FLOWS.get_ptr_mut(key) {
            // SAFETY: one aligned word; whoever's record it is by now was in use just now.
            unsafe { (*record).last_seen_ns = now.0 };
        }
    }

    #[inline(always)]
    fn stamp_client(&self, key: &ClientKey, now: Moment) {
        if let Some(record) = CLIENTS.get_ptr_mut(key) {
            // SAFETY: as in `stamp_flow`.
            unsafe { (*record).last_seen_ns = now.0 };
        }
    }

    #[inline(always)]
    fn acl(&self, list: u32, source: &Addr) -> Option<u32> {
        acl(list, source)
    }

    #[inline(always)]
    fn admit(&self, vip: &AddrEntry, source: &Addr) -> bool {
        admit(vip.id, vip.syn_interval_ns, source)
    }

    #[inline(always)]
    fn now(&self) -> Moment {
        // SAFETY: a helper without arguments.
        Moment(unsafe { bpf_ktime_get_ns() })
    }
}

/// The kernel refuses words on the stack that are not aligned, and aya's key is packed.
#[repr(align(8))]
struct Aligned<T>(T);

/// Not inlined, like [`admit`]: few addresses have a list or a limit.
#[inline(never)]
fn acl(list: u32, source: &Addr) -> Option<u32> {
    let data = AclKey { list: list.to_be_bytes(), addr: source.bytes() };
    let key = Aligned(lpm_trie::Key::new(ACL_BITS, data));
    ACL.get(&key.0).copied()
}

/// Several CPUs may read the same time of arrival; a source that is spread over them gets a few
/// connections more.
#[inline(never)]
fn admit(vip: u32, syn_interval_ns: u32, source: &Addr) -> bool {
    let prefix = if source.is_v4() { 128 } else { 64 };
    let key = RateKey { source: hash::masked(source, prefix), vip, _pad: 0 };
    // SAFETY: as in `Maps::addr`.
    let arrival = unsafe { RATE.get(key) }.copied().unwrap_or(0);
    match limit::admit(arrival, Maps.now(), u64::from(syn_interval_ns)) {
        Some(next) => {
            // If it cannot be noted, nobody is kept out.
            let _ = RATE.insert(key, next, u64::from(BPF_ANY));
            true
        }
        None => false,
    }
}

impl Translations for Maps {
    #[inline(always)]
    fn translation(&self, ends: &Tuple, into: &mut Translation) -> bool {
        // SAFETY: as in `addr`.
        match unsafe { NAT.get(ends) } {
            Some(found) => {
                *into = *found;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn may_translate(&self) -> bool {
        passes(Valve::Records, self.now())
    }

    /// Two CPUs that find the same void entry within the same nanoseconds may both take it. The
    /// later one has it then; the flow of the other one finds out within a second.
    #[inline(always)]
    fn occupy(&self, ends: &Tuple, entry: &Translation, void: Option<Moment>) -> bool {
        let Some(void) = void else {
            let made = NAT.insert(ends, entry, u64::from(BPF_NOEXIST)).is_ok();
            if made && tells() {
                tell_translation(ends, entry);
            }
            return made;
        };
        // SAFETY: as in `addr`.
        match unsafe { NAT.get(ends) } {
            Some(found) if found.last_seen_ns != void.0 => false,
            _ => self.translate(ends, entry),
        }
    }

    #[inline(always)]
    fn translate(&self, ends: &Tuple, entry: &Translation) -> bool {
        let made = NAT.insert(ends, entry, u64::from(BPF_ANY)).is_ok();
        if made && tells() {
            tell_translation(ends, entry);
        }
        made
    }

    #[inline(always)]
    fn count(&self, backend: u32, signal: Signal) {
        tell(backend, signal);
    }

    /// A flag that another CPU sets at the same time may be lost: then the entry lives until its
    /// service's time is over.
    #[inline(always)]
    fn touch(&self, ends: &Tuple, flags: u32, now: Moment) {
        if let Some(found) = NAT.get_ptr_mut(ends) {
            // SAFETY: two aligned words; whoever's entry it is by now was in use just now.
            let before = unsafe {
                let before = (*found).flags;
                (*found).flags |= flags;
                (*found).last_seen_ns = now.0;
                before
            };
            if flags & !before != 0 && tells() {
                // SAFETY: read at once; as for all look-ups.
                tell_translation(ends, unsafe { &*found });
            }
        }
    }
}

/// Whether peers want to know of new records.
#[inline(always)]
fn tells() -> bool {
    CFG.get(0).is_some_and(|cfg| cfg.flags & Cfg::SYNC != 0)
}

/// Not inlined, like the next ones, for the sake of the stack.
#[inline(never)]
fn tell_flow(key: &FlowKey, record: &Record) {
    tell_record(RecordMade::FLOW, key, record);
}

#[inline(never)]
fn tell_client(key: &ClientKey, record: &Record) {
    // Its last word is zero, as the ports of a client are.
    const { assert!(size_of::<ClientKey>() == size_of::<FlowKey>()) };
    // SAFETY: both are plain bytes of the same size and alignment.
    tell_record(RecordMade::CLIENT, unsafe { &*ptr::from_ref(key).cast() }, record);
}

#[inline(always)]
fn tell_record(kind: u32, key: &FlowKey, record: &Record) {
    let Some(mut entry) = EVENTS.reserve_untyped::<RecordMade>(0) else { return miss() };
    let to = entry.as_mut_ptr();
    // SAFETY: the entry is as large as the type, and its fields are written one by one.
    unsafe {
        (*to).kind = kind;
        (*to)._pad = 0;
        (*to).key = *key;
        (*to).record = *record;
    }
    entry.submit(0);
}

#[inline(never)]
fn tell_translation(ends: &Tuple, to: &Translation) {
    let Some(mut entry) = EVENTS.reserve_untyped::<TranslationMade>(0) else { return miss() };
    let made = entry.as_mut_ptr();
    // SAFETY: as in `tell_record`.
    unsafe {
        (*made).ends = *ends;
        (*made).to = *to;
    }
    entry.submit(0);
}

/// There was no room: whoever reads finds out, and reads the maps themselves.
#[inline(always)]
fn miss() {
    if let Some(missed) = MISSED.get_ptr_mut(0) {
        // SAFETY: as in `add`.
        unsafe { *missed += 1 };
    }
}

/// The working memory, as somebody else left it.
#[inline(always)]
pub(crate) fn desk() -> Option<&'static mut Desk> {
    // SAFETY: it is this CPU's, and an XDP program is not interrupted by another one on its CPU.
    // Every stage asks once, and calls none that asks while it holds it.
    DESK.get_ptr_mut(0).map(|desk| unsafe { &mut *desk })
}

/// Asks the kernel's routing where a packet goes, and fills the answer in; one of the helper's
/// results, `BPF_FIB_LKUP_RET_SUCCESS` among them.
#[inline(always)]
pub(crate) fn find_route(ctx: *mut xdp_md, route: &mut Route) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "64 bytes")]
    const LENGTH: i32 = size_of::<Route>() as i32;
    // SAFETY: `Route` has the layout of the helper's parameter and is plain bytes, any of which it
    // may overwrite.
    unsafe { bpf_fib_lookup(ctx.cast(), (&raw mut *route).cast(), LENGTH, 0) }
}

/// The record of a datagram in fragments.
#[inline(always)]
pub(crate) fn fragment(key: &FragKey) -> Option<Frag> {
    // SAFETY: as in `Maps::addr`.
    unsafe { FRAGS.get(key) }.copied()
}

/// Makes a record. If that cannot be, the later fragments are not known, and pass.
#[inline(always)]
pub(crate) fn record_fragment(key: &FragKey, frag: &Frag) {
    let _ = FRAGS.insert(key, frag, u64::from(BPF_ANY));
}

/// Whether any service translates addresses: then a packet to anybody may be an answer.
#[inline(always)]
pub(crate) fn translates() -> bool {
    CFG.get(0).is_some_and(|cfg| cfg.flags & Cfg::NAT != 0)
}

/// Whether one more may pass through a valve in this second, on this CPU.
#[inline(always)]
pub(crate) fn passes(valve: Valve, now: Moment) -> bool {
    let Some(cfg) = CFG.get(0) else { return false };
    let per_second = match valve {
        Valve::Records => cfg.records_per_second,
        Valve::Icmp => cfg.icmp_per_second,
    };
    let Some(window) = VALVES.get_ptr_mut(valve as u32) else { return false };
    // SAFETY: as in `add`.
    unsafe {
        match limit::pass(*window, now, per_second) {
            Some(next) => {
                *window = next;
                true
            }
            None => false,
        }
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

/// Counts a signal of a backend.
#[inline(never)]
pub(crate) fn tell(backend: u32, signal: Signal) {
    signal_at(backend, signal);
    // Answers are many, and nobody has to look at once.
    if !matches!(signal, Signal::Answered) {
        signal_at(0, signal);
    }
}

#[inline(always)]
fn signal_at(index: u32, signal: Signal) {
    if let Some(signals) = SIGNALS.get_ptr_mut(index) {
        // SAFETY: as in `add`.
        unsafe { (*signals).add(signal) };
    }
}

/// The time, exact to a tick of the kernel's clock, at a fifth of the cost.
#[inline(always)]
pub(crate) fn coarse_now() -> Moment {
    // SAFETY: a helper without arguments.
    Moment(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Remembers a SYN in its place; true if it repeats the one that was there.
#[inline(always)]
pub(crate) fn remember(place: u32, opening: Opening) -> bool {
    let Some(before) = OPENINGS.get_ptr_mut(place) else { return false };
    // SAFETY: one aligned word; another CPU may put its own there, which costs a signal.
    unsafe {
        let (kept, repeats) = opening.after(Opening(*before));
        *before = kept.0;
        repeats
    }
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
