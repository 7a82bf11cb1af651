//! Checks of type `tls`, and of HTTP over TLS, with nginx.

use pen_tests::Nginx;

use super::Checked;
use crate::{
    stage::WEB,
    tls::{Pki, dated},
};

/// nginx on the backend, with a certificate of this name.
fn nginx(checked: &Checked, pki: &Pki, name: &str, options: &str) -> Nginx {
    let [chain, key] = ["pem", "key"].map(|end| pki.file(&format!("{name}.{end}")));
    let host = &checked.lab.backends[0].netns;
    Nginx::secure(host, "b1", 80, (&chain, &key), options).unwrap()
}

#[test]
fn a_certificate_has_to_be_the_right_one_and_valid() {
    let pki = Pki::new();
    pki.issue("site", &["site.test"]);
    dated(&pki, "ended", "site.test", ["20200101000000Z", "20200201000000Z"]);
    let root = pki.file("root.pem");
    let by = |name: &str| format!(r#"type = "tls", ca = "{root}", server_name = "{name}""#);
    let checked = Checked::by(&by("site.test"));
    checked.wait_down("connection refused");
    let server = nginx(&checked, &pki, "site", "");
    checked.wait_up();
    checked.now_by(&by("other.test"));
    checked.wait_down("its certificate is for site.test, and not for other.test");
    checked.now_by(r#"type = "tls", expires_in = "40days""#);
    checked.wait_down("its certificate ends in 29 days, and has to be valid for 40 days");
    checked.now_by(r#"type = "tls""#);
    checked.wait_up();
    drop(server);
    let server = nginx(&checked, &pki, "ended", "");
    checked.wait("told that it ended", |row| {
        row["why"].as_str().is_some_and(|why| {
            why.starts_with("check failed: its certificate ended ") && why.ends_with(" days ago")
        })
    });
    checked.now_by(r#"type = "tls", verify = "none""#);
    checked.wait_up();
    drop(server);
    let host = &checked.lab.backends[0].netns;
    let _plain = Nginx::start(host, "b1", 80).unwrap();
    checked.wait_down("answered something else, expected TLS");
}

#[test]
fn http_is_asked_over_tls() {
    let pki = Pki::new();
    pki.issue("site", &["site.test"]);
    let root = pki.file("root.pem");
    let by = |more: &str| format!(r#"type = "http", tls = true, ca = "{root}", {more}"#);
    let checked = Checked::by(&by(r#"host = "site.test:80", body = "b1""#));
    let _server = nginx(&checked, &pki, "site", "");
    checked.wait_up();
    assert_eq!(WEB.port(), 80);
    checked.now_by(&by(r#"host = "site.test", path = "/nowhere""#));
    checked.wait_down("answered 404, expected 200-399");
    checked.now_by(&by(r#"host = "other.test""#));
    checked.wait_down("its certificate is for site.test, and not for other.test");
    // The name that is shown to TLS may be another one than the host that is asked for.
    checked.now_by(&by(r#"host = "other.test", server_name = "site.test""#));
    checked.wait_up();
}

#[test]
fn a_server_that_wants_a_certificate_is_shown_one() {
    let pki = Pki::new();
    for name in ["site", "pen"] {
        pki.issue(name, &["site.test"]);
    }
    let stranger = Pki::new();
    stranger.issue("pen", &["site.test"]);
    let shown = format!(
        r#"certificate = {{ chain = "{}", key = "{}" }}"#,
        pki.file("pen.pem"),
        pki.file("pen.key")
    );
    let checked = Checked::by(r#"type = "http", tls = true"#);
    // `listen` ends before them.
    let asks = format!(
        "; ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 2",
        pki.file("root.pem")
    );
    let _server = nginx(&checked, &pki, "site", &asks);
    checked.wait_down("answered 400, expected 200-399");
    checked.now_by(&format!(r#"type = "http", tls = true, {shown}"#));
    checked.wait_up();
    // The files are read again when they change.
    let own = ["pen.pem", "pen.key"].map(|file| (file, pki.read(file)));
    for (file, _) in &own {
        pki.write(file, stranger.read(file));
    }
    checked.wait_down("answered 400, expected 200-399");
    for (file, content) in own {
        pki.write(file, content);
    }
    checked.wait_up();
}
