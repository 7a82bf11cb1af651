//! Long downloads while the table changes each second: backends are drained, weighted, brought back,
//! added and removed, and not one connection breaks, in any mode.

use std::{
    fs::{self, File},
    io::Read,
    net::SocketAddr,
    os::unix::fs::symlink,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pen_tests::{
    ConfigText, Decap, Lab, Netns, Nginx, Pend, Protocol, ServiceText, VIP4, VIP6,
    link::xdp_mode,
    paths::Scratch,
    process::{run, run_ok},
    wait::pace,
};

use crate::stage::{WEB, WEB6, over_all, vips};

/// 100 MB, at a rate that makes a download last some changes.
const LENGTH: u64 = 100_000_000;
const RATE: &str = "12M";
/// Downloads at the same time over each family.
const PARALLEL: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A file of random bytes, with its checksum.
struct Payload {
    scratch: Scratch,
    sha256: String,
}

impl Payload {
    fn new() -> Self {
        let scratch = Scratch::new().unwrap();
        let path = scratch.file("payload");
        let mut random = File::open("/dev/urandom").unwrap().take(LENGTH);
        std::io::copy(&mut random, &mut File::create(&path).unwrap()).unwrap();
        let sum = run_ok(Command::new("sha256sum").arg(&path)).unwrap();
        Self { sha256: first_word(&sum), scratch }
    }

    /// An nginx on each backend that serves it.
    fn serve(&self, lab: &Lab) -> Vec<Nginx> {
        let serve = |backend: &pen_tests::Host| {
            let nginx = Nginx::start(&backend.netns, &backend.name, 80).unwrap();
            symlink(self.scratch.file("payload"), nginx.files().join("payload")).unwrap();
            nginx
        };
        lab.backends.iter().map(serve).collect()
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// One download with curl; its SHA-256, or curl's complaint.
fn download(client: &Netns, at: SocketAddr) -> Result<String, String> {
    let mut command = client.command("sh");
    let curl = "curl --silent --show-error --fail --globoff --noproxy '*' --limit-rate";
    command.arg("-c").arg(format!("{curl} {RATE} http://{at}/files/payload | sha256sum"));
    let output = run(&mut command, PATIENCE).map_err(|error| format!("{error:#}"))?;
    match output.stderr.trim_end() {
        "" => Ok(first_word(&output.stdout)),
        complaint => Err(complaint.to_owned()),
    }
}

/// What the operator does meanwhile, a step a second, over and over.
fn unrest(pend: &Pend, configs: &[String], over: &AtomicBool) -> usize {
    let mut steps = 0;
    while !over.load(Ordering::Relaxed) {
        let backend = ["b1", "b2", "b3"][steps / 4 % 3];
        for service in ["web", "web6"] {
            let name = format!("{service}/{backend}");
            let words: &[&str] = match steps % 4 {
                0 => &["drain", &name],
                1 => &["weight", &name, "3"],
                2 => &["ready", &name],
                _ => &["weight", &name, "1"],
            };
            let output = pend.penctl(words).unwrap();
            assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
        }
        pend.write_config(&configs[steps / 2 % configs.len()]).unwrap();
        let output = pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "penctl reload: {}", output.stderr);
        steps += 1;
        pace(Duration::from_secs(1));
    }
    steps
}

/// All downloads arrive intact, with XDP in the driver or in the stack; `prepare` does what the
/// mode asks of the lab.
fn downloads_survive(
    mode: &str,
    xdp: &str,
    builder: pen_tests::lab::Builder,
    prepare: impl FnOnce(&Lab),
) {
    let lab = builder.backends(4).build().unwrap();
    prepare(&lab);
    let payload = Payload::new();
    let _servers = payload.serve(&lab);
    let config = |backends: usize| -> ConfigText {
        let service = |name, at| {
            let mut service = over_all(&lab, name, at, Protocol::Tcp, 80);
            service.backends.truncate(backends);
            ServiceText { mode: mode.to_owned(), ..service }
        };
        let mut config = vips();
        xdp.clone_into(&mut config.interfaces[0].1);
        config.service(service("web", WEB)).service(service("web6", WEB6))
    };
    let mut pend = Pend::start(&lab.balancer().netns, &config(3)).unwrap();
    pend.wait_ready(2 * 3).unwrap();
    let shown = if xdp == "generic" { "xdpgeneric" } else { "xdp" };
    assert_eq!(xdp_mode(&lab.balancer().netns, "eth0").unwrap().as_deref(), Some(shown));
    let configs = [4, 3].map(|backends| config(backends).render(Some(pend.socket())));

    let over = AtomicBool::new(false);
    let client = &lab.client().netns;
    let sums: Vec<Result<String, String>> = thread::scope(|scope| {
        let unrest = scope.spawn(|| unrest(&pend, &configs, &over));
        let downloads: Vec<_> = [WEB, WEB6]
            .into_iter()
            .cycle()
            .take(2 * PARALLEL)
            .map(|at| scope.spawn(move || download(client, at)))
            .collect();
        let sums = downloads.into_iter().map(|download| download.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(unrest.join().unwrap() >= 4, "the table changed while they ran");
        sums
    });
    for sum in sums {
        assert_eq!(sum, Ok(payload.sha256.clone()), "mode {mode}");
    }
    drop(fs::remove_file(payload.scratch.file("payload")));
}

/// The balancer is the backends' router to the client, and they hold no virtual address.
fn route_back(lab: &Lab) {
    let (client, balancer) = (lab.client(), lab.balancer());
    forward(lab);
    for backend in &lab.backends {
        let ip = |command: &str| backend.netns.ip(command).unwrap();
        ip(&format!("route add {}/32 via {}", client.v4, balancer.v4));
        ip(&format!("-6 route add {}/128 via {}", client.v6, balancer.v6));
    }
}

fn forward(lab: &Lab) {
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.balancer().netns.sysctl(key, "1").unwrap();
    }
}

fn over_dsr(xdp: &str) {
    downloads_survive("dsr", xdp, Lab::builder().vips(&[VIP4, VIP6]), |_| {});
}

fn over_nat(xdp: &str) {
    downloads_survive("nat", xdp, Lab::builder().vips(&[]), route_back);
}

fn over_masquerade(xdp: &str) {
    downloads_survive("masquerade", xdp, Lab::builder().vips(&[]), forward);
}

/// Each backend takes the tunnels apart, whose outer addresses are the balancer's and its own.
fn through_tunnels(mode: &str, xdp: &str) {
    let mut ends = Vec::new();
    downloads_survive(mode, xdp, Lab::builder().vips(&[VIP4, VIP6]), |lab| {
        for backend in &lab.backends {
            ends.push(Decap::on(backend, &crate::tunnel::VIPS).unwrap());
        }
    });
}

#[test]
fn downloads_over_dsr_survive_all_changes_of_the_table() {
    over_dsr("native");
}

#[test]
fn downloads_over_nat_survive_all_changes_of_the_table() {
    over_nat("native");
}

#[test]
fn downloads_over_masquerade_survive_all_changes_of_the_table() {
    over_masquerade("native");
}

#[test]
fn downloads_over_ipip_survive_all_changes_of_the_table() {
    through_tunnels("ipip", "native");
}

#[test]
fn downloads_over_gue_survive_all_changes_of_the_table() {
    through_tunnels("gue", "native");
}

#[test]
fn in_generic_mode_downloads_over_dsr_survive_as_well() {
    over_dsr("generic");
}

#[test]
fn in_generic_mode_downloads_over_nat_survive_as_well() {
    over_nat("generic");
}

#[test]
fn in_generic_mode_downloads_over_masquerade_survive_as_well() {
    over_masquerade("generic");
}

#[test]
fn in_generic_mode_downloads_over_ipip_survive_as_well() {
    through_tunnels("ipip", "generic");
}

#[test]
fn in_generic_mode_downloads_over_gue_survive_as_well() {
    through_tunnels("gue", "generic");
}
