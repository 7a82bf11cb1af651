//! Servers that are right, and one for each way of being wrong.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority, and its certificate in a file that goes with it.
pub(in crate::io::health) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(in crate::io::health) file: PathBuf,
}

impl Authority {
    pub(in crate::io::health) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let name = format!("pen-probe-{name}-{}.pem", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, issuer.pem()).expect("room");
        Self { issuer, file }
    }

    /// A server's settings, with a certificate for these names that is valid from so many days from
    /// now until so many.
    pub(in crate::io::health) fn server(&self, names: &[&str], days: [i32; 2]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let at = |days: i32| {
            // Half a day more, so that none of them ends while a test is under way.
            let distance = DAY * days.unsigned_abs() + DAY / 2;
            let now: SystemTime = clock::wall();
            if days < 0 { now - distance } else { now + distance }
        };
        (params.not_before, params.not_after) = (at(days[0]).into(), at(days[1]).into());
        let key = KeyPair::generate().expect("a key");
        let chain =
            vec![params.signed_by(&key, &self.issuer).expect("a certificate").der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::new(material::provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth();
        builder.with_single_cert(chain, key).expect("a pair")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// What a probe finds where each connection is treated so.
fn against<F: Future<Output = ()> + Send + 'static>(
    server: impl FnOnce(TcpStream) -> F + Send + 'static,
    tls: &ProbeTls,
    limit: Duration,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let target: SocketAddr = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            server(stream).await;
        });
        let way = Way { target: target.into(), through: None };
        ask(tls, &way, &Limit::of(limit), &Contexts::default()).await
    })
}

fn outcome(config: ServerConfig, tls: &ProbeTls) -> Option<String> {
    let serve = async move |stream| {
        // A client that does not like the certificate ends it.
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            let _ = stream.read_u8().await;
        }
    };
    against(serve, tls, PATIENCE).err().map(|error| error.to_string())
}

fn full(authority: &Authority, name: Option<&str>) -> ProbeTls {
    let (ca, server_name) = (Some(authority.file.clone()), name.map(str::to_owned));
    ProbeTls { server_name, verify: Verify::Full, ca, ..ProbeTls::default() }
}

#[test]
fn each_fault_of_a_certificate_is_told_apart() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let dates = ProbeTls::default();
    let any = ProbeTls { verify: Verify::None, ..dates.clone() };
    let long = ProbeTls { expires_in: DAY * 14, ..dates.clone() };
    let named = full(&root, Some("a.example"));
    let names = &["a.example", "127.0.0.1"][..];
    let ended = Some("its certificate ended 3 days ago");
    let issuer =
        format!("its certificate is signed by none of the authorities in {}", other.file.display());
    for (tls, names, days, error) in [
        (&dates, names, [-1, 9], None),
        (&dates, names, [-9, -3], ended),
        (&dates, names, [3, 9], Some("its certificate begins only in 3 days")),
        (&any, names, [-9, -3], None),
        (&long, names, [-1, 15], None),
        (
            &long,
            names,
            [-1, 5],
            Some("its certificate ends in 5 days, and has to be valid for 14 days"),
        ),
        (&named, names, [-1, 9], None),
        (&full(&root, None), names, [-1, 9], None),
        (&named, names, [-9, -3], ended),
        (&named, names, [3, 9], Some("its certificate begins only in 3 days")),
        (&full(&other, Some("a.example")), names, [-1, 9], Some(issuer.as_str())),
        (
            &full(&root, Some("c.example")),
            names,
            [-1, 9],
            Some("its certificate is for a.example, 127.0.0.1, and not for c.example"),
        ),
        (
            &named,
            &["a.b", "b.b", "c.b", "d.b"],
            [-1, 9],
            Some("its certificate is for a.b, b.b, c.b, ..., and not for a.example"),
        ),
        (&named, &[], [-1, 9], Some("its certificate is for no name, and not for a.example")),
    ] {
        let found = outcome(root.server(names, days), tls);
        assert_eq!(found.as_deref(), error, "{tls}, {names:?}, {days:?}");
    }
}

#[test]
fn what_is_no_tls_or_none_that_fits_is_told_apart() {
    let tls = ProbeTls::default();
    let plain = async |mut stream: TcpStream| {
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let found = against(plain, &tls, PATIENCE).expect_err("it is none");
    assert_eq!(found.to_string(), "answered something else, expected TLS");
    let alert = async |mut stream: TcpStream| {
        let _ = stream.read_u8().await;
        // A fatal handshake_failure.
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let found = against(alert, &tls, PATIENCE).expect_err("it refuses");
    assert_eq!(found.to_string(), "refused TLS: handshake failure");
    let closed = async |mut stream: TcpStream| {
        // A whole ClientHello has been taken: the end is no reset.
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.expect("a record");
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.expect("all of it");
    };
    assert_eq!(against(closed, &tls, PATIENCE), Err(ProbeError::Closed));
    let silent = async |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let short = Duration::from_secs(1);
    assert_eq!(against(silent, &tls, short), Err(ProbeError::Silent(short)));
}

#[test]
fn a_server_without_a_cipher_of_ours_is_told_so() {
    // The beginning of a ServerHello of TLS 1.1, in a record.
    let old = async |mut stream: TcpStream| {
        let _ = stream.read_u8().await;
        let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
        hello.extend([7; 32]);
        hello.extend([0, 0, 0x2f, 0]);
        let _ = stream.write_all(&hello).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let found = against(old, &ProbeTls::default(), PATIENCE).expect_err("it is old").to_string();
    assert!(found.starts_with("has no version or cipher of TLS in common with pen"), "{found}");
}

#[test]
fn authorities_are_read_again_when_their_file_changes() {
    let (root, other) = (Authority::new("first"), Authority::new("second"));
    let known = Contexts::default();
    let tls = full(&root, None);
    let first = known.config(&tls, &[]).expect("good");
    assert!(Arc::ptr_eq(&first, &known.config(&tls, &[]).expect("good")));
    assert!(!Arc::ptr_eq(&first, &known.config(&tls, &[b"h2"]).expect("good")));
    std::fs::rename(&other.file, &root.file).expect("both are there");
    assert!(!Arc::ptr_eq(&first, &known.config(&tls, &[]).expect("good")));
    std::fs::write(&root.file, "nothing\n").expect("room");
    let broken = known.config(&tls, &[]).expect_err("no certificate");
    assert!(
        matches!(&broken, ProbeError::Local(why) if why.contains("no certificate")),
        "{broken}"
    );
    std::fs::remove_file(&root.file).expect("it was there");
    let gone = known.config(&tls, &[]).expect_err("no file");
    assert!(matches!(&gone, ProbeError::Local(why) if why.contains("cannot read")), "{gone}");
}
