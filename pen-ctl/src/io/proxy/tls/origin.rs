//! TLS that begins here, towards servers: what they have to show, what they are shown, and the handshake
//! with one of them. It is part of connecting to it: if it fails, the next server is asked.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};

use super::super::stream::Stream;
use super::super::worker::Worker;
use super::agree::{Session, Trouble, agree};
use super::choice;
use crate::config::tls::material::{self, Facts};
use crate::config::{BackendTls, CertificateFiles, Endpoint};
use crate::engine::proxy::cause::ServerFault;
use crate::io::anyone::Anyone;

/// Sessions that are kept of each server, to be resumed.
const SESSIONS: usize = 64;

/// How TLS begins towards the servers of a service now.
pub(in crate::io::proxy) struct Originator {
    config: ClientConfig,
    /// For each server one, with its sessions: another one has no use for them.
    servers: Mutex<HashMap<Endpoint, Arc<ClientConfig>>>,
    /// Who all of them have to be.
    name: Option<ServerName<'static>>,
    /// What it was made from.
    pub(super) tls: BackendTls,
    /// What is to be known of the certificate that they are shown.
    facts: Option<Facts>,
}

impl fmt::Debug for Originator {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originator").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Originator {
    /// Reads the files.
    pub(super) fn new(tls: &BackendTls) -> Result<Self, String> {
        let provider = Arc::new(choice::provider(&tls.ciphers));
        let certificate = tls.certificate.as_ref().map(material::certificate);
        let certificate = certificate.transpose().map_err(|problem| problem.to_string())?;
        let verifier: Arc<dyn ServerCertVerifier> = match tls.verify {
            true => {
                let roots = material::server_roots(tls.ca.as_deref());
                let roots = roots.map_err(|problem| problem.to_string())?;
                let builder = WebPkiServerVerifier::builder_with_provider(
                    roots.into(),
                    Arc::clone(&provider),
                );
                builder.build().map_err(|error| error.to_string())?
            }
            false => Arc::new(Anyone::new(Arc::clone(&provider))),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&choice::versions(tls.min_version, tls.max_version))
            .map_err(|error| error.to_string())?
            // Ours does what rustls does by itself, or what the operator has spelled out.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &certificate {
            Some(own) => {
                let own = SingleCertAndKey::from(Arc::clone(&own.certified));
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        let name = tls.name.clone().map(ServerName::try_from).transpose();
        let name = name.map_err(|error| error.to_string())?;
        let facts = certificate.map(|own| own.facts);
        Ok(Self { config, servers: Mutex::default(), name, tls: tls.clone(), facts })
    }

    /// The certificate that servers are shown, with its files.
    pub(super) fn certificate(&self) -> Option<(&CertificateFiles, &Facts)> {
        self.tls.certificate.as_ref().zip(self.facts.as_ref())
    }

    /// One lock for each handshake, which costs a thousand times as much.
    fn config(&self, server: &Endpoint) -> Arc<ClientConfig> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = servers.get(server) {
            return Arc::clone(known);
        }
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        servers.insert(server.clone(), Arc::clone(&config));
        config
    }

    /// Begins TLS with a server. `alpn` is what the client speaks.
    fn begin(
        &self,
        server: &Endpoint,
        alpn: Option<&[u8]>,
    ) -> Result<UnbufferedClientConnection, Error> {
        let address = || match server.inet() {
            Some(address) => address.ip(),
            // Not verified, or it would have a name; and of an address no name is sent.
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address()));
        let config = self.config(server);
        let protocols = match (alpn, config.alpn_protocols.is_empty()) {
            (Some(alpn), true) => vec![alpn.to_vec()],
            _ => config.alpn_protocols.clone(),
        };
        UnbufferedClientConnection::new_with_alpn(config, name, protocols)
    }
}

/// Why TLS was not agreed upon with a server: for the counters, and in words.
pub(in crate::io::proxy) struct NotAgreed {
    pub(in crate::io::proxy) fault: ServerFault,
    pub(in crate::io::proxy) why: String,
}

/// Agrees upon TLS with a server that was connected to. Also returned is what it has said already.
pub(in crate::io::proxy) async fn approach(
    worker: &Worker,
    originator: &Originator,
    server: &Endpoint,
    alpn: Option<&[u8]>,
    stream: &mut Stream,
) -> Result<(Session, Vec<u8>), NotAgreed> {
    let tls = originator.begin(server, alpn).map_err(|error| failure(Trouble::Tls(error)))?;
    let agreement = agree(worker, tls, stream, Vec::new()).await.map_err(failure)?;
    Ok(agreement.into_session())
}

fn failure(trouble: Trouble) -> NotAgreed {
    let (fault, why) = match trouble {
        Trouble::Gone => (ServerFault::Closed, "it ended the connection".to_owned()),
        Trouble::TooLong => (ServerFault::Broken, "its messages are too long".to_owned()),
        Trouble::Tls(error) => {
            let fault = match &error {
                Error::AlertReceived(
                    AlertDescription::HandshakeFailure
                    | AlertDescription::InsufficientSecurity
                    | AlertDescription::NoApplicationProtocol
                    | AlertDescription::ProtocolVersion,
                ) => ServerFault::Incompatible,
                Error::AlertReceived(_) => ServerFault::Refused,
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
                    ServerFault::Incompatible
                }
                Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
                    ServerFault::Untrusted
                }
                _ => ServerFault::Broken,
            };
            (fault, words(&error))
        }
    };
    NotAgreed { fault, why }
}

/// An error as the operator can do something about it.
fn words(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else { return error.to_string() };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, .. } => {
            let name = expected.to_str();
            format!(
                "its certificate is not for {name}; `name` of `backend_tls` says for whom it is to be"
            )
        }
        CertificateError::UnknownIssuer => {
            "nobody whom `ca` of `backend_tls` names has signed its certificate".to_owned()
        }
        why if format!("{why:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority; give it one with `basicConstraints=CA:FALSE`"
                .to_owned()
        }
        why => why.to_string(),
    }
}
