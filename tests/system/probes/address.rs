//! Checks at another address than the one that serves.

use pen_tests::Nginx;

use super::Checked;
use crate::stage::WEB6;

#[test]
fn the_other_address_of_a_server_may_be_asked() {
    let checked = Checked::by(r#"type = "http", port = 8080"#);
    let host = &checked.lab.backends[0];
    let other = host.address_like(WEB6.ip());
    let listens = [format!("[{other}]:8080"), "127.0.0.1:8080".to_owned()];
    let _server = Nginx::start_on(&host.netns, "b1", &listens, 8080).unwrap();
    checked.wait_down("connection refused");
    checked.now_by(&format!(r#"type = "http", port = 8080, address = "{other}", init = "down""#));
    checked.wait_up();
}
