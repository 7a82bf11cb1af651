//! The words of the configuration language: each enum that an operator spells, and its spelling.
//! One table per enum serves reading, printing and the "one of ..." of error messages.

use std::fmt;
use std::str::FromStr;

use crate::config::{
    Accept, Access, AddressesBy, Affinity, AuthWord, CarpMac, Cipher, ClientAuth, ForwardedFor,
    Mode, PanicPolicy, Protocol, ProxyVersion, Rcode, Record, Scheduler, TieBreak, TlsVersion,
    TransportWord, UnknownName, Verify, XdpMode,
};

/// An enum that is spelled as a word.
pub(crate) trait Word: Copy + 'static {
    /// All values with their spelling.
    const ALL: &'static [(&'static str, Self)];

    /// The value spelled so.
    fn find(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
    }

    /// All spellings.
    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|(name, _)| *name).collect()
    }
}

/// A word that is none of an enum's spellings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// What was written.
    pub word: String,
    /// What may be written.
    pub valid: Vec<&'static str>,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown word `{}`; use one of {}", self.word, self.valid.join(", "))
    }
}

impl std::error::Error for UnknownWord {}

macro_rules! words {
    ($($kind:ident { $($variant:ident = $name:literal),+ $(,)? })+) => {$(
        impl Word for $kind {
            const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),+];
        }

        impl $kind {
            /// How it is spelled in the configuration.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::find(word)
                    .ok_or_else(|| UnknownWord { word: word.to_owned(), valid: Self::names() })
            }
        }
    )+};
}

words! {
    XdpMode { Auto = "auto", Native = "native", Generic = "generic", Off = "off" }
    Protocol { Tcp = "tcp", Udp = "udp" }
    Mode {
        Dsr = "dsr",
        Ipip = "ipip",
        Gue = "gue",
        Nat = "nat",
        Masquerade = "masquerade",
        Proxy = "proxy",
    }
    Scheduler {
        Maglev = "maglev",
        RoundRobin = "roundrobin",
        LeastConn = "leastconn",
        Random = "random",
        Weight = "weight",
        Prio = "prio",
        Hash = "hash",
    }
    Record {
        A = "A",
        Aaaa = "AAAA",
        Cname = "CNAME",
        Mx = "MX",
        Ns = "NS",
        Ptr = "PTR",
        Soa = "SOA",
        Txt = "TXT",
    }
    Rcode {
        NoError = "NOERROR",
        FormErr = "FORMERR",
        ServFail = "SERVFAIL",
        NxDomain = "NXDOMAIN",
        NotImp = "NOTIMP",
        Refused = "REFUSED",
    }
    Verify { None = "none", Dates = "dates", Full = "full" }
    ForwardedFor { Replace = "replace", Append = "append" }
    ProxyVersion { V1 = "v1", V2 = "v2" }
    UnknownName { Default = "default", Refuse = "refuse" }
    TlsVersion { V12 = "1.2", V13 = "1.3" }
    ClientAuth { None = "none", Optional = "optional", Required = "required" }
    Cipher {
        Aes256Gcm13 = "TLS_AES_256_GCM_SHA384",
        Aes128Gcm13 = "TLS_AES_128_GCM_SHA256",
        Chacha13 = "TLS_CHACHA20_POLY1305_SHA256",
        EcdsaAes256Gcm = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        EcdsaAes128Gcm = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        EcdsaChacha = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        RsaAes256Gcm = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        RsaAes128Gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        RsaChacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    }
    PanicPolicy { FailOpen = "fail_open", FailClosed = "fail_closed", Emergency = "emergency" }
    Affinity { Client = "client", Flow = "flow" }
    Access { Allow = "allow", Deny = "deny" }
    AuthWord { Ucarp = "ucarp", Bsd = "bsd", Sha256 = "sha256" }
    Accept { Enforce = "enforce", Permissive = "permissive", ReceiveOnly = "receive-only" }
    TransportWord { Multicast = "multicast", Broadcast = "broadcast", Unicast = "unicast" }
    CarpMac { Virtual = "virtual", Interface = "interface", Ucarp = "ucarp" }
    TieBreak { UcarpLe = "ucarp-le", Numeric = "numeric" }
    AddressesBy { Pen = "pen", Hooks = "hooks" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_as_what_it_spells() {
        for (name, value) in Protocol::ALL {
            assert_eq!(name.parse(), Ok(*value));
            assert_eq!(value.to_string(), *name);
        }
        for (name, value) in XdpMode::ALL {
            assert_eq!(name.parse(), Ok(*value));
        }
    }

    #[test]
    fn an_unknown_word_names_the_valid_ones() {
        let error = "sctp".parse::<Protocol>().unwrap_err();
        assert_eq!(error.to_string(), "unknown word `sctp`; use one of tcp, udp");
    }
}
