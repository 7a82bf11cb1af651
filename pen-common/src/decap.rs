//! What the program that takes packets out of pen's tunnels on a backend, and `penctl decap`, which
//! attaches it, agree on: its maps, and the end of each frame, as a counter.

/// Names of the maps.
pub mod map {
    /// Hash [`crate::net::Addr`] -> 1: addresses of this host, to which tunnels may lead.
    pub const ADDRS: &str = "DECAP_ADDRS";
    /// Hash [`crate::net::Addr`] -> 1: virtual addresses, for which packets may come out of them.
    pub const VIPS: &str = "DECAP_VIPS";
    /// Per-CPU array of [`crate::abi::Count`] by [`super::End`].
    pub const COUNTERS: &str = "DECAP_COUNTERS";
}

/// Most addresses of a host.
pub const MAX_ADDRS: u32 = 1024;
/// Most virtual addresses.
pub const MAX_VIPS: u32 = crate::abi::MAX_ADDRS;

macro_rules! ends {
    ($($(#[$doc:meta])* $end:ident = $name:literal,)+) => {
        /// The end of a frame; index into the counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum End { $($(#[$doc])* $end,)+ }

        impl End {
            /// All ends, in the order of their indexes.
            pub const ALL: &[Self] = &[$(Self::$end,)+];

            /// The name that the operator sees.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$end => $name,)+ }
            }
        }
    };
}

ends! {
    /// Handed to the kernel without its IP header (IP in IP).
    Ipip = "decapsulated-ipip",
    /// Handed to the kernel without its IP and UDP header (GUE).
    Gue = "decapsulated-gue",
    /// No tunnel of pen, or a fragment of one, or with options: left to the kernel.
    PassOther = "pass-other",
    /// A tunnel, but not to an address of this host: left to the kernel.
    PassAddress = "pass-other-address",
    /// GUE, but not variant 1 (IP directly): left to the kernel.
    PassVariant = "pass-gue-variant",
    /// A packet in a tunnel that is for no virtual address of the list: dropped, or the tunnel
    /// would be a way around whatever guards the host.
    RefusedVip = "refused-vip",
    /// The packet in the tunnel is not what the headers say: dropped.
    Malformed = "malformed",
    /// A router has marked the tunnel's packet because of congestion, and the client's could not
    /// bear the mark: dropped, which it understands (RFC 6040 section 4.2).
    Congestion = "dropped-congestion",
}

/// Size of the array of counters, with room for more.
pub const MAX_ENDS: u32 = 16;
const _: () = assert!(End::ALL.len() <= MAX_ENDS as usize);

/// The congestion field (RFC 3168), the low two bits of type of service and traffic class.
const CONGESTION: u8 = 0b11;

/// Whether a router has marked a packet.
#[must_use]
#[inline(always)]
pub const fn is_marked(class: u8) -> bool {
    class & CONGESTION == CONGESTION
}

/// Type of service or traffic class of a packet that comes out of a tunnel: a mark that a router put
/// on the outer header is one for the inner packet (RFC 6040 section 4.2).
///
/// # Errors
///
/// If the inner packet cannot bear the mark.
#[inline(always)]
pub const fn class(outer: u8, inner: u8) -> Result<u8, End> {
    if !is_marked(outer) {
        Ok(inner)
    } else if inner & CONGESTION == 0 {
        Err(End::Congestion)
    } else {
        Ok(inner | CONGESTION)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_end_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = End::ALL.iter().map(|end| end.name()).collect();
        assert_eq!(names.len(), End::ALL.len());
        assert!(End::ALL.iter().zip(0..).all(|(end, index)| *end as u32 == index));
    }

    #[test]
    fn only_a_mark_of_congestion_changes_the_inner_packet() {
        for outer in 0..=255_u8 {
            for inner in 0..=255_u8 {
                let expected = match (outer & 3, inner & 3) {
                    (3, 0) => Err(End::Congestion),
                    (3, _) => Ok(inner | 3),
                    _ => Ok(inner),
                };
                assert_eq!(class(outer, inner), expected, "{outer:#x} around {inner:#x}");
            }
        }
    }
}
