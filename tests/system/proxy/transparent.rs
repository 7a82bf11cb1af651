//! Transparent services: the server sees the client's own address. Clients have addresses of another
//! network than the servers, whose router is the node that pend runs on; with forwarding on, so that
//! an answer which pend does not take in reaches the client, who knows nothing of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use pen_tests::client::{curl, http};
use pen_tests::process::SHORT;
use pen_tests::{ConfigText, Lab, Nginx, Pend, Protocol, ServiceText, wait_until};

use super::{LONG, Server, connect, lab, name_at, proxied, read_all, start, udp};
use crate::stage::{ECHO, ECHO6, WEB, WEB6, vips};

const CLIENT: &str = "192.0.2.10";
const CLIENT6: &str = "2001:db8::10";

/// A lab whose balancer is the router between clients and servers.
fn routed(backends: u8) -> Lab {
    let lab = lab(backends);
    let (client, balancer) = (lab.client(), lab.balancer());
    let direct = |to: IpAddr, source: &str| {
        let via = balancer.address_like(to);
        client.netns.ip(&format!("route add {to} via {via} src {source}")).unwrap();
    };
    client.netns.ip(&format!("address add {CLIENT}/32 dev eth0")).unwrap();
    client.netns.ip(&format!("address add {CLIENT6}/128 dev eth0 nodad")).unwrap();
    for (vip, source) in [(WEB.ip(), CLIENT), (WEB6.ip(), CLIENT6)] {
        client.netns.ip(&format!("route add {vip} dev eth0 src {source}")).unwrap();
    }
    for backend in &lab.backends {
        direct(backend.v4.into(), CLIENT);
        direct(backend.v6.into(), CLIENT6);
        for router in [IpAddr::from(balancer.v4), balancer.v6.into()] {
            backend.netns.ip(&format!("route add default via {router}")).unwrap();
        }
    }
    balancer.netns.ip(&format!("route add 192.0.2.0/24 via {}", client.v4)).unwrap();
    balancer.netns.ip(&format!("route add 2001:db8::/32 via {}", client.v6)).unwrap();
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
        // As strict as it gets.
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
    ] {
        balancer.netns.sysctl(key, value).unwrap();
    }
    lab
}

const KEYS: &str = "transparent = true\ntimeouts = { connect = \"1s\" }";

/// Services of both families.
fn webs(lab: &Lab, keys: &str) -> ConfigText {
    vips().service(proxied(lab, "web", WEB, keys)).service(proxied(lab, "web6", WEB6, keys))
}

fn nginx(lab: &Lab) -> Vec<Nginx> {
    let backends = lab.backends.iter();
    backends.map(|b| Nginx::start(&b.netns, &b.name, WEB.port()).unwrap()).collect()
}

fn peer(lab: &Lab, at: SocketAddr) -> Result<String, String> {
    curl(&lab.client().netns, &format!("http://{at}/peer"))
}

/// Rules and routes of pend, both families.
fn of_pend(lab: &Lab) -> Vec<String> {
    let show = |what: &str| lab.balancer().netns.ip(what).unwrap();
    let rules = show("rule show") + &show("-6 rule show");
    let routes = show("-4 route show table all") + &show("-6 route show table all");
    let rules = rules.lines().filter(|line| line.starts_with("90:"));
    let routes = routes.lines().filter(|line| line.contains("table 7365998"));
    rules.chain(routes).map(|line| line.trim().to_owned()).collect()
}

fn assert_clean(lab: &Lab) {
    wait_until(LONG, "no rule is left", || of_pend(lab).is_empty().then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", of_pend(lab)));
}

fn reload(pend: &Pend, config: &ConfigText) {
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    let output = pend.penctl(["reload"]).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
}

/// The line of warnings in `penctl status` that has these words.
fn warning(pend: &Pend, words: &str) -> Option<String> {
    let status = pend.penctl_json(["status"]).unwrap();
    let mut warnings = status["warnings"].as_array().unwrap().iter().filter_map(|w| w.as_str());
    warnings.find(|text| text.contains(words)).map(str::to_owned)
}

#[test]
fn nginx_sees_the_clients_own_address_over_both_families() {
    let lab = routed(2);
    let _servers = nginx(&lab);
    let mut pend = start(&lab, &webs(&lab, KEYS));
    for _ in 0..10 {
        assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT), "{}", pend.log());
        assert_eq!(peer(&lab, WEB6).as_deref(), Ok(CLIENT6), "{}", pend.log());
    }
    let (b1, found) = (&lab.backends[0], of_pend(&lab));
    assert_eq!(found.len(), 6, "a rule for each server, a route for each family: {found:?}");
    for server in [IpAddr::from(b1.v4), b1.v6.into()] {
        let rule = format!("from {server} iif eth0 ipproto tcp sport 80 lookup 7365998");
        assert!(found.iter().any(|line| line.contains(&rule)), "{rule}: {found:?}");
    }
    let local = |line: &&String| line.starts_with("local default dev lo");
    assert_eq!(found.iter().filter(local).count(), 2, "{found:?}");
    assert_eq!(pend.counter("proxy-not-transparent").unwrap(), 0);
    assert_eq!(pend.counter("proxy-redispatched").unwrap(), 0);
    assert!(pend.terminate().unwrap().success());
    assert_eq!(of_pend(&lab), [""; 0]);
}

#[test]
fn a_server_of_udp_sees_the_clients_own_address_over_both_families() {
    let lab = routed(1);
    let backend = &lab.backends[0];
    let _servers = [
        udp::Server::telling(&backend.netns, (backend.v4.into(), ECHO.port())),
        udp::Server::telling(&backend.netns, (backend.v6.into(), ECHO.port())),
    ];
    let keys = "transparent = true";
    let six = ServiceText { name: "echo6".to_owned(), ..udp::unchecked(&lab, ECHO6, keys) };
    let pend = start(&lab, &vips().service(udp::unchecked(&lab, ECHO, keys)).service(six));
    for (at, client) in [(ECHO, CLIENT), (ECHO6, CLIENT6)] {
        let flow = udp::Talk::open(&lab.client().netns, at);
        for _ in 0..3 {
            let seen = flow.exchange(b"who").unwrap();
            assert_eq!(String::from_utf8(seen).unwrap(), client, "{at}: {}", pend.log());
        }
    }
    let found = of_pend(&lab);
    assert!(found.iter().any(|line| line.contains("ipproto udp sport 7")), "{found:?}");
}

#[test]
fn all_bytes_arrive_and_a_client_may_have_many_connections() {
    let lab = routed(1);
    let backend = &lab.backends[0];
    let _server = Server::start(&backend.netns, (backend.v4.into(), 80), |mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    });
    let service = proxied(&lab, "web", WEB, "transparent = true");
    let service = ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), ..service };
    let _pend = start(&lab, &vips().service(service));
    let client = &lab.client().netns;
    let many: Vec<TcpStream> = (0..50).map(|_| connect(client, WEB).unwrap()).collect();
    for (number, mut stream) in many.iter().enumerate() {
        writeln!(stream, "{number}").unwrap();
        assert_eq!(name_at(stream).unwrap(), number.to_string());
    }
    let mut stream = connect(client, WEB).unwrap();
    let bytes: Vec<u8> =
        (0..3_000_000).map(|at: u32| u8::try_from(at * 31 % 251).unwrap()).collect();
    let answer = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&stream).unwrap());
        (&stream).write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        reading.join().unwrap()
    });
    assert!(answer == bytes, "{} of {} bytes", answer.len(), bytes.len());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_is_forwarded_between_others_passes_untouched() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let backend = &lab.backends[0];
    let _other = Server::named(&backend.netns, (backend.v4.into(), 81), "other port");
    let _other6 = Server::named(&backend.netns, (backend.v6.into(), 81), "other port");
    let client = &lab.client().netns;
    let direct = |to: IpAddr| name_at(&connect(client, (to, 81).into()).unwrap()).unwrap();
    let _pend = start(&lab, &webs(&lab, KEYS));
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT));
    // Another port of the server, through this node and back.
    assert_eq!(direct(backend.v4.into()), "other port");
    assert_eq!(direct(backend.v6.into()), "other port");
    // The server's own connections, pings, and UDP from the same port.
    let theirs = Server::named(client, (CLIENT.parse().unwrap(), 82), "client");
    let stream = connect(&backend.netns, (CLIENT.parse::<IpAddr>().unwrap(), 82).into()).unwrap();
    assert_eq!(name_at(&stream).unwrap(), "client");
    drop(theirs);
    let pinged = client.output("ping", ["-c", "1", "-W", "10", "10.77.0.11"]).unwrap();
    assert!(pinged.status.success(), "{}", pinged.stdout);
    let _udp = udp::Server::telling(&backend.netns, (backend.v4.into(), 80));
    let socket = client.run(|| UdpSocket::bind((CLIENT, 0))).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send_to(b"who", (backend.v4, 80)).unwrap();
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], CLIENT.as_bytes());
}

#[test]
fn rules_follow_the_configuration_and_connections_keep_theirs() {
    let lab = routed(2);
    let _servers: Vec<Server> = lab
        .backends
        .iter()
        .map(|b| Server::named(&b.netns, (b.v4.into(), WEB.port()), &b.name))
        .collect();
    let unchecked = |keys: &str| {
        let service = proxied(&lab, "web", WEB, keys);
        ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), ..service }
    };
    let plain = vips().service(unchecked(""));
    let transparent = vips().service(unchecked(KEYS));
    let pend = start(&lab, &plain);
    assert_eq!(of_pend(&lab), [""; 0]);
    reload(&pend, &transparent);
    assert_eq!(of_pend(&lab).len(), 3, "{:?}", of_pend(&lab));
    let mut stream = connect(&lab.client().netns, WEB).unwrap();
    let name = name_at(&stream).unwrap();
    // It goes on, and so does the rule for its server; that of the other one is gone.
    reload(&pend, &plain);
    assert_eq!(of_pend(&lab).len(), 2, "{:?}", of_pend(&lab));
    writeln!(stream, "still there").unwrap();
    assert_eq!(name_at(&stream).unwrap(), "still there", "{name}");
    drop(stream);
    assert_clean(&lab);
    reload(&pend, &transparent);
    reload(&pend, &plain);
    assert_eq!(of_pend(&lab), [""; 0]);
}

#[test]
fn what_a_killed_daemon_left_is_adopted_or_removed_and_what_others_remove_comes_back() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let mut pend = start(&lab, &webs(&lab, KEYS));
    let before = of_pend(&lab);
    assert_eq!(before.len(), 4);
    pend.kill9().unwrap();
    assert_eq!(of_pend(&lab), before);
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT));
    assert_eq!(of_pend(&lab), before);
    lab.balancer().netns.ip("rule del pref 90").unwrap();
    wait_until(LONG, "the rule is back", || (of_pend(&lab) == before).then_some(())).unwrap();
    pend.kill9().unwrap();
    pend.write_config(&webs(&lab, "").render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    assert_clean(&lab);
    assert_eq!(peer(&lab, WEB).as_deref(), Ok("10.77.0.1"));
}

#[test]
fn a_daemon_that_leaves_takes_its_rules_away() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let mut pend = start(&lab, &webs(&lab, KEYS));
    assert_eq!(of_pend(&lab).len(), 4);
    assert!(pend.leave().unwrap().success());
    assert_eq!(of_pend(&lab), [""; 0]);
}

#[test]
fn connections_survive_a_replacement_of_the_daemon() {
    let lab = routed(1);
    let backend = &lab.backends[0];
    let _server = Server::named(&backend.netns, (backend.v4.into(), WEB.port()), "b1");
    let mut pend = start(&lab, &vips().service(proxied(&lab, "web", WEB, KEYS)));
    let mut first = connect(&lab.client().netns, WEB).unwrap();
    assert_eq!(name_at(&first).unwrap(), "b1");
    let rules = of_pend(&lab);
    let mut old = pend.overtake().unwrap();
    pend.wait_ready(1).unwrap();
    assert_eq!(of_pend(&lab), rules);
    writeln!(first, "still there").unwrap();
    assert_eq!(name_at(&first).unwrap(), "still there");
    drop(first);
    assert_eq!(old.wait(LONG).unwrap().code(), Some(0));
    assert_eq!(of_pend(&lab), rules);
    assert!(pend.terminate().unwrap().success());
    assert_eq!(of_pend(&lab), [""; 0]);
}

#[test]
fn the_least_capabilities_are_enough() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let config = webs(&lab, KEYS);
    // Ports below 1024, and programs that follow pointers, need one each.
    let few = "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon,+net_bind_service";
    let mut pend = Pend::prepare(&lab.balancer().netns).unwrap().through(&["setpriv", few]);
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT), "{}", pend.log());
    assert_eq!(peer(&lab, WEB6).as_deref(), Ok(CLIENT6), "{}", pend.log());
}

#[test]
fn a_server_whose_answers_go_elsewhere_is_named() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let pend = start(&lab, &webs(&lab, KEYS));
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT));
    lab.backends[0].netns.ip("route replace default via 10.77.0.2").unwrap();
    // The client, now the server's router, drops answers that it gets from nowhere.
    lab.client().netns.ip(&format!("address del {CLIENT}/32 dev eth0")).unwrap();
    lab.client().netns.ip("address add 192.0.2.11/32 dev eth0").unwrap();
    lab.client().netns.ip(&format!("route replace {} dev eth0 src 192.0.2.11", WEB.ip())).unwrap();
    lab.backends[0].netns.ip("route replace default via 10.77.0.99").unwrap();
    assert!(http(&lab.client().netns, WEB).is_err());
    let told = wait_until(SHORT, "it is told", || warning(&pend, "10.77.0.11:80")).unwrap();
    assert_eq!(
        told,
        "service web: 10.77.0.11:80 does not answer connections from the addresses of clients: see \
         that the server's route to clients leads through this node"
    );
    let asked = format!("{told} (asked from 192.0.2.11)");
    assert_eq!(pend.log().matches(&asked).count(), 1, "{}", pend.log());
}

#[test]
fn what_keeps_servers_from_being_shown_clients_is_named_at_the_start() {
    let lab = routed(1);
    let own = lab.balancer();
    let _server = Server::named(&own.netns, (own.v4.into(), 80), "own");
    let at = |name: &str, port: u16, server: &str| {
        let service = ServiceText::dsr(name, SocketAddr::new(WEB.ip(), port), Protocol::Tcp, port);
        let mut service = service.backend(Some("b1"), server.parse().unwrap());
        service.backends[0].1.set_port(80);
        service.check = Some(r#"{ type = "none" }"#.to_owned());
        ServiceText { mode: "proxy".to_owned(), keys: KEYS.to_owned(), ..service }
    };
    let config = vips().service(at("own", 81, "10.77.0.1")).service(at("lost", 82, "203.0.113.9"));
    let mut pend = Pend::start(&own.netns, &config).unwrap();
    pend.wait_ready(0).unwrap();
    let own = warning(&pend, "10.77.0.1 cannot").unwrap();
    assert!(own.contains("it is this machine"), "{own}");
    let lost = warning(&pend, "203.0.113.9 cannot").unwrap();
    assert!(lost.contains("there is no route to it"), "{lost}");
    for text in [own, lost] {
        assert_eq!(pend.log().matches(&text).count(), 1, "{text}: {}", pend.log());
    }
    assert_eq!(of_pend(&lab), [""; 0]);
    reload(&pend, &vips());
    wait_until(SHORT, "nothing is wrong any more", || {
        warning(&pend, "cannot be shown").is_none().then_some(())
    })
    .unwrap();
}

#[test]
fn a_server_on_the_same_machine_sees_clients_over_the_loopback_interface() {
    let lab = routed(0);
    let own = &lab.balancer().netns;
    let _server = Server::start(own, ("127.0.0.1".parse().unwrap(), 8080), |mut stream| {
        let _ = writeln!(stream, "{}", stream.peer_addr().unwrap().ip());
    });
    let service = ServiceText::dsr("web", WEB, Protocol::Tcp, WEB.port());
    let mut service = service.backend(Some("b1"), "127.0.0.1".parse().unwrap());
    service.backends[0].1.set_port(8080);
    let service = ServiceText { mode: "proxy".to_owned(), keys: KEYS.to_owned(), ..service };
    let pend = start(&lab, &vips().service(service));
    let stream = connect(&lab.client().netns, WEB).unwrap();
    assert_eq!(name_at(&stream).unwrap(), CLIENT, "{}", pend.log());
}

#[test]
fn a_client_whose_address_a_server_cannot_see_is_served_and_counted() {
    let lab = routed(1);
    let _servers = nginx(&lab);
    let everywhere: SocketAddr = "[::]:80".parse().unwrap();
    let mut service = proxied(&lab, "web", everywhere, KEYS);
    service.backends[0].1.set_ip(lab.backends[0].v4.into());
    let pend = start(&lab, &ConfigText::default().service(service));
    let balancer = lab.balancer();
    let client = &lab.client().netns;
    client.ip(&format!("route add {} dev eth0 src {CLIENT}", balancer.v4)).unwrap();
    let of_both = [IpAddr::from(balancer.v4), balancer.v6.into()].map(|ip| (ip, 80).into());
    let [four, six] = of_both.map(|at| peer(&lab, at).unwrap());
    assert_eq!((four.as_str(), six.as_str()), (CLIENT, "10.77.0.1"));
    assert_eq!(pend.counter("proxy-not-transparent").unwrap(), 1);
}

#[test]
fn a_client_in_the_servers_own_network_takes_no_server_from_others() {
    let lab = routed(2);
    let _servers = nginx(&lab);
    let pend = start(&lab, &webs(&lab, KEYS));
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT));
    // Both servers answer it directly, which it knows nothing of.
    let other = connect(&lab.clients[1].netns, WEB).unwrap();
    assert!(read_all(&other).map_or(true, |bytes| bytes.is_empty()));
    assert_eq!(pend.counter("proxy-redispatched").unwrap(), 2);
    assert_eq!(peer(&lab, WEB).as_deref(), Ok(CLIENT), "{}", pend.log());
}
