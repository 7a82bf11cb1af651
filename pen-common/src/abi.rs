//! Keys and values of the maps, exactly as they lie in memory of the kernel, and the names and
//! sizes of the maps.

use crate::net::{Addr, Be16, MacAddr};

/// Names of the maps, which are also the names of their pins.
pub mod map {
    /// Array of one [`super::Cfg`].
    pub const CFG: &str = "CFG";
    /// Hash [`super::Addr`] -> [`super::AddrEntry`]: the first look-up of each packet.
    pub const ADDRS: &str = "ADDRS";
    /// Hash [`super::ServiceKey`] -> [`super::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// Array of maps: service id -> array of [`super::SlotChunk`].
    pub const TABLES: &str = "TABLES";
    /// Array of [`super::Backend`]; index 0 is no backend.
    pub const BACKENDS: &str = "BACKENDS";
    /// Array of [`super::Group`]; index 0 is "no CARP: always ours".
    pub const CARP: &str = "CARP";
    /// Devmap: interface index -> interface, for redirection to another NIC.
    pub const TX: &str = "TX";
    /// Per-CPU array of [`super::Count`] by [`crate::verdict::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array of [`super::Count`] by service id.
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// Per-CPU array of [`super::Count`] by backend id.
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";

    /// All of them.
    pub const ALL: [&str; 10] = [
        CFG,
        ADDRS,
        SERVICES,
        TABLES,
        BACKENDS,
        CARP,
        TX,
        COUNTERS,
        SERVICE_COUNTERS,
        BACKEND_COUNTERS,
    ];
}

/// Most virtual addresses.
pub const MAX_ADDRS: u32 = 4096;
/// Most services; a service id is below this.
pub const MAX_SERVICES: u32 = 4096;
/// Most backends of all services together, plus one: id 0 is no backend.
pub const MAX_BACKENDS: u32 = 16384;
/// Most CARP groups, plus one: group 0 is "no CARP".
pub const MAX_GROUPS: u32 = 256;
/// Most interfaces that frames are redirected to.
pub const MAX_EGRESS: u32 = 64;
/// `BPF_F_INNER_MAP` (linux/bpf.h): tables of one outer map may differ in size.
pub const INNER_MAP: u32 = 1 << 12;
/// Slots in one value of a service's table. A table is written chunk by chunk: one system call for
/// 64 slots instead of one for each.
pub const CHUNK: u32 = 64;

/// Settings of the whole program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cfg {
    /// Key of the flow hash.
    pub secret: [u64; 2],
}
const _: () = assert!(size_of::<Cfg>() == 16);

/// What an address of ours is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddrEntry {
    /// Interface on whose network the address lives: ARP and ND are answered only there.
    pub ifindex: u32,
    /// Index of the [`Group`] that says whether the address is ours now.
    pub group: u32,
    /// Ethernet address that neighbours are told.
    pub mac: MacAddr,
    /// Zero.
    pub _pad: [u8; 2],
}
const _: () = assert!(size_of::<AddrEntry>() == 16);

/// A CARP group's role on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// [`Group::BACKUP`] or [`Group::MASTER`].
    pub role: u32,
    /// Zero.
    pub _pad: u32,
    /// Until when the role of master holds, as a [`crate::moment::Moment`]; a daemon that dies
    /// stops renewing it, so that it never holds an address beside the next master.
    pub lease_ns: u64,
}
const _: () = assert!(size_of::<Group>() == 16);

impl Group {
    /// Not ours now: forward nothing, answer nothing.
    pub const BACKUP: u32 = 0;
    /// Ours.
    pub const MASTER: u32 = 1;
    /// Group 0: addresses without CARP are always ours.
    pub const ALWAYS: Self = Self { role: Self::MASTER, _pad: 0, lease_ns: u64::MAX };
}

/// Who is asked for: (address, port, protocol). Port 0 is "any port".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Virtual address.
    pub vip: Addr,
    /// Destination port.
    pub port: Be16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
    /// Zero. Apart from the byte before, because a word is zeroed by one instruction.
    pub _pad_word: u32,
}
const _: () = assert!(size_of::<ServiceKey>() == 24);

impl ServiceKey {
    /// A key with its padding zeroed.
    #[must_use]
    #[inline(always)]
    pub const fn new(vip: Addr, port: Be16, protocol: u8) -> Self {
        Self { vip, port, protocol, _pad: 0, _pad_word: 0 }
    }
}

/// A service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Index into `TABLES` and `SERVICE_COUNTERS`.
    pub id: u32,
    /// Slots of its table (a prime).
    pub slots: u32,
    /// [`Service::CLIENT`] or [`Service::FLOW`].
    pub affinity: u8,
    /// Bits of an IPv4 client's address, counted in the mapped address (/32 is 128).
    pub prefix_v4: u8,
    /// Bits of an IPv6 client's address.
    pub prefix_v6: u8,
    /// Zero.
    pub _pad: u8,
}
const _: () = assert!(size_of::<Service>() == 12);

impl Service {
    /// Affinity by flow: the hash covers address and ports.
    pub const FLOW: u8 = 0;
    /// Affinity by client: the hash covers the address, or a prefix of it.
    pub const CLIENT: u8 = 1;
}

/// One slot of a service's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Backend of flows that have no record.
    pub base: u16,
    /// Backend of new flows.
    pub current: u16,
    /// [`Slot::UNSETTLED`] or 0.
    pub flags: u32,
}
const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    /// `base` and `current`, or a live record, disagree.
    pub const UNSETTLED: u32 = 1;

    /// A slot that needs no look-up: all its flows belong to one backend.
    #[must_use]
    pub const fn settled(backend: u16) -> Self {
        Self { base: backend, current: backend, flags: 0 }
    }
}

/// A value of a table: slots `64 * index ..`.
pub type SlotChunk = [Slot; CHUNK as usize];

/// A backend of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub addr: Addr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its port.
    pub port: Be16,
    /// Ethernet address of the interface that leads to it.
    pub source_mac: MacAddr,
    /// Operator's state, for a controller that starts again: [`Backend::READY`], ...
    pub admin: u16,
    /// Interface that leads to it.
    pub ifindex: u32,
    /// [`Backend::DOWN`], [`Backend::DRAIN`] or [`Backend::UP`]; takes effect with the next packet.
    pub state: u32,
    /// Rises each time the id is given to another backend.
    pub generation: u32,
    /// Service that it belongs to.
    pub service: u32,
    /// Weight that the operator set at run time, plus 1; 0 if the configuration's weight holds.
    pub weight: u32,
    /// Zero.
    pub _pad: [u8; 12],
}
const _: () = assert!(size_of::<Backend>() == 64);

impl Backend {
    /// Gets no packet.
    pub const DOWN: u32 = 0;
    /// Gets packets of the flows that it has, no new flow.
    pub const DRAIN: u32 = 1;
    /// Gets packets.
    pub const UP: u32 = 2;

    /// Operator's state: in service.
    pub const READY: u16 = 0;
    /// Operator's state: no new flows.
    pub const DRAINING: u16 = 1;
    /// Operator's state: nothing at all.
    pub const MAINT: u16 = 2;
}

/// A counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames, from the Ethernet header on.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Count>() == 16);
