//! Checks of type `exec`.

use std::fs;

use pen_tests::wait::wait_until;

use super::Checked;
use crate::proxy::LONG;

/// A check by a script of the shell.
fn script(text: &str) -> String {
    format!(r#"type = "exec", command = ["/bin/sh", "-c", '{text}']"#)
}

/// The state letters of a process's children, and their command lines.
fn children(of: u32) -> Vec<(String, String)> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        };
        let words = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (field("PPid:")? == of.to_string()).then_some((field("State:")?, words))
    })
    .collect()
}

#[test]
fn the_end_of_a_program_decides() {
    let checked = Checked::by(&script("test $PEN_ADDRESS = 10.77.0.11 && test $(id -u) != 0"));
    checked.wait_up();
    checked.now_by(&script("echo the disk is full; exit 2"));
    checked.wait_down(r#"ended with 2: "the disk is full""#);
    checked.now_by(&script("exit 0"));
    checked.wait_up();
    checked.now_by(&script("echo out of memory; kill -9 $$"));
    checked.wait_down(r#"was ended by a signal: "out of memory""#);
    checked.now_by(&script("exit 0"));
    checked.wait_up();
    checked.now_by(r#"type = "exec", command = ["/nonexistent/check"]"#);
    checked.wait_down("/nonexistent/check: No such file or directory (os error 2)");
}

#[test]
fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
    let marker = format!("63.{}", std::process::id());
    let checked = Checked::by(&script(&format!("sleep {marker} & sleep {marker}; exit 0")));
    checked.wait_down("did not end within 1s, and was killed");
    checked.now_by(&script("exit 0"));
    checked.wait_up();
    let pend = checked.pend.pid().unwrap();
    wait_until(LONG, "nothing is left of them", || {
        let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let mut lines =
            all.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
        let zombies = children(pend).iter().any(|(state, _)| state == "Z");
        (!zombies && !lines.any(|line| line.contains(&format!("sleep\0{marker}")))).then_some(())
    })
    .unwrap();
}
