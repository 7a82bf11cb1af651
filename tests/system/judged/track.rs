//! A service that goes by the checks of another one.

use std::net::SocketAddr;

use pen_tests::{Capture, Demo, ServiceText, VIP4, client::http, wait_until};

use crate::{
    proxy::{LONG, lab, proxied},
    stage::{WEB, balance, vips},
};

/// Beside [`WEB`].
const OTHER: SocketAddr = SocketAddr::new(VIP4, 8080);

#[test]
fn a_service_that_tracks_another_one_asks_nobody_and_follows() {
    let lab = lab(2);
    let hosts = &lab.backends;
    let serve = |at: usize, port| Demo::start(&hosts[at].netns, &hosts[at].name, port, 7 + port);
    let mut webs = [serve(0, 80).unwrap(), serve(1, 80).unwrap()];
    let others = [serve(0, 8080).unwrap(), serve(1, 8080).unwrap()];
    let asked = Capture::start(&hosts[0].netns, "eth0", "tcp dst port 8080").unwrap();
    let tracks = ServiceText { check: None, ..proxied(&lab, "other", OTHER, "track = \"web\"") };
    let pend = balance(&lab, &vips().service(proxied(&lab, "web", WEB, "")).service(tracks));
    let usable = |wanted: bool| {
        wait_until(LONG, "both services agree", || {
            let rows = ["web", "other"].map(|service| pend.backend(service, "b1").unwrap());
            rows.iter().all(|row| row["usable"] == wanted).then_some(())
        })
        .unwrap();
    };
    usable(true);

    // The other port of the server is as well as ever.
    webs[0].process().kill9().unwrap();
    usable(false);
    let why = pend.backend("other", "b1").unwrap()["why"].clone();
    assert_eq!(why, "check failed: connection refused");
    assert_eq!(asked.stop().unwrap(), [""; 0], "nobody was asked at the port that tracks");
    for _ in 0..10 {
        assert_eq!(http(&lab.client().netns, OTHER).unwrap(), "b2");
    }
    webs[0] = serve(0, 80).unwrap();
    usable(true);
    assert!((0..20).any(|_| http(&lab.client().netns, OTHER).unwrap() == "b1"));
    let told = pend.events("backend-down").unwrap();
    let down = ["web", "other"].map(|name| format!("{name}/b1 is down: connection refused"));
    assert_eq!(told, down);

    // What is asked is the other service's business alone.
    drop(others);
    let failed = http(&lab.client().netns, OTHER);
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(pend.events("backend-down").unwrap(), down);
}
