//! Checks of type `icmp`, answered by the kernel of the backend.

use super::Checked;

#[test]
fn a_host_has_to_answer_an_echo() {
    let checked = Checked::by(r#"type = "icmp""#);
    checked.wait_up();
    checked.lab.switch.set_link("b1", false).unwrap();
    checked.wait_gone();
    checked.lab.switch.set_link("b1", true).unwrap();
    checked.wait_up();
}
