//! A service on a range of ports: each port reaches the backends, those beside it do not.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr};

use pen_tests::{
    VIP4, VIP6,
    client::http,
    server::{HTTP_PORT, UDP_PORT},
};

use crate::stage::{Stage, tally, vips};

/// HTTP is in the middle of one range, UDP at the end of the other.
const CONFIG: &str = r#"
[[service]]
name = "web"
listen = "10.77.0.100:78-82"
affinity = "flow"
backends = ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
check = { port = 80, interval = "200ms", timeout = "100ms" }
[[service]]
name = "web6"
listen = "[fd77::100]:78-82"
affinity = "flow"
backends = ["fd77::11", "fd77::12", "fd77::13"]
check = { port = 80, interval = "200ms", timeout = "100ms" }
[[service]]
name = "echo"
listen = "10.77.0.100:1-7"
protocol = "udp"
affinity = "flow"
backends = ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
check = { port = 80, interval = "200ms", timeout = "100ms" }
"#;

#[test]
fn every_port_of_a_range_reaches_the_backends_and_no_other_does() {
    let mut stage =
        Stage::in_lab(pen_tests::Lab::builder().build().unwrap(), |_| vips().extra(CONFIG));
    stage.pend.wait_ready(9).unwrap();
    for vip in [VIP4, VIP6] {
        let at = |port| SocketAddr::new(vip, port);
        let by = tally(60, || http(stage.client(), at(HTTP_PORT)).unwrap());
        assert_eq!(by.len(), 3, "{by:?}");
        // Nobody listens there, which the backends say.
        for port in [78, 82] {
            let before = stage.pend.counter("transmit").unwrap();
            let refused = http(stage.client(), at(port)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
            assert!(stage.pend.counter("transmit").unwrap() > before, "port {port}");
        }
    }
    let echo = SocketAddr::new(VIP4, UDP_PORT);
    let by: BTreeSet<_> =
        (0..60).filter_map(|_| pen_tests::client::udp_ask(stage.client(), echo)).collect();
    assert_eq!(by.len(), 3, "{by:?}");

    let explain = |port: u16| {
        let words = ["explain", "10.77.0.2:5000", &format!("10.77.0.100:{port}")];
        stage.pend.penctl_json(words).unwrap()["counter"].as_str().unwrap().to_owned()
    };
    let counters: Vec<_> = [77, 78, 82, 83].into_iter().map(explain).collect();
    assert_eq!(counters, ["pass-no-service", "transmit", "transmit", "pass-no-service"]);
    let services = stage.order(["services"]);
    assert!(services.contains("10.77.0.100:78-82/tcp"), "{services}");
    assert!(services.contains("[fd77::100]:78-82/tcp"), "{services}");
}
