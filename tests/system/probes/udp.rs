//! Checks of type `udp`, with the demo server, which answers every datagram with its name.

use pen_tests::Demo;

use super::Checked;

#[test]
fn a_datagram_has_to_be_answered_as_expected() {
    let checked = Checked::by(r#"type = "udp", port = 7, send = "who?", expect = "b1""#);
    checked.wait_down("connection refused");
    let mut demo = Demo::on(&checked.lab.backends[0]).unwrap();
    checked.wait_up();
    checked.now_by(r#"type = "udp", port = 7, send_hex = "00 ff", expect_hex = "ff""#);
    checked.wait_down(r#"answered "b1", expected an answer with 0xff"#);
    checked.now_by(r#"type = "udp", port = 7, expect_regex = "^b[0-9]""#);
    checked.wait_up();
    checked.lab.switch.set_link("b1", false).unwrap();
    checked.wait_down("no answer within 1s");
    checked.lab.switch.set_link("b1", true).unwrap();
    checked.wait_up();
    demo.process().kill9().unwrap();
    checked.wait_down("connection refused");
}
