//! The certificates in service: read from their files when a service comes or they were renewed, found
//! by the name that a client asks for, and kept if what replaces them is broken.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use pen_common::abi::ServiceKey;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::super::shared::Served;
use crate::config::tls::material::{self, Facts, Material};
use crate::config::{Cipher, ClientAuth, Tls, TlsVersion, UnknownName};
use crate::engine::proxy::names::Names;

/// How TLS ends at a service now.
pub(in crate::io::proxy) struct Terminator {
    /// For rustls.
    pub(super) config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    /// What it was made from.
    tls: Tls,
    /// What is to be known of its certificates, in the order of the configuration.
    facts: Vec<Facts>,
}

impl fmt::Debug for Terminator {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Terminator {
    /// Whether a client that asks for this name is turned away.
    pub(super) fn refuses(&self, name: Option<&str>) -> bool {
        self.tls.unknown_name == UnknownName::Refuse
            && name.is_some_and(|name| self.certificates.names.find(name).is_none())
    }
}

/// Keys of certificates by what they are for. Of several for one name a client gets the first one whose
/// kind it understands.
struct Certificates {
    names: Names<Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// `None` without any.
    fn new(materials: &[Material]) -> Option<Self> {
        let first = Arc::clone(&materials.first()?.certified);
        let mut by_name: BTreeMap<String, Vec<Arc<CertifiedKey>>> = BTreeMap::new();
        for Material { certified, facts } in materials {
            for name in &facts.names {
                let name = name.to_ascii_lowercase();
                by_name.entry(name).or_default().push(Arc::clone(certified));
            }
        }
        let mut names = Names::default();
        for (name, keys) in by_name {
            names.enter(&name, keys);
        }
        Some(Self { names, first })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.names.find(name));
        let Some(keys) = found else { return Some(Arc::clone(&self.first)) };
        let schemes = hello.signature_schemes();
        let fits = keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        fits.or(keys.first()).cloned()
    }
}

/// Tickets are for the service that gave them, as long as it asks the same of its clients: whoever was
/// let in without a certificate is not to come back where one is required.
type Policy = (ServiceKey, ClientAuth, u64);

/// What outlives the certificates.
#[derive(Default)]
pub(in crate::io::proxy) struct Store {
    tickets: HashMap<Policy, Arc<dyn ProducesTickets>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Has these services end TLS as they are to. Returns the names of those whose files are not good,
    /// and why not; what they had before stays. `anew`: files may have changed.
    pub(in crate::io::proxy) fn follow(
        &mut self,
        served: &[Arc<Served>],
        anew: bool,
    ) -> Vec<(String, String)> {
        let mut failures = Vec::new();
        for served in served {
            let wanted = served.service.proxy.tls.as_deref();
            let now = served.state.terminator();
            if !anew && now.as_ref().map(|now| &now.tls) == wanted {
                continue;
            }
            match wanted.map(|tls| self.build(served.service.key, tls)).transpose() {
                Ok(terminator) => served.state.set_terminator(terminator.map(Arc::new)),
                Err(why) => failures.push((served.service.name.clone(), why)),
            }
        }
        let known = |(key, ..): &Policy| served.iter().any(|served| served.service.key == *key);
        self.tickets.retain(|policy, _| known(policy));
        failures
    }

    fn build(&mut self, key: ServiceKey, tls: &Tls) -> Result<Terminator, String> {
        let materials: Vec<Material> = tls
            .certificates
            .iter()
            .map(material::certificate)
            .collect::<Result<_, _>>()
            .map_err(|problem| problem.to_string())?;
        let clients = material::clients(tls).map_err(|problem| problem.to_string())?;
        let certificates = Arc::new(Certificates::new(&materials).ok_or("no certificate")?);
        let mut provider = material::provider();
        if !tls.ciphers.is_empty() {
            let usual = std::mem::take(&mut provider.cipher_suites);
            let named = |cipher: &Cipher| usual.iter().find(|suite| is_named(suite, *cipher));
            provider.cipher_suites = tls.ciphers.iter().filter_map(named).copied().collect();
        }
        let builder = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions(tls))
            .map_err(|error| error.to_string())?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::<Certificates>::clone(&certificates));
        config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        // The operator's order, and of the usual ones ours, which is by what is fast here.
        config.ignore_client_order = !tls.ciphers.is_empty();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if tls.resumption {
            config.ticketer = self.ticketer((key, tls.client_auth, digest(tls)))?;
        } else {
            config.send_tls13_tickets = 0;
        }
        let facts = materials.into_iter().map(|material| material.facts).collect();
        Ok(Terminator { config: Arc::new(config), certificates, tls: tls.clone(), facts })
    }

    /// Its keys rotate by themselves, every six hours; tickets are good for twelve.
    fn ticketer(&mut self, policy: Policy) -> Result<Arc<dyn ProducesTickets>, String> {
        if let Some(known) = self.tickets.get(&policy) {
            return Ok(Arc::clone(known));
        }
        let ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        self.tickets.insert(policy, Arc::clone(&ticketer));
        Ok(ticketer)
    }
}

/// Of what is asked of clients: the authorities, and what these have taken back.
fn digest(tls: &Tls) -> u64 {
    let mut hasher = DefaultHasher::new();
    let read = |file: &Path| std::fs::read(file).unwrap_or_default();
    for file in [&tls.client_ca, &tls.client_crl] {
        file.as_deref().map(read).hash(&mut hasher);
    }
    hasher.finish()
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = tls.min_version..=tls.max_version;
    let both = [(TlsVersion::V13, &version::TLS13), (TlsVersion::V12, &version::TLS12)];
    let wanted = both.into_iter().filter(|(version, _)| spoken.contains(version));
    wanted.map(|(_, version)| version).collect()
}

fn is_named(suite: &SupportedCipherSuite, cipher: Cipher) -> bool {
    // rustls calls those of TLS 1.3 `TLS13_...`, IANA `TLS_...`.
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1) == cipher.name()
}
