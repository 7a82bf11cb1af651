//! The maps of the program: two lists of addresses, and counters.
#![expect(unsafe_code, reason = "hash look-ups and counters go through pointers into maps")]

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use pen_common::{
    abi::Count,
    decap::{End, MAX_ADDRS, MAX_ENDS, MAX_VIPS},
    net::Addr,
};

/// `BPF_F_NO_PREALLOC`: memory for what is used, not for the most that may be.
const NO_PREALLOC: usize = 1;

#[btf_map]
static DECAP_ADDRS: HashMap<Addr, u32, { MAX_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static DECAP_VIPS: HashMap<Addr, u32, { MAX_VIPS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static DECAP_COUNTERS: PerCpuArray<Count, { MAX_ENDS as usize }> = PerCpuArray::new();

/// Whether this is an address of this host.
#[inline(always)]
pub(crate) fn is_address(addr: &Addr) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { DECAP_ADDRS.get(addr) }.is_some()
}

/// Whether this is a virtual address.
#[inline(always)]
pub(crate) fn is_vip(addr: &Addr) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { DECAP_VIPS.get(addr) }.is_some()
}

/// Counts the end of a frame.
#[inline(always)]
pub(crate) fn count(end: End, length: u64) {
    if let Some(count) = DECAP_COUNTERS.get_ptr_mut(end as u32) {
        // SAFETY: the pointer is to this CPU's value, and an XDP program is not interrupted by
        // another one on its CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += length;
        }
    }
}
