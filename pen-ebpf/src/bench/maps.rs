//! The maps of the bench: what to generate, how far it is, and what came back.
#![expect(unsafe_code, reason = "counters go through pointers into maps")]

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use pen_common::{abi::Count, bench::Template};

#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();
/// Position in the round of flows; only one generator runs at a time.
#[btf_map]
static POSITION: Array<u32, 1> = Array::new();
#[btf_map]
static SUNK: PerCpuArray<Count, 1> = PerCpuArray::new();

/// What to generate.
#[inline(always)]
pub(crate) fn template() -> Option<&'static Template> {
    TEMPLATE.get(0)
}

/// Number of the frame to generate: one more each time, from 0 again after so many.
#[inline(always)]
pub(crate) fn next(round: u32) -> Option<u32> {
    let position = POSITION.get_ptr_mut(0)?;
    // SAFETY: the pointer is to the map's only value, of which no reference is ever made; a lost
    // update of two generators at a time would only repeat a frame.
    unsafe {
        let number = *position;
        *position = if number + 1 >= round { 0 } else { number + 1 };
        Some(number)
    }
}

/// Counts a frame that came back.
#[inline(always)]
pub(crate) fn count(length: u64) {
    if let Some(count) = SUNK.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's value, and an XDP program is not interrupted by
        // another one on its CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += length;
        }
    }
}
