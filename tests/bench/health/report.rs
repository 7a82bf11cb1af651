//! The result: a table with medians, what they vary between, and the goals.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::peers::Peer;
use super::{Case, Samples};
use crate::stats::Spread;

/// Widths of the first columns, and of one for a program.
const CASE: usize = 12;
const NAME: usize = 28;
const CELL: usize = 24;

/// What is told of each program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Core,
    Checks,
    Each,
    Late,
    LateLater,
}

/// What ours shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Goal {
    text: &'static str,
    met: bool,
}

impl Figure {
    pub(crate) const ALL: [Self; 5] =
        [Self::Core, Self::Checks, Self::Each, Self::Late, Self::LateLater];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Core => "% of a core",
            Self::Checks => "checks/s",
            Self::Each => "CPU us/check",
            Self::Late => "p99 late ms, first half",
            Self::LateLater => "p99 late ms, second half",
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
    fn spread(&self, case: Case, figure: Figure, peer: Peer) -> Option<Spread> {
        Spread::of(self.samples.get(&(case, figure, peer))?)
    }

    /// Of the processor time, taken within each round; of nothing else a ratio says much.
    fn ratio(&self, case: Case, figure: Figure) -> Option<Spread> {
        if figure != Figure::Each {
            return None;
        }
        let ours = self.samples.get(&(case, figure, Peer::Pen))?;
        let theirs = self.samples.get(&(case, figure, Peer::Haproxy))?;
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Spread::of(&ratios)
    }

    fn goal(&self, case: Case, figure: Figure) -> Option<Goal> {
        let ours = |figure| self.spread(case, figure, Peer::Pen).map(|spread| spread.median);
        match (case, figure) {
            (Case::Tcp | Case::Http, Figure::Core) => {
                Some(Goal { text: "< 10", met: ours(figure)? < 10.0 })
            }
            (Case::Many, Figure::LateLater) => {
                // More than what differs between any two halves: it has to be seen to grow.
                let met = ours(figure)? <= ours(Figure::Late)? + 10.0;
                Some(Goal { text: "no growth", met })
            }
            _ => None,
        }
    }

    /// As a table for a terminal.
    pub(crate) fn text(&self) -> String {
        let Self { kernel, cpu, rounds, seconds, .. } = self;
        let mut text = format!(
            "Checks of servers, of each once a second, over loopback ({cpu}), Linux {kernel}; medians \
             (least..most) of {rounds} rounds of {seconds} s\n\n"
        );
        let mut line = format!("{:CASE$}{:NAME$}", "", "");
        for peer in Peer::ALL {
            line += &format!("{:<CELL$}", peer.name());
        }
        push(&mut text, &(line + "pen/haproxy        goal"));
        for (case, figure) in self.rows() {
            let mut line = format!("{:CASE$}{:NAME$}", case.name(), figure.name());
            for peer in Peer::ALL {
                let cell = self.spread(case, figure, peer).map_or_else(String::new, Spread::cell);
                line += &format!("{cell:<CELL$}");
            }
            let ratio = self.ratio(case, figure).map_or_else(String::new, |ratio| {
                let Spread { least, median, most } = ratio;
                format!("{median:.2} ({least:.2}..{most:.2})")
            });
            line += &format!("{ratio:<19}");
            if let Some(Goal { text, met }) = self.goal(case, figure) {
                line += &format!("{text} {}", if met { "met" } else { "missed" });
            }
            push(&mut text, &line);
        }
        text + "\nCPU: of the program, in userspace and kernel. late: how much later than a second after the one \
                before a check of the same server came, as the server sees it.\n"
    }

    fn rows(&self) -> impl Iterator<Item = (Case, Figure)> {
        let all = Case::ALL.into_iter().flat_map(|case| Figure::ALL.map(|figure| (case, figure)));
        all.filter(|(case, figure)| self.spread(*case, *figure, Peer::Pen).is_some())
    }

    pub(crate) fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .rows()
            .map(|(case, figure)| {
                let programs = Peer::ALL.into_iter().filter_map(|peer| {
                    let spread = self.spread(case, figure, peer)?;
                    Some((peer.name().to_owned(), spread.json()))
                });
                let programs: serde_json::Map<_, _> = programs.collect();
                let goal = self.goal(case, figure);
                json!({
                    "case": case.name(),
                    "figure": figure.name(),
                    "programs": programs,
                    "ratio": self.ratio(case, figure).map(Spread::json),
                    "goal": goal.map(|goal| goal.text),
                    "met": goal.map(|goal| goal.met),
                })
            })
            .collect();
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

    fn sample(late: [f64; 2]) -> Report {
        let samples = [
            ((Case::Tcp, Figure::Core, Peer::Pen), vec![7.0, 12.0, 8.0]),
            ((Case::Http, Figure::Core, Peer::Pen), vec![10.5]),
            ((Case::Http, Figure::Each, Peer::Pen), vec![100.0, 50.0]),
            ((Case::Http, Figure::Each, Peer::Haproxy), vec![50.0, 25.0]),
            ((Case::Many, Figure::Late, Peer::Pen), vec![late[0]]),
            ((Case::Many, Figure::LateLater, Peer::Pen), vec![late[1]]),
        ];
        let samples = Samples::from(samples);
        Report {
            kernel: "6.18".to_owned(),
            cpu: "CPU".to_owned(),
            rounds: 3,
            seconds: 5.0,
            samples,
        }
    }

    fn line(text: &str, case: &str, figure: &str) -> String {
        let mut lines = text.lines().filter(|line| line.starts_with(case));
        lines.find(|line| line.contains(figure)).expect("a line").to_owned()
    }

    #[test]
    fn the_table_says_which_goals_are_met() {
        let text = sample([1.0, 2.0]).text();
        assert!(line(&text, "tcp-1000", "% of a core").ends_with("< 10 met"), "{text}");
        assert!(line(&text, "http-1000", "% of a core").ends_with("< 10 missed"), "{text}");
        assert!(line(&text, "tcp-5000", "second half").ends_with("no growth met"), "{text}");
        let text = sample([1.0, 200.0]).text();
        assert!(line(&text, "tcp-5000", "second half").ends_with("no growth missed"), "{text}");
    }

    #[test]
    fn the_ratio_is_that_of_processor_time_within_each_round() {
        let report = sample([1.0, 1.0]);
        let ratio = report.ratio(Case::Http, Figure::Each).expect("both were measured");
        assert_eq!(ratio, Spread { least: 2.0, median: 2.0, most: 2.0 });
        assert_eq!(report.ratio(Case::Tcp, Figure::Core), None);
        assert_eq!(report.json()["figures"][0]["programs"]["pen"]["median"], 8.0);
    }
}
