//! `pen-bench health`: what it costs to ask many servers each second whether they are well, beside
//! haproxy, and whether the questions come in time. All in one namespace, over loopback.
//! docs/bench-health.md describes it.

mod peers;
mod report;
mod target;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use pen_tests::wait::{Stopwatch, interrupted, pace};
use pen_tests::{Netns, wait_until};

use self::peers::{Peer, Running};
use self::report::{Figure, Report};
use self::target::Target;
use crate::account;
use crate::progress::Progress;
use crate::stats::percentile;

/// Descriptors: one for each check under way, at both ends, with room.
const DESCRIPTORS: u64 = 20_000;
/// How long all servers may take to have been asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Each server is asked so often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct HealthArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Seconds for each case of each program in each round
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Rounds, each of which measures all programs; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only cases whose name contains this: tcp-1000, http-1000, tcp-5000
    #[arg(long, default_value = "")]
    filter: String,
}

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Tcp,
    Http,
    Many,
}

impl Case {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Http, Self::Many];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp-1000",
            Self::Http => "http-1000",
            Self::Many => "tcp-5000",
        }
    }

    pub(crate) const fn servers(self) -> u32 {
        match self {
            Self::Tcp | Self::Http => 1000,
            Self::Many => 5000,
        }
    }
}

/// Values by case, figure and program, one a round.
pub(crate) type Samples = BTreeMap<(Case, Figure, Peer), Vec<f64>>;

/// Measures, and prints what was found.
pub(crate) fn run(args: &HealthArgs, progress: &mut Progress) -> Result<String> {
    let cases: Vec<Case> =
        Case::ALL.into_iter().filter(|case| case.name().contains(&args.filter)).collect();
    ensure!(!cases.is_empty(), "no case has `{}` in its name", args.filter);
    ensure!(args.rounds > 0, "--rounds 0: at least one");
    let seconds = args.seconds;
    ensure!((2.5..=3600.0).contains(&seconds), "--seconds {seconds}: from 2.5 to 3600");
    account::allow_descriptors(DESCRIPTORS)?;
    let netns = Netns::new("bench")?;
    let target = Target::start(&netns)?;
    let mut samples = Samples::new();
    for round in 1..=args.rounds {
        for case in &cases {
            let when = format!("round {round} of {}: {}", args.rounds, case.name());
            progress.part(&when);
            // Nobody is always the first.
            let mut peers = Peer::ALL;
            peers.rotate_left(round % Peer::ALL.len());
            for peer in peers {
                progress.within(&format!("{when}, {}", peer.name()));
                let found = measure(&netns, &target, *case, peer, seconds);
                if interrupted() {
                    bail!("interrupted");
                }
                let found = found.with_context(|| format!("{}, {}", case.name(), peer.name()))?;
                for (figure, value) in found {
                    samples.entry((*case, figure, peer)).or_default().push(value);
                }
            }
        }
    }
    progress.done();
    let (rounds, (kernel, cpu)) = (args.rounds, crate::report::Report::machine());
    let report = Report { kernel, cpu, rounds, seconds, samples };
    Ok(if args.json { format!("{:#}\n", report.json()) } else { report.text() })
}

/// One case of one program, which was started for it.
fn measure(
    netns: &Netns,
    target: &Target,
    case: Case,
    peer: Peer,
    seconds: f64,
) -> Result<Vec<(Figure, f64)>> {
    target.forget();
    let running = Running::start(netns, peer, case, target.port)?;
    // Until then programs may ask faster, and have much to note.
    let seen = peer.is_seen(case);
    let begun = Stopwatch::start();
    wait_until(PATIENCE, "two checks of every server", || {
        let settled = if seen {
            target.asked(2) >= case.servers() as usize
        } else {
            begun.elapsed() >= 3 * INTERVAL
        };
        (settled || interrupted()).then_some(())
    })?;
    let halves = [half(target, &running, seconds)?, half(target, &running, seconds)?];
    let sum = |of: fn(&Half) -> Duration| halves.iter().map(of).sum::<Duration>().as_secs_f64();
    let (cpu, time) = (sum(|half| half.cpu), sum(|half| half.time));
    let core = (Figure::Core, 100.0 * cpu / time);
    if !seen {
        let checks = f64::from(case.servers()) * time / INTERVAL.as_secs_f64();
        return Ok(vec![core, (Figure::Each, 1e6 * cpu / checks)]);
    }
    let checks: usize = halves.iter().map(|half| half.late.len()).sum();
    let late = |half: &Half| percentile(&half.late, 0.99).context("no check came");
    let [first, second] = [late(&halves[0])?, late(&halves[1])?];
    #[expect(clippy::cast_precision_loss, reason = "there are fewer")]
    let checks = checks as f64;
    Ok(vec![
        core,
        (Figure::Checks, checks / time),
        (Figure::Each, 1e6 * cpu / checks),
        (Figure::Late, first),
        (Figure::LateLater, second),
    ])
}

/// Half of the time of one measurement.
struct Half {
    /// How late each check was, as [`Target::take`] has it.
    late: Vec<f64>,
    cpu: Duration,
    time: Duration,
}

fn half(target: &Target, running: &Running, seconds: f64) -> Result<Half> {
    target.take();
    let (before, watch) = (running.cpu()?, Stopwatch::start());
    while watch.elapsed().as_secs_f64() < seconds / 2.0 && !interrupted() {
        pace(Duration::from_millis(50));
    }
    let (late, time) = (target.take(), watch.elapsed());
    Ok(Half { late, cpu: running.cpu()?.saturating_sub(before), time })
}
