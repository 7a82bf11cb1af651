//! Marks the map types as plain bytes for aya. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]

use crate::abi::{
    AclKey, AddrEntry, Backend, Cfg, ClientKey, Count, FlowKey, Frag, FragKey, Group, Listen,
    RateKey, Record, Service, ServiceKey, Signals, Slot, Translation, Tuple, Window,
};
use crate::bench::Template;
use crate::net::Addr;

macro_rules! pod {
    ($($ty:ty),+) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)`, made of integers and byte arrays only, every
        // byte belongs to a named field (sizes are asserted beside the type), any bits are valid.
        unsafe impl aya::Pod for $ty {}
    )+};
}

pod!(
    Addr, AclKey, AddrEntry, Backend, Cfg, ClientKey, Count, FlowKey, Frag, FragKey, Group, Listen
);
pod!(RateKey, Record, Service, ServiceKey, Slot, Template, Translation, Tuple);
pod!(Signals, Window);
