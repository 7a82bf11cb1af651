//! What docs/ says about the tests is true: each test that the table of behaviours names exists.

use std::{fs, path::Path};

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

#[test]
fn every_test_that_a_table_of_behaviours_names_exists() {
    for (file, least) in [("docs/behaviours.md", 38), ("docs/behaviours-proxy.md", 50)] {
        let named = named_tests(file);
        assert!(named > least, "{file} names {named} tests");
    }
}

/// How many tests a table names, all of which exist.
fn named_tests(file: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table =
        fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
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
    named
}
