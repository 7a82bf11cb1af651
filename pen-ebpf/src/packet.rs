//! The only pointer arithmetic on packets: a frame between `data` and `data_end`, read and written
//! at offsets that are compared with its end each time, which is also what the verifier asks for; and
//! [`Buffer::load`] and [`store`] at any offset, for the cold paths, where the kernel compares.
//!
//! A jumbo frame may be longer than what lies between `data` and `data_end`: the rest is in fragments
//! (pages of their own), which only helpers of the kernel reach.
#![expect(unsafe_code, reason = "this is the fence: bounds are checked here and nowhere else")]

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::{null_mut, read_volatile};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{
        bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
};
use pen_common::csum::Checksum;
use pen_common::icmp::IcmpHeader;
use pen_common::net::{
    AlignedIpv6Header, ArpPacket, Be16, EthHeader, ExtensionHeader, FragmentHeader, Ipv4Header,
    Ipv4Tail, Ipv6Header, NdLinkLayerOption, NdMessage, Stations, TcpHeader, UdpHeader, VlanTag,
};

/// Bytes that can be copied into a packet.
///
/// # Safety
///
/// No padding.
pub(crate) unsafe trait Bytes: Copy {}

/// A header as it stands in a packet.
///
/// # Safety
///
/// Alignment 1, no padding, any bytes are valid.
pub(crate) unsafe trait Header: Bytes {}

macro_rules! bytes {
    ($($ty:ty),+) => {$(
        // SAFETY: `repr(C)` of integers and byte arrays; sizes are asserted beside the types, so
        // there is no padding.
        unsafe impl Bytes for $ty {}
    )+};
}

macro_rules! headers {
    ($($ty:ty),+) => {$(
        bytes!($ty);
        const _: () = assert!(align_of::<$ty>() == 1);
        // SAFETY: as for `bytes`; alignment asserted above.
        unsafe impl Header for $ty {}
    )+};
}

bytes!(AlignedIpv6Header, Ipv4Tail);

headers!(
    ArpPacket,
    EthHeader,
    ExtensionHeader,
    FragmentHeader,
    IcmpHeader,
    Ipv4Header,
    Ipv6Header,
    NdLinkLayerOption,
    NdMessage,
    Stations,
    TcpHeader,
    UdpHeader,
    VlanTag,
    Be16,
    [u8; 2],
    [u8; 4],
    [u8; 8],
    [u8; 16]
);

/// A frame. It must be made anew after the packet was resized. `FRAGS`: it may have fragments, of
/// which only [`Frame::length`] knows here.
pub(crate) struct Frame<'a, const FRAGS: bool = true> {
    ctx: *mut xdp_md,
    start: usize,
    end: usize,
    _packet: PhantomData<&'a xdp_md>,
}

impl Frame<'_> {
    /// The frame of this run of the program, whichever program it is.
    #[inline(always)]
    pub(crate) fn of(ctx: *mut xdp_md) -> Self {
        Self::new(ctx)
    }
}

impl<'a, const FRAGS: bool> Frame<'a, FRAGS> {
    /// The frame of this run of the program. A program that is not built for fragments may say so,
    /// and then the length is a difference instead of a call.
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md) -> Self {
        // Volatile, or LLVM reads them in the caller and hands the numbers over: the verifier then
        // no longer knows that they are pointers.
        // SAFETY: the kernel calls the program with a valid context, and only ours passes it on.
        let (start, end) = unsafe {
            (read_volatile(&raw const (*ctx).data), read_volatile(&raw const (*ctx).data_end))
        };
        let (start, end) = (start as usize, end as usize);
        Self { ctx, start, end, _packet: PhantomData }
    }

    /// Its length in bytes, from the Ethernet header on.
    #[inline(always)]
    pub(crate) fn length(&self) -> u64 {
        if FRAGS { length(self.ctx) } else { (self.end - self.start) as u64 }
    }

    /// The header at this offset, if the frame's first part is long enough.
    #[inline(always)]
    pub(crate) fn at<T: Header>(&self, offset: usize) -> Option<&'a T> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the whole of T lies before `end`, compared just above; a `Header` has alignment
        // 1 and is valid whatever the bytes are.
        Some(unsafe { &*((self.start + offset) as *const T) })
    }

    /// Writes a header at this offset; `None` and nothing written if the frame is too short.
    #[inline(always)]
    pub(crate) fn write<T: Header>(&self, offset: usize, value: &T) -> Option<()> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as in `at`; the packet is ours alone while the program runs, and a `Header` may
        // be overwritten under a shared reference's copy because callers copied what they need.
        unsafe { *((self.start + offset) as *mut T) = *value };
        Some(())
    }
}

/// Room on the stack for a header that is copied out of a packet.
///
/// On the stack, unlike in packets, the verifier refuses words that are not aligned. Hence the
/// alignment here, and hence [`Buffer::load`] returns a reference: LLVM would copy a whole header in
/// pieces of any size from any offset. The fields of IP, TCP, UDP and ICMP headers are aligned if the
/// header is; those of Ethernet and ARP are not.
#[repr(align(8))]
pub(crate) struct Buffer<T>(MaybeUninit<T>);

impl<T: Header> Buffer<T> {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Copies the header at any offset, if the frame is long enough. A function of the kernel does
    /// it: slower than [`Frame::at`], but the offset may be any number, and in a jumbo frame it also
    /// reaches what does not stand in the first buffer. Frames made before stay valid.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a frame has at most 64 KiB")]
    pub(crate) fn load(&mut self, ctx: *mut xdp_md, offset: usize) -> Option<&T> {
        let length = size_of::<T>() as u32;
        // SAFETY: the kernel writes `length` bytes, which is the size of the buffer, or fails.
        let failed =
            unsafe { bpf_xdp_load_bytes(ctx, offset as u32, self.0.as_mut_ptr().cast(), length) };
        // SAFETY: all bytes were written, and a `Header` is valid whatever they are.
        if failed == 0 { Some(unsafe { self.0.assume_init_ref() }) } else { None }
    }
}

/// The same as [`Buffer::load`] into a place that is not on the stack, where fields may be copied
/// together.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a frame has at most 64 KiB")]
pub(crate) fn load_into<T: Header>(ctx: *mut xdp_md, offset: usize, into: &mut T) -> Option<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: the kernel writes `length` bytes to `into`, which is that long, or fails; a `Header` is
    // valid whatever they are.
    let failed = unsafe { bpf_xdp_load_bytes(ctx, offset as u32, (&raw mut *into).cast(), length) };
    if failed == 0 { Some(()) } else { None }
}

/// Writes a header at any offset; `None` and nothing written if the frame is too short.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a frame has at most 64 KiB")]
pub(crate) fn store<T: Bytes>(ctx: *mut xdp_md, offset: usize, value: &T) -> Option<()> {
    let length = size_of::<T>() as u32;
    // Aligned, as the verifier wants all that is written to the stack.
    let mut buffer = Buffer(MaybeUninit::new(*value));
    // SAFETY: the kernel reads `length` bytes, which is the size of the buffer; it takes a pointer
    // to mutable bytes for historical reasons only.
    let failed =
        unsafe { bpf_xdp_store_bytes(ctx, offset as u32, buffer.0.as_mut_ptr().cast(), length) };
    if failed == 0 { Some(()) } else { None }
}

/// Adds the `N` bytes at this offset to a checksum; `None` if the frame's first part is too short.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the helper takes and gives 32 bits")]
pub(crate) fn add_to<const N: usize>(
    ctx: *mut xdp_md,
    offset: usize,
    sum: Checksum,
) -> Option<Checksum> {
    /// Most that the helper takes at once.
    const MOST: usize = 512;
    const { assert!(N.is_multiple_of(4)) };
    let frame = Frame::of(ctx);
    if frame.start + offset + N > frame.end {
        return None;
    }
    let mut total = 0;
    let mut done = 0;
    while done < N {
        let part = if N - done > MOST { MOST } else { N - done };
        let bytes = (frame.start + offset + done) as *mut u32;
        // SAFETY: the helper reads `part` bytes, which lie before the end, compared above; and none
        // at the null pointer.
        total = unsafe { bpf_csum_diff(null_mut(), 0, bytes, part as u32, total as u32) };
        done += part;
    }
    // A sum of 16-bit words in the order of memory, perhaps not folded.
    Some(sum.add_bytes((total as u32).to_ne_bytes()))
}

/// Reads a field from the stack that a function which is not inlined has written there, with a load
/// of its own. LLVM would read fields together, at any offset, and padding with them: the verifier
/// refuses both.
#[inline(always)]
pub(crate) fn as_it_is<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is valid and aligned.
    unsafe { read_volatile(field) }
}

/// Length of the frame in bytes, with all fragments.
#[inline(always)]
pub(crate) fn length(ctx: *mut xdp_md) -> u64 {
    // SAFETY: a helper on the context that the kernel gave us.
    unsafe { bpf_xdp_get_buff_len(ctx) }
}

/// Index of the interface that the frame came in on.
#[inline(always)]
pub(crate) fn ingress(ctx: *mut xdp_md) -> u32 {
    // SAFETY: as in `Frame::of`.
    unsafe { read_volatile(&raw const (*ctx).ingress_ifindex) }
}

/// Gives the frame this length, by bytes at its end, which are zero. Every [`Frame`] made before is
/// void then.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a frame has at most 64 KiB")]
pub(crate) fn resize(ctx: *mut xdp_md, new: usize) -> Option<()> {
    let delta = new as i32 - length(ctx) as i32;
    // SAFETY: a helper on the context that the kernel gave us.
    let failed = unsafe { bpf_xdp_adjust_tail(ctx, delta) };
    if failed == 0 { Some(()) } else { None }
}

/// Lets the frame begin so many bytes later, or earlier if the number is negative; what stands there
/// then has to be written. Every [`Frame`] made before is void.
#[inline(always)]
pub(crate) fn move_start(ctx: *mut xdp_md, by: i32) -> Option<()> {
    // SAFETY: as in `resize`.
    let failed = unsafe { bpf_xdp_adjust_head(ctx, by) };
    if failed == 0 { Some(()) } else { None }
}
