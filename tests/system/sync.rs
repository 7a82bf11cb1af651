//! Connections that do not notice that their address has moved: two pens in front of real servers, of
//! which one is lost, killed or relieved while downloads run and sessions idle, soon after a backend
//! was added.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Read,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use pen_tests::{
    Decap, Demo, Host, Lab, Netns, Nginx, Pend, VIP4, VIP6,
    client::{TcpTalk, UdpTalk, http},
    paths::Scratch,
    process::{run, run_ok},
    server::{HTTP_PORT, UDP_PORT},
    wait::{Stopwatch, pace},
    wait_until,
};
use serde_json::Value;

use crate::effort;

/// Where nginx serves files.
const FILES: u16 = 8000;
/// 20 MB, at a rate that makes a download outlive all that happens.
const LENGTH: u64 = 20_000_000;
const RATE: &str = "1500k";
const PATIENCE: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// How the node that has the addresses stops having them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nobody hears it any more, nor it them.
    Cut,
    /// Its daemon is killed.
    Kill,
    /// The operator wants the other node to have them.
    Demote,
    /// Its daemon is asked to end.
    Stop,
}

/// How much goes on meanwhile, over each family.
#[derive(Clone, Copy, Debug)]
struct Load {
    downloads: usize,
    sessions: usize,
    datagrams: usize,
}

/// For most tests, unless PEN_LOAD=full asks for more.
const USUAL: Load = Load { downloads: 5, sessions: 25, datagrams: 10 };
/// 50 downloads, 200 sessions.
const FULL: Load = Load { downloads: 25, sessions: 100, datagrams: 25 };

/// Dropped in this order: the daemons, then the servers, then the network.
struct Site {
    pends: Vec<Pend>,
    _servers: Vec<(Demo, Nginx, Option<Decap>)>,
    payload: Scratch,
    files: Scratch,
    lab: Lab,
    sha256: String,
    mode: &'static str,
}

impl Site {
    fn start(mode: &'static str) -> Self {
        let direct = !matches!(mode, "nat" | "masquerade");
        let vips: &[IpAddr] = if direct { &[VIP4, VIP6] } else { &[] };
        let lab = Lab::builder().backends(4).balancers(2).vips(vips).build().unwrap();
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.balancers.iter().for_each(|host| host.netns.sysctl(key, "1").unwrap());
        }
        if !direct {
            // What XDP leaves to the kernel is lost on a veth, which goes on taking a frame for
            // somebody else's that was addressed to the group's station: so it has to know the way.
            let client = lab.client();
            for (host, address) in lab
                .balancers
                .iter()
                .flat_map(|host| [(host, IpAddr::from(client.v4)), (host, client.v6.into())])
            {
                let neighbour = format!("{address} lladdr {} dev eth0", client.mac);
                host.netns.ip(&format!("neigh replace {neighbour} nud permanent")).unwrap();
            }
        }
        let payload = Scratch::new().unwrap();
        let path = payload.file("payload");
        let mut random = File::open("/dev/urandom").unwrap().take(LENGTH);
        std::io::copy(&mut random, &mut File::create(&path).unwrap()).unwrap();
        let sum = run_ok(Command::new("sha256sum").arg(&path)).unwrap();
        let serve = |host: &Host| {
            if mode == "nat" {
                let client = lab.client();
                host.netns.ip(&format!("route add {}/32 via {VIP4}", client.v4)).unwrap();
                host.netns.ip(&format!("-6 route add {}/128 via {VIP6}", client.v6)).unwrap();
            }
            let tunnel = matches!(mode, "ipip" | "gue");
            let decap = tunnel.then(|| Decap::on(host, &crate::tunnel::VIPS).unwrap());
            let nginx = Nginx::start(&host.netns, &host.name, FILES).unwrap();
            symlink(&path, nginx.files().join("payload")).unwrap();
            (Demo::on(host).unwrap(), nginx, decap)
        };
        let servers = lab.backends.iter().map(serve).collect();
        let files = Scratch::new().unwrap();
        for (name, content) in [
            ("carp.key", "0123456789abcdef0123456789abcdef"),
            ("sync.key", "fedcba9876543210fedcba9876543210"),
            ("secret", "00112233445566778899aabbccddeeff"),
        ] {
            fs::write(files.file(name), content).unwrap();
            private(&files.file(name));
        }
        let sha256 = first_word(&sum);
        let mut site =
            Self { pends: Vec::new(), _servers: servers, payload, files, lab, sha256, mode };
        for index in 0..2 {
            let pend = Pend::prepare(&site.lab.balancers[index].netns).unwrap();
            pend.write_config(&site.config(index, &pend, 3)).unwrap();
            site.pends.push(pend);
            site.pends[index].launch().unwrap();
            site.pends[index].wait_ready(6 * 3).unwrap();
            if index == 0 {
                site.wait_for(0, "master");
            }
        }
        site.wait_for(1, "backup");
        site.wait_in_sync();
        site
    }

    fn config(&self, index: usize, pend: &Pend, backends: usize) -> String {
        let host = |index: usize| &self.lab.balancers[index];
        let file = |name: &str| self.files.file(name).display().to_string();
        let (own, peer) = (host(index).v4, host(1 - index).v4);
        let mut text = format!(
            "[node]\nname = \"{}\"\nsecret_file = \"{}\"\n\n[[interface]]\nname = \"eth0\"\n\n\
             [control]\nsocket = \"{}\"\n\n\
             [[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\nadvbase = \"500ms\"\n\
             advskew = {}\nauth = \"sha256\"\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
             demote_on = {{ sync_incomplete = 240 }}\n\n\
             [sync]\nlisten = \"{own}:7077\"\npeers = [\"{peer}:7077\"]\nkey_file = \"{}\"\n",
            host(index).name,
            file("secret"),
            pend.socket().display(),
            100 * index,
            file("carp.key"),
            file("sync.key"),
        );
        for address in [VIP4, VIP6] {
            let _ = write!(
                text,
                "\n[[vip]]\naddress = \"{address}\"\ninterface = \"eth0\"\ncarp = \"main\"\n\
                 echo = true\n"
            );
        }
        for (name, port, protocol) in
            [("web", HTTP_PORT, "tcp"), ("files", FILES, "tcp"), ("echo", UDP_PORT, "udp")]
        {
            for vip in [VIP4, VIP6] {
                let family = if vip.is_ipv4() { "4" } else { "6" };
                let listen = SocketAddr::new(vip, port);
                let _ = write!(
                    text,
                    "\n[[service]]\nname = \"{name}{family}\"\nlisten = \"{listen}\"\n\
                     protocol = \"{protocol}\"\nmode = \"{}\"\naffinity = \"flow\"\n\
                     check = {{ type = \"tcp\", port = {HTTP_PORT}, interval = \"200ms\", \
                     timeout = \"150ms\", rise = 2, fall = 5 }}\n",
                    self.mode
                );
                if self.mode == "masquerade" {
                    let _ = writeln!(text, "source = \"{vip}\"");
                }
                let list: Vec<String> = self.lab.backends[..backends]
                    .iter()
                    .map(|backend| SocketAddr::new(backend.address_like(vip), port))
                    .map(|at| format!("\"{at}\""))
                    .collect();
                let _ = writeln!(text, "backends = [{}]", list.join(", "));
            }
        }
        text
    }

    fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    fn json(&self, index: usize, words: &[&str]) -> Value {
        self.pends[index].penctl_json(words).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for(&self, index: usize, state: &str) {
        wait_until(SOON, &format!("node {index} is {state}"), || {
            (self.json(index, &["carp"])[0]["state"] == state).then_some(())
        })
        .map_err(|error| self.pends[index].with_log(&error))
        .unwrap();
    }

    /// Both are up, and neither is behind.
    #[track_caller]
    fn wait_in_sync(&self) {
        wait_until(SOON, "both nodes know the same", || {
            let in_sync = |index| {
                let sync = self.json(index, &["sync"]);
                let peer = &sync["peers"][0];
                sync["complete"] == true && peer["state"] == "up" && peer["behind"] == 0
            };
            (in_sync(0) && in_sync(1)).then_some(())
        })
        .map_err(|error| {
            let shown = [0, 1].map(|index| self.json(index, &["sync"]).to_string());
            anyhow::anyhow!("{error:#}\n{}", shown.join("\n"))
        })
        .unwrap();
    }

    /// Takes the fourth backend into all services, on both nodes.
    fn add_backend(&self) {
        for index in 0..2 {
            let pend = &self.pends[index];
            pend.write_config(&self.config(index, pend, 4)).unwrap();
            let output = pend.penctl(["reload"]).unwrap();
            assert!(output.status.success(), "penctl reload: {}", output.stderr);
        }
        wait_until(SOON, "the fourth backend takes flows", || {
            let ready = |index| {
                let backends = self.json(index, &["backends"]);
                let backends = backends.as_array().cloned().unwrap_or_default();
                backends.len() == 6 * 4 && backends.iter().all(|row| row["usable"] == true)
            };
            (ready(0) && ready(1)).then_some(())
        })
        .unwrap();
        let services = self.json(0, &["services"]);
        for service in services.as_array().unwrap() {
            assert!(service["settled"].as_f64().unwrap() < 95.0, "{service}");
        }
    }

    /// What both nodes noticed and counted, for whoever has to find out why something broke.
    fn story(&self) -> String {
        let of = |(index, verb): (usize, &str)| match self.pends[index].penctl([verb]) {
            Ok(output) => output.stdout,
            Err(error) => error.to_string(),
        };
        [(0, "events"), (0, "counters"), (1, "events"), (1, "counters")].map(of).join("--\n")
    }

    fn order(&self, index: usize, words: &[&str]) {
        let output = self.pends[index].penctl(words).unwrap();
        assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
    }

    fn link(&self, index: usize, how: &str) {
        let port = &self.lab.balancers[index].name;
        self.lab.switch.netns().ip(&format!("link set dev {port} {how}")).unwrap();
    }

    /// The addresses move to the second node.
    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Cut => self.link(0, "nomaster"),
            Fault::Kill => self.pends[0].kill9().unwrap(),
            Fault::Demote => self.order(0, &["carp", "demote", "main"]),
            Fault::Stop => {
                assert!(self.pends[0].signal(Signal::SIGTERM).is_ok());
            }
        }
        self.wait_for(1, "master");
    }

    /// The first node is there again, and knows what the other one knows.
    fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Cut => self.link(0, "master br0"),
            Fault::Kill => self.pends[0].launch().unwrap(),
            Fault::Demote => self.order(0, &["carp", "release", "main"]),
            Fault::Stop => {
                self.pends[0].wait_end().unwrap();
                self.pends[0].launch().unwrap();
            }
        }
        self.pends[0].wait_ready(6 * 4).unwrap();
        self.wait_in_sync();
    }
}

fn private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// One download with curl; its SHA-256, or curl's complaint.
fn download(client: &Netns, vip: IpAddr) -> Result<String, String> {
    let mut command = client.command("sh");
    let at = SocketAddr::new(vip, FILES);
    let curl = "curl --silent --show-error --fail --globoff --noproxy '*' --limit-rate";
    command.arg("-c").arg(format!("{curl} {RATE} http://{at}/files/payload | sha256sum"));
    let output = run(&mut command, PATIENCE).map_err(|error| format!("{error:#}"))?;
    match output.stderr.trim_end() {
        "" => Ok(first_word(&output.stdout)),
        complaint => Err(complaint.to_owned()),
    }
}

/// Connections that idle, and who was at their other end.
#[derive(Default)]
struct Sessions {
    tcp: Vec<(TcpTalk, String)>,
    udp: Vec<(UdpTalk, String)>,
}

impl Sessions {
    #[track_caller]
    fn open(&mut self, site: &Site, load: Load) {
        let client = site.client();
        for vip in [VIP4, VIP6] {
            for _ in 0..load.sessions / 2 {
                let open = || {
                    let mut talk = TcpTalk::open(client, SocketAddr::new(vip, HTTP_PORT))?;
                    let name = talk.ask()?;
                    std::io::Result::Ok((talk, name))
                };
                // So much goes on that one SYN may be lost, and clients have little patience here.
                let opened = wait_until(SOON, "a session opens", || open().ok());
                self.tcp
                    .push(opened.map_err(|error| format!("{error}\n{}", site.story())).unwrap());
            }
            for _ in 0..load.datagrams / 2 {
                let talk = UdpTalk::open(client, SocketAddr::new(vip, UDP_PORT)).unwrap();
                // One datagram may be lost.
                let name = talk.ask().or_else(|| talk.ask()).expect("an answer");
                self.udp.push((talk, name));
            }
        }
    }

    /// Each one still is where it was.
    #[track_caller]
    fn assert_alive(&mut self, site: &Site, when: &str) {
        let mut broken = Vec::new();
        for (number, (talk, name)) in self.tcp.iter_mut().enumerate() {
            match talk.ask() {
                Ok(found) if found == *name => {}
                other => broken.push(format!("session {number} with {name}: {other:?}")),
            }
        }
        for (number, (talk, name)) in self.udp.iter().enumerate() {
            // One datagram may be lost; nobody has promised otherwise.
            let found = talk.ask().or_else(|| talk.ask());
            if found.as_deref() != Some(name) {
                broken.push(format!("datagrams {number} with {name}: {found:?}"));
            }
        }
        let all = self.tcp.len() + self.udp.len();
        let few = &broken[..broken.len().min(5)];
        assert!(
            broken.is_empty(),
            "{when} {} of {all} broke: {few:#?}\n{}",
            broken.len(),
            site.story()
        );
    }
}

/// Nothing breaks when the addresses move to the other node, nor when they come back.
fn nothing_breaks(mode: &'static str, fault: Fault, load: Load) {
    let load = if effort::is_full() { FULL } else { load };
    let mut site = Site::start(mode);
    let client = site.client().clone();
    let mut sessions = Sessions::default();
    sessions.open(&site, load);
    let begun = Stopwatch::start();
    let sums: Vec<_> = thread::scope(|scope| {
        let vips = [VIP4, VIP6].into_iter().cycle().take(2 * load.downloads);
        let client = &client;
        let downloads: Vec<_> =
            vips.map(|vip| scope.spawn(move || download(client, vip))).collect();
        pace(Duration::from_secs(1));
        site.add_backend();
        sessions.open(&site, load);
        assert!(sessions.tcp.iter().any(|(_, name)| name == "b4"), "it has some already");
        site.wait_in_sync();
        sessions.assert_alive(&site, "before");
        site.wait_in_sync();
        site.strike(fault);
        let struck = begun.elapsed();
        let running = downloads.iter().filter(|download| !download.is_finished()).count();
        println!("{mode}, {fault:?}: moved after {struck:?}, {running} downloads run");
        sessions.assert_alive(&site, "after the addresses moved");
        assert!(running > 0, "they still run");
        downloads.into_iter().map(|download| download.join().unwrap()).collect()
    });
    for sum in sums {
        assert_eq!(sum.as_ref(), Ok(&site.sha256), "mode {mode}, {fault:?}");
    }
    for vip in [VIP4, VIP6] {
        http(&client, SocketAddr::new(vip, HTTP_PORT)).unwrap();
    }
    site.heal(fault);
    sessions.assert_alive(&site, "after the other node came back");
    site.order(0, &["carp", "promote", "main"]);
    site.wait_for(0, "master");
    sessions.assert_alive(&site, "after the addresses came back");
    // With nothing behind, as soon as all has been told once more.
    wait_until(SOON, "the peer is up and has everything", || {
        let status = site.pends[0].penctl(["status"]).ok()?.stdout;
        status.contains("peer balancer2 is up\n").then_some(())
    })
    .unwrap();
    drop(fs::remove_file(site.payload.file("payload")));
}

#[test]
fn over_dsr_nothing_breaks_when_the_link_is_cut() {
    nothing_breaks("dsr", Fault::Cut, FULL);
}

#[test]
fn over_dsr_nothing_breaks_when_the_daemon_is_killed() {
    nothing_breaks("dsr", Fault::Kill, USUAL);
}

#[test]
fn over_dsr_nothing_breaks_at_a_planned_handover() {
    nothing_breaks("dsr", Fault::Demote, USUAL);
}

#[test]
fn over_dsr_nothing_breaks_when_the_daemon_ends() {
    nothing_breaks("dsr", Fault::Stop, USUAL);
}

#[test]
fn over_ipip_nothing_breaks_when_the_link_is_cut() {
    nothing_breaks("ipip", Fault::Cut, USUAL);
}

#[test]
fn over_gue_nothing_breaks_when_the_daemon_is_killed() {
    nothing_breaks("gue", Fault::Kill, USUAL);
}

#[test]
fn over_nat_nothing_breaks_when_the_link_is_cut() {
    nothing_breaks("nat", Fault::Cut, USUAL);
}

#[test]
fn over_nat_nothing_breaks_when_the_daemon_is_killed() {
    nothing_breaks("nat", Fault::Kill, USUAL);
}

#[test]
fn over_nat_nothing_breaks_at_a_planned_handover() {
    nothing_breaks("nat", Fault::Demote, USUAL);
}

#[test]
fn over_masquerade_nothing_breaks_when_the_link_is_cut() {
    nothing_breaks("masquerade", Fault::Cut, USUAL);
}

#[test]
fn over_masquerade_nothing_breaks_when_the_daemon_is_killed() {
    nothing_breaks("masquerade", Fault::Kill, USUAL);
}

#[test]
fn over_masquerade_nothing_breaks_at_a_planned_handover() {
    nothing_breaks("masquerade", Fault::Demote, USUAL);
}

#[test]
fn a_difference_between_the_nodes_is_named_and_the_operators_wishes_are_shared() {
    let site = Site::start("dsr");
    let pend = &site.pends[1];
    pend.write_config(&site.config(1, pend, 4)).unwrap();
    site.order(1, &["reload"]);
    let difference = "balancer2 (10.77.0.5:7077) has something else than this node: service web4: \
                      backends or their weights";
    wait_until(SOON, "the difference is a warning", || {
        let status = site.pends[0].penctl(["status"]).ok()?.stdout;
        status.contains(difference).then_some(())
    })
    .unwrap();
    site.order(0, &["drain", &format!("web4/{}:{HTTP_PORT}", site.lab.backends[1].v4)]);
    wait_until(SOON, "the wish is one of both nodes", || {
        let backends = site.json(1, &["backends"]);
        let drained = backends.as_array()?.iter().filter(|row| row["admin"] == "drain").count();
        (drained == 1).then_some(())
    })
    .unwrap();
}
