//! nginx as a backend: what most people put behind a balancer.
//!
//! Answers its name at `/`, at `/peer` the address of who asks, and files of its folder below `/files/` (for bulk transfers, slow
//! readers and half-close).

use std::path::PathBuf;

use anyhow::Result;

use super::{wait_for_answer, write};
use crate::{netns::Netns, paths::Scratch, process::Process};

/// A running nginx; ends on drop.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    scratch: Scratch,
}

impl Nginx {
    /// Starts it on all addresses at `port`; on return it answers.
    pub fn start(netns: &Netns, name: &str, port: u16) -> Result<Self> {
        Self::start_on(netns, name, &[format!("0.0.0.0:{port}"), format!("[::]:{port}")], port)
    }

    /// Starts it on the given `listen` values (`10.77.0.100:80`, `[::]:443`); it must answer at
    /// 127.0.0.1:`probed`.
    pub fn start_on(netns: &Netns, name: &str, listens: &[String], probed: u16) -> Result<Self> {
        let scratch = Scratch::new()?;
        std::fs::create_dir(scratch.file("files"))?;
        let config = scratch.file("nginx.conf");
        write(&config, &configuration(&scratch, name, listens))?;
        let mut command = netns.command("nginx");
        command.arg("-c").arg(&config).arg("-p").arg(scratch.path());
        command.arg("-e").arg(scratch.file("error.log"));
        let mut process = Process::start(name, command, &scratch.file("log"))?;
        wait_for_answer(&mut process, netns, probed)?;
        Ok(Self { process, scratch })
    }

    /// Starts it on all addresses at `port`, with TLS and this certificate (PEM files of the chain and
    /// the key); `more` are options of `listen`.
    pub fn secure(
        netns: &Netns,
        name: &str,
        port: u16,
        (chain, key): (&str, &str),
        more: &str,
    ) -> Result<Self> {
        let options = format!(
            "ssl {more};\n        ssl_certificate {chain};\n        ssl_certificate_key {key}"
        );
        Self::start_on(netns, name, &[format!("{port} {options}")], port)
    }

    /// The folder served below `/files/`.
    pub fn files(&self) -> PathBuf {
        self.scratch.file("files")
    }

    /// The process behind it, to be killed for instance.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn configuration(scratch: &Scratch, name: &str, listens: &[String]) -> String {
    let dir = scratch.path().display();
    let listens: String =
        listens.iter().map(|listen| format!("        listen {listen};\n")).collect();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {dir}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
{listens}        root {dir};
        location = / {{ return 200 "{name}\n"; }}
        location = /peer {{ return 200 "$remote_addr\n"; }}
        location /files/ {{ }}
    }}
}}
"#
    )
}
