//! Why a packet was refused. Each reason is a counter of the group it was meant for; of a packet
//! that does not get as far as to name a vhid of ours, all groups of its interface count it.

/// Why a packet was refused, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// Ends before its headers do, or its length field says more than there is.
    Truncated,
    /// The IP header contradicts itself: version, header length, or another protocol.
    BadIpHeader,
    /// Checksum of the IPv4 header.
    BadIpChecksum,
    /// Part of a fragmented packet.
    Fragment,
    /// TTL or hop limit: it came from beyond the link.
    BadTtl,
    /// VRRP, which shares group and protocol number.
    Foreign,
    /// Version of CARP other than 2.
    BadVersion,
    /// Type other than advertisement.
    BadType,
    /// Length of the digest other than CARP's.
    BadAuthLen,
    /// Checksum of CARP.
    BadChecksum,
    /// A vhid that this node has no group for on the interface.
    OtherVhid,
    /// IPv6 for a group that can have IPv4 only.
    OtherFamily,
    /// Destination other than the group's.
    OtherDestination,
    /// From one of this node's own addresses: a loop, or a forgery.
    OwnSource,
    /// From a VIP, or from no address.
    BadSource,
    /// Not from one of the peers that are listed.
    UnknownPeer,
    /// Digest of the password: another password, other VIPs, or a forgery.
    BadDigest,
    /// A counter that was heard already, which no ucarp sends twice.
    Repeated,
    /// No trailer, and it is needed from this peer.
    NoTrailer,
    /// A trailer that cannot be read: another version or algorithm, or cut off.
    BadTrailer,
    /// Signed with a key that this node does not have.
    UnknownKey,
    /// Signature of the trailer.
    BadTag,
    /// Signed for a group that has no VIP of ours.
    OtherVips,
    /// Was heard already.
    Replayed,
    /// Older than what was heard already.
    Late,
}

impl RejectReason {
    /// All, in the order of the checks.
    pub const ALL: [Self; 25] = [
        Self::Truncated,
        Self::BadIpHeader,
        Self::BadIpChecksum,
        Self::Fragment,
        Self::BadTtl,
        Self::Foreign,
        Self::BadVersion,
        Self::BadType,
        Self::BadAuthLen,
        Self::BadChecksum,
        Self::OtherVhid,
        Self::OtherFamily,
        Self::OtherDestination,
        Self::OwnSource,
        Self::BadSource,
        Self::UnknownPeer,
        Self::BadDigest,
        Self::Repeated,
        Self::NoTrailer,
        Self::BadTrailer,
        Self::UnknownKey,
        Self::BadTag,
        Self::OtherVips,
        Self::Replayed,
        Self::Late,
    ];

    /// Name of the counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadIpHeader => "bad-ip-header",
            Self::BadIpChecksum => "bad-ip-checksum",
            Self::Fragment => "fragment",
            Self::BadTtl => "bad-ttl",
            Self::Foreign => "foreign",
            Self::BadVersion => "bad-version",
            Self::BadType => "bad-type",
            Self::BadAuthLen => "bad-auth-len",
            Self::BadChecksum => "bad-checksum",
            Self::OtherVhid => "other-vhid",
            Self::OtherFamily => "other-family",
            Self::OtherDestination => "other-destination",
            Self::OwnSource => "own-source",
            Self::BadSource => "bad-source",
            Self::UnknownPeer => "unknown-peer",
            Self::BadDigest => "bad-digest",
            Self::Repeated => "repeated",
            Self::NoTrailer => "no-trailer",
            Self::BadTrailer => "bad-trailer",
            Self::UnknownKey => "unknown-key",
            Self::BadTag => "bad-tag",
            Self::OtherVips => "other-vips",
            Self::Replayed => "replayed",
            Self::Late => "late",
        }
    }
}

/// How often each reason occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drops([u64; RejectReason::ALL.len()]);

impl Drops {
    pub(super) fn count(&mut self, reason: RejectReason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RejectReason, u64)> {
        RejectReason::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let names: BTreeSet<_> = RejectReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), RejectReason::ALL.len());
        for (at, reason) in RejectReason::ALL.into_iter().enumerate() {
            let mut drops = Drops::default();
            drops.count(reason);
            assert_eq!(drops.iter().position(|(_, count)| count == 1), Some(at));
        }
    }
}
