//! Two and more pens on one wire that share both addresses of the lab.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use pen_tests::{
    Host, Lab, Netns, Pend, VIP4, VIP6,
    paths::Scratch,
    wait::{Stopwatch, pace},
    wait_until,
};
use serde_json::Value;

use crate::probe::{Probes, Seen};

pub(crate) const VIP: Ipv4Addr = match VIP4 {
    IpAddr::V4(vip) => vip,
    IpAddr::V6(_) => panic!("the lab's first address is IPv4"),
};
/// As often as in the tests that measure.
pub(crate) const QUICK: &str = "100ms";
/// Long enough for whatever has to happen on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// A wire on which nothing changes for so long is at rest.
pub(crate) const REST: Duration = Duration::from_millis(700);
/// Pens that share both addresses of the lab. Dropped in this order: the daemons, then the network.
pub(crate) struct Nodes {
    pub(crate) pends: Vec<Pend>,
    pub(crate) files: Scratch,
    pub(crate) lab: Lab,
}

impl Nodes {
    /// The first has the addresses on return.
    pub(crate) fn start(count: u8) -> Self {
        Self::with(count, QUICK, |_| String::new())
    }

    /// The same with more lines in `[[carp]]` for each node.
    pub(crate) fn with(count: u8, advbase: &str, more: impl Fn(usize) -> String) -> Self {
        Self::serving(count, advbase, more, true)
    }

    /// The same, with services on the addresses or without: then the machine's own programs are to
    /// answer for them.
    pub(crate) fn serving(
        count: u8,
        advbase: &str,
        more: impl Fn(usize) -> String,
        services: bool,
    ) -> Self {
        let lab = Lab::builder().backends(0).balancers(count).build().unwrap();
        for host in &lab.balancers {
            // Another network that a node may depend on.
            host.netns.ip("link add eth1 type veth peer name far").unwrap();
            host.netns.ip("link set dev far up").unwrap();
            host.netns.ip("link set dev eth1 up").unwrap();
        }
        let files = Scratch::new().unwrap();
        let key = files.file("carp.key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        private(&key);
        let mut nodes = Self { pends: Vec::new(), files, lab };
        for index in 0..usize::from(count) {
            let pend = Pend::prepare(&nodes.lab.balancers[index].netns).unwrap();
            let config = nodes.config(index, &pend, advbase, &more(index), services);
            pend.write_config(&config).unwrap();
            nodes.pends.push(pend);
            nodes.pends[index].launch().unwrap();
            nodes.pends[index].wait_ready(0).unwrap();
            if index == 0 {
                nodes.wait_for(0, "master");
            }
        }
        for index in 1..usize::from(count) {
            nodes.wait_for(index, "backup");
        }
        nodes
    }

    fn config(
        &self,
        index: usize,
        pend: &Pend,
        advbase: &str,
        more: &str,
        services: bool,
    ) -> String {
        let (name, socket) = (&self.lab.balancers[index].name, pend.socket().display());
        let key = self.files.file("carp.key");
        let (key, skew) = (key.display(), 100 * index);
        let vip = |address: IpAddr| {
            let service = format!(
                "[[service]]\nname = \"{address}\"\nlisten = \"{}\"\nmode = \"dsr\"\n\
                 backends = [\"{}\"]\ncheck = {{ type = \"none\" }}\n\n",
                SocketAddr::new(address, 80),
                SocketAddr::new(self.lab.client().address_like(address), 80)
            );
            let vip = format!(
                "[[vip]]\naddress = \"{address}\"\ninterface = \"eth0\"\ncarp = \"main\"\n\
                 echo = {services}\n\n"
            );
            if services { vip + &service } else { vip }
        };
        format!(
            "[node]\nname = \"{name}\"\n\n[[interface]]\nname = \"eth0\"\n\n\
             [control]\nsocket = \"{socket}\"\n\n\
             [[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\nadvbase = \"{advbase}\"\n\
             advskew = {skew}\nauth = \"sha256\"\nkeys = [{{ id = 1, file = \"{key}\" }}]\n\
             active_key = 1\n{more}\n\n{}{}",
            vip(VIP4),
            vip(VIP6)
        )
    }

    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.lab.balancers[index]
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    /// What `penctl carp` says of a node.
    pub(crate) fn group(&self, index: usize) -> Option<Value> {
        Some(self.pends[index].penctl_json(["carp"]).ok()?[0].clone())
    }

    pub(crate) fn state(&self, index: usize) -> String {
        let group = self.group(index).unwrap_or_default();
        group["state"].as_str().unwrap_or("unknown").to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, index: usize, state: &str) {
        wait_until(SOON, &format!("node {index} is {state}"), || {
            (self.state(index) == state).then_some(())
        })
        .map_err(|error| self.pends[index].with_log(&error))
        .unwrap();
    }

    /// How often a node changed its role.
    pub(crate) fn transitions(&self, index: usize) -> u64 {
        self.group(index).unwrap()["transitions"].as_u64().unwrap()
    }

    pub(crate) fn order(&self, index: usize, words: &[&str]) -> String {
        let output = self.pends[index].penctl(words).unwrap();
        assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
        output.stdout
    }

    /// Takes the node's port out of the bridge, so that nobody hears it and it hears nobody, but its
    /// carrier stays.
    pub(crate) fn detach(&self, index: usize) {
        let port = &self.host(index).name;
        self.lab.switch.netns().ip(&format!("link set dev {port} nomaster")).unwrap();
    }

    pub(crate) fn attach(&self, index: usize) {
        let port = &self.host(index).name;
        self.lab.switch.netns().ip(&format!("link set dev {port} master br0")).unwrap();
    }

    /// Asks each millisecond while something happens, and for a while before and after.
    pub(crate) fn while_probing(&self, during: impl FnOnce()) -> Seen {
        let probes = Probes::start(self.client(), VIP);
        pace(REST);
        during();
        pace(REST);
        let seen = probes.stop();
        assert!(seen.sent > 200, "{seen:?}");
        println!("{}: {seen:?}", thread::current().name().unwrap_or("?"));
        seen
    }

    /// One of the nodes has the addresses, and the others have not, for as long as is looked at.
    #[track_caller]
    pub(crate) fn assert_one_master(&self, among: &[usize]) {
        let masters =
            |nodes: &Self| among.iter().filter(|index| nodes.state(**index) == "master").count();
        wait_until(SOON, "one master", || (masters(self) == 1).then_some(())).unwrap();
        let watched = Stopwatch::start();
        while watched.elapsed() < REST {
            assert_eq!(masters(self), 1);
            pace(Duration::from_millis(20));
        }
    }
}

/// Only root may read it.
pub(crate) fn private(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
