//! What is in the files: certificates, keys, authorities. Read here and nowhere else, both when a
//! configuration is checked and when it is served, so that the two cannot disagree.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Group;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
#[cfg(feature = "aws-lc-rs")]
pub(crate) use rustls::crypto::aws_lc_rs as crypto;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use rustls::crypto::ring as crypto;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertificateFiles, ClientAuth, FileFault, FileProblem, Tls};

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("TLS needs one of the features `aws-lc-rs` and `ring`");

/// Longest file that is read. The lists of large authorities have some megabytes.
const LONGEST: u64 = 16 << 20;
/// Besides root, who may be let read keys.
const GROUP: &str = "pen";

type Result<T> = std::result::Result<T, FileProblem>;

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub struct Material {
    /// Chain, key and OCSP.
    pub certified: Arc<CertifiedKey>,
    /// What is to be known of it.
    pub facts: Facts,
}

/// What is to be known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Host names that it is for, some perhaps with `*` as the first label.
    pub names: Vec<String>,
    /// Who it was given to.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Number, in hexadecimal.
    pub serial: String,
    /// Seconds since 1970 from which on it is valid.
    pub not_before: i64,
    /// Seconds since 1970 until which it is.
    pub not_after: i64,
}

/// The algorithms.
#[must_use]
pub fn provider() -> CryptoProvider {
    crypto::default_provider()
}

/// Reads a certificate with its key, and says whether the two belong together.
///
/// # Errors
///
/// The file with which something is wrong, and what.
pub fn certificate(files: &CertificateFiles) -> Result<Material> {
    let problem = |file: &Path, fault| FileProblem { file: file.to_owned(), fault };
    let chain = certificates(&files.chain, &read(&files.chain, false)?)?;
    let facts = facts(&files.chain, &chain)?;
    let bytes = read(&files.key, true)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        problem(
            &files.key,
            match error {
                pem::Error::NoItemsFound => FileFault::NoKey,
                error => FileFault::BadPem { reason: error.to_string() },
            },
        )
    })?;
    let key = provider().key_provider.load_private_key(key).map_err(|error| {
        problem(&files.key, FileFault::UnusableKey { reason: error.to_string() })
    })?;
    let mut certified = CertifiedKey::new(chain, key);
    if certified.keys_match().is_err() {
        let chain = files.chain.clone();
        return Err(problem(&files.key, FileFault::KeyOfAnother { chain }));
    }
    if let Some(file) = &files.ocsp {
        certified.ocsp = Some(ocsp(file)?);
    }
    Ok(Material { certified: Arc::new(certified), facts })
}

/// Reads the authorities that sign certificates of clients, and what these have taken back. `None` if
/// clients are not asked for any.
///
/// # Errors
///
/// The file with which something is wrong, and what.
pub fn clients(tls: &Tls) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
    let Some(ca) = &tls.client_ca else { return Ok(None) };
    let optional = tls.client_auth == ClientAuth::Optional;
    verifier(ca, tls.client_crl.as_deref(), optional).map(Some)
}

/// Reads authorities, and says whether anything is wrong with them.
///
/// # Errors
///
/// The file with which something is wrong, and what.
pub fn verifier(
    ca: &Path,
    crl: Option<&Path>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let provider = Arc::new(provider());
    let builder = WebPkiClientVerifier::builder_with_provider(roots(ca)?.into(), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    let (builder, of_list) = match crl {
        // Of those who sign the clients' own: a list seldom has more.
        Some(file) => (
            builder
                .with_crls(crls(file)?)
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status(),
            file,
        ),
        None => (builder, ca),
    };
    builder.build().map_err(|error| FileProblem {
        file: of_list.to_owned(),
        fault: FileFault::BadCrl { reason: error.to_string() },
    })
}

/// Reads authorities.
///
/// # Errors
///
/// The file with which something is wrong, and what.
pub fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for (number, root) in (1..).zip(certificates(file, &read(file, false)?)?) {
        roots.add(root).map_err(|error| FileProblem {
            file: file.to_owned(),
            fault: FileFault::BadCertificate { number, reason: error.to_string() },
        })?;
    }
    Ok(roots)
}

/// Where distributions keep the authorities that a machine knows, all in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file of authorities that sign certificates of servers, the machine's unless it is said.
#[must_use]
pub fn bundle(ca: Option<&Path>) -> PathBuf {
    let known = || BUNDLES.iter().find(|file| Path::new(file).exists()).unwrap_or(&BUNDLES[0]);
    ca.map_or_else(|| known().into(), Path::to_owned)
}

/// Reads the authorities that sign certificates of servers.
///
/// # Errors
///
/// The file with which something is wrong, and what.
pub fn server_roots(ca: Option<&Path>) -> Result<RootCertStore> {
    if let Some(ca) = ca {
        return roots(ca);
    }
    let file = bundle(None);
    let mut roots = RootCertStore::empty();
    // Nobody here is to blame for single ones that are not understood.
    let (known, _) = roots.add_parsable_certificates(certificates(&file, &read(&file, false)?)?);
    match known {
        0 => Err(FileProblem { file, fault: FileFault::NoCertificate }),
        _ => Ok(roots),
    }
}

fn read(file: &Path, secret: bool) -> Result<Vec<u8>> {
    let problem = |fault| FileProblem { file: file.to_owned(), fault };
    let unreadable =
        |error: std::io::Error| problem(FileFault::Unreadable { reason: error.to_string() });
    // Looks before it opens: to open a pipe would wait for a writer.
    let metadata = fs::metadata(file).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(problem(FileFault::NotRegular));
    }
    let mode = metadata.mode() & 0o7777;
    if secret && (mode & 0o007 != 0 || (mode & 0o070 != 0 && !is_trusted(metadata.gid()))) {
        return Err(problem(FileFault::KeyOpen { mode }));
    }
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(problem(FileFault::TooLong { max: LONGEST }));
    }
    Ok(bytes)
}

/// Whether a group may read keys.
fn is_trusted(gid: u32) -> bool {
    gid == 0
        || Group::from_name(GROUP).is_ok_and(|group| group.is_some_and(|it| it.gid.as_raw() == gid))
}

fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let problem = |fault| FileProblem { file: file.to_owned(), fault };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| problem(FileFault::BadPem { reason: error.to_string() }))?;
    if chain.is_empty() {
        return Err(problem(FileFault::NoCertificate));
    }
    Ok(chain)
}

/// What a chain says of itself; whether it is one.
fn facts(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Facts> {
    let problem = |fault| FileProblem { file: file.to_owned(), fault };
    let mut parsed = Vec::new();
    for (number, der) in (1..).zip(chain) {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| {
            problem(FileFault::BadCertificate { number, reason: error.to_string() })
        })?;
        parsed.push(certificate);
    }
    for (number, pair) in (2..).zip(parsed.windows(2)) {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            return Err(problem(FileFault::ChainOrder { number }));
        }
    }
    let own = &parsed[0];
    Ok(Facts {
        names: names(own),
        subject: own.subject().to_string(),
        issuer: own.issuer().to_string(),
        serial: own.serial.to_str_radix(16),
        not_before: own.validity().not_before.timestamp(),
        not_after: own.validity().not_after.timestamp(),
    })
}

/// Host names of a certificate. Those without any list have one in their subject, as long ago.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    if let Ok(Some(list)) = certificate.subject_alternative_name() {
        let names = list.value.general_names.iter();
        return names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
    }
    common_name(certificate).into_iter().collect()
}

/// The name of whom a certificate was given to, in short.
#[must_use]
pub fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

fn crls(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let problem = |fault| FileProblem { file: file.to_owned(), fault };
    let bytes = read(file, false)?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| problem(FileFault::BadPem { reason: error.to_string() }))?;
    if lists.is_empty() {
        return Err(problem(FileFault::NoCrl));
    }
    Ok(lists)
}

/// An answer of a responder: a sequence whose first part says that all went well (RFC 6960 4.2.1).
fn ocsp(file: &Path) -> Result<Vec<u8>> {
    let bytes = read(file, false)?;
    let body = match bytes.as_slice() {
        [0x30, 0x82, high, low, body @ ..]
            if usize::from(u16::from_be_bytes([*high, *low])) == body.len() =>
        {
            body
        }
        [0x30, 0x81, length, body @ ..] if usize::from(*length) == body.len() => body,
        _ => &[],
    };
    if !body.starts_with(&[0x0a, 1, 0]) {
        return Err(FileProblem { file: file.to_owned(), fault: FileFault::NotOcsp });
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
