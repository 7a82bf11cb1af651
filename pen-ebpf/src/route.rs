//! Where the kernel would route a packet: the question and the answer of `bpf_fib_lookup`.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_fib_lookup;
use pen_common::abi::Tuple;
use pen_common::net::{Addr, Be16, MacAddr};

/// Address families (linux/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_fib_lookup` (linux/bpf.h) without its unions.
#[repr(C)]
pub(crate) struct Route {
    family: u8,
    protocol: u8,
    source_port: Be16,
    port: Be16,
    /// In: length of the packet. Out: longest one that the route takes.
    pub(crate) length: u16,
    /// In: where the packet came in. Out: where it goes out.
    pub(crate) ifindex: u32,
    class_and_flow: u32,
    source: Addr,
    destination: Addr,
    vlan: [u8; 4],
    /// Out: of the interface.
    pub(crate) source_mac: MacAddr,
    /// Out: of the next hop.
    pub(crate) destination_mac: MacAddr,
}
const _: () = assert!(size_of::<Route>() == size_of::<bpf_fib_lookup>());
const _: () = assert!(offset_of!(Route, ifindex) == offset_of!(bpf_fib_lookup, ifindex));
const _: () = assert!(offset_of!(Route, source_mac) == offset_of!(bpf_fib_lookup, smac));

impl Route {
    /// Asks for a packet with these ends and of this length, that came in on `ifindex`.
    #[inline(always)]
    pub(crate) fn ask(&mut self, ends: &Tuple, length: u16, ifindex: u32) {
        let v4 = ends.source.is_v4();
        self.family = if v4 { AF_INET } else { AF_INET6 };
        self.protocol = ends.protocol;
        self.source_port = ends.source_port;
        self.port = ends.port;
        self.length = length;
        self.ifindex = ifindex;
        self.class_and_flow = 0;
        self.source = unmapped(ends.source);
        self.destination = unmapped(ends.destination);
        self.vlan = [0; 4];
    }
}

/// An address as the kernel's routing has it: IPv4 in the first four bytes.
#[inline(always)]
fn unmapped(addr: Addr) -> Addr {
    let (_, low) = addr.halves();
    if addr.is_v4() { Addr::from_halves(low << 32, 0) } else { addr }
}
