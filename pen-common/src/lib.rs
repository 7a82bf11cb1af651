//! What pen's XDP programs and its controller agree on, bit for bit, and the pure decisions that
//! both make: the kernel to forward, the controller to explain and to test.
//!
//! Rules of this crate:
//!
//! * It imports `core` only (aya's `Pod` marker behind the feature `user`) and allocates nothing.
//! * Whatever crosses between kernel and userspace is in [`abi`]: `repr(C)`, fixed-width integers
//!   and byte arrays, padding named and zero, sizes asserted at compile time. No `bool`, `enum` or
//!   `Option` crosses.
//! * Whatever is decided about a packet is decided in [`forward`], and about ICMP in [`icmp`]; both
//!   see maps only through [`forward::Lookup`].
//! * Any change of a map's layout raises [`ABI_VERSION`], and with it the folder of the pins, so
//!   that an old program never reads a new map. A map that is added does not: who does not know it
//!   leaves it alone.
#![no_std]

pub mod abi;
pub mod affinity;
pub mod bench;
pub mod csum;
pub mod decap;
pub mod event;
pub mod forward;
pub mod frag;
pub mod hash;
pub mod icmp;
pub mod limit;
pub mod moment;
pub mod nat;
pub mod net;
#[cfg(feature = "user")]
mod pod;
pub mod signal;
pub mod tunnel;
pub mod verdict;

/// Version of the layout of all maps together; the pins live in a folder of this name.
pub const ABI_VERSION: u32 = 3;
