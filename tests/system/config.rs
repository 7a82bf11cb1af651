//! A configuration with errors: both programs tell all of them, each with its place and its cure,
//! and nothing is touched.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use pen_tests::{
    Lab, Output, Pend,
    link::xdp_mode,
    paths::{Scratch, program},
    process::{SHORT, run},
};

/// Runs `penctl check` on the balancer.
fn check(lab: &Lab, file: &Path) -> Output {
    let mut command = lab.balancer().netns.command(program("penctl").unwrap());
    run(command.arg("check").arg(file), SHORT).unwrap()
}

/// Starts pend with this file and expects it to end by itself with status 2; what it said.
fn refused(lab: &Lab, text: &str) -> Vec<String> {
    let mut pend = Pend::prepare(&lab.balancer().netns).unwrap();
    pend.write_config(text).unwrap();
    pend.launch().unwrap();
    assert_eq!(pend.wait_end().unwrap().code(), Some(2), "{}", pend.log());
    assert!(!pend.pins().exists() && !pend.socket().exists());
    assert_eq!(xdp_mode(&lab.balancer().netns, "eth0").unwrap(), None);

    // The same lines from the other program, and from `--check`.
    let log: Vec<String> = pend.log().lines().map(str::to_owned).collect();
    let (end, errors) = log.split_last().unwrap();
    let plural = if errors.len() == 1 { "error" } else { "errors" };
    let summary = format!("{} {plural} in the configuration; nothing was touched", errors.len());
    assert!(end.contains(&summary), "{end}");
    let output = check(lab, pend.config());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stderr.lines().collect::<Vec<_>>(), errors);
    let file = format!("{}:", pend.config().display());
    errors
        .iter()
        .map(|line| line.strip_prefix(&file).unwrap_or_else(|| panic!("{line}")).to_owned())
        .collect()
}

fn lab() -> Lab {
    Lab::builder().backends(0).build().unwrap()
}

#[test]
fn all_errors_of_a_file_are_told_with_place_and_cure() {
    let lab = lab();
    let scratch = Scratch::new().unwrap();
    let secret = scratch.file("cluster.key");
    fs::write(&secret, "00112233445566778899aabbccddeeff\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let secret = secret.display();
    let text = format!(
        r#"[node]
secret_file = "{secret}"
colour = "red"
[[interface]]
name = "eth7"
[[interface]]
name = "eth0"
[[vip]]
address = "10.77.0.100"
interface = "eth0"
[[service]]
name = "web"
listen = "10.77.0.100:80"
bakends = ["10.77.0.11"]
backends = ["fd77::11", "10.77.0.300"]
[[service]]
name = "again"
listen = "10.77.0.100:80"
backends = []
check = {{ interval = "10x" }}
"#
    );
    let errors = refused(&lab, &text);
    let expected = [
        &*format!("2:15: the secret {secret} has mode 0644 and so is open to others; `chmod 600"),
        "3:1: unknown key `colour`; valid keys of [node]: ",
        "5:8: this machine has no interface `eth7`; did you mean `eth0`?",
        "14:1: unknown key `bakends`; did you mean `backends`?",
        "15:13: the backend fd77::11 is IPv6, but the VIP 10.77.0.100 is IPv4, ",
        "15:25: `10.77.0.300` is no address of a backend; write ",
        "18:10: ",
        "19:12: `backends` is empty; add at least one, such as \"10.0.0.11:80\"",
        "20:22: `interval` is no duration: `10x`; write one like \"500ms\" or \"1s\"",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
    assert!(errors[6].contains("10.77.0.100:80") && errors[6].contains(":13:"), "{}", errors[6]);
}

#[test]
fn a_syntax_error_is_told_where_it_is() {
    let errors = refused(&lab(), "[[interface]]\nname = \"eth0\"\n[[vip]\naddress = 1\n");
    assert!(errors[0].starts_with("3:"), "{errors:#?}");
    assert!(errors[0].contains("not valid TOML"), "{errors:#?}");
}

#[test]
fn a_file_that_is_not_there_is_one_clear_line() {
    let lab = lab();
    let mut pend = Pend::prepare(&lab.balancer().netns).unwrap();
    pend.launch().unwrap();
    assert_eq!(pend.wait_end().unwrap().code(), Some(2));
    let log = pend.log();
    let begin = format!("{}:1:1: cannot be read (", pend.config().display());
    assert!(log.starts_with(&begin), "{log}");
    assert!(!pend.pins().exists());
}

#[test]
fn a_good_file_is_good_and_checking_it_touches_nothing() {
    let lab = lab();
    let pend = Pend::prepare(&lab.balancer().netns).unwrap().with_args(&["--check"]);
    let mut pend = pend;
    pend.write_config("[[interface]]\nname = \"eth0\"\n").unwrap();
    pend.launch().unwrap();
    assert_eq!(pend.wait_end().unwrap().code(), Some(0), "{}", pend.log());
    assert_eq!(pend.log(), format!("{}: good\n", pend.config().display()));
    assert!(!pend.pins().exists() && !pend.socket().exists());
    let output = check(&lab, pend.config());
    assert_eq!(output.stdout, pend.log());
    assert!(output.status.success());
}
