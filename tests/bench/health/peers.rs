//! The programs that are compared, each of which asks the same servers as often.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pen_tests::paths::Scratch;
use pen_tests::{ConfigText, Netns, Pend, Process, Protocol, ServiceText};

use super::Case;
use crate::account;

/// Where the first service of either listens.
const PORT: u16 = 9000;
/// Servers of one service.
const EACH: u32 = 500;

/// A program that checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// Ours.
    Pen,
    /// What ours is measured by.
    Haproxy,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Pen, Self::Haproxy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pen => "pen",
            Self::Haproxy => "haproxy",
        }
    }

    /// Whether servers see that they are asked: haproxy resets a connection that is a check by TCP
    /// before the handshake is complete.
    pub(crate) fn is_seen(self, case: Case) -> bool {
        self == Self::Pen || case == Case::Http
    }
}

/// One that runs; dropping it ends it.
pub(crate) struct Running {
    runs: Runs,
    _files: Scratch,
}

enum Runs {
    Pend(Box<Pend>),
    Other(Process),
}

impl Running {
    pub(crate) fn start(netns: &Netns, peer: Peer, case: Case, port: u16) -> Result<Self> {
        let files = Scratch::new()?;
        let runs = match peer {
            Peer::Pen => Runs::Pend(Box::new(Pend::start(netns, &pen(case, port))?)),
            Peer::Haproxy => {
                let config = files.file("config");
                fs::write(&config, haproxy(case, port))?;
                let mut command = netns.command("haproxy");
                command.arg("-db").arg("-f").arg(&config).current_dir(files.path());
                let mut process = Process::start("haproxy", command, &files.file("log"))?;
                ensure!(process.is_running(), "haproxy does not run:\n{}", process.log());
                Runs::Other(process)
            }
        };
        Ok(Self { runs, _files: files })
    }

    /// Processor time that it has had.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        account::cpu(match &self.runs {
            Runs::Pend(pend) => pend.pid().context("pend has ended")?,
            Runs::Other(process) => process.pid(),
        })
    }
}

/// Servers of each service: name and address.
fn services(case: Case, port: u16) -> Vec<Vec<(String, SocketAddr)>> {
    let all: Vec<_> = (0..case.servers())
        .map(|number| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number);
            (format!("s{number}"), SocketAddr::from((address, port)))
        })
        .collect();
    all.chunks(EACH as usize).map(<[_]>::to_vec).collect()
}

fn pen(case: Case, port: u16) -> ConfigText {
    let check = match case {
        Case::Tcp | Case::Many => r#"{ type = "tcp", interval = "1s" }"#,
        Case::Http => r#"{ type = "http", interval = "1s" }"#,
    };
    let mut config = ConfigText::default();
    for (servers, listen) in services(case, port).into_iter().zip(PORT..) {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, listen));
        config = config.service(ServiceText {
            mode: "proxy".to_owned(),
            backends: servers.into_iter().map(|(name, at)| (Some(name), at)).collect(),
            check: Some(check.to_owned()),
            keys: r#"scheduler = "roundrobin""#.to_owned(),
            ..ServiceText::dsr(&format!("s{listen}"), at, Protocol::Tcp, port)
        });
    }
    config
}

fn haproxy(case: Case, port: u16) -> String {
    let mut text = "global\n    nbthread 2\n    maxconn 2000\n\
         defaults\n    mode tcp\n    timeout connect 3s\n    timeout client 5m\n    timeout server 5m\n"
        .to_owned();
    for (servers, listen) in services(case, port).into_iter().zip(PORT..) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "listen s{listen}\n    bind 127.0.0.1:{listen}");
        if case == Case::Http {
            text += "    option httpchk GET /\n";
        }
        for (name, at) in servers {
            let _ = writeln!(text, "    server {name} {at} check inter 1s");
        }
    }
    text
}
