//! Marks the map types as plain bytes for aya. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]

use crate::abi::{AddrEntry, Backend, Cfg, Count, Group, Service, ServiceKey, Slot};
use crate::net::Addr;

macro_rules! pod {
    ($($ty:ty),+) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)`, made of integers and byte arrays only, every
        // byte belongs to a named field (sizes are asserted beside the type), any bits are valid.
        unsafe impl aya::Pod for $ty {}
    )+};
}

pod!(Addr, AddrEntry, Backend, Cfg, Count, Group, Service, ServiceKey, Slot);
