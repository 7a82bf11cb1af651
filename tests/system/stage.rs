//! What most scenarios start from: the lab, a server on each backend, and pend in front of them.
//!
//! Services `web` and `web6` are TCP port 80, `echo` and `echo6` UDP port 7, each on a VIP of its
//! family and over all backends.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pen_tests::{
    ConfigText, Demo, Lab, Netns, Pend, Protocol, ServiceText, VIP4, VIP6,
    client::http,
    server::{HTTP_PORT, UDP_PORT},
    wait::pace,
};

pub(crate) const WEB: SocketAddr = SocketAddr::new(VIP4, HTTP_PORT);
pub(crate) const WEB6: SocketAddr = SocketAddr::new(VIP6, HTTP_PORT);
pub(crate) const ECHO: SocketAddr = SocketAddr::new(VIP4, UDP_PORT);
pub(crate) const ECHO6: SocketAddr = SocketAddr::new(VIP6, UDP_PORT);

/// All that runs. Dropped in this order: first the daemon, then its backends, then the network.
pub(crate) struct Stage {
    pub(crate) pend: Pend,
    pub(crate) demos: Vec<Demo>,
    pub(crate) lab: Lab,
}

impl Stage {
    /// The lab as it comes, and all four services; on return all backends are usable.
    pub(crate) fn new() -> Self {
        Self::in_lab(Lab::builder().build().unwrap(), usual)
    }

    /// In another lab or with another configuration; its backends run the demo server.
    pub(crate) fn in_lab(lab: Lab, config: impl FnOnce(&Lab) -> ConfigText) -> Self {
        let demos = lab.backends.iter().map(|backend| Demo::on(backend).unwrap()).collect();
        let pend = balance(&lab, &config(&lab));
        Self { pend, demos, lab }
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    pub(crate) fn balancer(&self) -> &Netns {
        &self.lab.balancer().netns
    }

    /// Who answers so many HTTP requests, each of which must be answered.
    pub(crate) fn web_tally(&self, times: u32) -> BTreeMap<String, u32> {
        tally(times, || http(self.client(), WEB).unwrap())
    }

    /// Runs a verb of penctl that has to succeed.
    pub(crate) fn order<const N: usize>(&self, words: [&str; N]) -> String {
        let output = self.pend.penctl(words).unwrap();
        assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
        output.stdout
    }
}

/// Starts pend on the balancer; on return all backends are usable.
pub(crate) fn balance(lab: &Lab, config: &ConfigText) -> Pend {
    let mut pend = Pend::start(&lab.balancer().netns, config).unwrap();
    pend.wait_ready(config.services.iter().map(|service| service.backends.len()).sum()).unwrap();
    pend
}

/// All four services over all backends of a lab.
pub(crate) fn usual(lab: &Lab) -> ConfigText {
    vips()
        .service(over_all(lab, "web", WEB, Protocol::Tcp, HTTP_PORT))
        .service(over_all(lab, "web6", WEB6, Protocol::Tcp, HTTP_PORT))
        .service(over_all(lab, "echo", ECHO, Protocol::Udp, HTTP_PORT))
        .service(over_all(lab, "echo6", ECHO6, Protocol::Udp, HTTP_PORT))
}

/// Both VIPs and no service.
pub(crate) fn vips() -> ConfigText {
    ConfigText::on("eth0").vip(VIP4).vip(VIP6)
}

/// A service over all backends of a lab, which are probed by connecting to TCP port `probed`.
pub(crate) fn over_all(
    lab: &Lab,
    name: &str,
    at: SocketAddr,
    protocol: Protocol,
    probed: u16,
) -> ServiceText {
    let service = ServiceText::dsr(name, at, protocol, probed);
    lab.backends.iter().fold(service, |service, backend| {
        service.backend(Some(&backend.name), backend.address_like(at.ip()))
    })
}

/// A service over one backend at any address.
pub(crate) fn over_one(name: &str, at: SocketAddr, backend: IpAddr) -> ServiceText {
    ServiceText::dsr(name, at, Protocol::Tcp, HTTP_PORT).backend(Some("b1"), backend)
}

/// Who answers so many requests.
pub(crate) fn tally(times: u32, mut ask: impl FnMut() -> String) -> BTreeMap<String, u32> {
    count((0..times).map(|_| ask()))
}

/// How often each name comes.
pub(crate) fn count(names: impl IntoIterator<Item = String>) -> BTreeMap<String, u32> {
    names.into_iter().fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}

/// What clients met while something happened.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) asked: u32,
    pub(crate) failures: Vec<String>,
}

/// Goes on with requests, each over a new connection, from before `during` until after it.
pub(crate) fn while_asking<T>(
    client: &Netns,
    at: &[SocketAddr],
    during: impl FnOnce() -> T,
) -> (T, Heard) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when `during` panics: the asker has to end with it.
        let _end = SetOnDrop(&over);
        let asker = scope.spawn(|| {
            let mut heard = Heard::default();
            for server in at.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                heard.asked += 1;
                if let Err(error) = http(client, *server) {
                    heard.failures.push(format!("{server}: {error}"));
                }
                pace(Duration::from_millis(2));
            }
            heard
        });
        let result = during();
        over.store(true, Ordering::Relaxed);
        (result, asker.join().unwrap())
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
