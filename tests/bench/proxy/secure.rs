//! A client with TLS that costs as little as it can, because it shares the cores with what is measured:
//! it believes any certificate, and deciphers where the bytes lie. All proxies meet the same one: TLS
//! 1.3, X25519, TLS_AES_128_GCM_SHA256.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use pen_tests::process::run_ok;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme, version};
use tokio::net::TcpStream;

use super::backend::{ANSWER, read, write};

/// The name of the certificate.
const NAME: &str = "bench.example";
/// For the longest record.
const BUFFER: usize = 20 * 1024;
/// What a record adds to a request.
const OVERHEAD: usize = 64;

/// Makes a certificate with an ECDSA key on P-256, both in one file, as all proxies take them.
pub(crate) fn certificate(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("bench.pem");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-days", "2", "-subj", &format!("/CN={NAME}")]);
    openssl.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
    openssl.args(["-addext", "basicConstraints=critical,CA:false"]);
    // It makes the key's file for its owner only, and adds the certificate to it.
    openssl.arg("-keyout").arg(&file);
    let text = run_ok(&mut openssl)?;
    let key = std::fs::read_to_string(&file)?;
    std::fs::write(&file, key + &text)?;
    Ok(file)
}

/// What a client offers, and whether it keeps tickets.
pub(crate) fn settings(resume: bool) -> Result<Arc<ClientConfig>> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = match resume {
        true => Resumption::in_memory_sessions(1),
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// Believes everybody: to verify would cost the client more than the proxy's signature costs the proxy.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A connection with TLS that has sent its first request.
pub(crate) struct Secure {
    pub(crate) tcp: TcpStream,
    tls: UnbufferedClientConnection,
    /// What has come and was not understood yet: from the begin.
    input: Box<[u8]>,
    filled: usize,
    plain: Vec<u8>,
    ended: bool,
}

impl Secure {
    /// Connects, agrees upon TLS, and asks: the request goes with the last message of the handshake.
    pub(crate) async fn ask(
        to: SocketAddr,
        settings: &Arc<ClientConfig>,
        request: &[u8],
    ) -> Result<Self> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).context("a name")?;
        let tls = UnbufferedClientConnection::new(Arc::clone(settings), name)?;
        let (input, plain) = (vec![0; BUFFER].into(), Vec::new());
        let mut this = Self { tcp, tls, input, filled: 0, plain, ended: false };
        let mut out = Vec::new();
        while !this.step(&mut out, Some(request))? {
            write(&this.tcp, &out).await?;
            out.clear();
            ensure!(this.fill().await?, "the connection ended in its handshake");
        }
        write(&this.tcp, &out).await?;
        Ok(this)
    }

    /// What the handshake was.
    pub(crate) fn kind(&self) -> Option<HandshakeKind> {
        self.tls.handshake_kind()
    }

    /// Works through what has come; true when there is nothing that has to be waited for before one may
    /// speak, and the request was sealed.
    fn step(&mut self, out: &mut Vec<u8>, request: Option<&[u8]>) -> Result<bool> {
        let mut taken = 0;
        let done = loop {
            let input = &mut self.input[taken..self.filled];
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(input);
            let done = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                    None
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                        let at = out.len();
                        out.resize(at + size.required_size, 0);
                        data.encode(&mut out[at..])?;
                    }
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::PeerClosed => {
                    self.ended = true;
                    None
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if let Some(request) = request {
                        let at = out.len();
                        out.resize(at + request.len() + OVERHEAD, 0);
                        let used = traffic.encrypt(request, &mut out[at..])?;
                        out.truncate(at + used);
                    }
                    Some(true)
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => Some(false),
                _ => bail!("a state of TLS that was not asked for"),
            };
            taken += discard;
            if let Some(done) = done {
                break done;
            }
        };
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(done)
    }

    /// Reads what there is; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        ensure!(self.filled < self.input.len(), "a record that is too long");
        let got = read(&self.tcp, &mut self.input[self.filled..]).await?;
        self.filled += got;
        Ok(got > 0)
    }

    /// Reads until so many bytes were said, and no more.
    async fn hear(&mut self, count: usize) -> Result<()> {
        while self.plain.len() < count {
            ensure!(!self.ended && self.fill().await?, "the connection ended before the answer");
            self.step(&mut Vec::new(), None)?;
        }
        Ok(())
    }

    /// Reads the answer.
    pub(crate) async fn answer(&mut self) -> Result<()> {
        self.hear(ANSWER.len()).await?;
        ensure!(self.plain == ANSWER, "another answer");
        self.plain = Vec::new();
        Ok(())
    }

    /// Reads the end, which has to be one that TLS says.
    pub(crate) async fn end(&mut self) -> Result<()> {
        while !self.ended {
            ensure!(self.fill().await?, "the connection ended without a notice");
            self.step(&mut Vec::new(), None)?;
        }
        ensure!(self.plain.is_empty(), "more than an answer");
        Ok(())
    }

    /// Reads so many bytes, and looks at them: zeros.
    pub(crate) async fn zeros(&mut self, count: usize) -> Result<()> {
        self.hear(count).await?;
        ensure!(self.plain.iter().all(|byte| *byte == 0), "other bytes than were sent");
        self.plain = Vec::new();
        Ok(())
    }

    /// What a connection needs that does nothing.
    pub(crate) fn into_idle(self) -> TcpStream {
        self.tcp
    }
}
