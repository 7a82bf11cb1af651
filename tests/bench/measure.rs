//! Rounds of runs: in each round every case once, A B A B, so that whatever else the machine does
//! meets all of them alike; what is reported is the median over the rounds, of differences and
//! ratios within a round.

use anyhow::{Context as _, Result};
use pen_common::bench::Template;

use crate::cases::Case;
use crate::progress::Progress;
use crate::rig::{Lane, Rig, Run};
use crate::stats::{median, spread};

/// Frames of the run that finds out how fast a case is.
const PROBE: u32 = 50_000;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Numbers of flows.
    pub(crate) flows: Vec<u32>,
    pub(crate) rounds: u32,
    /// Seconds for each case at each number of flows, all rounds together.
    pub(crate) seconds: f64,
}

/// One case in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Millions of frames per second, without the kernel's statistics.
    mpps: f64,
    /// Nanoseconds in the program, with them.
    inside: f64,
}

/// What is reported of one case at one number of flows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) case: &'static str,
    pub(crate) flows: u32,
    /// Nanoseconds per frame in the program, the measurement's own cost included.
    pub(crate) inside: f64,
    /// The same without what the empty program took in the same round.
    pub(crate) net: f64,
    /// Millions of frames per second through the whole rig.
    pub(crate) mpps: f64,
    /// Rate as a part of that of the program that it is compared with.
    pub(crate) ratio: Option<f64>,
    /// How far the rate differs between rounds, as a part of it.
    pub(crate) spread: f64,
}

/// Measures all cases.
pub(crate) fn measure(
    rig: &mut Rig,
    cases: &[Case],
    plan: &Plan,
    progress: &mut Progress,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for flows in &plan.flows {
        figures.extend(measure_flows(rig, cases, plan, *flows, progress)?);
    }
    progress.done();
    Ok(figures)
}

fn measure_flows(
    rig: &mut Rig,
    cases: &[Case],
    plan: &Plan,
    flows: u32,
    progress: &mut Progress,
) -> Result<Vec<Figure>> {
    let mut tracks = Vec::new();
    for case in cases.iter().filter(|case| flows <= case.most_flows) {
        progress.step(flows, "warming up", case.name);
        let mut track = Track::new(case, flows);
        // All flows once: whatever is remembered of them is there before anything is measured.
        track.run(rig, flows.max(PROBE), false)?;
        let run = track.run(rig, PROBE, true)?;
        track.set_length(run, plan);
        tracks.push(track);
    }
    for round in 1..=plan.rounds {
        for track in &mut tracks {
            progress.step(flows, &format!("round {round} of {}", plan.rounds), track.case.name);
            let frames = track.frames;
            let plain = track.run(rig, frames, false)?;
            let measured = track.run(rig, frames, true)?;
            let inside = measured.inside.context("was asked for")?;
            track.samples.push(Sample { mpps: mpps(plain), inside });
        }
    }
    let of = |lane: Lane| {
        let track = tracks.iter().find(|track| is_reference(track.case, lane));
        track.map(|track| track.samples.as_slice())
    };
    let empty = of(Lane::Empty).context("the empty program is always among the cases")?;
    let figure = |track: &Track<'_>| {
        let against = track.case.against.and_then(of);
        figure(track.case.name, flows, &track.samples, empty, against)
    };
    tracks.iter().map(|track| figure(track).context("at least one round")).collect()
}

fn is_reference(case: &Case, lane: Lane) -> bool {
    case.way.lane == lane && case.against.is_none()
}

/// The figure of a case from its samples, those of the empty program and those of the program that
/// it is compared with, round by round.
fn figure(
    case: &'static str,
    flows: u32,
    samples: &[Sample],
    empty: &[Sample],
    against: Option<&[Sample]>,
) -> Option<Figure> {
    let all = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let rates = all(|sample| sample.mpps);
    let nets: Vec<f64> =
        samples.iter().zip(empty).map(|(sample, empty)| sample.inside - empty.inside).collect();
    let ratios: Option<Vec<f64>> = against
        .map(|other| samples.iter().zip(other).map(|(one, two)| one.mpps / two.mpps).collect());
    Some(Figure {
        case,
        flows,
        inside: median(&all(|sample| sample.inside))?,
        net: median(&nets)?,
        mpps: median(&rates)?,
        ratio: ratios.and_then(|ratios| median(&ratios)),
        spread: spread(&rates)?,
    })
}

/// A case on its way through the rounds.
struct Track<'a> {
    case: &'a Case,
    template: Template,
    /// Position in the round of flows of the next frame.
    position: u32,
    /// Frames of a run.
    frames: u32,
    samples: Vec<Sample>,
}

impl<'a> Track<'a> {
    fn new(case: &'a Case, flows: u32) -> Self {
        let template = Template::new(&case.frame, flows);
        Self { case, template, position: 0, frames: PROBE, samples: Vec::new() }
    }

    fn run(&mut self, rig: &mut Rig, frames: u32, measured: bool) -> Result<Run> {
        let Self { case, template, position, .. } = self;
        let run = rig.run(&case.way, template, *position, frames, measured);
        let flows = u64::from(template.flows);
        let next = (u64::from(*position) + u64::from(frames)) % flows;
        *position = u32::try_from(next).context("below the number of flows")?;
        run.with_context(|| format!("{} with {flows} flows", case.name))
    }

    /// Two runs a round, one of them with statistics.
    fn set_length(&mut self, probe: Run, plan: &Plan) {
        let seconds = plan.seconds / f64::from(plan.rounds) / 2.0;
        let frames = mpps(probe) * 1e6 * seconds;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let frames = frames as u32;
        self.frames = frames.max(1000);
    }
}

fn mpps(run: Run) -> f64 {
    1e-6 / run.per_frame.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(pairs: &[(f64, f64)]) -> Vec<Sample> {
        pairs.iter().map(|(mpps, inside)| Sample { mpps: *mpps, inside: *inside }).collect()
    }

    #[test]
    fn what_is_compared_is_compared_within_a_round() {
        // In the second round the machine was busy: everything took twice as long.
        let empty = samples(&[(4.0, 30.0), (2.0, 60.0), (4.0, 30.0)]);
        let macswap = samples(&[(2.0, 40.0), (1.0, 80.0), (2.0, 40.0)]);
        let pen = samples(&[(1.5, 130.0), (0.75, 260.0), (1.5, 130.0)]);
        let figure = figure("pen", 1, &pen, &empty, Some(&macswap)).unwrap();
        assert_eq!(figure.ratio, Some(0.75));
        assert_eq!((figure.inside, figure.net, figure.mpps), (130.0, 100.0, 1.5));
    }

    #[test]
    fn a_program_that_is_compared_with_nothing_has_no_ratio() {
        let empty = samples(&[(4.0, 30.0)]);
        let figure = figure("empty", 1, &empty, &empty, None).unwrap();
        assert_eq!((figure.net, figure.ratio, figure.spread), (0.0, None, 0.0));
    }
}
