//! The proxies that are compared, each with settings that mean the same: TCP, one server without
//! checks, no log, two threads or processes where there is a choice, splice(2) where there is one. TLS
//! ends at those that have it, with tickets, as each does unless it is told otherwise.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pen_tests::paths::Scratch;
use pen_tests::{ConfigText, Netns, Pend, Process, Protocol, ServiceText, wait_until};

use crate::account;

/// How long one may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// Ours.
    Pen,
    /// What ours is measured by.
    Haproxy,
    /// Its stream module.
    Nginx,
    /// The program whose name ours has, Debian's package `pen`. One thread.
    Ancestor,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Pen, Self::Haproxy, Self::Nginx, Self::Ancestor];

    /// Those at which TLS can end.
    pub(crate) const SECURE: [Self; 3] = [Self::Pen, Self::Haproxy, Self::Nginx];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pen => "pen",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Ancestor => "ancestor",
        }
    }
}

/// A proxy that runs; dropping it ends it.
pub(crate) struct Proxy {
    pub(crate) peer: Peer,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    runs: Runs,
    _files: Scratch,
}

enum Runs {
    Pend(Box<Pend>),
    Other(Process),
}

impl Proxy {
    /// With a certificate, and its key in the same file, TLS ends at it.
    pub(crate) fn start(
        netns: &Netns,
        peer: Peer,
        port: u16,
        backend: SocketAddr,
        certificate: Option<&Path>,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let files = Scratch::new()?;
        let config = files.file("config");
        let mut command = match peer {
            Peer::Pen => {
                let mut pend = Pend::start(netns, &pen(address, backend, certificate))?;
                pend.wait_ready(1)?;
                let runs = Runs::Pend(Box::new(pend));
                return Ok(Self { peer, address, runs, _files: files });
            }
            Peer::Haproxy => {
                fs::write(&config, haproxy(address, backend, certificate))?;
                let mut command = netns.command("haproxy");
                command.arg("-db").arg("-f").arg(&config);
                command
            }
            Peer::Nginx => {
                let folder = files.path().display();
                let text = nginx(&folder.to_string(), address, backend, certificate);
                fs::write(&config, text)?;
                let mut command = netns.command("nginx");
                command.arg("-c").arg(&config).arg("-p").arg(files.path());
                command
            }
            Peer::Ancestor => {
                let mut command = netns.command("pen");
                command.args(["-f", "-r", "-x", "8000", "-c", "8000"]);
                command.arg(address.to_string()).arg(backend.to_string());
                command
            }
        };
        command.current_dir(files.path());
        let mut process = Process::start(peer.name(), command, &files.file("log"))?;
        let accepts = wait_until(PATIENCE, "the first connection", || {
            let alive = process.is_running();
            let connected = alive.then(|| netns.run(|| TcpStream::connect(address)).ok());
            connected.is_none_or(|connected| connected.is_some()).then_some(alive)
        });
        let context = || format!("{} does not run:\n{}", peer.name(), process.log());
        anyhow::ensure!(accepts.with_context(context)?, context());
        Ok(Self { peer, address, runs: Runs::Other(process), _files: files })
    }

    fn pid(&self) -> Result<u32> {
        match &self.runs {
            Runs::Pend(pend) => pend.pid().context("pend has ended"),
            Runs::Other(process) => Ok(process.pid()),
        }
    }

    /// Processor time that it has had.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        account::cpu(self.pid()?)
    }

    /// Bytes of its userspace memory.
    pub(crate) fn memory(&self) -> Result<f64> {
        account::memory(self.pid()?)
    }
}

fn pen(address: SocketAddr, backend: SocketAddr, certificate: Option<&Path>) -> ConfigText {
    let tls = certificate.map_or_else(String::new, |file| {
        format!("\ntls = {{ certificates = [{{ chain = \"{}\" }}] }}", file.display())
    });
    let service = ServiceText {
        mode: "proxy".to_owned(),
        backends: vec![(Some("server".to_owned()), backend)],
        check: Some(r#"{ type = "none" }"#.to_owned()),
        keys: format!("scheduler = \"roundrobin\"{tls}"),
        ..ServiceText::dsr("bench", address, Protocol::Tcp, backend.port())
    };
    ConfigText::default().service(service)
}

fn haproxy(address: SocketAddr, backend: SocketAddr, certificate: Option<&Path>) -> String {
    let tls = certificate.map_or_else(String::new, |file| format!(" ssl crt {}", file.display()));
    format!(
        "global\n    nbthread 2\n    maxconn 7000\n\
         defaults\n    mode tcp\n    option splice-auto\n    timeout connect 3s\n    \
         timeout client 5m\n    timeout server 5m\n\
         listen bench\n    bind {address}{tls}\n    server server {backend}\n"
    )
}

fn nginx(
    folder: &str,
    address: SocketAddr,
    backend: SocketAddr,
    certificate: Option<&Path>,
) -> String {
    let (ssl, files) = certificate.map_or_else(Default::default, |file| {
        let file = file.display();
        let files = format!(
            "        ssl_certificate {file};\n        ssl_certificate_key {file};\n        \
             ssl_protocols TLSv1.2 TLSv1.3;\n"
        );
        (" ssl", files)
    });
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         user root;\ndaemon off;\nworker_processes 2;\npid {folder}/pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 18000; }}\n\
         stream {{\n    server {{\n        listen {address}{ssl} reuseport;\n{files}        \
         proxy_connect_timeout 3s;\n        proxy_timeout 5m;\n        proxy_pass {backend};\n    }}\n}}\n"
    )
}
