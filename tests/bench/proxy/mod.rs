//! `pen-bench proxy`: the userspace proxy beside others, in front of the same server, in a namespace
//! of their own. Rounds are interleaved: each measures everybody, so that what the machine does
//! meanwhile happens to all, and ratios are taken within a round. docs/bench-proxy.md describes it.

mod backend;
mod load;
mod peers;
mod report;
mod secure;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use pen_tests::Netns;
use pen_tests::paths::Scratch;
use pen_tests::wait::interrupted;

use self::backend::Backend;
use self::load::Window;
use self::peers::{Peer, Proxy};
use self::report::{Figure, Report};
use crate::account;
use crate::progress::Progress;
use crate::stats::percentile;

/// Descriptors: two for each idle connection here, and as many in a proxy, with room.
const DESCRIPTORS: u64 = 20_000;
/// Where the first of the proxies listens.
const PORT: u16 = 9000;
/// The same for those that are started for one measurement.
const FRESH: u16 = 9100;
/// The same for those at which TLS ends.
const SECURE: u16 = 9200;
/// Connections that a fresh proxy has seen before its memory is looked at.
const FIRST: u32 = 20;

#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Seconds for each case of each proxy in each round; requests take whole ones
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Rounds, each of which measures all proxies; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only cases whose name contains this: requests, connections, bulk, latency, idle, tls-full,
    /// tls-resumed, tls-bulk, tls-idle
    #[arg(long, default_value = "")]
    filter: String,
}

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Requests,
    Connections,
    Bulk,
    Latency,
    Idle,
    Full,
    Resumed,
    SecureBulk,
    SecureIdle,
}

impl Case {
    const ALL: [Self; 9] = [
        Self::Requests,
        Self::Connections,
        Self::Bulk,
        Self::Latency,
        Self::Idle,
        Self::Full,
        Self::Resumed,
        Self::SecureBulk,
        Self::SecureIdle,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Bulk => "bulk",
            Self::Latency => "latency",
            Self::Idle => "idle",
            Self::Full => "tls-full",
            Self::Resumed => "tls-resumed",
            Self::SecureBulk => "tls-bulk",
            Self::SecureIdle => "tls-idle",
        }
    }

    const fn is_secure(self) -> bool {
        match self {
            Self::Requests | Self::Connections | Self::Bulk | Self::Latency | Self::Idle => false,
            Self::Full | Self::Resumed | Self::SecureBulk | Self::SecureIdle => true,
        }
    }
}

/// Values by figure and proxy, one a round.
pub(crate) type Samples = BTreeMap<(Figure, Peer), Vec<f64>>;

/// All that runs for the whole time.
struct Stage {
    proxies: Vec<Proxy>,
    /// Those at which TLS ends.
    secure: Vec<Proxy>,
    certificate: PathBuf,
    _files: Scratch,
    backend: Backend,
    netns: Netns,
}

/// Measures, and prints what was found.
pub(crate) fn run(args: &ProxyArgs, progress: &mut Progress) -> Result<String> {
    let cases: Vec<Case> =
        Case::ALL.into_iter().filter(|case| case.name().contains(&args.filter)).collect();
    ensure!(!cases.is_empty(), "no case has `{}` in its name", args.filter);
    ensure!(args.rounds > 0, "--rounds 0: at least one");
    let seconds = args.seconds;
    ensure!(seconds > 0.0 && seconds <= 3600.0, "--seconds {seconds}: from 0.01 to 3600");
    account::allow_descriptors(DESCRIPTORS)?;
    progress.note("starting the proxies");
    let stage = Stage::new(&cases)?;
    let mut samples = Samples::new();
    for round in 1..=args.rounds {
        for case in &cases {
            let when = format!("round {round} of {}: {}", args.rounds, case.name());
            progress.part(&when);
            stage.measure(*case, round, seconds, &mut samples, &mut |peer| {
                progress.within(&format!("{when}, {peer}"));
            })?;
        }
    }
    progress.done();
    drop(stage);
    let (rounds, (kernel, cpu)) = (args.rounds, crate::report::Report::machine());
    let report = Report { kernel, cpu, rounds, seconds, samples };
    Ok(if args.json { format!("{:#}\n", report.json()) } else { report.text() })
}

impl Stage {
    fn new(cases: &[Case]) -> Result<Self> {
        let netns = Netns::new("bench")?;
        // Tens of thousands of short connections a second use up ports: all that there are, and those
        // of ended connections again.
        netns.sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
        netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let backend = Backend::start(&netns)?;
        let files = Scratch::new()?;
        let certificate = secure::certificate(files.path())?;
        let start = |peers: &[Peer], port, wanted: bool, tls| -> Result<Vec<Proxy>> {
            let peers = if wanted { peers } else { &[] };
            let start = |(peer, port)| Proxy::start(&netns, peer, port, backend.address, tls);
            peers.iter().copied().zip(port..).map(start).collect()
        };
        let in_the_open = cases.iter().any(|case| !case.is_secure());
        let proxies = start(&Peer::ALL, PORT, in_the_open, None)?;
        let with_tls = cases.iter().any(|case| case.is_secure());
        let secure = start(&Peer::SECURE, SECURE, with_tls, Some(certificate.as_path()))?;
        Ok(Self { proxies, secure, certificate, _files: files, backend, netns })
    }

    /// One case of a round, of all proxies.
    fn measure(
        &self,
        case: Case,
        round: usize,
        seconds: f64,
        samples: &mut Samples,
        begins: &mut dyn FnMut(&str),
    ) -> Result<()> {
        // Nobody is always the first.
        let proxies = if case.is_secure() { &self.secure } else { &self.proxies };
        let first = round % proxies.len();
        for proxy in proxies[first..].iter().chain(&proxies[..first]) {
            let name = proxy.peer.name();
            begins(name);
            let found = match case {
                Case::Idle | Case::SecureIdle => self.idle(case, proxy.peer),
                Case::Latency => self.latency(proxy, seconds),
                Case::Requests | Case::Connections | Case::Bulk => self.rate(case, proxy, seconds),
                Case::Full | Case::Resumed | Case::SecureBulk => {
                    self.secure_rate(case, proxy, seconds)
                }
            };
            if interrupted() {
                bail!("interrupted");
            }
            for (figure, value) in found.with_context(|| format!("{}, {name}", case.name()))? {
                samples.entry((figure, proxy.peer)).or_default().push(value);
            }
        }
        Ok(())
    }

    fn rate(&self, case: Case, proxy: &Proxy, seconds: f64) -> Result<Vec<(Figure, f64)>> {
        let (netns, to, books) = (&self.netns, proxy.address, || proxy.cpu());
        Ok(match case {
            Case::Requests => {
                let window = load::requests(netns, to, seconds, &books)?;
                let (rate, each) = (per_time(window), per_cpu(window));
                vec![(Figure::Requests, rate), (Figure::RequestsPerCpu, each)]
            }
            Case::Connections => {
                let window = load::connections(netns, to, seconds, &books)?;
                let (rate, each) = (per_time(window), per_cpu(window));
                vec![(Figure::Connections, rate), (Figure::ConnectionsPerCpu, each)]
            }
            _ => {
                let window = load::bulk(netns, to, seconds, &books)?;
                let (rate, each) = (per_time(window) / 1e9, 1e9 / per_cpu(window));
                vec![(Figure::Bulk, rate), (Figure::CpuPerGigabyte, each)]
            }
        })
    }

    fn secure_rate(&self, case: Case, proxy: &Proxy, seconds: f64) -> Result<Vec<(Figure, f64)>> {
        let (netns, to, books) = (&self.netns, proxy.address, || proxy.cpu());
        if case == Case::SecureBulk {
            let window = load::secure_bulk(netns, to, seconds, &books)?;
            let (rate, each) = (per_time(window) / 1e9, 1e9 / per_cpu(window));
            return Ok(vec![(Figure::SecureBulk, rate), (Figure::SecureCpuPerGigabyte, each)]);
        }
        let resume = case == Case::Resumed;
        let window = load::handshakes(netns, to, seconds, &books, resume)?;
        let (rate, each) = (per_time(window), per_cpu(window));
        Ok(match resume {
            false => vec![(Figure::Full, rate), (Figure::FullPerCpu, each)],
            true => vec![(Figure::Resumed, rate), (Figure::ResumedPerCpu, each)],
        })
    }

    fn latency(&self, proxy: &Proxy, seconds: f64) -> Result<Vec<(Figure, f64)>> {
        let [direct, proxied] =
            load::latencies(&self.netns, self.backend.address, proxy.address, seconds)?;
        let added = |part| {
            let (with, without) = (percentile(&proxied, part), percentile(&direct, part));
            with.zip(without).map(|(with, without)| with - without).context("no request")
        };
        Ok(vec![(Figure::MedianLatency, added(0.5)?), (Figure::TailLatency, added(0.99)?)])
    }

    /// By a proxy that was just started: one that has had many connections has memory to give to new
    /// ones.
    fn idle(&self, case: Case, peer: Peer) -> Result<Vec<(Figure, f64)>> {
        let (figure, count, certificate) = match case.is_secure() {
            false => (Figure::IdleMemory, load::IDLE, None),
            true => (Figure::SecureIdleMemory, load::IDLE_TLS, Some(self.certificate.as_path())),
        };
        let settings = certificate.map(|_| secure::settings(false)).transpose()?;
        let backend = self.backend.address;
        let proxy = Proxy::start(&self.netns, peer, FRESH, backend, certificate)?;
        let open = |count| {
            load::idle(&self.netns, proxy.address, count, settings.as_ref(), || proxy.memory())
        };
        let (before, with) = (open(FIRST)?, open(count)?);
        Ok(vec![(figure, (with - before) / f64::from(count))])
    }
}

fn per_time(window: Window) -> f64 {
    window.done / window.time.as_secs_f64()
}

fn per_cpu(window: Window) -> f64 {
    // A clock tick at least: of a very short window the books say nothing.
    window.done / window.cpu.as_secs_f64().max(0.01)
}
