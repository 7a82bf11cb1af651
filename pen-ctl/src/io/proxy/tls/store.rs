//! The certificates in service: read from their files when a service comes or they were renewed, found
//! by the name that a client asks for, and kept if what replaces them is broken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use pen_common::abi::ServiceKey;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::super::shared::Served;
use super::choice;
use super::origin::Originator;
use crate::api;
use crate::config::tls::material::{self, Facts, Material, crypto};
use crate::config::{self, BackendTls, CertificateFiles, ClientAuth, Tls, UnknownName};
use crate::engine::event::{Event, News};
use crate::engine::proxy::expiry::{Stage, days_left};
use crate::engine::proxy::names::Names;

/// How TLS ends at a service now.
pub(in crate::io::proxy) struct Terminator {
    /// For rustls.
    pub(super) config: Arc<ServerConfig>,
    resolver: Arc<Certificates>,
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
    /// Its certificates, each with its files.
    fn certificates(&self) -> impl Iterator<Item = (&CertificateFiles, &Facts)> {
        self.tls.certificates.iter().zip(&self.facts)
    }

    /// Whether a client that asks for this name is turned away.
    pub(super) fn refuses(&self, name: Option<&str>) -> bool {
        self.tls.unknown_name == UnknownName::Refuse
            && name.is_some_and(|name| self.resolver.names.find(name).is_none())
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
        fits.or_else(|| keys.first()).cloned()
    }
}

/// Tickets are for the service that gave them, as long as it asks the same of its clients: whoever was
/// let in without a certificate is not to come back where one is required.
type Policy = (ServiceKey, ClientAuth, u64);

/// Tells one state of a file from another: device, number, length, and when it was changed.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The services that end or begin TLS, and what outlives their certificates.
#[derive(Default)]
pub(in crate::io::proxy) struct Store {
    tickets: HashMap<Policy, Arc<dyn ProducesTickets>>,
    kept: HashMap<ServiceKey, Kept>,
    /// Of what the operator was told, by file and serial number.
    told: HashMap<(PathBuf, String), Stage>,
    news: Vec<News>,
    /// Warnings as the daemon knows them.
    problems: BTreeSet<String>,
    /// Times that files were not good.
    broken: u64,
}

/// A service that ends or begins TLS.
struct Kept {
    served: Arc<Served>,
    /// Its files as they were when they were read last.
    loaded: Vec<Stamp>,
    /// And at the last look.
    seen: Vec<Stamp>,
    /// Why what was read last is not in service.
    problem: Option<String>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Has these services end and begin TLS as they are to. Returns the names of those whose files are not good,
    /// and why not; what they had before stays. `anew`: files may have changed.
    pub(in crate::io::proxy) fn follow(
        &mut self,
        served: &[Arc<Served>],
        anew: bool,
    ) -> Vec<(String, String)> {
        let mut failures = Vec::new();
        let mut before = std::mem::take(&mut self.kept);
        for served in served {
            let config::Proxy { tls, backend_tls, .. } = &served.service.proxy;
            if tls.is_none() {
                served.state.tls.set_terminator(None);
            }
            if backend_tls.is_none() {
                served.state.tls.set_originator(None);
            }
            if tls.is_none() && backend_tls.is_none() {
                continue;
            }
            let key = served.service.key;
            let (terminator, originator) =
                (served.state.tls.terminator(), served.state.tls.originator());
            let unchanged = !anew
                && terminator.as_deref().map(|now| &now.tls) == tls.as_deref()
                && originator.as_deref().map(|now| &now.tls) == backend_tls.as_deref();
            match before.remove(&key).filter(|_| unchanged) {
                Some(kept) => {
                    self.kept.insert(key, Kept { served: Arc::clone(served), ..kept });
                }
                None => failures
                    .extend(self.load(served).err().map(|why| (served.service.name.clone(), why))),
            }
        }
        let kept = &self.kept;
        self.tickets.retain(|(key, ..), _| kept.contains_key(key));
        failures
    }

    /// Reads the files of a service.
    fn load(&mut self, served: &Arc<Served>) -> Result<(), String> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = stamps(&served.service.proxy);
        let result = self.replace(served);
        let problem = result.as_ref().err().cloned();
        if let Some(why) = &problem {
            self.broken += 1;
            let name = &served.service.name;
            let config::Proxy { tls, backend_tls, .. } = &served.service.proxy;
            let serves = (tls.is_none() || served.state.tls.terminator().is_some())
                && (backend_tls.is_none() || served.state.tls.originator().is_some());
            let text = match serves {
                true => format!("service {name}: {why}; the certificate from before stays"),
                false => format!("service {name}: {why}; its clients are turned away"),
            };
            self.tell(true, "certificate-broken", served, text);
        }
        let (loaded, seen) = (stamps.clone(), stamps);
        let kept = Kept { served: Arc::clone(served), loaded, seen, problem };
        self.kept.insert(served.service.key, kept);
        result
    }

    /// Puts what is in the files into service: all of it, or nothing.
    fn replace(&mut self, served: &Served) -> Result<(), String> {
        let config::Proxy { tls, backend_tls, .. } = &served.service.proxy;
        let build = |tls: &Tls| self.build(served.service.key, tls);
        let terminator = tls.as_deref().map(build).transpose()?;
        let originator = backend_tls.as_deref().map(Originator::new).transpose()?;
        served.state.tls.set_terminator(terminator.map(Arc::new));
        served.state.tls.set_originator(originator.map(Arc::new));
        Ok(())
    }

    fn tell(&mut self, warning: bool, kind: &'static str, served: &Served, text: String) {
        let subject = served.service.name.clone();
        self.news.push(News { warning, kind, subject, text });
    }

    /// Looks at all files, at this second since 1970. What is new is to be told to the engine.
    pub(super) fn look(&mut self, now: i64) -> Option<Event> {
        let mut renewed = Vec::new();
        for kept in self.kept.values_mut() {
            let stamps = stamps(&kept.served.service.proxy);
            if stamps != kept.loaded && stamps == kept.seen {
                renewed.push(Arc::clone(&kept.served));
            }
            kept.seen = stamps;
        }
        for served in renewed {
            if self.load(&served).is_ok() {
                let text = format!("service {}: certificates were renewed", served.service.name);
                self.tell(false, "certificate-renewed", &served, text);
            }
        }
        let problems = self.judge(now);
        let news = std::mem::take(&mut self.news);
        let changed = problems != self.problems || !news.is_empty();
        self.problems.clone_from(&problems);
        changed.then_some(Event::CertificateNews { news, problems })
    }

    /// What is wrong, for the status; that a certificate is about to expire is told as well, once for
    /// each stage.
    fn judge(&mut self, now: i64) -> BTreeSet<String> {
        let mut problems = BTreeSet::new();
        let mut told = HashMap::new();
        let mut stages = Vec::new();
        for kept in self.kept.values() {
            let name = &kept.served.service.name;
            if let Some(why) = &kept.problem {
                problems.insert(format!("service {name}: {why}"));
            }
            let service = InService::of(&kept.served);
            for (files, facts) in service.certificates() {
                let stage = Stage::of(facts.not_after, now);
                let days = days_left(facts.not_after, now);
                let file = files.chain.display();
                let text = match stage {
                    Stage::Fine => continue,
                    Stage::Expired => format!("service {name}: {file} has expired"),
                    _ => format!("service {name}: {file} expires in {days} days"),
                };
                let known = (files.chain.clone(), facts.serial.clone());
                if self.told.get(&known).is_none_or(|told| *told < stage) {
                    stages.push((Arc::clone(&kept.served), text.clone()));
                }
                told.insert(known, stage);
                problems.insert(text);
            }
        }
        self.told = told;
        for (served, text) in stages {
            self.tell(true, "certificate-expires", &served, text);
        }
        problems
    }

    /// Times that files were not good.
    pub(in crate::io::proxy) const fn broken(&self) -> u64 {
        self.broken
    }

    /// The certificates in service.
    pub(in crate::io::proxy) fn list(&self, now: i64) -> Vec<api::Certificate> {
        let mut all = Vec::new();
        for kept in self.kept.values() {
            let service = InService::of(&kept.served);
            all.extend(service.certificates().map(|(files, facts)| api::Certificate {
                service: kept.served.service.name.clone(),
                file: files.chain.display().to_string(),
                names: facts.names.clone(),
                subject: facts.subject.clone(),
                issuer: facts.issuer.clone(),
                serial: facts.serial.clone(),
                not_before: facts.not_before,
                not_after: facts.not_after,
                days_left: days_left(facts.not_after, now),
                problem: kept.problem.clone(),
            }));
        }
        // Stable: those of a service stay in the order of the configuration.
        all.sort_by(|a, b| a.service.cmp(&b.service));
        all
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
        let provider = Arc::new(choice::provider(&tls.ciphers));
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&choice::versions(tls.min_version, tls.max_version))
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
        Ok(Terminator { config: Arc::new(config), resolver: certificates, tls: tls.clone(), facts })
    }

    /// Its keys rotate by themselves, every six hours; tickets are good for twelve.
    fn ticketer(&mut self, policy: Policy) -> Result<Arc<dyn ProducesTickets>, String> {
        if let Some(known) = self.tickets.get(&policy) {
            return Ok(Arc::clone(known));
        }
        let ticketer = crypto::Ticketer::new().map_err(|error| error.to_string())?;
        self.tickets.insert(policy, Arc::clone(&ticketer));
        Ok(ticketer)
    }
}

/// What a service has now.
struct InService(Option<Arc<Terminator>>, Option<Arc<Originator>>);

impl InService {
    fn of(served: &Served) -> Self {
        Self(served.state.tls.terminator(), served.state.tls.originator())
    }

    /// Its certificates, each with its files: those for clients, then the one for servers.
    fn certificates(&self) -> impl Iterator<Item = (&CertificateFiles, &Facts)> {
        let for_clients = self.0.iter().flat_map(|terminator| terminator.certificates());
        for_clients.chain(self.1.iter().filter_map(|originator| originator.certificate()))
    }
}

/// States of all files that belong to a service.
fn stamps(proxy: &config::Proxy) -> Vec<Stamp> {
    let of_certificate = |files: &CertificateFiles| {
        let ocsp = files.ocsp.clone();
        [Some(files.chain.clone()), Some(files.key.clone()), ocsp].into_iter().flatten()
    };
    let mut all: Vec<PathBuf> = Vec::new();
    if let Some(tls) = proxy.tls.as_deref() {
        all.extend(tls.certificates.iter().flat_map(of_certificate));
        all.extend(tls.client_ca.iter().chain(&tls.client_crl).cloned());
    }
    if let Some(BackendTls { verify, ca, certificate, .. }) = proxy.backend_tls.as_deref() {
        all.extend(certificate.iter().flat_map(of_certificate));
        all.extend(verify.then(|| material::bundle(ca.as_deref())));
    }
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        let (device, number) = (metadata.dev(), metadata.ino());
        Some((device, number, metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    };
    all.iter().map(stamp).collect()
}

/// Of what is asked of clients: the authorities, and what these have taken back.
fn digest(tls: &Tls) -> u64 {
    let mut hasher = DefaultHasher::new();
    let read = |file: &Path| fs::read(file).unwrap_or_default();
    for file in [&tls.client_ca, &tls.client_crl] {
        file.as_deref().map(read).hash(&mut hasher);
    }
    hasher.finish()
}
