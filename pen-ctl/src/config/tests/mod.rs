//! Tests of the configuration as a whole: text in; a [`Config`] or the lines that an operator reads
//! out. The machine is a fake one.

/// A service that is fine but for what the snippet says.
macro_rules! web {
    ($listen:literal, $rest:literal) => {
        concat!("[[service]]\nname = \"web\"\nlisten = \"", $listen, "\"\n", $rest)
    };
}

/// A group called `main`, with more keys from line 5 on, and its address.
macro_rules! carp {
    ($keys:literal) => {
        concat!(
            "[[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\n",
            $keys,
            "\n[[vip]]\naddress = \"192.0.2.20\"\ninterface = \"eth0\"\ncarp = \"main\""
        )
    };
}

mod accepted;
mod carp;
mod carp_cases;
mod checks;
mod errors;
mod files;
mod general_cases;
mod notify;
mod random;
mod service_cases;
mod tls;
mod unix;

use std::io;
use std::path::Path;

use crate::config::{
    CertificateFiles, Config, ConfigError, FileFault, FileProblem, Ports, SecretFile, Source,
    System, parse,
};

/// A machine with two interfaces and a few secrets, good and bad.
pub(super) struct FakeSystem {
    pub(super) host_name: io::Result<&'static str>,
    pub(super) interfaces: &'static [&'static str],
    pub(super) local_ports: Option<Ports>,
    /// Every path is a program.
    pub(super) any_script: bool,
}

impl FakeSystem {
    pub(super) const fn new() -> Self {
        Self {
            host_name: Ok("edge1"),
            interfaces: &["lo", "eth0", "eth1"],
            local_ports: Some(Ports { first: 32768, last: 60999 }),
            any_script: false,
        }
    }
}

const SECRET: &str = "00112233445566778899aabbccddeeff\n";

impl System for FakeSystem {
    fn host_name(&self) -> io::Result<String> {
        match &self.host_name {
            Ok(name) => Ok((*name).to_owned()),
            Err(error) => Err(io::Error::from(error.kind())),
        }
    }

    fn interfaces(&self) -> Vec<String> {
        self.interfaces.iter().map(|name| (*name).to_owned()).collect()
    }

    fn secret(&self, path: &Path) -> io::Result<SecretFile> {
        let file = |mode, content: &str| SecretFile {
            regular: true,
            mode,
            content: content.as_bytes().to_vec(),
        };
        match path.to_str().unwrap() {
            "/etc/pen/good.key" => Ok(file(0o600, SECRET)),
            "/etc/pen/bare.key" => Ok(file(0o400, SECRET.trim())),
            "/etc/pen/open.key" => Ok(file(0o640, SECRET)),
            "/etc/pen/short.key" => Ok(file(0o600, "0011\n")),
            "/etc/pen/sign.key" => Ok(file(0o600, "+0112233445566778899aabbccddeeff")),
            "/etc/pen/love" => Ok(file(0o600, "love\nand more\n")),
            "/etc/pen/nothing" => Ok(file(0o600, "\n")),
            "/etc/pen/cr" => Ok(file(0o644, "love\r\n")),
            "/etc/pen/20-bytes" => Ok(file(0o600, "twenty bytes, no les")),
            "/etc/pen/21-bytes" => Ok(file(0o600, "twenty-one bytes, no ")),
            "/etc/pen/31-bytes" => Ok(file(0o600, "0123456789012345678901234567890\n")),
            "/etc/pen/32-bytes" => Ok(file(0o600, "01234567890123456789012345678901\r\n")),
            "/etc/pen/64-bytes" => Ok(file(0o600, &format!("{}\n", SECRET.trim().repeat(2)))),
            "/etc/pen/folder" => Ok(SecretFile { regular: false, ..file(0o700, "") }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn runnable(&self, path: &Path) -> io::Result<()> {
        match path.to_str().unwrap() {
            _ if self.any_script => Ok(()),
            "/etc/pen/up.sh" | "/etc/pen/down.sh" => Ok(()),
            "/etc/pen/text" => Err(io::Error::other("not executable")),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn user_exists(&self, name: &str) -> bool {
        ["root", "app"].contains(&name)
    }

    fn group_exists(&self, name: &str) -> bool {
        ["root", "www"].contains(&name)
    }

    fn local_ports(&self) -> io::Result<Ports> {
        self.local_ports.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), FileProblem> {
        let bad = |file: &Path, fault| Err(FileProblem { file: file.to_owned(), fault });
        match (files.chain.to_str().unwrap(), files.key.to_str().unwrap()) {
            ("/etc/pen/site.pem", "/etc/pen/site.key" | "/etc/pen/site.pem") => {}
            ("/etc/pen/site.pem", "/etc/pen/open.key") => {
                return bad(&files.key, FileFault::KeyOpen { mode: 0o644 });
            }
            ("/etc/pen/site.pem", _) => {
                return bad(&files.key, FileFault::KeyOfAnother { chain: files.chain.clone() });
            }
            _ => return bad(&files.chain, FileFault::NoCertificate),
        }
        match &files.ocsp {
            Some(file) if file != "/etc/pen/site.ocsp" => bad(file, FileFault::NotOcsp),
            _ => Ok(()),
        }
    }

    fn authorities(&self, ca: &Path, crl: Option<&Path>) -> Result<(), FileProblem> {
        let bad = |file: &Path, fault| Err(FileProblem { file: file.to_owned(), fault });
        match crl {
            _ if ca != "/etc/pen/ca.pem" => bad(ca, FileFault::NoCertificate),
            Some(crl) if crl != "/etc/pen/ca.crl" => bad(crl, FileFault::NoCrl),
            _ => Ok(()),
        }
    }

    fn server_authorities(&self, ca: Option<&Path>) -> Result<(), FileProblem> {
        ca.map_or(Ok(()), |ca| self.authorities(ca, None))
    }
}

/// An interface and a VIP of each family, put behind a snippet so that its lines count from 1.
const BASE: &str = r#"
[[interface]]
name = "eth0"
[[vip]]
address = "192.0.2.10"
interface = "eth0"
[[vip]]
address = "2001:db8::10"
interface = "eth0"
"#;

/// Parses files called 0.toml, 1.toml, ...
fn parse_all(texts: &[&str]) -> Result<Config, Vec<ConfigError>> {
    let source = |(number, text): (usize, &&str)| Source {
        name: format!("/etc/pen/{number}.toml").into(),
        text: (*text).to_owned(),
    };
    let sources: Vec<_> = texts.iter().enumerate().map(source).collect();
    parse(&sources, &FakeSystem::new())
}

/// Parses a snippet with [`BASE`] behind it.
fn parse_with_base(snippet: &str) -> Result<Config, Vec<ConfigError>> {
    parse_all(&[&format!("{snippet}{BASE}")])
}

/// The errors as `LINE:COL: message`, with the file's name only where another place is named.
fn lines(errors: &[ConfigError]) -> Vec<String> {
    let line = |error: &ConfigError| {
        let text = error.to_string();
        text.strip_prefix("/etc/pen/0.toml:").unwrap_or(&text).to_owned()
    };
    errors.iter().map(line).collect()
}
