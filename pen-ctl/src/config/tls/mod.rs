//! `tls` of a service: TLS ends at the proxy. The files are read and judged together with the rest, so
//! that a key which does not belong to its certificate is an error of the configuration, found before
//! anything is changed. What is kept of them here is where they are: they may be renewed in place.

pub(super) mod backend;
mod error;
#[cfg(feature = "io")]
pub mod material;
mod read;
pub(super) mod routes;

use std::path::PathBuf;

pub(super) use backend::{of_sockets, read as read_backend};
pub use error::{FileFault, FileProblem, TlsError};
pub(super) use read::read;

/// How TLS ends at a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one; the first one is for clients that ask for no name, or one that no certificate has.
    pub certificates: Vec<CertificateFiles>,
    /// What a client gets that asks for a name which no certificate has.
    pub unknown_name: UnknownName,
    /// Oldest version.
    pub min_version: TlsVersion,
    /// Newest version.
    pub max_version: TlsVersion,
    /// Those that may be used, the preferred one first; empty: all that are known to be good.
    pub ciphers: Vec<Cipher>,
    /// Protocols that are spoken above it (RFC 7301), the preferred one first; empty: not negotiated.
    pub alpn: Vec<String>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// Who has to have signed those; `Some` unless [`ClientAuth::None`].
    pub client_ca: Option<PathBuf>,
    /// Those that are not valid any more.
    pub client_crl: Option<PathBuf>,
    /// Clients that come again need not go through all of it.
    pub resumption: bool,
}

/// How TLS begins towards the servers of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Whether a server has to show a good certificate.
    pub verify: bool,
    /// Who has to have signed it; those that the machine knows unless said otherwise.
    pub ca: Option<PathBuf>,
    /// For which name or address it has to be, and which name is asked for; the server's address unless
    /// said otherwise, and no name is asked for.
    pub name: Option<String>,
    /// What servers are shown.
    pub certificate: Option<CertificateFiles>,
    /// Oldest version.
    pub min_version: TlsVersion,
    /// Newest version.
    pub max_version: TlsVersion,
    /// Those that may be used, the preferred one first; empty: all that are known to be good.
    pub ciphers: Vec<Cipher>,
    /// Protocols that are asked for, the preferred one first; empty: what was agreed upon with the client.
    pub alpn: Vec<String>,
}

/// Backends for clients that ask for a name, with TLS that ends here or is passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Host names, some perhaps with `*` as the first label; in small letters.
    pub names: Vec<String>,
    /// Names of backends of the service.
    pub backends: Vec<String>,
}

/// Where a certificate and what belongs to it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that lead to one that clients know.
    pub chain: PathBuf,
    /// PEM: its key. May be the same file.
    pub key: PathBuf,
    /// DER: what its authority says of it (OCSP), for clients that ask.
    pub ocsp: Option<PathBuf>,
}

/// What becomes of a client that asks for a name which no certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownName {
    /// It gets the first certificate.
    Default,
    /// It is turned away.
    Refuse,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// RFC 5246.
    V12,
    /// RFC 8446.
    V13,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked; one that shows none is served, one whose certificate is not good is not.
    Optional,
    /// Only those are served that show a good one.
    Required,
}

/// A cipher suite, by its name at IANA. All have forward secrecy and authenticate what they encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cipher {
    Aes256Gcm13,
    Aes128Gcm13,
    Chacha13,
    EcdsaAes256Gcm,
    EcdsaAes128Gcm,
    EcdsaChacha,
    RsaAes256Gcm,
    RsaAes128Gcm,
    RsaChacha,
}

impl Cipher {
    /// The version that it is of.
    #[must_use]
    pub const fn version(self) -> TlsVersion {
        match self {
            Self::Aes256Gcm13 | Self::Aes128Gcm13 | Self::Chacha13 => TlsVersion::V13,
            _ => TlsVersion::V12,
        }
    }
}
