//! What scenarios of CARP with a real ucarp start from: `S` (10.77.0.1) runs `pend carp` or pend, the
//! successor, `U` (10.77.0.5) ucarp; the client (10.77.0.2) watches, and asks.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use pen_tests::{
    Host, Lab, Pend,
    carp::{Node, Program, Seen, Watch},
    paths::Scratch,
    wait::{Stopwatch, pace},
    wait_until,
};

use crate::probe::Probes;

pub(crate) const VIP: &str = "10.77.0.100";
pub(crate) const S: &str = "10.77.0.1";
pub(crate) const U: &str = "10.77.0.5";
/// Long enough for a node to become master: three intervals, and ucarp looks late.
pub(crate) const MASTER: Duration = Duration::from_secs(9);
/// So much may be between what happens and what somebody wrote down, beside the limit.
const CLOCK: f64 = 0.001;

/// The network of a test. Dropped last, after the nodes in it.
pub(crate) struct Net {
    pub(crate) watch: Watch,
    pub(crate) lab: Lab,
}

impl Net {
    pub(crate) fn new() -> Self {
        let lab = Lab::builder().backends(0).balancers(2).build().unwrap();
        let watch = Watch::start(&lab.client().netns, "eth0", "love", &[VIP]).unwrap();
        Self { watch, lab }
    }

    pub(crate) fn s(&self) -> &Host {
        &self.lab.balancers[0]
    }

    pub(crate) fn u(&self) -> &Host {
        &self.lab.balancers[1]
    }

    /// The successor, with more arguments.
    pub(crate) fn start_s(&self, more: &[&str]) -> Node {
        Node::start(Program::Pend, &self.s().netns, S, VIP, more).unwrap()
    }

    /// The real ucarp, with more arguments.
    pub(crate) fn start_u(&self, more: &[&str]) -> Node {
        Node::start(Program::Ucarp, &self.u().netns, U, VIP, more).unwrap()
    }

    /// Takes a port out of the bridge: nobody hears the host any more, but its carrier stays.
    pub(crate) fn detach(&self, host: &Host) {
        self.lab.switch.netns().ip(&format!("link set dev {} nomaster", host.name)).unwrap();
    }

    pub(crate) fn attach(&self, host: &Host) {
        self.lab.switch.netns().ip(&format!("link set dev {} master br0", host.name)).unwrap();
    }

    pub(crate) fn adverts(&self, source: &str) -> Vec<Seen> {
        self.watch.all(|seen| seen.is_advert_of(source))
    }

    pub(crate) fn wait_adverts(&self, source: &str, count: usize) -> Vec<Seen> {
        wait_until(MASTER, &format!("{count} advertisements of {source}"), || {
            let adverts = self.adverts(source);
            (adverts.len() >= count).then_some(adverts)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.watch.tail()))
    }

    pub(crate) fn probes(&self) -> Probes {
        Probes::start(&self.lab.client().netns, VIP.parse().unwrap())
    }
}

/// Looks again and again for a while.
pub(crate) fn throughout(time: Duration, mut check: impl FnMut()) {
    let begin = Stopwatch::start();
    while begin.elapsed() < time {
        check();
        pace(Duration::from_millis(100));
    }
}

pub(crate) fn assert_between(what: &str, found: f64, least: f64, most: f64) {
    assert!((least - CLOCK..=most).contains(&found), "{what}: {found:.4}, not {least} to {most}");
}

/// A pend with a group of vhid 42 and password `love`: more keys of the group, in which `KEY` is the file
/// of a key, its addresses, and more text.
pub(crate) fn pend(host: &Host, group: &str, vips: &[&str], more: &str) -> (Pend, Scratch) {
    let files = Scratch::new().unwrap();
    let password = files.file("password");
    fs::write(&password, "love\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let mut pend = Pend::prepare(&host.netns).unwrap();
    let vip = |vip: &&str| {
        format!("[[vip]]\naddress = \"{vip}\"\ninterface = \"eth0\"\ncarp = \"main\"\n")
    };
    // For those whose profile takes it.
    let key = files.file("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let group = group.replace("KEY", &key.display().to_string());
    let config = format!(
        "[control]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\n[[carp]]\nname = \"main\"\n\
         interface = \"eth0\"\nvhid = 42\npassword_file = \"{}\"\n{group}\n{}{more}\n",
        pend.socket().display(),
        password.display(),
        vips.iter().map(vip).collect::<String>(),
    );
    pend.write_config(&config).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    (pend, files)
}
