//! Who is told of events: what may be written, and what can be wrong with it.

use std::time::Duration;

use super::errors::Case;
use super::parse_with_base;
use crate::config::{Exec, Notify, To, Webhook};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case(r#"[[notify]]
name = "a""#, &[
        "1:1: nobody is told; add `program = [\"/usr/local/bin/alert\"]` or `webhook = \"https://alerts.example/pen\"`",
    ]),
    Case(r#"[[notify]]
name = "a"
program = ["/bin/true"]
webhook = "http://a""#, &[
        "4:11: both `program` and `webhook` are given; keep one, and write another [[notify]] for the other",
    ]),
    Case(r#"[[notify]]
name = "a"
webhook = "a.example"
events = []
rate_limit = 0
timeout = "50s"
[[notify]]
name = "a"
program = ["true"]
events = ["backend-don", "colour", "all", "all"]"#, &[
        "3:11: `a.example` is no address of a webhook; write one like \"https://alerts.example/pen\"",
        "4:10: no events are told; name some, or remove the key: what needs attention is told then",
        "5:14: `rate_limit` is 0; use 1 to 1000",
        "6:11: `timeout` is 50s; use 100ms to 40s",
        "8:8: notify `a` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
        "9:12: `true` is no program; begin `program` with its whole path, and give each argument in quotes of its own: no shell reads them",
        "10:11: there is no event `backend-don`; did you mean `backend-down`?",
        "10:26: there is no event `colour`; use kinds that `penctl events` shows, e.g. `backend-down`, or `all`",
        "10:43: event `all` is given twice, also at /etc/pen/0.toml:10:36; remove or change one",
    ]),
    Case(r#"[[notify]]
name = "a"
program = ["/bin/true"]
ca = "x.pem"
[[notify]]
name = "b"
webhook = "http://b"
user = "root"
[[notify]]
name = "c"
webhook = "http://c"
ca = "x.pem"
[[notify]]
name = "d"
webook = "http://d""#, &[
        "4:6: `ca` has no effect without `webhook`; remove it, or add that",
        "8:8: `user` has no effect without `program`; remove it, or add that",
        "12:6: `ca` has no effect without a webhook with `https`; remove it, or add that",
        "15:1: unknown key `webook`; did you mean `webhook`?",
    ]),
];

#[test]
fn a_receiver_has_usual_values_for_all_that_is_not_said() {
    let text = r#"[[notify]]
name = "script"
program = ["/usr/local/bin/alert", "--all"]
[[notify]]
name = "hook"
webhook = "http://a.example:81/pen"
events = ["backend-down", "backend-up"]
rate_limit = 3
timeout = "2s"
"#;
    let config = parse_with_base(text).expect("valid");
    let words = ["/usr/local/bin/alert", "--all"].map(str::to_owned).to_vec();
    let script = Notify {
        name: "script".to_owned(),
        to: To::Program(Exec { words, user: "nobody".to_owned() }),
        events: None,
        rate_limit: 10,
        timeout: Duration::from_secs(10),
    };
    let hook = Notify {
        name: "hook".to_owned(),
        to: To::Webhook(Webhook {
            tls: false,
            host: "a.example".to_owned(),
            port: 81,
            authority: "a.example:81".to_owned(),
            path: "/pen".to_owned(),
            ca: None,
        }),
        events: Some(vec!["backend-down".to_owned(), "backend-up".to_owned()]),
        rate_limit: 3,
        timeout: Duration::from_secs(2),
    };
    assert_eq!(config.notify, [script, hook]);
}

#[test]
fn jitter_is_a_share_of_the_interval() {
    let text = web!(
        "192.0.2.10:80",
        r#"backends = ["10.0.0.11"]
check = { jitter = "10%" }"#
    );
    assert_eq!(parse_with_base(text).expect("valid").services[0].check.jitter, 10);
}
