//! TLS that ends at the proxy, with real clients: openssl, curl, and rustls where a test needs to say
//! what is sent when. Certificates are made by openssl, for each test its own.

mod clients;
mod crowd;
mod ends;
mod files;
mod passthrough;
mod refusals;
mod responder;
mod resume;
mod serve;
mod servers;
mod servers_faults;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use pen_tests::{
    ConfigText, Lab, Netns, Output, Pend, VIP4, VIP6,
    paths::Scratch,
    process::{run, run_ok},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::{
    proxy::{LONG, connect, proxied, start},
    stage::vips,
};

pub(crate) const SITE: SocketAddr = SocketAddr::new(VIP4, 443);
pub(crate) const SITE6: SocketAddr = SocketAddr::new(VIP6, 443);

/// An authority, and the certificates that it gives, in a folder.
pub(crate) struct Pki {
    pub(crate) scratch: Scratch,
}

impl Pki {
    /// With an authority `root`, and `inter`, which signs for it.
    pub(crate) fn new() -> Self {
        let pki = Self { scratch: Scratch::new().unwrap() };
        pki.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=root \
             -keyout root.key -out root.pem",
        );
        pki.write("ca.ext", "basicConstraints=critical,CA:true\n");
        pki.sign("inter", "root", "ca.ext");
        pki
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.scratch.file(name);
        std::fs::write(&file, content).unwrap();
        file
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.file(name)).unwrap()
    }

    /// Runs openssl in the folder.
    pub(crate) fn openssl(&self, words: &str) -> String {
        let mut command = Command::new("openssl");
        command.args(words.split_whitespace()).current_dir(self.scratch.path());
        run_ok(&mut command).unwrap()
    }

    /// A key, and a certificate with these extensions by somebody.
    fn sign(&self, name: &str, by: &str, extensions: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout \
             {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 30 \
             -extfile {extensions} -out {name}.pem"
        ));
    }

    /// `NAME.pem`, with the chain, and `NAME.key` for these host names.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        let text = format!("subjectAltName={}\n", hosts.join(","));
        self.write(&format!("{name}.ext"), text);
        self.sign(name, "inter", &format!("{name}.ext"));
        let chain = self.read(&format!("{name}.pem")) + &self.read("inter.pem");
        self.write(&format!("{name}.pem"), chain);
    }

    /// `certificates = [...]` of these, with the quotes.
    pub(crate) fn list(&self, names: &[&str]) -> String {
        let folder = self.scratch.path().display();
        let one = |name: &&str| {
            format!(r#"{{ chain = "{folder}/{name}.pem", key = "{folder}/{name}.key" }}"#)
        };
        let all: Vec<String> = names.iter().map(one).collect();
        format!("certificates = [{}]", all.join(", "))
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.scratch.file(name).display().to_string()
    }

    /// What openssl as a client says, with these arguments besides those that check the certificate,
    /// and with this input.
    pub(crate) fn s_client(&self, netns: &Netns, at: SocketAddr, words: &str) -> Output {
        let mut command = netns.command("openssl");
        command.args(["s_client", "-connect", &at.to_string(), "-CAfile", &self.file("root.pem")]);
        command.args(words.split_whitespace()).current_dir(self.scratch.path());
        command.stdin(std::process::Stdio::null());
        run(&mut command, LONG).unwrap()
    }

    /// Settings of a client that knows the authority.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_as(None)
    }

    /// The same, and shows a certificate.
    pub(crate) fn client_as(&self, name: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(self.scratch.file("root.pem")).unwrap();
        roots.add(root).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let Some(name) = name else { return builder.with_no_client_auth() };
        let chain = self.scratch.file(&format!("{name}.pem"));
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(chain).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.scratch.file(&format!("{name}.key"))).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    }
}

/// A certificate by the authority itself, for one host name, that is valid from one time to another, as
/// openssl writes times.
pub(crate) fn dated(pki: &Pki, name: &str, host: &str, [begin, end]: [&str; 2]) {
    pki.openssl(&format!(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout \
         {name}.key -out {name}.csr"
    ));
    pki.write("ca.txt", "");
    pki.write("ca.cnf", format!(
        "[ca]\ndefault_ca=it\n[it]\ndatabase=ca.txt\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n\
         rand_serial=yes\nx509_extensions=ext\n[any]\ncommonName=supplied\n[ext]\n\
         subjectAltName=DNS:{host}\n"
    ));
    pki.openssl(&format!(
        "ca -batch -config ca.cnf -cert root.pem -keyfile root.key -startdate {begin} -enddate {end} \
         -notext -in {name}.csr -out {name}.pem"
    ));
}

/// A client's connection with TLS.
pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Connects, and agrees upon TLS.
pub(crate) fn secure(
    netns: &Netns,
    at: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<Secure> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = StreamOwned::new(tls, connect(netns, at)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Says that nothing more comes, and reads to the end.
pub(crate) fn finish(stream: &mut Secure) -> io::Result<Vec<u8>> {
    stream.conn.send_close_notify();
    stream.flush()?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(rest)
}

/// A proxied service with TLS over all backends, whose servers the test plays, with these keys of
/// `tls` and these of the service.
pub(crate) fn site(lab: &Lab, tls: &str, keys: &str) -> ConfigText {
    let one = |name, at| {
        let mut service = proxied(lab, name, at, &format!("tls = {{ {tls} }}\n{keys}"));
        for (_, backend) in &mut service.backends {
            backend.set_port(80);
        }
        service.check = Some(r#"{ type = "none" }"#.to_owned());
        service
    };
    vips().service(one("site", SITE)).service(one("site6", SITE6))
}

/// pend with [`site`].
pub(crate) fn serve(lab: &Lab, tls: &str, keys: &str) -> Pend {
    start(lab, &site(lab, tls, keys))
}
