//! The demonstration: the lab with a real pend, real traffic, and a backend that dies and comes
//! back.
//!
//! Tells what it does as it goes, fails with one clear message if the balancer does not do its
//! part, and owns all that it starts, so that its end (done, error, panic or Ctrl-C) removes
//! everything.
#![expect(clippy::print_stdout, reason = "a demonstration is there to be read")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pen_tests::{
    ConfigText, Demo, Lab, Pend, Protocol, ServiceText, VIP4, VIP6,
    paths::{program, target_dir},
    server::{HTTP_PORT, UDP_PORT},
    wait::{interrupted, pace, stop_flag},
};

use super::traffic::{self, Tally};

/// How often each service is asked: enough that by chance no backend is left out (1 in 3 million).
const REQUESTS: u32 = 40;
/// The backend that has to die: the second of three.
const VICTIM: usize = 1;

/// Runs it; without `exit_after_demo` the lab then stays for the user to play with.
pub(super) fn run(exit_after_demo: bool) -> Result<()> {
    // Every wait of the lab ends when the flag is set, and the error unwinds through all owners.
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        signal_hook::flag::register(signal, Arc::clone(stop_flag()))?;
    }
    let mut stage = Stage::build()?;
    stage.everyone_answers()?;
    stage.one_dies_and_returns()?;
    if exit_after_demo {
        println!("\nAll went well.");
        return Ok(());
    }
    stage.stay()
}

/// All that runs. Dropped in this order: first the daemon, then its backends, then the network.
struct Stage {
    pend: Pend,
    servers: Vec<Demo>,
    lab: Lab,
}

impl Stage {
    fn build() -> Result<Self> {
        println!("Building the lab: a client, a balancer and three backends on one switch …");
        let lab = Lab::builder().build().context("cannot build the lab")?;
        let servers = lab.backends.iter().map(Demo::on).collect::<Result<Vec<_>>>()?;

        let config = configuration(&lab);
        let path = config_path()?;
        let mut pend = Pend::prepare(&lab.balancer().netns)?.config_at(path);
        let text = config.render(Some(pend.socket()));
        pend.write_config(&format!(
            "# Written by `cargo xtask run`.\n\
             # To use it elsewhere, adapt the addresses and drop [control].\n\n{text}"
        ))?;
        println!("Configuration ({}):\n", pend.config().display());
        text.lines().for_each(|line| println!("    {line}"));

        println!("Starting pend …");
        pend.launch()?;
        pend.wait_ready(config.services.iter().map(|service| service.backends.len()).sum())?;
        let status = pend.penctl_json(["status"])?;
        println!("pend is up, all backends are usable. XDP: {}", xdp(&status));
        Ok(Self { pend, servers, lab })
    }

    fn everyone_answers(&self) -> Result<()> {
        println!("\nThe client sends {REQUESTS} requests to each service:\n");
        let tally = self.ask_all()?;
        print!("{}", tally.table(&self.names()));
        tally.has_no_failure()?;
        tally.was_answered_by_all(&self.names())
    }

    fn one_dies_and_returns(&mut self) -> Result<()> {
        let victim = self.lab.backends[VICTIM].name.clone();
        println!("\nKilling the server of {victim} while the client goes on asking …");
        self.servers[VICTIM].process().kill9()?;
        let outage = traffic::through_outage(&self.pend, &self.lab.client().netns, &victim)?;
        println!("  detected after {} ms", outage.detected.as_millis());
        println!("  requests until then: {}, failed: {}", outage.before.sent, outage.before.failed);
        println!("  requests afterwards: {}, failed: {}", outage.after.sent, outage.after.failed);
        ensure!(
            outage.after.failed == 0,
            "{} requests failed after {victim} was known to be down; the last one: {}",
            outage.after.failed,
            outage.after.last_error
        );
        for event in traffic::events_about(&self.pend, &victim)? {
            println!("  event: {event}");
        }

        println!("\nStarting it again …");
        self.servers[VICTIM] = Demo::on(&self.lab.backends[VICTIM])?;
        traffic::wait_usable(&self.pend, &victim, true)?;
        traffic::wait_settled(&self.pend)?;
        let tally = self.ask_all()?;
        print!("\n{}", tally.table(&self.names()));
        tally.has_no_failure()?;
        tally.was_answered_by_all(&self.names())
    }

    fn stay(&mut self) -> Result<()> {
        let client = format!("ip netns exec {}", self.lab.client().netns.name());
        let penctl =
            format!("{} --socket {}", program("penctl")?.display(), self.pend.socket().display());
        let vip4 = SocketAddr::new(VIP4, HTTP_PORT);
        let from = SocketAddr::new(self.lab.client().v4.into(), 40000);
        println!("\nThe lab stays. Try, in another terminal:\n");
        println!("  {client} curl http://{VIP4}/");
        println!("  {client} curl -g http://[{VIP6}]/");
        println!("  {client} ping -c 3 {}", self.lab.backends[0].v4);
        println!("  {penctl} backends");
        println!("  {penctl} drain web/b1");
        println!("  {penctl} explain {from} {vip4} tcp");
        println!("  {penctl} counters");
        println!("  ip netns exec {} tcpdump -nei balancer", self.lab.switch.netns().name());
        println!("  kill -9 {}        # the server of b1", self.servers[0].process().pid());
        println!("\nCtrl-C ends it and leaves nothing behind.");
        while !interrupted() {
            ensure!(self.pend.is_running(), "pend has ended:\n{}", self.pend.log());
            pace(Duration::from_millis(100));
        }
        println!("\nCleaning up …");
        Ok(())
    }

    fn ask_all(&self) -> Result<Tally> {
        let client = &self.lab.client().netns;
        let mut tally = Tally::default();
        for vip in [VIP4, VIP6] {
            let at = SocketAddr::new(vip, HTTP_PORT);
            tally.ask(&format!("curl http://{at}/"), REQUESTS, || traffic::curl(client, at))?;
        }
        for vip in [VIP4, VIP6] {
            let at = SocketAddr::new(vip, UDP_PORT);
            tally.ask(&format!("UDP {at}"), REQUESTS, || traffic::datagram(client, at))?;
        }
        Ok(tally)
    }

    fn names(&self) -> Vec<&str> {
        self.lab.backends.iter().map(|backend| &*backend.name).collect()
    }
}

/// HTTP and UDP, each in both families, over the same three backends.
fn configuration(lab: &Lab) -> ConfigText {
    let service = |name: &str, vip: IpAddr, port, protocol| {
        let service = ServiceText::dsr(name, SocketAddr::new(vip, port), protocol, HTTP_PORT);
        lab.backends.iter().fold(service, |service, backend| {
            service.backend(Some(&backend.name), backend.address_like(vip))
        })
    };
    ConfigText::on("eth0")
        .vip(VIP4)
        .vip(VIP6)
        .service(service("web", VIP4, HTTP_PORT, Protocol::Tcp))
        .service(service("web6", VIP6, HTTP_PORT, Protocol::Tcp))
        .service(service("echo", VIP4, UDP_PORT, Protocol::Udp))
        .service(service("echo6", VIP6, UDP_PORT, Protocol::Udp))
}

fn config_path() -> Result<PathBuf> {
    let dir = target_dir()?.join("lab");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir.join("pen.toml"))
}

fn xdp(status: &serde_json::Value) -> String {
    let interfaces = status["interfaces"].as_array().map_or(&[][..], Vec::as_slice);
    let shown = interfaces.iter().map(|interface| {
        let [name, mode] = ["name", "xdp"].map(|key| interface[key].as_str().unwrap_or("?"));
        format!("{mode} on {name}")
    });
    shown.collect::<Vec<_>>().join(", ")
}
