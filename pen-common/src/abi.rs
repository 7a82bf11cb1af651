//! Keys and values of the maps, exactly as they lie in memory of the kernel, and the names and
//! sizes of the maps.

use crate::net::{Addr, Be16, MacAddr};

pub mod map;

/// Most virtual addresses.
pub const MAX_ADDRS: u32 = 4096;
/// Most services; a service id is below this.
pub const MAX_SERVICES: u32 = 4096;
/// Most ports of all services together: a range of ports has an entry for each.
pub const MAX_LISTENS: u32 = 65536;
/// Most backends of all services together, plus one: id 0 is no backend.
pub const MAX_BACKENDS: u32 = 16384;
/// Most CARP groups, plus one: group 0 is "no CARP".
pub const MAX_GROUPS: u32 = 256;
/// Most interfaces that frames are redirected to.
pub const MAX_EGRESS: u32 = 64;
/// Records of flows, unless the configuration says otherwise; each takes about 100 bytes.
pub const DEFAULT_FLOWS: u32 = 1 << 20;
/// Remembered clients, unless the configuration says otherwise; each takes about 100 bytes.
pub const DEFAULT_CLIENTS: u32 = 1 << 18;
/// Translations of NAT, unless the configuration says otherwise; each takes about 150 bytes.
pub const DEFAULT_TRANSLATIONS: u32 = 1 << 18;
/// Datagrams in fragments that are under way.
pub const MAX_FRAGS: u32 = 8192;
/// Most prefixes of all access lists.
pub const MAX_PREFIXES: u32 = 100_000;
/// Sources whose rate is limited that are remembered.
pub const MAX_SOURCES: u32 = 65536;
/// `BPF_F_INNER_MAP` (linux/bpf.h): tables of one outer map may differ in size.
pub const INNER_MAP: u32 = 1 << 12;
/// Slots in one value of a service's table. A table is written chunk by chunk: one system call for
/// 64 slots instead of one for each.
pub const CHUNK: u32 = 64;

/// Chunks of a table in `TABLES`.
pub const TABLE_CHUNKS: u32 = 256;
/// Most slots of a table in `TABLES`.
pub const TABLE_SLOTS: u32 = TABLE_CHUNKS * CHUNK;
/// Binary logarithm of the number of entries of the array in `LISTENS`.
pub const LISTEN_BITS: u32 = 11;
/// Entries of the array in `LISTENS`.
pub const MAX_FAST_LISTENS: u32 = 1 << LISTEN_BITS;

/// Settings of the whole program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cfg {
    /// Key of the flow hash.
    pub secret: [u64; 2],
    /// Sum of [`Cfg::NAT`] and [`Cfg::SYNC`].
    pub flags: u32,
    /// New records of flows and clients that each CPU may make in a second.
    pub records_per_second: u32,
    /// ICMP errors that each CPU may send in a second.
    pub icmp_per_second: u32,
    /// First port that masquerading gives.
    pub first_port: Be16,
    /// Last port that masquerading gives.
    pub last_port: Be16,
}
const _: () = assert!(size_of::<Cfg>() == 32);

impl Cfg {
    /// Some service translates addresses: frames to other addresses may be answers on their way
    /// back.
    pub const NAT: u32 = 1;
    /// Peers are told of new records: they go to `EVENTS`.
    pub const SYNC: u32 = 2;
}

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
    /// [`AddrEntry::ECHO`] and [`AddrEntry::ROUTER`], or 0.
    pub flags: u16,
    /// Access list that its packets have to pass; 0 is none.
    pub acl: u32,
    /// Time between two connections of one source in the long run, in nanoseconds (the inverse of
    /// the limit); 0 is no limit.
    pub syn_interval_ns: u32,
    /// Number of this address, for [`RateKey`].
    pub id: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<AddrEntry>() == 32);

impl AddrEntry {
    /// Echo requests are answered.
    pub const ECHO: u16 = 1;
    /// This node forwards IPv6 on the interface, and neighbours have to be told so (RFC 4861 section
    /// 4.4, flag R).
    pub const ROUTER: u16 = 2;
}

/// A CARP group's role on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// [`Group::BACKUP`], ...
    pub role: u32,
    /// Zero.
    pub _pad: u32,
    /// Until when the role of master, or of one that leaves, holds, as a [`crate::moment::Moment`]; a daemon that dies
    /// stops renewing it, so that it never holds an address beside the next master.
    pub lease_ns: u64,
}
const _: () = assert!(size_of::<Group>() == 16);

impl Group {
    /// Not ours now: forward nothing, answer nothing.
    pub const BACKUP: u32 = 0;
    /// Ours.
    pub const MASTER: u32 = 1;
    /// Ours until another node takes it: packets are forwarded, but nobody is told any more that the
    /// address is here.
    pub const LEAVING: u32 = 2;
    /// Index of the group of addresses without CARP. It is not looked up.
    pub const NONE: u32 = 0;
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
    /// [`Service::DSR`], ...
    pub mode: u8,
    /// [`Service::CLIENT`] or [`Service::FLOW`].
    pub affinity: u8,
    /// Bits of an IPv4 client's address, counted in the mapped address (/32 is 128).
    pub prefix_v4: u8,
    /// Bits of an IPv6 client's address.
    pub prefix_v6: u8,
    /// [`Service::STUBBORN`] or 0.
    pub flags: u32,
    /// A flow's record that was not used for this time is void, in nanoseconds.
    pub flow_ttl_ns: u64,
    /// A client that was not seen for this time is forgotten, in nanoseconds.
    pub client_ttl_ns: u64,
}
const _: () = assert!(size_of::<Service>() == 32);

impl Service {
    /// Affinity by flow: the hash covers address and ports.
    pub const FLOW: u8 = 0;
    /// Affinity by client: the hash covers the address, or a prefix of it.
    pub const CLIENT: u8 = 1;

    /// Mode: the frame is sent to the backend's station, the packet unchanged.
    pub const DSR: u8 = 0;
    /// Mode: IP in IP (RFC 2003, RFC 2473, RFC 4213).
    pub const IPIP: u8 = 1;
    /// Mode: generic UDP encapsulation, variant 1 (the inner packet follows the UDP header).
    pub const GUE: u8 = 2;
    /// Mode: the destination is rewritten; answers come back through this node.
    pub const NAT: u8 = 3;
    /// Mode: source and destination are rewritten.
    pub const MASQUERADE: u8 = 4;
    /// Mode: packets are left to the proxy in userspace; tables are as those of other modes.
    pub const PROXY: u8 = 5;

    /// A flow whose backend is down is dropped rather than sent to another one.
    pub const STUBBORN: u32 = 1;
}

/// A port that is listened on, with all that a packet to it needs of its address and service. No
/// port if the protocol is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// Which one.
    pub key: ServiceKey,
    /// Its address.
    pub addr: AddrEntry,
    /// Its service.
    pub service: Service,
}
const _: () = assert!(size_of::<Listen>() == 88);

/// One slot of a service's table. Four bytes, because tables are what the cache is short of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Id of the base in the low bits, [`Slot::UNSETTLED`] in the highest.
    base_and_flag: u16,
    current: u16,
}
const _: () = assert!(size_of::<Slot>() == 4);
const _: () = assert!(MAX_BACKENDS <= Slot::UNSETTLED as u32);

impl Slot {
    /// `base` and `current`, or a live record, disagree.
    const UNSETTLED: u16 = 1 << 15;

    /// A slot of these backends. It has to be unsettled if they differ.
    #[must_use]
    #[inline(always)]
    pub const fn new(base: u16, current: u16, unsettled: bool) -> Self {
        let flag = if unsettled { Self::UNSETTLED } else { 0 };
        Self { base_and_flag: base | flag, current }
    }

    /// A slot that needs no look-up: all its flows belong to one backend.
    #[must_use]
    pub const fn settled(backend: u16) -> Self {
        Self::new(backend, backend, false)
    }

    /// Id of the backend of flows that have no record; 0 if there is none.
    #[must_use]
    #[inline(always)]
    pub const fn base(self) -> u16 {
        self.base_and_flag & !Self::UNSETTLED
    }

    /// Id of the backend of new flows; 0 if there is none.
    #[must_use]
    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.current
    }

    /// Whether flows of this slot have to be looked up.
    #[must_use]
    #[inline(always)]
    pub const fn is_unsettled(self) -> bool {
        self.base_and_flag & Self::UNSETTLED != 0
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
    /// Our own address on the way to it: source of tunnels and of masqueraded packets.
    pub source: Addr,
    /// Ethernet address of the next hop to it: its own, or a router's.
    pub mac: MacAddr,
    /// Its port.
    pub port: Be16,
    /// Ethernet address of the interface that leads to it.
    pub source_mac: MacAddr,
    /// Operator's state, for a controller that starts again: [`Backend::READY`], ...
    pub admin: u16,
    /// Interface that leads to it.
    pub ifindex: u32,
    /// Longest IP packet that this interface takes.
    pub mtu: u32,
    /// [`Backend::DOWN`], ..., [`Backend::UP`]; takes effect with the next packet.
    pub state: u32,
    /// Rises each time the backend dies and each time the id is given to another one: records with
    /// another generation are void.
    pub generation: u32,
    /// Service that it belongs to.
    pub service: u32,
    /// Weight that the operator set at run time, plus 1; 0 if the configuration's weight holds.
    pub weight: u32,
}
const _: () = assert!(size_of::<Backend>() == 72);

impl Backend {
    /// Gets no packet.
    pub const DOWN: u32 = 0;
    /// Gets packets of the flows that it has, nothing new.
    pub const DRAINED: u32 = 1;
    /// Gets packets of the flows that it has, and new flows of clients that it has.
    pub const DRAIN: u32 = 2;
    /// Gets packets.
    pub const UP: u32 = 3;

    /// Operator's state: in service.
    pub const READY: u16 = 0;
    /// Operator's state: no new flows.
    pub const DRAINING: u16 = 1;
    /// Operator's state: nothing at all.
    pub const MAINT: u16 = 2;
}

/// Whose record: a flow of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Source address.
    pub client: Addr,
    /// Id of the service.
    pub service: u32,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub port: Be16,
}
const _: () = assert!(size_of::<FlowKey>() == 24);

/// Whose record: a client of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// Source address, cut to the service's prefix.
    pub client: Addr,
    /// Id of the service.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<ClientKey>() == 24);

/// To which backend a flow or a client belongs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Id of the backend.
    pub backend: u32,
    /// Generation of that id.
    pub generation: u32,
    /// When it was last used, as a [`crate::moment::Moment`]; exact to a second.
    pub last_seen_ns: u64,
}
const _: () = assert!(size_of::<Record>() == 16);

/// Which fragments belong together (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification; of IPv4 in the low half.
    pub id: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
const _: () = assert!(size_of::<FragKey>() == 40);

/// The ports of a datagram, as its first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frag {
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub port: Be16,
    /// Zero.
    pub _pad: u32,
    /// When the first fragment came, as a [`crate::moment::Moment`].
    pub seen_ns: u64,
}
const _: () = assert!(size_of::<Frag>() == 16);

/// Ends of a flow, as they stand in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub port: Be16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
const _: () = assert!(size_of::<Tuple>() == 40);

/// What the ends of a flow become.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub port: Be16,
    /// Sum of [`Translation::CLIENT_FIN`], ...
    pub flags: u32,
    /// Id of the service.
    pub service: u32,
    /// Id of the backend.
    pub backend: u32,
    /// When it was last used, as a [`crate::moment::Moment`]; exact to a second.
    pub last_seen_ns: u64,
}
const _: () = assert!(size_of::<Translation>() == 56);

impl Translation {
    /// The client sent FIN.
    pub const CLIENT_FIN: u32 = 1;
    /// The backend sent FIN.
    pub const BACKEND_FIN: u32 = 2;
    /// One of them sent RST.
    pub const RESET: u32 = 4;
    /// The backend has answered.
    pub const ANSWERED: u32 = 8;
    /// Translates answers, not requests.
    pub const RETURN: u32 = 16;
}

/// A prefix of an access list, most significant bits first; the list's number comes before the
/// address, so that one trie holds all lists.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AclKey {
    /// Number of the list, in network order; from 1.
    pub list: [u8; 4],
    /// Address.
    pub addr: [u8; 16],
}
const _: () = assert!(size_of::<AclKey>() == 20);

/// Sources of this prefix are let in.
pub const ACL_ALLOW: u32 = 1;
/// Packets of sources of this prefix are dropped.
pub const ACL_DENY: u32 = 2;

/// Whose rate is limited.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RateKey {
    /// Source; of an IPv6 address the network of 64 bits.
    pub source: Addr,
    /// [`AddrEntry::id`] of the destination.
    pub vip: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<RateKey>() == 24);

/// Index into `VALVES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Valve {
    /// New records of flows and clients.
    Records,
    /// ICMP errors.
    Icmp,
}

/// Number of [`Valve`]s.
pub const VALVE_COUNT: u32 = 2;

/// What one CPU let through a valve in the second that began at `start_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Begin of the second, as a [`crate::moment::Moment`].
    pub start_ns: u64,
    /// Number let through since.
    pub passed: u64,
}
const _: () = assert!(size_of::<Window>() == 16);

/// What packets have told of a backend, see [`crate::signal`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// It answered a SYN with a RST; only where answers come back through this node.
    pub refused: u64,
    /// A client repeated a SYN.
    pub unanswered: u64,
    /// An ICMP error said that it, or its port, cannot be reached; only where answers come back
    /// through this node.
    pub unreachable: u64,
    /// Flows that it answered; only where answers come back through this node.
    pub answered: u64,
}
const _: () = assert!(size_of::<Signals>() == 32);

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
