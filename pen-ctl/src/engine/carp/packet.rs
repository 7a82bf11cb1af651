//! Advertisements as they stand on the wire: Ethernet, IPv4 or IPv6, the 36 bytes of CARP, and what
//! follows them (the trailer of our own profile). Parsing checks what a packet says by itself; whom
//! it is for and who signed it is checked in `verify`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::csum::Checksum;
use pen_common::net::{Addr, MacAddr};

use super::digest::DIGEST;
use super::event::Family;
use super::reject::RejectReason;

/// Version 2 in the high nibble, type 1 (advertisement) in the low one.
pub(super) const TYPE_AND_VERSION: u8 = 0x21;
/// Protocol number, and next header of IPv6; VRRP has the same.
pub(super) const PROTOCOL: u8 = 112;
/// Length of CARP's own bytes.
pub(super) const HEADER: usize = 36;
/// IPv6 destination.
pub(super) const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// What no router lets through unchanged.
pub(super) const TTL: u8 = 255;
/// Counter and digest, in words of 32 bits.
const AUTH_LEN: u8 = 7;
const IPV4: usize = 20;
const IPV6: usize = 40;
const FRAGMENT_HEADER: u8 = 44;

/// The fields of CARP's 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advert {
    pub(super) vhid: u8,
    /// 1/256 s.
    pub(super) advskew: u8,
    /// OpenBSD's count of what failed; zero elsewhere.
    pub(super) demote: u8,
    /// Seconds.
    pub(super) advbase: u8,
    pub(super) counter: u64,
    pub(super) digest: [u8; DIGEST],
}

impl Advert {
    /// advbase and advskew of a node that leaves.
    pub(super) const BOW_OUT: (u8, u8) = (255, 255);

    /// The 36 bytes, with checksum.
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = TYPE_AND_VERSION;
        bytes[1] = self.vhid;
        bytes[2] = self.advskew;
        bytes[3] = AUTH_LEN;
        bytes[4] = self.demote;
        bytes[5] = self.advbase;
        bytes[8..16].copy_from_slice(&self.counter.to_be_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        let checksum = sum(&bytes, Checksum::new());
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER]) -> Self {
        let [_, vhid, advskew, _, demote, advbase, _, _, counter @ .., _, _, _, _] = *bytes;
        let (counter, _) = counter.split_first_chunk().expect("24 bytes are more than 8");
        let digest = bytes.last_chunk().expect("36 bytes are more than 20");
        Self {
            vhid,
            advskew,
            demote,
            advbase,
            counter: u64::from_be_bytes(*counter),
            digest: *digest,
        }
    }
}

/// An advertisement that was received and is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) ttl: u8,
    pub(super) advert: Advert,
    /// The 36 bytes as they came.
    pub(super) header: [u8; HEADER],
    /// What follows them.
    pub(super) rest: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads what follows an Ethernet header.
    pub(super) fn parse(family: Family, packet: &'a [u8]) -> Result<Self, RejectReason> {
        let ip = match family {
            Family::V4 => Ip::parse_v4(packet)?,
            Family::V6 => Ip::parse_v6(packet)?,
        };
        if is_vrrp(&ip) {
            return Err(RejectReason::Foreign);
        }
        let Some((header, rest)) = ip.payload.split_first_chunk::<HEADER>() else {
            return Err(RejectReason::Truncated);
        };
        if header[0] >> 4 != TYPE_AND_VERSION >> 4 {
            return Err(RejectReason::BadVersion);
        }
        if header[0] != TYPE_AND_VERSION {
            return Err(RejectReason::BadType);
        }
        if header[3] != AUTH_LEN {
            return Err(RejectReason::BadAuthLen);
        }
        // Neither family has a pseudo-header here: UCarp, and both BSDs for IPv6 too.
        if sum(header, Checksum::new()) != 0 {
            return Err(RejectReason::BadChecksum);
        }
        Ok(Self {
            source: ip.source,
            destination: ip.destination,
            ttl: ip.ttl,
            advert: Advert::decode(header),
            header: *header,
            rest,
        })
    }
}

/// An IP header and what it carries.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn parse_v4(packet: &'a [u8]) -> Result<Self, RejectReason> {
        let Some(header) = packet.first_chunk::<IPV4>() else {
            return Err(RejectReason::Truncated);
        };
        let length = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || length < IPV4 || total < length || header[9] != PROTOCOL {
            return Err(RejectReason::BadIpHeader);
        }
        let Some(packet) = packet.get(..total) else { return Err(RejectReason::Truncated) };
        let (whole, payload) = packet.split_at(length);
        if sum(whole, Checksum::new()) != 0 {
            return Err(RejectReason::BadIpChecksum);
        }
        // More fragments, or not the first one.
        if header[6] & 0x3f != 0 || header[7] != 0 {
            return Err(RejectReason::Fragment);
        }
        let [.., a, b, c, d, e, f, g, h] = *header;
        let (source, destination) =
            (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into());
        Ok(Self { source, destination, ttl: header[8], payload })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<Self, RejectReason> {
        let Some((header, rest)) = packet.split_first_chunk::<IPV6>() else {
            return Err(RejectReason::Truncated);
        };
        if header[0] >> 4 != 6 {
            return Err(RejectReason::BadIpHeader);
        }
        match header[6] {
            PROTOCOL => {}
            FRAGMENT_HEADER => return Err(RejectReason::Fragment),
            _ => return Err(RejectReason::BadIpHeader),
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let Some(payload) = rest.get(..length) else { return Err(RejectReason::Truncated) };
        let address = |at: usize| {
            let bytes: [u8; 16] = header[at..at + 16].try_into().expect("16 bytes of 40");
            Ipv6Addr::from(bytes).into()
        };
        Ok(Self { source: address(8), destination: address(24), ttl: header[7], payload })
    }
}

/// VRRP has the same protocol number, and version 2 even the same first byte: its length fits its
/// number of addresses, and its checksum is over all of it (RFC 3768 section 5.3, RFC 9568 section
/// 5.2).
fn is_vrrp(ip: &Ip<'_>) -> bool {
    let &[first, _, _, count, ..] = ip.payload else { return false };
    let (length, count) = (ip.payload.len(), usize::from(count));
    match first >> 4 {
        2 => length == 8 + 4 * count + 8 && sum(ip.payload, Checksum::new()) == 0,
        3 => {
            let size = if ip.source.is_ipv4() { 4 } else { 16 };
            let whole = u16::try_from(length).unwrap_or(u16::MAX);
            let (source, destination) = (ip.source.into(), ip.destination.into());
            let start = if ip.source.is_ipv4() {
                Checksum::new()
                    .add_bytes(Addr::v4_bytes(source))
                    .add_bytes(Addr::v4_bytes(destination))
                    .add(u32::from(PROTOCOL))
                    .add(u32::from(whole))
            } else {
                Checksum::ipv6_pseudo_header(&source, &destination, whole, PROTOCOL)
            };
            length == 8 + size * count && sum(ip.payload, start) == 0
        }
        _ => false,
    }
}

/// The internet checksum to put where zeros are; 0 if the right one is there already.
pub(super) fn sum(bytes: &[u8], start: Checksum) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    words.fold(start, |sum, word| sum.add(u32::from(word))).finish().value()
}

/// An advertisement that is to be sent: all but CARP's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) mac: MacAddr,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// IPv4 id.
    pub(super) id: u16,
    /// Ethernet broadcast instead of what the destination asks for.
    pub(super) broadcast: bool,
}

impl Envelope {
    /// The whole frame. Source and destination are of one family.
    pub(super) fn frame(&self, header: &[u8; HEADER], trailer: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEADER + trailer.len()).expect("a trailer is short");
        let mut frame = Vec::with_capacity(14 + IPV6 + usize::from(length));
        frame.extend(if self.broadcast { [0xff; 6] } else { ethernet(self.destination).0 });
        frame.extend(self.mac.0);
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x61, 0, 0, 0]); // the traffic class is IPv4's type of service
                frame.extend(length.to_be_bytes());
                frame.extend([PROTOCOL, TTL]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (source, destination) => {
                frame.extend([0x08, 0x00]);
                // Type of service "low delay" and "don't fragment", as UCarp has it.
                let [length_high, length_low] = (length + 20).to_be_bytes();
                let [id_high, id_low] = self.id.to_be_bytes();
                let start = [0x45, 0x10, length_high, length_low, id_high, id_low, 0x40, 0];
                let mut ip = [0; IPV4];
                ip[..8].copy_from_slice(&start);
                ip[8] = TTL;
                ip[9] = PROTOCOL;
                ip[12..16].copy_from_slice(&Addr::from(source).v4_bytes());
                ip[16..].copy_from_slice(&Addr::from(destination).v4_bytes());
                let checksum = sum(&ip, Checksum::new());
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(ip);
            }
        }
        frame.extend(header);
        frame.extend(trailer);
        frame
    }
}

/// The Ethernet address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7); zero for a
/// peer, whose address is not known here.
fn ethernet(destination: IpAddr) -> MacAddr {
    match destination {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            MacAddr([0x33, 0x33, a, b, c, d])
        }
        _ => MacAddr::NONE,
    }
}
