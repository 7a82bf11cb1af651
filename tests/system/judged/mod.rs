//! How servers are judged, as whole scenarios: real servers that die, flap and return below services of
//! every mode at the same time, and what their clients see of that.

mod all_ways;
mod flapping;
mod quorum;
mod slow;
mod track;
mod wishes;

use std::{fs, net::IpAddr, net::SocketAddr};

use pen_ctl::{api::Request, io::control::client::Client};
use pen_tests::{ConfigText, Decap, Demo, Host, Lab, Netns, Pend, Protocol, ServiceText};
use serde_json::Value;

use crate::stage::{balance, over_all};

/// A mode has a service of its name, at an address of its own.
pub(crate) const WAYS: [(&str, u8); 6] =
    [("dsr", 100), ("ipip", 101), ("gue", 102), ("nat", 103), ("masquerade", 104), ("proxy", 105)];

/// Where clients find the service of a mode.
pub(crate) fn at(mode: &str) -> SocketAddr {
    let found = WAYS.iter().find(|(name, _)| *name == mode);
    SocketAddr::new([10, 77, 0, found.expect("a mode").1].into(), 80)
}

/// Two servers that serve in several modes at the same time. Dropped in this order.
pub(crate) struct Site {
    pub(crate) pend: Pend,
    pub(crate) demos: Vec<Demo>,
    _decaps: Vec<Decap>,
    pub(crate) lab: Lab,
}

impl Site {
    /// Services of these modes, each as `service` leaves it; on return all is usable.
    pub(crate) fn start(modes: &[&str], service: impl Fn(ServiceText) -> ServiceText) -> Self {
        let held: Vec<IpAddr> = ["dsr", "ipip", "gue"].map(|mode| at(mode).ip()).into();
        let lab = Lab::builder().backends(2).vips(&held).build().unwrap();
        let balancer = lab.balancer();
        // Modes `nat` and `masquerade`.
        balancer.netns.sysctl("net/ipv4/ip_forward", "1").unwrap();
        for scope in ["all", "eth0"] {
            balancer.netns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0").unwrap();
        }
        let args = ["--vip", "10.77.0.101", "--vip", "10.77.0.102"];
        let decap = |host: &Host| {
            // What a server says in its own name goes through the balancer, as mode `nat` asks for;
            // what it says in that of a virtual address goes straight to the client.
            let rule = format!("rule add from {} to {} lookup 77", host.v4, lab.client().v4);
            host.netns.ip(&rule).unwrap();
            host.netns.ip(&format!("route add default via {} table 77", balancer.v4)).unwrap();
            Decap::on(host, &args).unwrap()
        };
        let decaps = lab.backends.iter().map(decap).collect();
        let demos = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
        let mut config = ConfigText::on("eth0");
        for mode in modes {
            let at = at(mode);
            let text = over_all(&lab, mode, at, Protocol::Tcp, at.port());
            let text = service(ServiceText { mode: (*mode).to_owned(), ..text });
            config = config.vip(at.ip()).service(text);
        }
        let pend = balance(&lab, &config);
        Self { pend, demos, _decaps: decaps, lab }
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    /// Ends the first server, as a crash would.
    pub(crate) fn crash(&mut self) {
        self.demos[0].process().kill9().unwrap();
    }

    /// Starts it again.
    pub(crate) fn revive(&mut self) {
        self.demos[0] = Demo::on(&self.lab.backends[0]).unwrap();
    }
}

/// A connection to the daemon: answers come within a millisecond, and one after the other.
pub(crate) struct Asker {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Asker {
    pub(crate) fn new(pend: &Pend) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(pend.socket())).unwrap();
        Self { runtime, client }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Vec<Value> {
        let answer = self.runtime.block_on(self.client.ask(request)).unwrap();
        match serde_json::from_slice(&answer).unwrap() {
            Value::Array(rows) => rows,
            one => vec![one],
        }
    }

    /// What is known of a backend in all services that it has, at one moment.
    pub(crate) fn rows(&mut self, backend: &str) -> Vec<Value> {
        let mut rows = self.ask(&Request::Backends);
        rows.retain(|row| row["name"] == backend);
        rows
    }

    /// Events of a kind about this backend, oldest first.
    pub(crate) fn events(&mut self, kind: &str, backend: &str) -> Vec<Value> {
        let mut rows = self.ask(&Request::Events { since: 0 });
        let end = format!("/{backend}");
        let is =
            |row: &Value| row["subject"].as_str().is_some_and(|subject| subject.ends_with(&end));
        rows.retain(|row| row["kind"] == kind && is(row));
        rows
    }
}

/// TCP connections that the servers of a host have accepted, since it exists.
pub(crate) fn accepted(host: &Host) -> u64 {
    // Two lines for each protocol: names and numbers.
    let snmp = host.netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let mut words = || lines.next().expect("two lines").split_whitespace();
    let place = words().position(|name| name == "PassiveOpens").expect("a counter");
    words().nth(place).expect("as many numbers as names").parse().unwrap()
}
