//! Checks of type `icmp`, answered by the kernel of the backend.

use super::Checked;
use crate::proxy::LONG;
use pen_tests::wait::wait_until;

#[test]
fn a_host_has_to_answer_an_echo() {
    let checked = Checked::by(r#"type = "icmp""#);
    checked.wait_up();
    checked.lab.switch.set_link("b1", false).unwrap();
    // At first there is silence; later its neighbours know that it is not there.
    let reasons = ["no answer within 1s", "No route to host"];
    wait_until(LONG, "it is down", || {
        let row = checked.pend.backend("web", "b1").ok()?;
        let why = row["why"].as_str()?.to_owned();
        reasons.iter().any(|reason| why.contains(reason)).then_some(())
    })
    .unwrap();
    checked.lab.switch.set_link("b1", true).unwrap();
    checked.wait_up();
}
