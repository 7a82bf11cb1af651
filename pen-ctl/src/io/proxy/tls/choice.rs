//! Versions and ciphers as the operator names them, for rustls: the same for both sides.

use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::config::tls::material;
use crate::config::{Cipher, TlsVersion};

/// The algorithms, with these ciphers; with the usual ones if there are none.
pub(super) fn provider(ciphers: &[Cipher]) -> CryptoProvider {
    let mut provider = material::provider();
    if !ciphers.is_empty() {
        let usual = std::mem::take(&mut provider.cipher_suites);
        let named = |cipher: &Cipher| usual.iter().find(|suite| is_named(suite, *cipher));
        provider.cipher_suites = ciphers.iter().filter_map(named).copied().collect();
    }
    provider
}

/// From the oldest to the newest one.
pub(super) fn versions(
    oldest: TlsVersion,
    newest: TlsVersion,
) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = oldest..=newest;
    let both = [(TlsVersion::V13, &version::TLS13), (TlsVersion::V12, &version::TLS12)];
    let wanted = both.into_iter().filter(|(version, _)| spoken.contains(version));
    wanted.map(|(_, version)| version).collect()
}

fn is_named(suite: &SupportedCipherSuite, cipher: Cipher) -> bool {
    // rustls calls those of TLS 1.3 `TLS13_...`, IANA `TLS_...`.
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1) == cipher.name()
}
