//! What happens to a frame, and the counter that says so. Each frame ends in exactly one counter.

use crate::abi::Backend;

/// The end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Left to the kernel, unchanged.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
    /// Sent to a backend.
    Forward(Forward<'a>),
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// Id of the service.
    pub service: u32,
    /// Mode of the service: [`crate::abi::Service::DSR`], ...
    pub mode: u8,
    /// Slot of its table that the flow hashes to.
    pub slot: u32,
    /// Hash of the flow; the slot is made of its high half.
    pub hash: u64,
    /// Id of the backend.
    pub id: u32,
    /// The backend.
    pub backend: &'a Backend,
    /// It opens a connection: a TCP SYN.
    pub opens: bool,
}

macro_rules! counters {
    (
        pass { $($(#[doc = $pass_doc:literal])+ $pass:ident = $pass_name:literal,)+ }
        drop { $($(#[doc = $drop_doc:literal])+ $drop:ident = $drop_name:literal,)+ }
        done { $($(#[doc = $done_doc:literal])+ $done:ident = $done_name:literal,)+ }
    ) => {
        /// Why a frame is left to the kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PassReason { $($(#[doc = $pass_doc])+ $pass,)+ }

        impl PassReason {
            /// Its counter.
            #[must_use]
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$pass => Counter::$pass,)+ }
            }
        }

        /// Why a frame is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $($(#[doc = $drop_doc])+ $drop,)+ }

        impl DropReason {
            /// Its counter.
            #[must_use]
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$drop => Counter::$drop,)+ }
            }
        }

        /// Index into the per-CPU array `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $pass_doc])+ $pass,)+
            $($(#[doc = $drop_doc])+ $drop,)+
            $($(#[doc = $done_doc])+ $done,)+
        }

        impl Counter {
            /// All counters, in the order of their indexes.
            pub const ALL: &[Self] =
                &[$(Self::$pass,)+ $(Self::$drop,)+ $(Self::$done,)+];

            /// The name that the operator sees.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$pass => $pass_name,)+
                    $(Self::$drop => $drop_name,)+
                    $(Self::$done => $done_name,)+
                }
            }

            /// What it counts, in words: the documentation of the variant.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$pass => concat!($($pass_doc),+).trim_ascii(),)+
                    $(Self::$drop => concat!($($drop_doc),+).trim_ascii(),)+
                    $(Self::$done => concat!($($done_doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

counters! {
    pass {
        /// Neither IPv4 nor IPv6, behind at most two VLAN tags, nor ARP without one.
        PassEthertype = "pass-ethertype",
        /// The destination is no virtual address of ours.
        PassNotOurs = "pass-not-ours",
        /// The destination is ours, but another node of its CARP group is master now.
        PassNotMaster = "pass-not-master",
        /// The frame is addressed to another station (a switch flooded it).
        PassOtherStation = "pass-other-station",
        /// The destination is ours, but the frame is cut short, or its headers contradict themselves.
        PassMalformed = "pass-malformed",
        /// The destination is ours, and the packet is a fragment, but of a datagram whose first one did
        /// not come, or says too little.
        PassFragment = "pass-fragment",
        /// The destination is ours, but IPv6 extension headers are too many, or send the packet on.
        PassOptions = "pass-options",
        /// The destination is ours, and the payload is neither TCP nor UDP.
        PassProtocol = "pass-protocol",
        /// The destination is ours, but there is no service on this port.
        PassNoService = "pass-no-service",
        /// ARP or neighbour discovery that we do not answer.
        PassNeighbour = "pass-neighbour",
        /// The service is proxied: the connection is the userspace proxy's.
        PassProxy = "pass-proxy",
    }
    drop {
        /// No backend of the service is usable.
        DropNoBackend = "drop-no-backend",
        /// The service has no table, or the table names a backend that does not exist.
        DropNoTable = "drop-no-table",
        /// The frame could not be rewritten or redirected.
        DropRewrite = "drop-rewrite",
        /// The flow belongs to a backend that is down, and its service is stubborn.
        DropStubborn = "drop-stubborn",
        /// The access list of the virtual address denies the source.
        DropAcl = "drop-acl",
        /// The source opens connections faster than the virtual address allows.
        DropRate = "drop-rate",
        /// The packet is too big for the way to its backend, and its sender is not told: too many
        /// were in this second, or it is none that is answered.
        DropTooBig = "drop-too-big",
        /// The flow has no translation and none could be made: too many new ones in this second, no
        /// room, or a RST of a flow that is not known.
        DropNoEntry = "drop-no-entry",
        /// Every port that was tried for masquerading is in use.
        DropNoPort = "drop-no-port",
        /// The client talks from the same port to the same backend through another service.
        DropNatConflict = "drop-nat-conflict",
        /// The packet has reached its last hop, and its sender is not told: it is an answer, too many
        /// were in this second, or it is none that is answered.
        DropTtl = "drop-ttl",
    }
    done {
        /// Sent to a backend on the interface that the frame came from.
        Transmit = "transmit",
        /// Sent to a backend on another interface.
        Redirect = "redirect",
        /// ARP request answered.
        ArpReply = "arp-reply",
        /// Neighbour solicitation answered.
        NdReply = "nd-reply",
        /// Echo request to a virtual address answered.
        EchoReply = "echo-reply",
        /// A packet that is too big for the way to its backend was answered with an ICMP error.
        TooBigReply = "too-big-reply",
        /// A packet that has reached its last hop was answered with an ICMP error.
        TtlReply = "ttl-reply",
        /// An answer, translated back, sent on the interface that it came from.
        ReturnTransmit = "return-transmit",
        /// An answer, translated back, sent on another interface.
        ReturnRedirect = "return-redirect",
        /// An answer, translated back and left to the kernel's routing.
        ReturnStack = "return-stack",
        /// Somebody asks for the Ethernet address of a virtual address that another node of its CARP
        /// group has now, or is about to get: the kernel, which may have the address too, is not asked.
        DropNotMaster = "drop-not-master",
    }
}

/// Size of the array `COUNTERS`, with room so that a new counter does not change the layout.
pub const MAX_COUNTERS: u32 = 64;
const _: () = assert!(Counter::ALL.len() <= MAX_COUNTERS as usize);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn counters_are_dense_and_named_once() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
        let names: BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
    }

    #[test]
    fn every_counter_says_in_a_sentence_what_it_counts() {
        for counter in Counter::ALL {
            let text = counter.describe();
            assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
            assert!(text.ends_with('.') && !text.contains("  "), "{text}");
            // Links of the documentation would be noise in a terminal.
            assert!(!text.contains('`') && !text.contains('['), "{text}");
        }
        assert_eq!(Counter::DropNoBackend.describe(), "No backend of the service is usable.");
    }
}
