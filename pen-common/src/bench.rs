//! What the generator of `cargo xtask bench` (an XDP program) and the program that starts it agree
//! on: the template of a frame, and which flow the n-th frame belongs to. Not used by pen itself.
//!
//! Pages of live frames are recycled with the bytes that the program under test left in them, so
//! the generator writes every header anew each time: the template, then the source address, the
//! source port and the checksums of the flow.

use crate::csum::Checksum;
use crate::net::{Addr, Be16, MacAddr, ethertype, protocol};

/// Length of a frame over IPv4: the shortest on a wire, frame check sequence included.
pub const LENGTH_V4: u16 = 64;
/// Length of a frame over IPv6: the next multiple of 16 that holds a TCP header.
pub const LENGTH_V6: u16 = 80;
/// Most flows: their addresses have this many different values.
pub const MAX_FLOWS: u32 = 1 << 20;

/// Where the IP header stands.
const IP: usize = 14;
/// Where the checksum of an IPv4 header stands.
pub const IPV4_CHECKSUM: usize = IP + 10;
/// Where the source address of an IPv4 header stands.
pub const IPV4_SOURCE: usize = IP + 12;
/// Where the payload of an IPv4 header stands.
pub const IPV4_PAYLOAD: usize = IP + 20;
/// Where the source address of an IPv6 header stands.
pub const IPV6_SOURCE: usize = IP + 8;
/// Where the payload of an IPv6 header stands.
pub const IPV6_PAYLOAD: usize = IP + 40;
/// Where the checksum stands in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Where the checksum stands in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// 10.16.0.0: sources of IPv4 are this plus the number of the flow, up to 10.31.255.255.
const SOURCE_V4: u32 = 0x0a10_0000;
/// 2001:db8::/32: the next 32 bits are the number of the flow, so that no two share a /64.
const SOURCE_V6: u32 = 0x2001_0db8;

/// A frame whose source is still to be written, and how many flows take turns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The frame, with zeros for source address, source port and checksums. In words, because larger
    /// pieces are copied byte by byte.
    pub words: [[u8; 8]; 10],
    /// Length of the frame: [`LENGTH_V4`] or [`LENGTH_V6`].
    pub length: u32,
    /// [`Template::TCP4`], ...
    pub kind: u32,
    /// Flows that take turns, `1..=MAX_FLOWS`.
    pub flows: u32,
    /// The least number of bits that hold a flow's number.
    pub bits: u32,
    /// Sum of the IPv4 header without its source.
    pub ip_sum: u32,
    /// Sum of transport header, payload and pseudo-header without source address and port.
    pub transport_sum: u32,
}
const _: () = assert!(size_of::<Template>() == 104);

/// What a template is made of.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Destination of the Ethernet header.
    pub station: MacAddr,
    /// Destination address, which also says the family.
    pub destination: Addr,
    /// Destination port.
    pub port: u16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// Flags of a TCP header.
    pub tcp_flags: u8,
}

impl Template {
    /// TCP over IPv4.
    pub const TCP4: u32 = 0;
    /// UDP over IPv4.
    pub const UDP4: u32 = 1;
    /// TCP over IPv6.
    pub const TCP6: u32 = 2;
    /// UDP over IPv6.
    pub const UDP6: u32 = 3;

    /// The template of a frame, for this many flows (at most [`MAX_FLOWS`]).
    #[must_use]
    pub fn new(frame: &Frame, flows: u32) -> Self {
        let v4 = frame.destination.is_v4();
        let udp = frame.protocol == protocol::UDP;
        let (kind, length, payload) = match (v4, udp) {
            (true, false) => (Self::TCP4, LENGTH_V4, IPV4_PAYLOAD),
            (true, true) => (Self::UDP4, LENGTH_V4, IPV4_PAYLOAD),
            (false, false) => (Self::TCP6, LENGTH_V6, IPV6_PAYLOAD),
            (false, true) => (Self::UDP6, LENGTH_V6, IPV6_PAYLOAD),
        };
        // What follows the Ethernet header, and what follows the IP header.
        let packet = length - 14;
        let whole = packet - if v4 { 20 } else { 40 };
        let mut bytes = [0; LENGTH_V6 as usize];
        put(&mut bytes, 0, &frame.station.0);
        put(&mut bytes, 6, &[2, 0xc1, 0, 0, 0, 7]);
        put(&mut bytes, 12, &if v4 { ethertype::IPV4 } else { ethertype::IPV6 }.0);
        if v4 {
            // Version and header length; total length; don't fragment; time to live; protocol.
            put(&mut bytes, IP, &[0x45, 0]);
            put(&mut bytes, IP + 2, &packet.to_be_bytes());
            put(&mut bytes, IP + 6, &[0x40, 0, 64, frame.protocol]);
            let [.., a, b, c, d] = frame.destination.bytes();
            put(&mut bytes, IP + 16, &[a, b, c, d]);
        } else {
            put(&mut bytes, IP, &[0x60, 0, 0, 0]);
            put(&mut bytes, IP + 4, &whole.to_be_bytes());
            put(&mut bytes, IP + 6, &[frame.protocol, 64]);
            put(&mut bytes, IP + 24, &frame.destination.bytes());
        }
        put(&mut bytes, payload + 2, &frame.port.to_be_bytes());
        if udp {
            put(&mut bytes, payload + 4, &whole.to_be_bytes());
        } else {
            // Sequence 1, acknowledgement 1; five words; flags; window.
            put(
                &mut bytes,
                payload + 4,
                &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, frame.tcp_flags, 0xfa, 0xf0],
            );
        }
        // The same for both families: the mapped form of an IPv4 address adds 0xffff, which is
        // zero in one's complement.
        let pseudo = Checksum::default()
            .add_addr(&frame.destination)
            .add(u32::from(whole))
            .add(u32::from(frame.protocol));
        let transport_sum = partial(sum_of(pseudo, &bytes[payload..usize::from(length)]));
        let ip_sum = partial(sum_of(Checksum::default(), &bytes[IP..IPV4_PAYLOAD]));
        let mut words = [[0; 8]; 10];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            word.copy_from_slice(bytes);
        }
        let bits = u32::BITS - (flows - 1).leading_zeros();
        Self { words, length: u32::from(length), kind, flows, bits, ip_sum, transport_sum }
    }
}

/// The source address of a flow over IPv4.
#[must_use]
#[inline(always)]
pub const fn source_v4(flow: u32) -> [u8; 4] {
    (SOURCE_V4 + flow).to_be_bytes()
}

/// The source address of a flow over IPv6, in words of four bytes.
#[must_use]
#[inline(always)]
pub const fn source_v6(flow: u32) -> [[u8; 4]; 4] {
    [SOURCE_V6.to_be_bytes(), flow.to_be_bytes(), [0; 4], [0, 0, 0, 1]]
}

/// The source port of a flow: 32768 to 65535.
#[must_use]
#[inline(always)]
pub const fn source_port(flow: u32) -> Be16 {
    let [.., high, low] = flow.to_be_bytes();
    Be16([high | 0x80, low])
}

/// Steps of the cycle walk in [`permute`]. Each one ends it with a chance above 1/2; that all flows
/// are met for the numbers of flows that the bench uses is tested.
const WALK: u32 = 32;

/// Number of the flow whose turn it is at this position of a round of `flows` (`bits` is the least
/// number of bits that hold them): a permutation without order, so that neighbours in time are no
/// neighbours in memory. Cycle walking: a bijection of the next power of two is repeated until it
/// yields a number that is small enough.
#[must_use]
#[inline(always)]
pub fn permute(position: u32, flows: u32, bits: u32) -> u32 {
    let mut at = position;
    for _ in 0..WALK {
        at = mix(at, bits);
        if at < flows {
            return at;
        }
    }
    0
}

/// A bijection of the numbers of so many bits (at most 31): each step can be undone.
#[inline(always)]
const fn mix(number: u32, bits: u32) -> u32 {
    let mask = (1 << (bits & 31)) - 1;
    let half = bits.div_ceil(2) & 31;
    let mut at = number.wrapping_mul(0x9e37_79b1) & mask;
    at ^= at >> half;
    at = at.wrapping_mul(0x85eb_ca6b) & mask;
    at ^= at >> half;
    at = at.wrapping_mul(0xc2b2_ae35).wrapping_add(0x27d4_eb2f) & mask;
    at
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

fn sum_of(sum: Checksum, bytes: &[u8]) -> Checksum {
    bytes.chunks(4).fold(sum, |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.add_bytes(word)
    })
}

/// A sum that more will be added to, folded to 16 bits.
fn partial(sum: Checksum) -> u32 {
    u32::from(!sum.finish().value())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// What the generator does with a template.
    fn frame_of(template: &Template, flow: u32) -> Vec<u8> {
        let mut frame = template.words.concat();
        frame.truncate(template.length as usize);
        let port = source_port(flow);
        let sum = Checksum::default().add(template.transport_sum).add(u32::from(port.value()));
        let (payload, sum) = if template.kind == Template::TCP4 || template.kind == Template::UDP4 {
            let source = source_v4(flow);
            put(&mut frame, IPV4_SOURCE, &source);
            let ip = Checksum::default().add(template.ip_sum).add_bytes(source).finish();
            put(&mut frame, IPV4_CHECKSUM, &ip.0);
            (IPV4_PAYLOAD, sum.add_bytes(source))
        } else {
            let source = source_v6(flow);
            put(&mut frame, IPV6_SOURCE, &source.concat());
            (IPV6_PAYLOAD, source.into_iter().fold(sum, Checksum::add_bytes))
        };
        let udp = template.kind == Template::UDP4 || template.kind == Template::UDP6;
        put(&mut frame, payload, &port.0);
        put(&mut frame, payload + if udp { UDP_CHECKSUM } else { TCP_CHECKSUM }, &sum.finish().0);
        frame
    }

    fn frames() -> Vec<Frame> {
        let mut frames = Vec::new();
        for destination in ["192.0.2.10", "2001:db8::10"] {
            let destination: std::net::IpAddr = destination.parse().expect("literal");
            for protocol in [protocol::TCP, protocol::UDP] {
                let station = MacAddr([2, 0, 0, 0, 0, 1]);
                let destination = destination.into();
                frames.push(Frame { station, destination, port: 80, protocol, tcp_flags: 0x10 });
            }
        }
        frames
    }

    #[test]
    fn checksums_and_lengths_of_every_frame_are_right() {
        for frame in frames() {
            for flow in [0, 1, 0x8000, 999_999, MAX_FLOWS - 1] {
                let bytes = frame_of(&Template::new(&frame, MAX_FLOWS), flow);
                let packet = &bytes[IP..];
                let (pseudo, whole) = if packet[0] >> 4 == 4 {
                    let header = sum_of(Checksum::default(), &packet[..20]);
                    assert_eq!(header.finish(), Be16::default(), "{frame:?}");
                    assert_eq!(usize::from(packet[2]) << 8 | usize::from(packet[3]), packet.len());
                    (&packet[12..20], &packet[20..])
                } else {
                    let whole = &packet[40..];
                    assert_eq!(usize::from(packet[4]) << 8 | usize::from(packet[5]), whole.len());
                    (&packet[8..40], whole)
                };
                let length = u32::try_from(whole.len()).expect("short");
                let sum =
                    sum_of(Checksum::default(), pseudo).add(length).add(u32::from(frame.protocol));
                assert_eq!(sum_of(sum, whole).finish(), Be16::default(), "{frame:?}");
            }
        }
    }

    #[test]
    fn a_round_meets_every_flow_once() {
        for flows in [1, 2, 3, 1000, 1024, 100_000, 1_000_000, MAX_FLOWS] {
            let bits = Template::new(&frames()[0], flows).bits;
            let mut met = vec![false; flows as usize];
            for position in 0..flows {
                let flow = permute(position, flows, bits) as usize;
                assert!(!met[flow], "{flow} of {flows} twice");
                met[flow] = true;
            }
        }
    }

    #[test]
    fn neighbours_in_time_are_no_neighbours_among_the_flows() {
        for flows in [1000, 100_000, 1_000_000] {
            let bits = Template::new(&frames()[0], flows).bits;
            let near = (1..flows)
                .filter(|position| {
                    let [one, two] = [position - 1, *position].map(|at| permute(at, flows, bits));
                    one.abs_diff(two) < flows / 100
                })
                .count();
            // 2 % by chance.
            assert!(near < flows as usize / 25, "{near} of {flows}");
        }
    }
}
