//! Checks of type `smtp`, with OpenSMTPD.

use pen_tests::{Agent, Nginx, Smtpd};

use super::Checked;

/// It turns away whoever has no name, at once at port 26, and after the greeting at port 27.
const REFUSING: &str = r#"
filter "closed" phase connect match !rdns disconnect "554 not today"
filter "rude" phase ehlo match !rdns reject "550 not you"
listen on 0.0.0.0 port 26 hostname b1.test filter "closed"
listen on 0.0.0.0 port 27 hostname b1.test filter "rude"
"#;

#[test]
fn a_mail_server_has_to_greet() {
    let checked = Checked::by(r#"type = "smtp", port = 25, hello = "edge1.test""#);
    checked.wait_down("connection refused");
    let host = &checked.lab.backends[0].netns;
    let server = Smtpd::start_with(host, "b1", REFUSING).unwrap();
    checked.wait_up();
    checked.now_by(r#"type = "smtp", port = 26"#);
    checked.wait_down(r#"answered "554 not today", expected 220"#);
    checked.now_by(r#"type = "smtp", port = 27"#);
    checked.wait_down(r#"answered "550 not you", expected 250"#);
    checked.now_by(r#"type = "smtp", port = 25"#);
    checked.wait_up();
    drop(server);
    checked.wait_down("connection refused");
    let _nginx = Nginx::start(host, "b1", 25).unwrap();
    // It waits for a request, as a client of SMTP waits for a greeting.
    checked.wait_down("accepted the connection, but did not answer within 1s");
}

#[test]
fn who_speaks_otherwise_or_hangs_up_is_no_mail_server() {
    let checked = Checked::by(r#"type = "smtp", port = 25"#);
    let agent = Agent::start(&checked.lab.backends[0].netns, "b1", 25, "up 100%\n").unwrap();
    checked.wait_down(r#"answered "up 100%", expected a reply of SMTP"#);
    // After that it hangs up.
    agent.says("220 b1 is there\r\n").unwrap();
    checked.wait("told that it hung up", |row| {
        let why = row["why"].as_str().unwrap_or_default();
        why.ends_with("closed the connection without an answer")
    });
}
