//! The result: a table with medians, what they vary between, and the ratio that the goals are about.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Samples;
use super::peers::Peer;
use crate::stats::Spread;

/// Widths of the first column, and of one for a proxy.
const NAME: usize = 24;
const CELL: usize = 24;

/// What is told of each proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Requests,
    RequestsPerCpu,
    Connections,
    ConnectionsPerCpu,
    Bulk,
    CpuPerGigabyte,
    MedianLatency,
    TailLatency,
    IdleMemory,
    Full,
    FullPerCpu,
    Resumed,
    ResumedPerCpu,
    SecureBulk,
    SecureCpuPerGigabyte,
    SecureIdleMemory,
}

/// What the ratio of ours to haproxy's shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) const ALL: [Self; 16] = [
        Self::Requests,
        Self::RequestsPerCpu,
        Self::Connections,
        Self::ConnectionsPerCpu,
        Self::Bulk,
        Self::CpuPerGigabyte,
        Self::MedianLatency,
        Self::TailLatency,
        Self::IdleMemory,
        Self::Full,
        Self::FullPerCpu,
        Self::Resumed,
        Self::ResumedPerCpu,
        Self::SecureBulk,
        Self::SecureCpuPerGigabyte,
        Self::SecureIdleMemory,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests/s",
            Self::RequestsPerCpu => "requests/CPU second",
            Self::Connections => "connections/s",
            Self::ConnectionsPerCpu => "connections/CPU second",
            Self::Bulk => "bulk GB/s",
            Self::CpuPerGigabyte => "CPU seconds/GB",
            Self::MedianLatency => "p50 added us",
            Self::TailLatency => "p99 added us",
            Self::IdleMemory => "bytes/idle connection",
            Self::Full => "TLS full/s",
            Self::FullPerCpu => "TLS full/CPU second",
            Self::Resumed => "TLS resumed/s",
            Self::ResumedPerCpu => "TLS resumed/CPU second",
            Self::SecureBulk => "TLS bulk GB/s",
            Self::SecureCpuPerGigabyte => "TLS CPU seconds/GB",
            Self::SecureIdleMemory => "TLS bytes/idle conn.",
        }
    }

    const fn goal(self) -> Option<Goal> {
        match self {
            Self::Requests | Self::Connections => Some(Goal::AtLeast(1.1)),
            Self::CpuPerGigabyte => Some(Goal::AtMost(0.8)),
            Self::TailLatency => Some(Goal::AtMost(1.0)),
            Self::IdleMemory => Some(Goal::AtMost(0.6)),
            Self::Full | Self::Resumed => Some(Goal::AtLeast(1.3)),
            Self::SecureBulk => Some(Goal::AtLeast(1.0)),
            Self::SecureIdleMemory => Some(Goal::AtMost(0.8)),
            Self::RequestsPerCpu
            | Self::ConnectionsPerCpu
            | Self::Bulk
            | Self::MedianLatency
            | Self::FullPerCpu
            | Self::ResumedPerCpu
            | Self::SecureCpuPerGigabyte => None,
        }
    }
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least:.1}"),
            Self::AtMost(most) => format!("<= {most:.1}"),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) samples: Samples,
}

impl Report {
    fn spread(&self, figure: Figure, peer: Peer) -> Option<Spread> {
        Spread::of(self.samples.get(&(figure, peer))?)
    }

    /// Of ours to haproxy's, taken within each round. None if in most rounds one of them was not more
    /// than nothing, as the latency that is added may seem to be on a busy machine.
    fn ratio(&self, figure: Figure) -> Option<Spread> {
        let ours = self.samples.get(&(figure, Peer::Pen))?;
        let theirs = self.samples.get(&(figure, Peer::Haproxy))?;
        let rounds = ours.iter().zip(theirs);
        let sound = rounds.filter(|(ours, theirs)| **ours > 0.0 && **theirs > 0.0);
        let ratios: Vec<f64> = sound.map(|(ours, theirs)| ours / theirs).collect();
        if 2 * ratios.len() > ours.len() { Spread::of(&ratios) } else { None }
    }

    /// As a table for a terminal.
    pub(crate) fn text(&self) -> String {
        let Self { kernel, cpu, rounds, seconds, .. } = self;
        let mut text = format!(
            "TCP over loopback, all on the same cores ({cpu}), Linux {kernel}; medians (least..most) of \
             {rounds} interleaved rounds of {seconds} s\n\n"
        );
        let mut line = format!("{:NAME$}", "");
        for peer in Peer::ALL {
            line += &format!("{:<CELL$}", peer.name());
        }
        push(&mut text, &(line + "pen/haproxy        goal"));
        for figure in Figure::ALL {
            if self.spread(figure, Peer::Pen).is_none() {
                continue;
            }
            let mut line = format!("{:NAME$}", figure.name());
            for peer in Peer::ALL {
                let cell = self.spread(figure, peer).map_or_else(String::new, Spread::cell);
                line += &format!("{cell:<CELL$}");
            }
            if self.ratio(figure).is_none() {
                line += "noise";
            }
            if let Some(ratio) = self.ratio(figure) {
                let Spread { least, median, most } = ratio;
                let ratio_text = format!("{median:.2} ({least:.2}..{most:.2})");
                line += &format!("{ratio_text:<19}");
                if let Some(goal) = figure.goal() {
                    let met = if goal.is_met(median) { "met" } else { "missed" };
                    line += &format!("{} {met}", goal.text());
                }
            }
            push(&mut text, &line);
        }
        text + "\nCPU second: of the proxy, in userspace and kernel. added: to what a direct connection takes.\n\
                bytes: of the proxy's userspace. ancestor: Debian's pen, one thread.\n"
    }

    pub(crate) fn json(&self) -> Value {
        let figure_json = |figure: Figure| {
            let proxies = Peer::ALL.into_iter().filter_map(|peer| {
                Some((peer.name().to_owned(), self.spread(figure, peer)?.json()))
            });
            let proxies: serde_json::Map<_, _> = proxies.collect();
            if proxies.is_empty() {
                return None;
            }
            let ratio = self.ratio(figure);
            let goal = figure.goal();
            let met = goal.zip(ratio).map(|(goal, ratio)| goal.is_met(ratio.median));
            Some(json!({
                "figure": figure.name(),
                "proxies": proxies,
                "ratio": ratio.map(Spread::json),
                "goal": goal.map(Goal::text),
                "met": met,
            }))
        };
        let figures: Vec<Value> = Figure::ALL.into_iter().filter_map(figure_json).collect();
        json!({
            "kernel": self.kernel,
            "cpu": self.cpu,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "figures": figures,
        })
    }
}

fn push(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let samples = [
            ((Figure::Requests, Peer::Pen), vec![120.0, 60.0, 130.0]),
            // In the second round the machine was busy, for both.
            ((Figure::Requests, Peer::Haproxy), vec![100.0, 50.0, 100.0]),
            ((Figure::IdleMemory, Peer::Pen), vec![2000.0]),
            ((Figure::IdleMemory, Peer::Haproxy), vec![2500.0]),
        ];
        Report {
            kernel: "6.18".to_owned(),
            cpu: "CPU".to_owned(),
            rounds: 3,
            seconds: 1.0,
            samples: Samples::from(samples),
        }
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let ratio = sample().ratio(Figure::Requests).expect("both were measured");
        assert_eq!(ratio, Spread { least: 1.2, median: 1.2, most: 1.3 });
        assert_eq!(sample().ratio(Figure::Bulk), None);
    }

    #[test]
    fn of_noise_there_is_no_ratio() {
        let mut report = sample();
        for (peer, values) in [(Peer::Pen, [3.0, -1.0, 2.0]), (Peer::Haproxy, [2.0, 4.0, 1.0])] {
            report.samples.insert((Figure::TailLatency, peer), values.to_vec());
        }
        let ratio = report.ratio(Figure::TailLatency).map(|ratio| ratio.median);
        assert_eq!(ratio, Some(1.75), "the rounds that say something");
        report.samples.insert((Figure::TailLatency, Peer::Haproxy), vec![2.0, 4.0, -1.0]);
        assert_eq!(report.ratio(Figure::TailLatency), None);
        assert!(
            report.text().lines().any(|line| line.starts_with("p99") && line.ends_with("noise"))
        );
    }

    #[test]
    fn the_table_says_which_goals_are_met() {
        let text = sample().text();
        let line = |name| text.lines().find(|line| line.starts_with(name)).expect("a line");
        assert!(line("requests/s").ends_with(">= 1.1 met"), "{text}");
        assert!(line("bytes/idle").ends_with("<= 0.6 missed"), "{text}");
        assert!(!text.contains("bulk GB/s"), "{text}");
    }

    #[test]
    fn json_has_each_proxy_that_was_measured() {
        let json = sample().json();
        assert_eq!(json["figures"][0]["proxies"]["pen"]["median"], 120.0);
        assert_eq!(json["figures"][0]["met"], true);
        assert_eq!(json["figures"][1]["proxies"]["nginx"], Value::Null);
    }
}
