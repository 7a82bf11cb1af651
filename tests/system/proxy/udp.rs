//! UDP in mode `proxy`: flows, which servers they get, and what becomes of them. With dnsmasq, dig and
//! socat, and with servers that a test plays itself.

mod bounds;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use pen_tests::client::{UdpTalk, dig, udp_ask};
use pen_tests::process::{Process, SHORT, run_ok};
use pen_tests::server::HTTP_PORT;
use pen_tests::wait::Stopwatch;
use pen_tests::{
    ConfigText, Demo, Dnsmasq, Host, Lab, Netns, Pend, Protocol, ServiceText, VIP4, VIP6,
    paths::Scratch, wait_until,
};

use super::{LONG, lab, start};
use crate::stage::{ECHO, ECHO6, count, over_all, vips};

/// A proxied service of UDP over all backends of a lab, with these keys besides the usual ones.
fn proxied(lab: &Lab, at: SocketAddr, keys: &str) -> ServiceText {
    let service = over_all(lab, "echo", at, Protocol::Udp, HTTP_PORT);
    ServiceText { mode: "proxy".to_owned(), keys: keys.to_owned(), ..service }
}

/// The same, and nobody checks the backends.
pub(super) fn unchecked(lab: &Lab, at: SocketAddr, keys: &str) -> ServiceText {
    ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), ..proxied(lab, at, keys) }
}

/// A server that sends each datagram back to whom it comes from, after its own name and a space.
pub(super) struct Server {
    socket: Arc<UdpSocket>,
    over: Arc<AtomicBool>,
    serving: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, at: (IpAddr, u16), name: &str) -> Self {
        let name = name.to_owned();
        Self::answering(netns, at, move |datagram, _| {
            // Names only go before what is short: the longest ones come back as they are.
            let short = !datagram.is_empty() && datagram.len() < 60;
            let named = [name.as_bytes(), b" ", datagram].concat();
            if short { named } else { datagram.to_vec() }
        })
    }

    /// A server that tells whoever asks the address that it sees.
    pub(super) fn telling(netns: &Netns, at: (IpAddr, u16)) -> Self {
        Self::answering(netns, at, |_, client| client.ip().to_string().into_bytes())
    }

    fn answering(
        netns: &Netns,
        at: (IpAddr, u16),
        answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let socket = Arc::new(netns.run(|| UdpSocket::bind(at)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (own, ended) = (Arc::clone(&socket), Arc::clone(&over));
        let serving = thread::spawn(move || {
            let mut datagram = vec![0; 65_536];
            while !ended.load(Relaxed) {
                let Ok((length, client)) = own.recv_from(&mut datagram) else { continue };
                let _ = own.send_to(&answer(&datagram[..length], client), client);
            }
        });
        Self { socket, over, serving: Some(serving) }
    }

    fn of(host: &Host) -> Self {
        Self::start(&host.netns, (host.v4.into(), ECHO.port()), &host.name)
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// A lab, its servers, and pend in front of them.
struct Scene {
    lab: Lab,
    servers: Vec<Server>,
    pend: Pend,
}

impl Scene {
    fn new(backends: u8, keys: &str) -> Self {
        Self::with(backends, |lab| vips().service(unchecked(lab, ECHO, keys)))
    }

    fn with(backends: u8, config: impl FnOnce(&Lab) -> ConfigText) -> Self {
        let lab = lab(backends);
        let servers = lab.backends.iter().map(Server::of).collect();
        let pend = start(&lab, &config(&lab));
        Self { lab, servers, pend }
    }

    fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    fn flow(&self) -> Talk {
        Talk::open(self.client(), ECHO)
    }

    fn rows(&self, words: &[&str]) -> Vec<serde_json::Value> {
        let answer = self.pend.penctl_json([&["connections"], words].concat()).unwrap();
        answer["connections"].as_array().unwrap().clone()
    }

    fn order<const N: usize>(&self, words: [&str; N]) -> String {
        let output = self.pend.penctl(words).unwrap();
        assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
        output.stdout
    }

    fn counter(&self, name: &str) -> u64 {
        self.pend.counter(name).unwrap()
    }
}

/// A client with a port of its own, that only hears whom it asks.
pub(super) struct Talk(UdpSocket);

impl Talk {
    pub(super) fn open(netns: &Netns, at: SocketAddr) -> Self {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
        netns.run(|| socket.connect(at)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Self(socket)
    }

    pub(super) fn exchange(&self, datagram: &[u8]) -> io::Result<Vec<u8>> {
        self.0.send(datagram)?;
        let mut answer = vec![0; 65_536];
        let length = self.0.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }

    /// The name of who answers.
    fn ask(&self) -> Option<String> {
        let answer = String::from_utf8(self.exchange(b"who").ok()?).unwrap();
        answer.split(' ').next().map(str::to_owned)
    }

    fn is_ignored(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let ignored = self.exchange(b"who").is_err();
        self.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        ignored
    }

    fn local(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }
}

#[test]
fn a_flow_keeps_its_server_and_flows_are_shared_out_evenly() {
    let scene = Scene::new(3, "scheduler = \"roundrobin\"");
    let flows: Vec<Talk> = (0..30).map(|_| scene.flow()).collect();
    let names: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
    assert_eq!(count(names.clone()).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    for _ in 0..5 {
        let again: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
        assert_eq!(again, names);
    }
    assert_eq!(scene.counter("proxy-accepted"), 30);
}

#[test]
fn a_clients_flows_all_reach_one_server_with_affinity_by_client() {
    let scene = Scene::with(3, |lab| {
        let service = unchecked(lab, ECHO, "scheduler = \"roundrobin\"");
        vips().service(ServiceText { affinity: "client".to_owned(), ..service })
    });
    let names: BTreeSet<_> = (0..12).map(|_| scene.flow().ask().unwrap()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn datagrams_of_every_length_pass_both_ways_over_both_families() {
    let lab = lab(1);
    let _servers = [
        Server::of(&lab.backends[0]),
        Server::start(&lab.backends[0].netns, (lab.backends[0].v6.into(), ECHO.port()), "b1"),
    ];
    let six = ServiceText { name: "echo6".to_owned(), ..unchecked(&lab, ECHO6, "") };
    let pend = start(&lab, &vips().service(unchecked(&lab, ECHO, "")).service(six));
    let byte = |at: usize| u8::try_from(at * 31 % 251).unwrap();
    for at in [ECHO, ECHO6] {
        let flow = Talk::open(&lab.client().netns, at);
        for length in [0, 60, 512, 1472, 1473, 9000, 32_768, 32_769, 60_000, 65_507, 0] {
            let datagram: Vec<u8> = (0..length).map(byte).collect();
            let answer = flow.exchange(&datagram);
            let lost = pend.counter("proxy-datagram-lost").unwrap();
            let answer = answer.unwrap_or_else(|error| panic!("{at} {length}: {error}, {lost}"));
            assert!(answer == datagram, "{at}: {length} bytes came as {}", answer.len());
        }
    }
}

#[test]
fn a_first_datagram_that_is_empty_begins_a_flow() {
    let scene = Scene::new(1, "");
    assert_eq!(scene.flow().exchange(b"").unwrap(), b"");
    assert_eq!(scene.rows(&[]).len(), 1);
}

#[test]
fn answers_come_from_the_address_that_was_asked_on_a_host_that_has_several() {
    let lab = lab(1);
    let balancer = lab.balancer();
    balancer.netns.ip("address add 10.77.0.240/32 dev eth0").unwrap();
    let _server = Server::of(&lab.backends[0]);
    for everywhere in ["0.0.0.0:7", "[::]:7"] {
        let mut service = unchecked(&lab, ECHO, "");
        service.listen = everywhere.parse().unwrap();
        let mut pend = start(&lab, &ConfigText::default().service(service));
        let mut addresses: Vec<IpAddr> = vec![balancer.v4.into(), "10.77.0.240".parse().unwrap()];
        if everywhere.starts_with('[') {
            addresses.push(balancer.v6.into());
        }
        // From one port, so that only the address tells these flows apart.
        let port = Talk::open(&lab.client().netns, ECHO).0.local_addr().unwrap().port();
        for address in addresses {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            let client = &lab.client().netns;
            // A process that another test is about to start may still hold the one before.
            let bind = || client.run(|| UdpSocket::bind((any, port))).ok();
            let socket = wait_until(SHORT, "the port is free", bind).unwrap();
            client.run(|| socket.connect((address, 7))).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            assert_eq!(Talk(socket).ask().as_deref(), Some("b1"), "{everywhere} {address}");
        }
        pend.terminate().unwrap();
    }
}

#[test]
fn dig_is_answered_by_dnsmasq_and_at_once_by_another_when_one_has_been_killed() {
    let lab = lab(2);
    let mut servers: Vec<Dnsmasq> =
        lab.backends.iter().map(|b| Dnsmasq::start(&b.netns, &b.name).unwrap()).collect();
    let at = SocketAddr::new(VIP4, 53);
    let pend = start(&lab, &vips().service(unchecked(&lab, at, "scheduler = \"roundrobin\"")));
    let ask = || dig(&lab.client().netns, at, Dnsmasq::WHO, "TXT").unwrap();
    let by = count((0..10).map(|_| ask()));
    assert_eq!(by.into_values().collect::<Vec<_>>(), [5, 5]);
    servers.remove(0).process().kill9().unwrap();
    // Nobody checks it, and dig would wait for seconds before it asks again: its first datagram was
    // refused, and is sent to the other one.
    let started = Stopwatch::start();
    let by = count((0..10).map(|_| ask()));
    assert_eq!(by.len(), 1, "{by:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(pend.counter("proxy-redispatched").unwrap() >= 1);
    assert!(pend.backend("echo", "b1").unwrap()["proxy"]["ejected"].as_bool().unwrap());
}

#[test]
fn socat_talks_through_it_to_socat() {
    let lab = lab(1);
    let scratch = Scratch::new().unwrap();
    let mut command = lab.backends[0].netns.command("socat");
    command.args(["UDP4-LISTEN:7,fork,reuseaddr", "EXEC:cat"]);
    let _server = Process::start("socat", command, &scratch.file("log")).unwrap();
    let _pend = start(&lab, &vips().service(unchecked(&lab, ECHO, "eject = \"0s\"")));
    let said = wait_until(LONG, "socat is answered", || {
        let script = format!("echo hello | socat -t 1 - UDP4:{ECHO}");
        let mut command = lab.client().netns.command("sh");
        command.args(["-c", &script]);
        run_ok(&mut command).ok().filter(|said| !said.is_empty())
    })
    .unwrap();
    assert_eq!(said.trim_end(), "hello");
}

#[test]
fn a_flow_goes_on_at_another_server_when_its_own_refuses() {
    let mut scene = Scene::new(2, "scheduler = \"roundrobin\"");
    let flows: Vec<Talk> = (0..6).map(|_| scene.flow()).collect();
    let names: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
    drop(scene.servers.remove(0));
    for (flow, name) in flows.iter().zip(&names) {
        // What was refused is lost, as datagrams may be; what comes next is not.
        let lost = u64::from(name == "b1");
        assert_eq!(u64::from(flow.is_ignored()), lost, "{name}");
        assert_eq!(flow.ask().as_deref(), Some("b2"));
        assert_eq!(flow.ask().as_deref(), Some("b2"));
    }
    // New ones do not even ask it.
    for _ in 0..4 {
        assert_eq!(scene.flow().ask().as_deref(), Some("b2"));
    }
    assert_eq!(scene.counter("proxy-redispatched"), 3);
    assert_eq!(scene.rows(&["--backend", "b1"]).len(), 0);
}

#[test]
fn flows_move_within_the_check_interval_when_a_check_takes_their_server_down() {
    let lab = lab(2);
    let _demos: Vec<Demo> = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
    let pend = start(&lab, &vips().service(proxied(&lab, ECHO, "scheduler = \"roundrobin\"")));
    let client = &lab.client().netns;
    let flows: Vec<UdpTalk> = (0..6).map(|_| UdpTalk::open(client, ECHO).unwrap()).collect();
    let names: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
    assert_eq!(count(names.clone()).len(), 2);
    // Not even a refusal comes from there.
    lab.backends[0].netns.ip("link set eth0 down").unwrap();
    let started = Stopwatch::start();
    pend.wait_health("echo", "b1", "down").unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for flow in &flows {
        assert_eq!(flow.ask().as_deref(), Some("b2"));
    }
    assert_eq!(udp_ask(client, ECHO).as_deref(), Some("b2"));
}

#[test]
fn drain_keeps_flows_and_maintenance_ends_them() {
    let scene = Scene::new(2, "scheduler = \"roundrobin\"");
    let flows: Vec<Talk> = (0..4).map(|_| scene.flow()).collect();
    let names: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
    scene.order(["drain", "echo/b1"]);
    for (flow, name) in flows.iter().zip(&names) {
        assert_eq!(flow.ask().as_ref(), Some(name));
    }
    assert_eq!(scene.flow().ask().as_deref(), Some("b2"));
    scene.order(["maint", "echo/b1"]);
    wait_until(SHORT, "its flows have ended", || {
        (scene.counter("proxy-killed") == 2).then_some(())
    })
    .unwrap();
    assert!(scene.rows(&["--backend", "b1"]).is_empty());
    // A datagram of the same client begins another one.
    for flow in &flows {
        assert_eq!(flow.ask().as_deref(), Some("b2"));
    }
}

#[test]
fn the_operator_lists_flows_and_closes_them() {
    let scene = Scene::new(2, "scheduler = \"roundrobin\"");
    let flows: Vec<Talk> = (0..4).map(|_| scene.flow()).collect();
    let names: Vec<String> = flows.iter().map(|flow| flow.ask().unwrap()).collect();
    let listed = scene.rows(&[]);
    assert_eq!(listed.len(), 4);
    for (flow, name) in flows.iter().zip(&names) {
        let row = listed.iter().find(|row| row["client"] == flow.local()).unwrap();
        assert_eq!((&row["protocol"], &row["backend"]), (&"udp".into(), &(**name).into()));
        assert_eq!((&row["bytes_up"], &row["bytes_down"]), (&3.into(), &6.into()));
    }
    let table = scene.order(["connections", "--limit", "3"]);
    assert!(table.contains("udp") && table.lines().count() == 4, "{table}");
    let row = listed.iter().find(|row| row["client"] == flows[0].local()).unwrap();
    let id = row["id"].to_string();
    assert_eq!(scene.order(["close", &id, "--dry-run"]), "1 connection would be closed\n");
    assert_eq!(scene.order(["close", &id]), "1 connection closed\n");
    assert_eq!(scene.rows(&[]).len(), 3);
    let left = names[1..].iter().filter(|name| *name == "b2").count();
    let said = scene.order(["close", "--backend", "b2"]);
    assert!(said.starts_with(&left.to_string()), "{said}");
    assert_eq!(scene.counter("proxy-killed"), 1 + left as u64);
    // A client does not notice: its next datagram begins another flow.
    assert!(flows.iter().all(|flow| flow.ask().is_some()));
}

const LIST: &str = "[[acl]]\nname = \"some\"\ndeny = [\"10.77.0.3\"]\n";

#[test]
fn denied_clients_get_the_server_for_abuse_or_nothing() {
    for abuse in [true, false] {
        let scene = Scene::with(2, |lab| {
            let address = lab.backends[1].v4;
            let abuse = if abuse { format!("\nabuse = \"{address}:7\"") } else { String::new() };
            let mut service = unchecked(lab, ECHO, &format!("acl = \"some\"{abuse}"));
            service.backends.pop();
            vips().service(service).extra(LIST)
        });
        assert_eq!(scene.flow().ask().as_deref(), Some("b1"));
        let denied = Talk::open(&scene.lab.clients[1].netns, ECHO);
        if abuse {
            assert_eq!(denied.ask().as_deref(), Some("b2"));
            assert_eq!(denied.ask().as_deref(), Some("b2"));
        } else {
            assert!(denied.is_ignored());
            assert_eq!(scene.counter("proxy-denied"), 1);
        }
    }
}

#[test]
fn the_server_for_emergencies_is_left_as_soon_as_another_one_is_back() {
    let mut scene = Scene::with(2, |lab| {
        let emergency = format!("emergency = {{ address = \"{}:7\" }}", lab.backends[1].v4);
        let mut service = unchecked(lab, ECHO, &format!("eject = \"300ms\"\n{emergency}"));
        service.backends.pop();
        vips().service(service)
    });
    let flow = scene.flow();
    assert_eq!(flow.ask().as_deref(), Some("b1"));
    drop(scene.servers.remove(0));
    wait_until(LONG, "it is an emergency", || (flow.ask()? == "b2").then_some(())).unwrap();
    scene.servers.push(Server::of(&scene.lab.backends[0]));
    // It is the same flow that returns.
    wait_until(LONG, "it is over", || (flow.ask()? == "b1").then_some(())).unwrap();
    assert_eq!(scene.rows(&[]).len(), 1);
}

#[test]
fn without_any_server_nothing_happens_and_later_it_is_served() {
    let mut scene = Scene::new(1, "eject = \"500ms\"");
    let port = scene.servers[0].port();
    scene.servers.clear();
    let flow = scene.flow();
    assert!(flow.is_ignored() && flow.is_ignored());
    wait_until(SHORT, "it is counted", || {
        let ended = scene.counter("proxy-connect-failed") + scene.counter("proxy-no-backend");
        (ended >= 1).then_some(())
    })
    .unwrap();
    assert!(scene.rows(&[]).is_empty());
    let host = &scene.lab.backends[0];
    scene.servers.push(Server::start(&host.netns, (host.v4.into(), port), "b1"));
    wait_until(LONG, "it is served", || flow.ask()).unwrap();
}

#[test]
fn a_service_can_be_taken_away_and_an_address_that_is_taken_is_told() {
    let lab = lab(1);
    let _server = Server::of(&lab.backends[0]);
    let other = |at: SocketAddr| {
        let service = unchecked(&lab, at, "");
        ServiceText { name: "other".to_owned(), ..service }
    };
    let at = SocketAddr::new(VIP6, 7);
    let mut config = vips().service(unchecked(&lab, ECHO, "")).service(other(at));
    let pend = start(&lab, &config);
    let flow = Talk::open(&lab.client().netns, ECHO);
    flow.ask().unwrap();
    // Somebody of the balancer has this one.
    let taken = SocketAddr::new(lab.balancer().v4.into(), 7);
    let _owner = lab.balancer().netns.run(|| UdpSocket::bind(taken)).unwrap();
    config.services = vec![other(taken)];
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    assert!(pend.penctl(["reload"]).unwrap().status.success());
    wait_until(SHORT, "the flow has ended with its service", || {
        let rows = pend.penctl_json(["connections"]).unwrap();
        rows["connections"].as_array().unwrap().is_empty().then_some(())
    })
    .unwrap();
    assert!(flow.is_ignored());
    wait_until(SHORT, "it is told", || {
        let told = pend.events("not-listening").unwrap();
        told.iter().any(|text| text.contains(&format!("{taken}/udp"))).then_some(())
    })
    .unwrap();
}
