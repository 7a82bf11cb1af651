//! Checks of every type against real servers: what is right passes, and each way of going wrong is
//! told in its own words.

mod address;
mod agent;
mod dns;
mod exec;
mod http;
mod http2;
mod icmp;
mod smtp;
mod tls;
mod tunnel;
mod udp;

use std::net::SocketAddr;

use pen_tests::{Pend, ServiceText, wait::wait_until};

use crate::{
    proxy::{LONG, lab, proxied},
    stage::{WEB, vips},
};

/// pend with a proxied service over one backend, checked so; nobody answers there yet.
struct Checked {
    pend: Pend,
    lab: pen_tests::Lab,
}

/// Times that suit a loaded machine: what never comes is given up after a second.
const TIMES: &str =
    r#"interval = "1s", fast_interval = "100ms", timeout = "1s", rise = 2, fall = 2"#;

impl Checked {
    fn by(check: &str) -> Self {
        let lab = lab(1);
        let service = Self::service(&lab, check);
        let pend = Pend::start(&lab.balancer().netns, &vips().service(service)).unwrap();
        Self { pend, lab }
    }

    fn service(lab: &pen_tests::Lab, check: &str) -> ServiceText {
        let check = Some(format!("{{ {check}, {TIMES} }}"));
        ServiceText { check, ..proxied(lab, "web", WEB, "") }
    }

    /// Checks it otherwise from now on.
    fn now_by(&self, check: &str) {
        let config = vips().service(Self::service(&self.lab, check));
        self.pend.write_config(&config.render(Some(self.pend.socket()))).unwrap();
        let output = self.pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{}", output.stderr);
    }

    /// The backend's own address.
    fn backend(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.lab.backends[0].address_like(WEB.ip()), port)
    }

    fn wait_up(&self) {
        self.wait("up", |row| row["health"] == "up");
    }

    /// Waits until it is down for this reason.
    fn wait_down(&self, why: &str) {
        let why = format!("check failed: {why}");
        self.wait(&why, |row| row["health"] == "down" && row["why"] == why.as_str());
    }

    /// Waits until it is down because nothing comes from it, at a host off the wire.
    fn wait_gone(&self) {
        // At first there is silence; later its neighbours know that it is not there.
        let reasons = ["no answer within 1s", "No route to host"];
        self.wait("gone", |row| {
            let why = row["why"].as_str().unwrap_or_default();
            row["health"] == "down" && reasons.iter().any(|reason| why.contains(reason))
        });
    }

    fn wait(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
        let mut last = None;
        let waited = wait_until(LONG, what, || {
            let row = self.pend.backend("web", "b1").ok()?;
            let found = is(&row);
            last = Some(row);
            found.then_some(())
        });
        if let Err(error) = waited {
            panic!("{error}: {last:?}");
        }
    }
}
