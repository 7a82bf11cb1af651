//! Checks of type `smtp`, with OpenSMTPD.

use pen_tests::{Nginx, Smtpd};

use super::Checked;

#[test]
fn a_mail_server_has_to_greet() {
    let checked = Checked::by(r#"type = "smtp", port = 25, hello = "edge1.test""#);
    checked.wait_down("connection refused");
    let host = &checked.lab.backends[0].netns;
    let server = Smtpd::start(host, "b1").unwrap();
    checked.wait_up();
    drop(server);
    checked.wait_down("connection refused");
    let _nginx = Nginx::start(host, "b1", 25).unwrap();
    // It waits for a request, as a client of SMTP waits for a greeting.
    checked.wait_down("accepted the connection, but did not answer within 1s");
}
