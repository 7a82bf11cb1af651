//! What docs/ says is true: each test that a table of behaviours names exists, and the manual's
//! configurations and keys are those of the program.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use pen_tests::{
    Netns, Output,
    paths::{Scratch, program},
    process::run,
};

/// The part of the project that holds the tests of a prefix.
fn folder(prefix: &str) -> &'static str {
    match prefix {
        "xdp" => "tests/xdp",
        "system" => "tests/system",
        "pen_common" => "pen-common/src",
        "pen_ctl" => "pen-ctl/src",
        other => panic!("no tests are called `{other}::`"),
    }
}

/// A file of the documentation.
fn document(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_test_that_the_table_of_behaviours_names_exists() {
    all_exist("behaviours.md", 38);
}

#[test]
fn every_test_that_the_table_of_carps_behaviours_names_exists() {
    all_exist("behaviours-carp.md", 24);
}

#[test]
fn every_test_that_the_table_of_the_proxys_behaviours_names_exists() {
    all_exist("behaviours-proxy.md", 50);
}

#[test]
fn every_test_that_the_table_of_the_behaviours_of_checks_names_exists() {
    all_exist("behaviours-health.md", 30);
}

#[test]
fn every_test_that_the_table_of_the_behaviours_of_tls_names_exists() {
    all_exist("behaviours-tls.md", 20);
}

#[test]
fn the_manual_of_tls_names_every_key_and_no_other() {
    for table in ["tls", "backend_tls"] {
        let output = check(&format!(
            "[[service]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nmode = \"proxy\"\nbackends = \
             [\"10.0.0.1:1\"]\n{table} = {{ no-such-key-at-all = 1 }}\n"
        ));
        let valid = format!("valid keys of `{table}`: ");
        let (_, keys) = output.stderr.split_once(&valid).expect("the keys");
        let keys: BTreeSet<_> = keys.lines().next().unwrap_or_default().split(", ").collect();
        let manual = document("tls.md");
        let (_, rows) = manual.split_once(&format!("| key of `{table}` |")).expect("the table");
        let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let named = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        assert_eq!(named.collect::<BTreeSet<_>>(), keys, "{table}");
    }
}

fn all_exist(name: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = document(name);
    let mut named = 0;
    for name in table.split('`').skip(1).step_by(2).filter(|word| word.matches("::").count() > 1) {
        let mut parts: Vec<&str> = name.split("::").collect();
        let test = parts.pop().expect("split yields something");
        let file = root.join(folder(parts[0])).join(parts[1..].join("/"));
        let source = fs::read_to_string(file.with_extension("rs"))
            .or_else(|_| fs::read_to_string(file.join("mod.rs")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let function = format!("fn {test}()");
        assert!(source.contains(&function), "{name} is not there");
        named += 1;
    }
    assert!(named > least, "the table names {named} tests");
}

/// What pend says of a configuration, on a machine with an `eth0` and with the manual's secrets.
fn check(config: &str) -> Output {
    let netns = Netns::new("docs").unwrap();
    netns.ip("link add name eth0 type veth peer name other").unwrap();
    let scratch = Scratch::new().unwrap();
    for name in ["cluster.key", "carp-1.key"] {
        let file = scratch.file(name);
        let digits = if name == "cluster.key" { 32 } else { 64 };
        fs::write(&file, "0".repeat(digits)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = scratch.file("pen.toml");
    let folder = format!("{}/", scratch.path().display());
    fs::write(&file, config.replace("/etc/pen/", &folder)).unwrap();
    let mut command = netns.command(program("pend").unwrap());
    run(command.arg("--check").arg("--config").arg(&file), Duration::from_secs(10)).unwrap()
}

/// The first block of TOML after a heading.
fn toml_after<'t>(text: &'t str, heading: &str) -> &'t str {
    let (_, rest) = text.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    let (_, rest) = rest.split_once("```toml\n").expect("a block of TOML");
    rest.split_once("```").expect("its end").0
}

#[test]
fn the_configuration_of_the_manual_of_carp_is_accepted() {
    let output = check(toml_after(&document("carp.md"), "## Two nodes"));
    assert!(output.status.success(), "{}", output.stderr);
}

#[test]
fn the_manual_of_carp_names_every_key_and_no_other() {
    let output = check("[[carp]]\nno-such-key-at-all = 1\n");
    let (_, keys) = output.stderr.split_once("valid keys of [[carp]]: ").expect("the keys");
    let keys: BTreeSet<_> = keys.lines().next().unwrap_or_default().split(", ").collect();
    let manual = document("carp.md");
    let (_, table) = manual.split_once("| key of `[[carp]]` |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let named = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    assert_eq!(named.collect::<BTreeSet<_>>(), keys);
}
