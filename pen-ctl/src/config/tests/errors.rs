//! Every error: the text that provokes it, and the line that the operator reads.

use std::collections::BTreeSet;
use std::io;

use super::{
    BASE, FakeSystem, carp_cases, checks, general_cases, lines, notify, parse_all, parse_with_base,
    service_cases, tls, unix,
};
use crate::config::{ConfigError, ErrorKind, Source, parse};

/// A snippet, put before [`BASE`], and the lines that it gives.
pub(super) struct Case(pub(super) &'static str, pub(super) &'static [&'static str]);

fn cases() -> impl Iterator<Item = &'static Case> {
    let cases = general_cases::CASES.iter().chain(service_cases::CASES);
    let cases = cases.chain(carp_cases::CASES).chain(checks::CASES);
    cases.chain(unix::CASES).chain(tls::CASES).chain(notify::CASES)
}

fn errors(texts: &[&str]) -> Vec<ConfigError> {
    parse_all(texts).expect_err("something is wrong with it")
}

#[test]
fn every_mistake_is_told_where_it_is_and_how_to_cure_it() {
    for Case(snippet, expected) in cases() {
        let errors = parse_with_base(&format!("{snippet}\n")).unwrap_err();
        assert_eq!(lines(&errors), *expected, "\n{snippet}");
    }
}

#[test]
fn all_errors_of_a_file_are_reported_in_its_order() {
    let text = r#"
[node]
secret_file = "/etc/pen/open.key"
[web]
[[interface]]
name = "eth7"
xdp = "atuo"
[[vip]]
address = "192.0.2.10"
interface = "eth7"
[[service]]
name = "web"
listen = "192.0.2.10:80"
mode = "dsr"
backends = ["10.0.0.300", { address = "10.0.0.12", weight = "2" }]
check = { interval = 1, timeout = "2s" }
[[service]]
listen = "192.0.2.99:80"
backends = ["10.0.0.11:8080"]
"#;
    assert_eq!(
        lines(&errors(&[text])),
        [
            "3:15: the secret /etc/pen/open.key has mode 0640 and so is open to others; \
             `chmod 600 /etc/pen/open.key`",
            "4:2: `web` is not built into this version of pen; remove it; `penctl` shows state \
             and counters",
            "6:8: this machine has no interface `eth7`; did you mean `eth0`?",
            "7:7: unknown xdp `atuo`; did you mean `auto`?",
            "15:13: `10.0.0.300` is no address of a backend; write \"10.0.0.11:80\", \
             \"[2001:db8::11]:80\" or \"host.example:80\", the port may be left out",
            "15:61: expected an integer without quotes, found a string",
            "16:22: `interval` lacks a unit; write \"1ms\" or \"1s\", with the quotes",
            "17:1: [[service]] lacks `name`; add `name = \"web\"`",
            "18:10: no `[[vip]]` declares 192.0.2.99 (declared: 192.0.2.10); add `[[vip]]` with \
             `address = \"192.0.2.99\"` and `interface = ...`",
            "19:13: port 8080 differs from that of the service on 192.0.2.99:80, and in mode `dsr` \
             a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or \
             `masquerade`",
        ]
    );
}

#[test]
fn a_single_table_in_two_files_names_both() {
    let errors = errors(&["[node]\nname = \"a\"", "", "\n[node]\n"]);
    assert_eq!(
        lines(&errors),
        ["/etc/pen/2.toml:2:1: `[node]` is given twice, also at /etc/pen/0.toml:1:1; merge the \
             two"]
    );
}

#[test]
fn errors_of_several_files_keep_the_order_of_the_files() {
    let errors = errors(&["\n[a]", "[b]", "[c]"]);
    let places: Vec<_> =
        errors.iter().map(|error| (error.at.file.to_str().unwrap(), error.at.line)).collect();
    assert_eq!(places, [("/etc/pen/0.toml", 2), ("/etc/pen/1.toml", 1), ("/etc/pen/2.toml", 1)]);
}

#[test]
fn a_byte_order_mark_is_no_column() {
    assert_eq!(errors(&["\u{feff}[a]"])[0].at.column, 2);
}

#[test]
fn a_machine_without_a_usable_name_needs_one_in_the_file() {
    let cases = [
        (
            Err(io::ErrorKind::NotFound.into()),
            "1:1: the host name is unknown (entity not found); add `name = ...` to `[node]`",
        ),
        (
            Ok("(none)"),
            "1:1: `(none)` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
        ),
    ];
    for (host_name, expected) in cases {
        let system = FakeSystem { host_name, ..FakeSystem::new() };
        let source = Source { name: "/etc/pen/0.toml".into(), text: String::new() };
        assert_eq!(lines(&parse(&[source], &system).unwrap_err()), [expected]);
        let text = "[node]\nname = \"a\"".to_owned();
        let source = Source { name: "/etc/pen/0.toml".into(), text };
        assert!(parse(&[source], &system).is_ok());
    }
}

#[test]
fn a_machine_that_lists_no_interfaces_says_where_to_look() {
    let system = FakeSystem { interfaces: &[], ..FakeSystem::new() };
    let text = "[[interface]]\nname = \"eth0\"".to_owned();
    let source = Source { name: "/etc/pen/0.toml".into(), text };
    assert_eq!(
        lines(&parse(&[source], &system).unwrap_err()),
        ["2:8: this machine has no interface `eth0`; see `ip link`"]
    );
}

/// Texts that exceed a limit by one, and the error.
fn excesses() -> [(String, &'static str); 8] {
    let vips = |count: u32| -> String {
        let vip = |n| {
            let address = std::net::Ipv4Addr::from_bits(0xc612_0000 + n);
            format!("[[vip]]\naddress = \"{address}\"\ninterface = \"eth0\"\n")
        };
        (0..count).map(vip).collect()
    };
    let backends = |count: u32| -> String {
        let backend = |n| format!("\"{}\",", std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        format!("backends = [{}]\n", (1..=count).map(backend).collect::<String>())
    };
    let services = |count: u32, rest: &str| -> String {
        let service =
            |n| format!("[[service]]\nname = \"s{n}\"\nlisten = \"192.0.2.10:{n}\"\n{rest}\n");
        (1..=count).map(service).collect()
    };
    let networks = |count: u32| -> String {
        let network = |n| format!("\"{}\",", std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        (0..count).map(network).collect()
    };
    let pool = |count: u32| format!("[[pool]]\nname = \"p\"\n{}", backends(count));
    let groups = |count: u32| -> String {
        let group = |n| {
            format!(
                "[[carp]]\nname = \"g{n}\"\ninterface = \"eth{}\"\nvhid = {}\npassword_file = \
                 \"/etc/pen/love\"\n[[vip]]\naddress = \"198.18.{}.{}\"\ninterface = \
                 \"eth{0}\"\ncarp = \"g{n}\"\n",
                n / 200,
                n % 200 + 1,
                n / 200,
                n % 200 + 1,
            )
        };
        "[[interface]]\nname = \"eth1\"\n".to_owned() + &(0..count).map(group).collect::<String>()
    };
    [
        (
            (0..33)
                .map(|n| format!("[[notify]]\nname = \"n{n}\"\nwebhook = \"http://a\"\n"))
                .collect(),
            "more than 32 [[notify]]; remove some",
        ),
        (groups(256), "more than 255 carp groups; remove some"),
        (vips(4095), "more than 4096 VIPs; remove some"),
        (services(1, &backends(1001)), "more than 1000 backends in one list; remove some"),
        (services(4096, &backends(1)), "more than 4095 services; remove some"),
        (
            services(2, &backends(1)).replace("10:2\"", "10:2-65535\"")
                + "[[service]]\nname = \"more\"\nlisten = \"192.0.2.10:1-2\"\nprotocol = \"udp\"\n"
                + &backends(1),
            "more than 65536 ports of all services; remove some",
        ),
        (
            format!(
                "[[acl]]\nname = \"a\"\nallow = [{}]\n[[acl]]\nname = \"b\"\ndeny = [{}]\n",
                networks(99_990),
                networks(7)
            ),
            "more than 100000 networks in all access lists; remove some",
        ),
        (
            services(17, "pool = \"p\"") + &pool(964),
            "more than 16383 backends in all services; remove some",
        ),
    ]
}

#[test]
fn limits_are_told() {
    for (text, expected) in excesses() {
        let errors = parse_with_base(&text).unwrap_err();
        let kinds: Vec<_> = errors.iter().map(|error| error.kind.to_string()).collect();
        assert_eq!(kinds, [expected]);
    }
}

#[test]
fn a_long_list_in_a_message_is_cut() {
    let (vips, _) = &excesses()[2];
    let text = format!("{vips}[[service]]\nname = \"a\"\nlisten = \"192.0.2.9:1\"\n");
    let errors = parse_with_base(&format!("{text}backends = [\"10.0.0.11\"]\n")).unwrap_err();
    assert!(errors.iter().all(|error| error.to_string().len() < 400));
    assert!(errors.iter().any(|error| error.to_string().contains("198.18.0.7, ...)")));
}

#[test]
fn no_error_is_there_that_no_text_provokes() {
    let variant = |kind: &ErrorKind| {
        let text = format!("{kind:?}");
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    let from_cases = cases().filter_map(|case| parse_with_base(&format!("{}\n", case.0)).err());
    let from_limits = excesses().into_iter().filter_map(|(text, _)| parse_with_base(&text).err());
    let mut provoked: BTreeSet<_> =
        from_cases.chain(from_limits).flatten().map(|error| variant(&error.kind)).collect();
    // Those that need two files, files that are none, or another machine: the tests here and in
    // `files` that name them.
    for elsewhere in ["GivenTwice", "HostNameUnknown", "NotUtf8", "Unreadable"] {
        assert!(provoked.insert(elsewhere.to_owned()), "{elsewhere} has a case: strike it here");
    }
    // The enum itself is the only list of its variants that cannot be out of date.
    let source = include_str!("../error.rs");
    let (_, body) = source.split_once("pub enum ErrorKind {").unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let declared: BTreeSet<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>())
        .collect();
    assert_eq!(provoked, declared);
    assert!(parse_all(&[BASE]).is_ok());
}
