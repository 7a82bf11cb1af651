//! The bench measures what it says and leaves nothing behind. No figure is judged here: the machine
//! that runs the tests has other things to do.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use pen_tests::{
    Process,
    paths::{Scratch, program_dir},
    process::run,
    wait_until,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn bench(args: &[&str]) -> Command {
    let mut command = pen_bench();
    command.arg("dataplane").args(args);
    command
}

fn pen_bench() -> Command {
    Command::new(program_dir().unwrap().join("examples/pen-bench"))
}

#[test]
fn a_quick_bench_of_one_case_reports_it_with_what_it_is_compared_with() {
    let scratch = Scratch::new().unwrap();
    let svg = scratch.file("figures.svg");
    let mut command = bench(&["--quick", "--json", "--filter", "dsr udp", "--svg"]);
    let output = run(command.arg(&svg), PATIENCE).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    let cases = json["cases"].as_array().unwrap();
    for (name, has_ratio) in [("empty", false), ("macswap", false), ("dsr udp", true)] {
        for flows in [1, 1000] {
            let case = cases.iter().find(|case| case["case"] == name && case["flows"] == flows);
            let case = case.unwrap_or_else(|| panic!("no {name} with {flows} flows: {json}"));
            assert!(case["ns"].as_f64().unwrap() > 0.0, "{case}");
            assert!(case["mpps"].as_f64().unwrap() > 0.0, "{case}");
            assert_eq!(case["ratio"].is_number(), has_ratio, "{case}");
        }
    }
    assert!(json["control"]["change_ms"].as_f64().unwrap() > 0.0);
    assert!(json["control"]["idle_service_kernel_bytes"].as_u64().unwrap() > 0);
    assert!(fs::read_to_string(svg).unwrap().contains(">dsr udp<"));
}

#[test]
fn a_filter_that_fits_nothing_is_an_error() {
    let output = run(&mut bench(&["--quick", "--filter", "no such case"]), PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("no such case"), "{}", output.stderr);
}

#[test]
fn a_short_bench_of_the_proxy_has_every_figure_of_every_proxy() {
    let args = ["proxy", "--json", "--seconds", "0.2", "--rounds", "1"];
    let output = run(pen_bench().args(args), PATIENCE).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    let figures = json["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 16, "{json}");
    for figure in figures {
        let name = figure["figure"].as_str().unwrap();
        for proxy in ["pen", "haproxy", "nginx", "ancestor"] {
            let value = &figure["proxies"][proxy]["median"];
            // The ancestor is not asked to end TLS.
            let has = proxy != "ancestor" || !name.starts_with("TLS");
            assert_eq!(value.is_number(), has, "{proxy}, {name}: {json}");
        }
        // Latency that is added may drown in noise.
        let ratio = &figure["ratio"]["median"];
        let latency = name.contains("added");
        assert!(ratio.is_number() || latency, "{figure}");
        let judged = figure["goal"].is_string() && ratio.is_number();
        assert_eq!(figure["met"].is_boolean(), judged, "{figure}");
    }
    let goals = figures.iter().filter(|figure| figure["goal"].is_string()).count();
    assert_eq!(goals, 9, "{json}");
}

#[test]
fn a_short_bench_of_checks_has_every_figure_of_both_programs() {
    let args = ["health", "--json", "--seconds", "3", "--rounds", "1", "--filter", "1000"];
    let output = run(pen_bench().args(args), PATIENCE).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    let figures = json["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 2 * 5, "{json}");
    for figure in figures {
        for program in ["pen", "haproxy"] {
            // Servers do not see checks of haproxy by TCP.
            let of_cpu =
                figure["figure"].as_str().unwrap().contains('%') || figure["ratio"].is_object();
            let has = program == "pen" || figure["case"] == "http-1000" || of_cpu;
            assert_eq!(figure["programs"][program]["median"].is_number(), has, "{figure}");
        }
        assert_eq!(figure["ratio"].is_object(), figure["figure"] == "CPU us/check", "{figure}");
        assert_eq!(figure["met"].is_boolean(), figure["figure"] == "% of a core", "{figure}");
    }
}

#[test]
fn a_proxy_bench_of_no_case_is_an_error() {
    let output = run(pen_bench().args(["proxy", "--filter", "nothing"]), PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("nothing"), "{}", output.stderr);
}

#[test]
fn ctrl_c_leaves_no_namespace_and_no_pin_behind() {
    let scratch = Scratch::new().unwrap();
    let mut bench = Process::start("pen-bench", bench(&[]), &scratch.file("log")).unwrap();
    wait_until(PATIENCE, "the first frames", || bench.log().contains("1 flow").then_some(()))
        .unwrap();
    bench.signal(Signal::SIGINT).unwrap();
    assert_eq!(bench.wait(PATIENCE).unwrap().code(), Some(130), "{}", bench.log());
    for place in ["/run/netns", "/sys/fs/bpf"] {
        let left: Vec<String> = fs::read_dir(place)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains(&format!("-{}-", bench.pid())))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{place}");
    }
}
