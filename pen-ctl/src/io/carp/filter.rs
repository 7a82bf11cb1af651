//! What a packet socket hears: CARP and nothing else, decided in the kernel, so that no amount of
//! other traffic wakes the thread. Classic BPF, for that is what a packet socket takes; a frame that
//! the program refuses is not even queued.

use socket2::SockFilter;

/// Instructions (linux/bpf_common.h), as `class | size | mode` and `class | operation | source`.
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where the kernel tells what is not in the frame (linux/filter.h): `SKF_AD_OFF`.
const ABOUT: u32 = 0xffff_f000;
/// Whose frame it is.
const PACKET_TYPE: u32 = ABOUT + 4;
/// Whether a VLAN tag was taken off.
const VLAN_TAG_PRESENT: u32 = ABOUT + 48;
/// `PACKET_OUTGOING` (linux/if_packet.h).
const OUTGOING: u32 = 4;

const ETHERTYPE_AT: u32 = 12;
const IPV4_PROTOCOL_AT: u32 = 14 + 9;
const IPV6_NEXT_HEADER_AT: u32 = 14 + 6;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
/// CARP, and VRRP (IANA protocol numbers).
const CARP: u32 = 112;

/// Accepts untagged IPv4 of protocol 112 and IPv6 of next header 112 that others sent.
pub(super) fn carp() -> [SockFilter; 13] {
    // A jump counts from the instruction after it; the last two are where all of them lead.
    [
        instruction(LOAD_WORD, 0, 0, PACKET_TYPE),
        instruction(JUMP_IF_EQUAL, 10, 0, OUTGOING),
        // Another interface hears those of a VLAN: the kernel has taken the tag out of the frame.
        instruction(LOAD_WORD, 0, 0, VLAN_TAG_PRESENT),
        instruction(JUMP_IF_EQUAL, 0, 8, 0),
        instruction(LOAD_HALF, 0, 0, ETHERTYPE_AT),
        instruction(JUMP_IF_EQUAL, 3, 0, IPV4),
        instruction(JUMP_IF_EQUAL, 0, 5, IPV6),
        instruction(LOAD_BYTE, 0, 0, IPV6_NEXT_HEADER_AT),
        instruction(JUMP_IF_EQUAL, 2, 3, CARP),
        instruction(LOAD_BYTE, 0, 0, IPV4_PROTOCOL_AT),
        instruction(JUMP_IF_EQUAL, 0, 1, CARP),
        instruction(RETURN, 0, 0, u32::MAX),
        instruction(RETURN, 0, 0, 0),
    ]
}

/// Accepts nothing: for sockets that exist only to be there.
pub(super) fn nothing() -> [SockFilter; 1] {
    [instruction(RETURN, 0, 0, 0)]
}

const fn instruction(code: u16, if_true: u8, if_false: u8, value: u32) -> SockFilter {
    SockFilter::new(code, if_true, if_false, value)
}
