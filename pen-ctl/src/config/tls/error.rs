//! What can be wrong with TLS: with what the operator wrote, and with the files that are named there.

use std::fmt;
use std::path::PathBuf;

use crate::config::{Cipher, TlsVersion, UnixPath};

/// What is wrong with what the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum TlsError {
    File(FileProblem),
    NoCertificates,
    VersionsCrossed { min: TlsVersion, max: TlsVersion },
    CipherOfNoVersion { cipher: Cipher },
    VersionWithoutCipher { version: TlsVersion },
    InvalidAlpn { found: String },
    AuthWithoutCa,
    Sealed { with: &'static str },
    InvalidHostName { found: String },
    InvalidServerName { found: String },
    NamelessSocket { socket: UnixPath },
    SealedTwice,
    UnknownBackend { name: String, near: Option<String> },
}

/// A file of which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub fault: FileFault,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum FileFault {
    Unreadable { reason: String },
    NotRegular,
    TooLong { max: u64 },
    KeyOpen { mode: u32 },
    BadPem { reason: String },
    NoCertificate,
    NoKey,
    UnusableKey { reason: String },
    KeyOfAnother { chain: PathBuf },
    BadCertificate { number: usize, reason: String },
    ChainOrder { number: usize },
    NoCrl,
    BadCrl { reason: String },
    NotOcsp,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(problem) => problem.fmt(f),
            Self::NoCertificates => write!(
                f,
                "no certificate; write `certificates = [{{ chain = \"/etc/pen/site.pem\", key = \
                 \"/etc/pen/site.key\" }}]`"
            ),
            Self::VersionsCrossed { min, max } => {
                write!(f, "`min_version` {min} is above `max_version` {max}; exchange the two")
            }
            Self::CipherOfNoVersion { cipher } => write!(
                f,
                "{cipher} is a cipher of TLS {}, which is not spoken; remove it, or change \
                 `min_version` or `max_version`",
                cipher.version()
            ),
            Self::VersionWithoutCipher { version } => write!(
                f,
                "`ciphers` has none for TLS {version}; add one, or exclude that version with \
                 `min_version` or `max_version`"
            ),
            Self::InvalidAlpn { found } => write!(
                f,
                "`{found}` is no name of a protocol; write 1 to 255 characters, as in \"h2\" or \
                 \"http/1.1\""
            ),
            Self::AuthWithoutCa => write!(
                f,
                "nothing says whose certificates clients may show; add `client_ca = \
                 \"/etc/pen/clients.pem\"`"
            ),
            Self::Sealed { with } => write!(
                f,
                "`forwarded_for` reads requests in the open, and with `{with}` they come sealed; \
                 remove it, and use `send_proxy = \"v2\"`"
            ),
            Self::InvalidHostName { found } => write!(
                f,
                "`{found}` is no name of a host; write \"a.example\", or \"*.example\" for all \
                 with one more label"
            ),
            Self::InvalidServerName { found } => write!(
                f,
                "`{found}` is neither the name of a host nor an address; write what the servers' \
                 certificates are for, as in \"app.example\""
            ),
            Self::NamelessSocket { socket } => write!(
                f,
                "nothing says for whom the certificate of {socket} has to be; add `name = \
                 \"app.example\"`"
            ),
            Self::SealedTwice => write!(
                f,
                "what `routes` passes on is sealed already; remove `backend_tls`, or add `tls`, \
                 which ends that of clients"
            ),
            Self::UnknownBackend { name, near: Some(near) } => {
                write!(f, "no backend of this service is called `{name}`; did you mean `{near}`?")
            }
            Self::UnknownBackend { name, near: None } => write!(
                f,
                "no backend of this service is called `{name}`; name those in `backends`, as in \
                 `{{ address = \"10.0.0.11:443\", name = \"b1\" }}`"
            ),
        }
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.fault)
    }
}

impl std::error::Error for FileProblem {}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { reason } => {
                write!(f, "cannot be read ({reason}); check the path and the permissions")
            }
            Self::NotRegular => write!(f, "not a file; name the file itself"),
            Self::TooLong { max } => write!(f, "longer than {max} bytes; name another file"),
            Self::KeyOpen { mode } => write!(
                f,
                "a key with mode {mode:04o} is open to others; `chmod 600` it, or let only group \
                 root or pen read it"
            ),
            Self::BadPem { reason } => write!(f, "not valid PEM ({reason}); write the file anew"),
            Self::NoCertificate => write!(
                f,
                "no certificate in it; it has to begin with `-----BEGIN CERTIFICATE-----`"
            ),
            Self::NoKey => write!(
                f,
                "no private key in it that is not encrypted; `openssl pkey -in OLD -out NEW` \
                 decrypts one"
            ),
            Self::UnusableKey { reason } => write!(
                f,
                "a key that cannot be used ({reason}); use RSA of 2048 bits or more, ECDSA P-256 \
                 or P-384, or Ed25519"
            ),
            Self::KeyOfAnother { chain } => write!(
                f,
                "not the key of the certificate in {}; name the two that belong together",
                chain.display()
            ),
            Self::BadCertificate { number, reason } => {
                write!(f, "certificate {number} cannot be read ({reason}); get it anew")
            }
            Self::ChainOrder { number } => write!(
                f,
                "certificate {number} did not sign the one before it; write the server's own \
                 first, then each that signed the one before"
            ),
            Self::NoCrl => {
                write!(f, "no list in it; it has to begin with `-----BEGIN X509 CRL-----`")
            }
            Self::BadCrl { reason } => {
                write!(f, "a list that cannot be used ({reason}); get it anew")
            }
            Self::NotOcsp => write!(
                f,
                "no answer of an OCSP responder in DER; `openssl ocsp -respout FILE` writes one"
            ),
        }
    }
}
