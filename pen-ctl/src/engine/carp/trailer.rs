//! The trailer of the profile `sha256`, behind CARP's 36 bytes, where ucarp (measured) and the BSDs
//! (by reading) do not look. It signs what the old digest leaves open: who, when, how often, which
//! addresses.
//!
//! ```text
//!  0  2  "PC"                       16  8  sequence, grows with each packet of a node
//!  2  1  version, 1                 24  4  interval, in microseconds
//!  3  1  algorithm, 1               28  8  hash of the VIPs
//!  4  1  id of the key              36  8  hash of the configuration
//!  5  1  flags                      44 4n  hashes of single VIPs, n <= 16
//!  6  2  demotion                      32  tag: HMAC-SHA256
//!  8  8  number of the node
//! ```
//! All numbers are big-endian. The tag is over a label, family, source, whether the destination is
//! a group, CARP's 36 bytes (with vhid, checksum and old digest) and the trailer before the tag.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use pen_common::net::Addr;
use sha2::Sha256;

use super::packet::{HEADER, Packet};
use super::reject::RejectReason;
use super::settings::Key;
use super::vips::VipSet;

/// What each trailer has, before the hashes of single VIPs.
const FIXED: usize = 44;
const TAG: usize = 32;
const MAGIC: [u8; 2] = *b"PC";
const VERSION: u8 = 1;
const HMAC_SHA256: u8 = 1;
/// Keeps the tag apart from other uses of the same key.
const LABEL: &[u8] = b"pen carp advertisement 1";

/// The fields of a trailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) key: u8,
    pub(super) flags: u8,
    pub(super) demotion: u16,
    pub(super) node: u64,
    pub(super) sequence: u64,
    /// Between two advertisements, in microseconds; that of CARP's bytes is only a rounded one.
    pub(super) interval_us: u32,
    pub(super) vips: VipSet,
    pub(super) config: u64,
}

impl Trailer {
    /// The node leaves: another one is to take the VIPs.
    pub(super) const BOW_OUT: u8 = 1;
    /// Together with the above: it stays if no node is there that is preferred.
    pub(super) const OFFER: u8 = 2;
    /// An operator has promoted the node: it goes before all others.
    pub(super) const PROMOTED: u8 = 4;

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// All but the tag.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = [0; FIXED];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = HMAC_SHA256;
        bytes[4] = self.key;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.demotion.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.node.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.interval_us.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.vips.hash.to_be_bytes());
        bytes[36..].copy_from_slice(&self.config.to_be_bytes());
        bytes.into_iter().chain(self.vips.encode()).collect()
    }

    fn decode(bytes: &[u8; FIXED], vips: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes of the trailer"))
        };
        let [_, _, _, _, key, flags, demotion_high, demotion_low, ..] = *bytes;
        let interval = bytes[24..28].try_into().expect("4 bytes of the trailer");
        Some(Self {
            key,
            flags,
            demotion: u16::from_be_bytes([demotion_high, demotion_low]),
            node: number(8),
            sequence: number(16),
            interval_us: u32::from_be_bytes(interval),
            vips: VipSet::decode(number(28), vips)?,
            config: number(36),
        })
    }
}

/// The keys that are valid now.
pub(super) struct Keys(Vec<(u8, Hmac<Sha256>)>);

impl Keys {
    pub(super) fn new(keys: &[Key]) -> Self {
        let keyed = keys.iter().map(|key| {
            let hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.secret.bytes());
            (key.id, hmac.expect("HMAC takes keys of any length").chain_update(LABEL))
        });
        Self(keyed.collect())
    }

    /// The trailer's bytes; `None` if there is no such key.
    pub(super) fn sign(
        &self,
        trailer: &Trailer,
        source: IpAddr,
        destination: IpAddr,
        header: &[u8; HEADER],
    ) -> Option<Vec<u8>> {
        let mut bytes = trailer.encode();
        let hmac = self.covering(trailer.key, source, destination, header, &bytes)?;
        bytes.extend(hmac.finalize().into_bytes());
        Some(bytes)
    }

    /// The trailer of a packet, if it has one that is genuine.
    pub(super) fn verify(&self, packet: &Packet<'_>) -> Result<Trailer, RejectReason> {
        if !has_trailer(packet.rest) {
            return Err(RejectReason::NoTrailer);
        }
        let parts = packet.rest.split_last_chunk::<TAG>();
        let Some((signed, tag)) = parts else { return Err(RejectReason::BadTrailer) };
        let parts = signed.split_first_chunk::<FIXED>();
        let Some((fixed, vips)) = parts else { return Err(RejectReason::BadTrailer) };
        if fixed[2] != VERSION || fixed[3] != HMAC_SHA256 {
            return Err(RejectReason::BadTrailer);
        }
        let trailer = Trailer::decode(fixed, vips).ok_or(RejectReason::BadTrailer)?;
        let (source, destination) = (packet.source, packet.destination);
        let hmac = self.covering(trailer.key, source, destination, &packet.header, signed);
        let Some(hmac) = hmac else { return Err(RejectReason::UnknownKey) };
        hmac.verify_slice(tag).map_err(|_| RejectReason::BadTag)?;
        Ok(trailer)
    }

    fn covering(
        &self,
        key: u8,
        source: IpAddr,
        destination: IpAddr,
        header: &[u8; HEADER],
        signed: &[u8],
    ) -> Option<Hmac<Sha256>> {
        let (_, hmac) = self.0.iter().find(|(id, _)| *id == key)?;
        let family = if source.is_ipv4() { 4 } else { 6 };
        let mut hmac = hmac.clone();
        hmac.update(&[family, u8::from(destination.is_multicast())]);
        hmac.update(&Addr::from(source).bytes());
        hmac.update(header);
        hmac.update(signed);
        Some(hmac)
    }
}

/// Whether something behind CARP's bytes claims to be a trailer; anything else is ignored, as ucarp
/// does.
pub(super) fn has_trailer(rest: &[u8]) -> bool {
    rest.starts_with(&MAGIC)
}
