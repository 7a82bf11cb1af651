//! Names of the maps, which are also the names of their pins.

/// Array of one [`super::Cfg`].
pub const CFG: &str = "CFG";
/// Hash [`super::Addr`] -> [`super::AddrEntry`]: whether a packet is any of our business.
pub const ADDRS: &str = "ADDRS";
/// Hash [`super::ServiceKey`] -> [`super::Service`].
pub const SERVICES: &str = "SERVICES";
/// Array of one map, an array of [`super::Listen`] by [`crate::hash::listen_index`]: what
/// `ADDRS` and `SERVICES` say, for one look-up that is cheaper than theirs. Always made anew as
/// a whole; what is not in it is found in the other two.
pub const LISTENS: &str = "LISTENS";
/// Array of maps: service id -> array of [`super::SlotChunk`], all of
/// [`super::TABLE_CHUNKS`]: of one size, the kernel finds a slot without a call.
pub const TABLES: &str = "TABLES";
/// The same for services of more slots than [`super::TABLE_SLOTS`], each of its own size.
pub const LARGE_TABLES: &str = "LARGE_TABLES";
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
/// LRU hash [`super::FlowKey`] -> [`super::Record`]: flows of unsettled slots.
pub const FLOWS: &str = "FLOWS";
/// LRU hash [`super::ClientKey`] -> [`super::Record`]: remembered clients.
pub const CLIENTS: &str = "CLIENTS";
/// LRU hash [`super::FragKey`] -> [`super::Frag`]: the ports of fragmented datagrams.
pub const FRAGS: &str = "FRAGS";
/// LRU hash [`super::Tuple`] -> [`super::Translation`].
pub const NAT: &str = "NAT";
/// LPM trie [`super::AclKey`] -> [`super::ACL_ALLOW`] or [`super::ACL_DENY`].
pub const ACL: &str = "ACL";
/// LRU hash [`super::RateKey`] -> theoretical arrival time, see [`crate::limit::admit`].
pub const RATE: &str = "RATE";
/// Per-CPU array of [`super::Window`] by [`super::Valve`].
pub const VALVES: &str = "VALVES";
/// Ring buffer of new records: see [`crate::event`].
pub const EVENTS: &str = "EVENTS";
/// Per-CPU array of one number: records for which `EVENTS` had no room.
pub const MISSED: &str = "MISSED";
/// Per-CPU array of [`super::Signals`] by backend id. What is counted at index 0, which is no
/// backend, is the sum of all but the answers: whoever reads sees there whether anything happened.
pub const SIGNALS: &str = "SIGNALS";

/// All of them.
pub const ALL: [&str; 22] = [
    CFG,
    ADDRS,
    SERVICES,
    LISTENS,
    TABLES,
    LARGE_TABLES,
    BACKENDS,
    CARP,
    TX,
    COUNTERS,
    SERVICE_COUNTERS,
    BACKEND_COUNTERS,
    FLOWS,
    CLIENTS,
    FRAGS,
    NAT,
    ACL,
    RATE,
    VALVES,
    EVENTS,
    MISSED,
    SIGNALS,
];
