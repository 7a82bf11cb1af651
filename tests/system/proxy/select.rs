//! Which server a client gets: pen's promises, asked from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use pen_tests::{ConfigText, Lab, Netns, Pend, ServiceText, wait::pace, wait_until};

use super::{LONG, Server, lab, name_at, proxied, start};
use crate::stage::{WEB, WEB6, count, vips};

/// A lab whose client has these many addresses, and the servers of its backends.
struct Scene {
    lab: Lab,
    servers: Vec<Server>,
    pend: Pend,
}

fn unchecked_service(lab: &Lab, affinity: &str, keys: &str) -> ServiceText {
    ServiceText {
        affinity: affinity.to_owned(),
        check: Some(r#"{ type = "none" }"#.to_owned()),
        ..proxied(lab, "web", WEB, keys)
    }
}

fn host_server(host: &pen_tests::Host, at: IpAddr) -> Server {
    Server::named(&host.netns, (at, 80), &host.name)
}

impl Scene {
    fn new(backends: u8, affinity: &str, keys: &str) -> Self {
        Self::with(backends, |lab| vips().service(unchecked_service(lab, affinity, keys)))
    }

    fn with(backends: u8, config: impl FnOnce(&Lab) -> ConfigText) -> Self {
        let lab = lab(backends);
        for number in 1..=9 {
            let client = &lab.client().netns;
            client.ip(&format!("address add {}/32 dev eth0", address(number))).unwrap();
        }
        let servers = lab.backends.iter().map(|host| host_server(host, host.v4.into())).collect();
        let pend = start(&lab, &config(&lab));
        Self { lab, servers, pend }
    }

    /// A connection of client number so and so, and who serves it.
    fn hold(&self, client: u8) -> std::io::Result<(String, TcpStream)> {
        let stream = connect_from(&self.lab.client().netns, address(client), WEB)?;
        Ok((name_at(&stream)?, stream))
    }

    fn visit(&self, client: u8) -> String {
        self.hold(client).unwrap().0
    }

    fn visits(&self, clients: impl IntoIterator<Item = u8>) -> Vec<String> {
        clients.into_iter().map(|client| self.visit(client)).collect()
    }
}

fn address(client: u8) -> IpAddr {
    format!("10.77.0.{}", 200 + client).parse().unwrap()
}

pub(crate) fn connect_from(
    netns: &Netns,
    from: IpAddr,
    to: SocketAddr,
) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
    use std::os::fd::AsRawFd;

    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream = netns.run(|| -> std::io::Result<TcpStream> {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
        nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(socket.into())
    })?;
    stream.set_read_timeout(Some(LONG))?;
    Ok(stream)
}

#[test]
fn a_client_gets_the_same_server_ten_times_and_six_clients_are_shared_out_evenly() {
    let scene = Scene::new(3, "client", "scheduler = \"roundrobin\"");
    let first = scene.visit(1);
    assert!(scene.visits([1; 9]).iter().all(|name| *name == first));
    let names = scene.visits([1, 2, 3, 4, 5, 6]);
    assert_eq!(count(names).into_values().collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn round_robin_without_affinity_is_cyclic() {
    let scene = Scene::new(3, "flow", "scheduler = \"roundrobin\"");
    let names = scene.visits([1; 9]);
    assert_eq!(names[..3].iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!((&names[..3], &names[3..6]), (&names[3..6], &names[6..]));
    let hundred = count(scene.visits([1; 100]));
    assert!(hundred.values().all(|times| (33..=34).contains(times)), "{hundred:?}");
}

#[test]
fn a_client_is_remembered_for_its_time_and_no_longer() {
    let keys = "scheduler = \"roundrobin\"\naffinity_ttl = \"2s\"";
    let scene = Scene::new(2, "client", keys);
    let first = scene.visit(1);
    assert_eq!(scene.visit(1), first);
    // Nobody but this client comes, so that only its memory could bring it back.
    pace(Duration::from_millis(2200));
    assert_ne!(scene.visit(1), first);
}

/// A service whose backends have these keys each.
fn with_backend_keys(lab: &Lab, affinity: &str, keys: &str, of_backends: &[&str]) -> ConfigText {
    let service = unchecked_service(lab, affinity, keys);
    let text = vips().service(service).render(None);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (host, keys) in lab.backends.iter().zip(of_backends) {
        let name = format!("name = \"{}\" }}", host.name);
        let line = lines.iter_mut().find(|line| line.contains(&name)).unwrap();
        *line = line.replace(" }", &format!(", {keys} }}"));
    }
    ConfigText::default().extra(&lines.join("\n"))
}

#[test]
fn weights_of_held_connections_are_pens() {
    let scene = Scene::with(3, |lab| {
        let weights = ["weight = 1", "weight = 2", "weight = 1"];
        with_backend_keys(lab, "flow", "scheduler = \"weight\"", &weights)
    });
    let held: Vec<_> = (1..=8).map(|client| scene.hold(client).unwrap()).collect();
    let names = count(held.iter().map(|(name, _)| name.clone()));
    assert_eq!(names.into_values().collect::<Vec<_>>(), [2, 4, 2]);
}

#[test]
fn least_connections_go_to_who_has_none() {
    let scene = Scene::new(2, "flow", "scheduler = \"leastconn\"");
    let held: Vec<_> = (0..20).map(|_| scene.hold(1).unwrap()).collect();
    let (ones, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|(name, _)| name == "b1");
    assert_eq!((ones.len(), others.len()), (10, 10));
    drop(others);
    wait_until(LONG, "the connections have ended", || {
        (scene.pend.backend("web", "b2").unwrap()["proxy"]["connections"] == 0).then_some(())
    })
    .unwrap();
    let names = (0..10).map(|_| scene.hold(1).unwrap()).collect::<Vec<_>>();
    assert!(names.iter().all(|(name, _)| name == "b2"));
}

#[test]
fn random_choice_of_two_spreads_connections_that_stay() {
    let scene = Scene::new(3, "flow", "scheduler = \"random\"");
    let held: Vec<_> = (0..60).map(|_| scene.hold(1).unwrap()).collect();
    let names = count(held.iter().map(|(name, _)| name.clone()));
    assert!(names.values().all(|times| (14..=26).contains(times)), "{names:?}");
}

#[test]
fn the_lowest_prio_serves_then_the_next_one_then_the_lowest_again() {
    let mut scene = Scene::with(3, |lab| {
        let prios = ["prio = 3", "prio = 1", "prio = 5"];
        let keys = "scheduler = \"prio\"\neject = \"500ms\"";
        with_backend_keys(lab, "flow", keys, &prios)
    });
    assert_eq!(scene.visits([1, 2, 3]), ["b2", "b2", "b2"]);
    drop(scene.servers.remove(1));
    assert_eq!(scene.visits([1, 2, 3]), ["b1", "b1", "b1"]);
    let host = &scene.lab.backends[1];
    scene.servers.push(host_server(host, host.v4.into()));
    wait_until(LONG, "the lowest one serves", || (scene.visit(1) == "b2").then_some(())).unwrap();
}

#[test]
fn a_hash_is_the_same_after_a_restart_and_moves_only_the_clients_of_who_left() {
    let secret = pen_tests::paths::Scratch::new().unwrap();
    let file = secret.file("key");
    std::fs::write(&file, "00112233445566778899aabbccddeeff\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let node = format!("[node]\nsecret_file = \"{}\"\n", file.display());
    let mut scene = Scene::with(3, |lab| {
        let keys = "scheduler = \"hash\"\neject = \"1h\"";
        vips().service(unchecked_service(lab, "client", keys)).extra(&node)
    });
    let before = scene.visits(1..=9);
    assert!(before.iter().collect::<BTreeSet<_>>().len() > 1, "{before:?}");
    scene.pend.restart().unwrap();
    scene.pend.wait_ready(3).unwrap();
    assert_eq!(scene.visits(1..=9), before);
    let left = before[0].clone();
    let place = scene.lab.backends.iter().position(|host| host.name == left).unwrap();
    drop(scene.servers.remove(place));
    scene.pend.restart().unwrap();
    scene.pend.wait_ready(3).unwrap();
    for (now, was) in scene.visits(1..=9).iter().zip(&before) {
        assert!(if *was == left { now != was } else { now == was }, "{was} -> {now}");
    }
}

#[test]
fn a_hash_by_flow_uses_all_servers_for_one_client() {
    let scene = Scene::new(3, "flow", "scheduler = \"hash\"");
    let names = count(scene.visits([1; 60]));
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn who_was_moved_by_a_death_stays_and_new_clients_use_who_came_back() {
    let mut scene = Scene::new(2, "client", "scheduler = \"roundrobin\"\neject = \"300ms\"");
    let first = scene.visit(1);
    let place = usize::from(first == "b2");
    drop(scene.servers.remove(place));
    let second = scene.visit(1);
    assert_ne!(second, first);
    let host = &scene.lab.backends[place];
    scene.servers.push(host_server(host, host.v4.into()));
    // Whoever came before its time is over would be remembered elsewhere.
    pace(Duration::from_millis(500));
    assert!(scene.visits(2..=5).contains(&first));
    assert_eq!(scene.visit(1), second);
}

#[test]
fn the_server_for_emergencies_is_left_as_soon_as_another_one_is_back() {
    let mut scene = Scene::with(3, |lab| {
        let emergency = format!("emergency = {{ address = \"{}:80\" }}", lab.backends[2].v4);
        let keys = format!("scheduler = \"roundrobin\"\neject = \"300ms\"\n{emergency}");
        let mut service = unchecked_service(lab, "client", &keys);
        service.backends.pop();
        vips().service(service)
    });
    assert_ne!(scene.visit(1), "b3");
    scene.servers.drain(..2);
    assert_eq!(scene.visits([1, 2, 3]), ["b3", "b3", "b3"]);
    let host = &scene.lab.backends[0];
    scene.servers.push(host_server(host, host.v4.into()));
    wait_until(LONG, "the others are back", || (scene.visit(1) == "b1").then_some(())).unwrap();
    assert_eq!(scene.visits([2, 3]), ["b1", "b1"]);
}

#[test]
fn a_stubborn_service_closes_instead_of_asking_another_server() {
    let mut scene = Scene::new(2, "client", "scheduler = \"hash\"\nstubborn = true");
    let names: BTreeMap<u8, String> = (1..=9).map(|client| (client, scene.visit(client))).collect();
    drop(scene.servers.remove(0));
    for (client, name) in names {
        let now = scene.hold(client).map(|(name, _)| name).ok();
        assert_eq!(now, (name == "b2").then_some(name), "client {client}");
    }
}

const LIST: &str = r#"
[[acl]]
name = "some"
deny = ["10.77.0.202", "fd77::3"]
"#;

#[test]
fn denied_clients_get_the_server_for_abuse_and_the_others_never_do() {
    let scene = Scene::with(2, |lab| {
        let keys = format!("acl = \"some\"\nabuse = \"{}:80\"", lab.backends[1].v4);
        let mut service = unchecked_service(lab, "client", &keys);
        service.backends.pop();
        vips().service(service).extra(LIST)
    });
    for _ in 0..3 {
        assert_eq!(scene.visits([1, 2, 3]), ["b1", "b2", "b1"]);
    }
}

#[test]
fn without_one_they_are_closed_and_ipv4_is_ipv4_on_a_socket_for_both() {
    let scene = Scene::with(1, |lab| {
        let mut dual = unchecked_service(lab, "client", "acl = \"some\"");
        dual.listen = "[::]:80".parse().unwrap();
        ConfigText::default().service(dual).extra(LIST)
    });
    let balancer = scene.lab.balancer();
    let (v4, v6) =
        (SocketAddr::new(balancer.v4.into(), 80), SocketAddr::new(balancer.v6.into(), 80));
    let name = |netns: &Netns, from: IpAddr, to| {
        connect_from(netns, from, to).and_then(|stream| name_at(&stream)).ok()
    };
    let [first, second] = [&scene.lab.clients[0], &scene.lab.clients[1]];
    assert_eq!(name(&first.netns, address(1), v4).as_deref(), Some("b1"));
    assert_eq!(name(&first.netns, address(2), v4), None);
    assert_eq!(name(&first.netns, first.v6.into(), v6).as_deref(), Some("b1"));
    assert_eq!(name(&second.netns, second.v6.into(), v6), None);
    assert_eq!(scene.pend.counter("proxy-denied").unwrap(), 2);
}

#[test]
fn an_access_list_can_change_while_connections_last() {
    let scene = Scene::with(1, |lab| {
        let service = unchecked_service(lab, "client", "acl = \"some\"");
        vips().service(service).extra(LIST)
    });
    let (_, held) = scene.hold(1).unwrap();
    let text = std::fs::read_to_string(scene.pend.config()).unwrap();
    std::fs::write(scene.pend.config(), text.replace("10.77.0.202", "10.77.0.0/24")).unwrap();
    assert!(scene.pend.penctl(["reload"]).unwrap().status.success());
    wait_until(LONG, "the new list holds", || scene.hold(1).is_err().then_some(())).unwrap();
    use std::io::{Read, Write};
    (&held).write_all(b"still here").unwrap();
    (&held).read_exact(&mut [0; 10]).unwrap();
}

#[test]
fn limits_hold_exactly_under_a_hundred_attempts_at_once() {
    let scene = Scene::with(2, |lab| {
        let limits = ["max_connections = 2, max_known = 4"; 2];
        with_backend_keys(lab, "client", "scheduler = \"roundrobin\"", &limits)
    });
    // Four clients fill all places for new ones; one of them comes back twice.
    let mut held: Vec<_> = (1..=4).map(|client| scene.hold(client).unwrap()).collect();
    let names = count(held.iter().map(|(name, _)| name.clone()));
    assert_eq!(names.into_values().collect::<Vec<_>>(), [2, 2]);
    assert!(scene.hold(9).is_err(), "a new client");
    held.extend((0..2).map(|_| scene.hold(1).unwrap()));
    assert_eq!(held[4].0, held[0].0);
    assert!(scene.hold(1).is_err(), "four are four");
    let client = &scene.lab.client().netns;
    std::thread::scope(|scope| {
        for number in 0..100_u8 {
            scope.spawn(move || {
                let from = address(1 + number % 9);
                let served = connect_from(client, from, WEB).and_then(|stream| name_at(&stream));
                // Clients 2 to 4 have places in reserve, and give them back.
                assert!(served.is_err() || (2..=4).contains(&(1 + number % 9)), "{number}");
            });
        }
        let rows = || scene.pend.penctl_json(["backends"]).unwrap();
        for row in rows().as_array().unwrap() {
            assert!(row["proxy"]["connections"].as_u64().unwrap() <= 4, "{row}");
        }
    });
    drop(held);
    wait_until(LONG, "all places are free", || {
        let rows = scene.pend.penctl_json(["backends"]).unwrap();
        let free = |row: &serde_json::Value| row["proxy"]["connections"] == 0;
        rows.as_array().unwrap().iter().all(free).then_some(())
    })
    .unwrap();
    assert!(scene.hold(9).is_ok());
}

#[test]
fn five_are_served_ten_wait_in_their_order_and_five_are_refused() {
    let scene = Scene::with(1, |lab| {
        let keys = "queue = 10\ntimeouts = { queue = \"8s\" }";
        with_backend_keys(lab, "flow", keys, &["max_connections = 5"])
    });
    let client = scene.lab.client().netns.clone();
    let mut served: Vec<_> = (0..5).map(|_| scene.hold(1).unwrap()).collect();
    let waiting: Vec<TcpStream> = (0..10)
        .map(|number| {
            let stream = connect_from(&client, address(1), WEB).unwrap();
            wait_until(LONG, "it waits", || {
                let open = scene.pend.penctl_json(["services"]).unwrap();
                (open[0]["proxy"]["waiting"] == number + 1).then_some(())
            })
            .unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        let stream = connect_from(&client, address(1), WEB).unwrap();
        let started = pen_tests::wait::Stopwatch::start();
        assert!(name_at(&stream).is_err());
        assert!(started.elapsed() < Duration::from_secs(1), "at once");
    }
    // Those that leave make room for those that wait, one after the other.
    let mut next = waiting.iter();
    for (_, stream) in served.drain(..3) {
        drop(stream);
        assert_eq!(name_at(next.next().unwrap()).unwrap(), "b1");
    }
    for stream in next {
        let error = name_at(stream).expect_err("its time is over");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    }
    assert_eq!(scene.pend.counter("proxy-full").unwrap(), 5);
    let counters = scene.pend.penctl(["counters"]).unwrap().stdout;
    assert_eq!(
        scene.pend.counter("proxy-queue-timeout").unwrap(),
        7,
        "{counters}{}",
        scene.pend.log()
    );
}

#[test]
fn a_source_has_its_limit_and_another_one_is_unaffected() {
    let scene = Scene::new(1, "client", "max_per_source = 10");
    let all: Vec<_> = (0..50).map(|_| scene.hold(1)).collect();
    assert_eq!(all.iter().filter(|result| result.is_ok()).count(), 10);
    assert_eq!(scene.visit(2), "b1");
    assert_eq!(scene.pend.counter("proxy-source-limit").unwrap(), 40);
    drop(all);
    wait_until(LONG, "it may come again", || scene.hold(1).ok()).unwrap();
}

#[test]
fn the_address_has_an_access_list_of_its_own() {
    let scene = Scene::with(1, |lab| {
        let mut config = vips().service(unchecked_service(lab, "client", ""));
        config.vips.clear();
        let vip = |at: SocketAddr| {
            format!("[[vip]]\naddress = \"{}\"\ninterface = \"eth0\"\nacl = \"some\"\n", at.ip())
        };
        config.extra(&format!("{LIST}{}{}", vip(WEB), vip(WEB6)))
    });
    assert_eq!(scene.visit(1), "b1");
    let denied = scene.pend.counter("drop-acl").unwrap();
    let client = scene.lab.client().netns.clone();
    // The kernel drops its packets; nobody waits for TCP to give up.
    let refused = std::thread::spawn(move || connect_from(&client, address(2), WEB));
    wait_until(LONG, "it was dropped", || {
        (scene.pend.counter("drop-acl").unwrap() > denied).then_some(())
    })
    .unwrap();
    assert!(!refused.is_finished());
}
