//! The result: for a terminal, as JSON, and against the goals of pen's design.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::control::Control;
use crate::measure::{Figure, Plan};
use crate::progress::flow_count;

/// Width of the first column.
const NAME: usize = 24;

/// Everything that was found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Model of the processor.
    pub(crate) cpu: String,
    pub(crate) plan: Plan,
    /// By number of flows, then by case.
    pub(crate) figures: Vec<Figure>,
    pub(crate) control: Option<Control>,
}

/// What the design asks for, and whether it is so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) met: bool,
}

/// Spread of the rate from which on figures are not to be trusted.
const ROUGH: f64 = 0.05;
/// Least part of the rate of a bare swap of addresses, and most growth of the time in the program
/// from one flow to a million.
const RATE: f64 = 0.70;
const GROWTH: f64 = 1.6;
/// Cases that these hold for.
const HOT: [&str; 2] = ["dsr tcp ack", "ipip tcp ack"];
/// Most nanoseconds for frames that are none of pen's business.
const PASS: f64 = 40.0;
const PASSED: [&str; 2] = ["pass v4", "pass v6"];
/// Most milliseconds until a changed table is in the kernel.
const CHANGE: f64 = 50.0;
/// Most KiB of an idle service.
const MEMORY: f64 = 200.0;

impl Report {
    /// What machine this is, for a reader elsewhere.
    pub(crate) fn machine() -> (String, String) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        let cpu = model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
        (kernel, cpu.to_owned())
    }

    /// Names of the cases in their order.
    pub(crate) fn cases(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for figure in &self.figures {
            if !names.contains(&figure.case) {
                names.push(figure.case);
            }
        }
        names
    }

    pub(crate) fn figure(&self, case: &str, flows: u32) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.case == case && figure.flows == flows)
    }

    /// The goals that these figures say something about.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        let mut add = |what: String, found: String, met| goals.push(Goal { what, found, met });
        let net = |case, flows| self.figure(case, flows).map(|figure| figure.net);
        for case in HOT {
            for flows in [1, 1_000_000] {
                if let Some(ratio) = self.figure(case, flows).and_then(|figure| figure.ratio) {
                    let what = format!(
                        "{case}, {}: at least {RATE:.2} of the rate of macswap",
                        flow_count(flows)
                    );
                    add(what, format!("{ratio:.2}"), ratio >= RATE);
                }
            }
            if let (Some(one), Some(many)) = (net(case, 1), net(case, 1_000_000)) {
                let what = format!("{case}, 1M flows: at most {GROWTH} times the ns of 1 flow");
                add(what, format!("{:.2}", many / one), many <= GROWTH * one);
            }
        }
        for case in PASSED {
            if let Some(net) = net(case, 1) {
                add(format!("{case}: at most {PASS} ns"), format!("{net:.0} ns"), net <= PASS);
            }
        }
        if let Some(control) = self.control {
            let millis = control.change.as_secs_f64() * 1e3;
            let what = format!("a change of 1000 backends in the kernel: at most {CHANGE} ms");
            add(what, format!("{millis:.1} ms"), millis <= CHANGE);
            let all = kib(control.kernel) + kib(control.daemon);
            let what = format!("an idle service: at most {MEMORY} KiB");
            let parts = format!(
                "{all:.0} KiB ({:.0} in the kernel, {:.0} in the daemon)",
                kib(control.kernel),
                kib(control.daemon)
            );
            add(what, parts, all <= MEMORY);
        }
        goals
    }

    /// As a table, with what the columns mean, and the goals.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "64-byte frames (IPv6: 80) over veth on one CPU ({}), Linux {}, {} rounds\n\n",
            self.cpu, self.kernel, self.plan.rounds
        );
        let mut line = " ".repeat(NAME);
        for flows in &self.plan.flows {
            line += &format!("{:>24}", flow_count(*flows));
        }
        push(&mut text, &line);
        let columns = format!("{:>10}{:>7}{:>7}", "net ns", "Mpps", "ratio");
        push(&mut text, &format!("{:NAME$}{}", "case", columns.repeat(self.plan.flows.len())));
        for case in self.cases() {
            let mut line = format!("{case:NAME$}");
            for flows in &self.plan.flows {
                let Some(figure) = self.figure(case, *flows) else {
                    line += &format!("{:>24}", "");
                    continue;
                };
                let ratio =
                    figure.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
                let (net, mpps) = (figure.net, figure.mpps);
                line += &format!("{net:>10.1}{mpps:>7.2}{ratio:>7}");
            }
            push(&mut text, &line);
        }
        text += "\nnet ns: in the program, per frame, without what `empty` takes\n\
                 Mpps:   through generator, wire and program, by the time of the one CPU\n\
                 ratio:  of the rate of `macswap`; for what is passed, of the rate of `pass`\n";
        let spread = self.figures.iter().map(|figure| figure.spread).fold(0.0, f64::max);
        if spread > ROUGH {
            let percent = 100.0 * spread;
            push(
                &mut text,
                &format!("\nThe machine is busy: rates differ by {percent:.0} % between rounds."),
            );
        }
        let goals = self.goals();
        if !goals.is_empty() {
            text += "\nGoals:\n";
        }
        for Goal { what, found, met } in goals {
            push(
                &mut text,
                &format!("  {} {what}: {found}", if met { "met   " } else { "missed" }),
            );
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(figure_json).collect();
        let goals: Vec<Value> = self
            .goals()
            .iter()
            .map(|goal| json!({ "goal": goal.what, "found": goal.found, "met": goal.met }))
            .collect();
        let control = self.control.map(|control| {
            json!({
                "change_ms": control.change.as_secs_f64() * 1e3,
                "idle_service_kernel_bytes": control.kernel,
                "idle_service_daemon_bytes": control.daemon,
            })
        });
        json!({
            "kernel": self.kernel,
            "cpu": self.cpu,
            "rounds": self.plan.rounds,
            "seconds": self.plan.seconds,
            "cases": figures,
            "control": control,
            "goals": goals,
        })
    }
}

fn figure_json(figure: &Figure) -> Value {
    json!({
        "case": figure.case,
        "flows": figure.flows,
        "ns": figure.inside,
        "net_ns": figure.net,
        "mpps": figure.mpps,
        "ratio": figure.ratio,
        "spread": figure.spread,
    })
}

fn kib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the size of a service fits 52 bits")]
    let bytes = bytes as f64;
    bytes / 1024.0
}

fn push(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// A result with round figures.
    pub(crate) fn sample() -> Report {
        let figure = |case, flows, net, ratio| Figure {
            case,
            flows,
            inside: net + 40.0,
            net,
            mpps: 1.25,
            ratio,
            spread: 0.01,
        };
        Report {
            kernel: "6.18".to_owned(),
            cpu: "CPU & <more>".to_owned(),
            plan: Plan { flows: vec![1, 1_000_000], rounds: 5, seconds: 1.0 },
            figures: vec![
                figure("empty", 1, 0.0, None),
                figure("macswap", 1, 7.0, None),
                figure("pass v4", 1, 41.0, Some(0.9)),
                figure("dsr tcp ack", 1, 100.0, Some(0.75)),
                figure("empty", 1_000_000, 0.0, None),
                figure("macswap", 1_000_000, 7.0, None),
                figure("pass v4", 1_000_000, 41.0, Some(0.9)),
                figure("dsr tcp ack", 1_000_000, 150.0, Some(0.65)),
            ],
            control: Some(Control {
                change: Duration::from_millis(7),
                kernel: 130 * 1024,
                daemon: 128 * 1024,
            }),
        }
    }

    #[test]
    fn the_table_is_aligned_and_fits_a_screen() {
        let text = sample().text();
        let lines: Vec<&str> = text.lines().collect();
        let title = lines.iter().position(|line| line.contains("1 flow")).unwrap();
        let table = &lines[title..title + 6];
        assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
        assert_eq!(
            table[5],
            "dsr tcp ack                  100.0   1.25   0.75     150.0   1.25   0.65"
        );
        assert!(lines.iter().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn goals_are_judged_by_what_was_found() {
        let goals = sample().goals();
        let met: Vec<(&str, bool)> =
            goals.iter().map(|goal| (goal.found.as_str(), goal.met)).collect();
        assert_eq!(
            met,
            [
                ("0.75", true),
                ("0.65", false),
                ("1.50", true),
                ("41 ns", false),
                ("7.0 ms", true),
                ("258 KiB (130 in the kernel, 128 in the daemon)", false),
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_no_goal() {
        let report = Report { figures: Vec::new(), control: None, ..sample() };
        assert!(report.goals().is_empty());
        assert!(!report.text().contains("Goals"));
    }

    #[test]
    fn a_busy_machine_is_told_of() {
        let mut report = sample();
        assert!(!report.text().contains("busy"));
        report.figures[3].spread = 0.2;
        assert!(report.text().contains("differ by 20 % between rounds"));
    }

    #[test]
    fn json_holds_every_figure() {
        let json = sample().json();
        assert_eq!(json["cases"].as_array().unwrap().len(), 8);
        assert_eq!(json["cases"][3]["net_ns"], 100.0);
        assert_eq!(json["cases"][0]["ratio"], Value::Null);
        assert_eq!(json["control"]["idle_service_kernel_bytes"], 130 * 1024);
    }
}
