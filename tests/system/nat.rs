//! Modes `nat` and `masquerade` with what people put behind a balancer, on one network and between
//! two: all that a client meets is the virtual address.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use pen_tests::{
    Capture, ConfigText, Demo, Dnsmasq, Lab, Netns, Nginx, Pend, Protocol, ServiceText, VIP4, VIP6,
    client::{PATIENCE, curl, curl_times, dig},
    link::{Switch, attach_pass},
    server::UDP_PORT,
};

use crate::stage::{ECHO, ECHO6, WEB, WEB6, count};

const MODES: [&str; 2] = ["nat", "masquerade"];
/// Where the backends serve, which clients do not know.
const PORT: u16 = 8080;
/// Nobody listens there.
const CLOSED: u16 = 9;
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

struct Backend {
    netns: Netns,
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// Two backends that hold no virtual address, and all that serves. Dropped in this order.
struct Site {
    pend: Pend,
    webs: Vec<Nginx>,
    _others: Vec<(Dnsmasq, Demo)>,
    backends: Vec<Backend>,
    _back: Option<Switch>,
    lab: Lab,
}

impl Site {
    /// Client, balancer and backends on one network; the backends' way to the client leads through
    /// the balancer.
    fn on_one_network(mode: &str) -> Self {
        let lab = Lab::builder().backends(2).vips(&[]).build().unwrap();
        let (client, balancer) = (lab.client(), lab.balancer());
        let backends = lab.backends.iter().map(|host| {
            let ip = |command: &str| host.netns.ip(command).unwrap();
            ip(&format!("route add {}/32 via {}", client.v4, balancer.v4));
            ip(&format!("-6 route add {}/128 via {}", client.v6, balancer.v6));
            Backend { netns: host.netns.clone(), name: host.name.clone(), v4: host.v4, v6: host.v6 }
        });
        let backends = backends.collect();
        Self::serve(mode, lab, None, backends, &["eth0"])
    }

    /// The balancer is the router between the client's network and the backends'.
    fn between_two(mode: &str) -> Self {
        let lab = Lab::builder().backends(0).build().unwrap();
        let balancer = &lab.balancer().netns;
        let back = Switch::new().unwrap();
        back.plug_as(balancer, "eth1", "balancer", "02:70:65:6e:88:01").unwrap();
        attach_pass(back.netns(), "balancer").unwrap();
        balancer.ip("address add 10.88.0.1/24 dev eth1").unwrap();
        balancer.ip("address add fd88::1/64 dev eth1 nodad").unwrap();
        let backends = (1..=2).map(|number: u8| {
            let name = format!("b{number}");
            let netns = Netns::new(&name).unwrap();
            back.plug(&netns, &name, &format!("02:70:65:6e:88:1{number}")).unwrap();
            let v4 = Ipv4Addr::new(10, 88, 0, 10 + number);
            let v6 = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number));
            let ip = |command: &str| netns.ip(command).unwrap();
            ip(&format!("address add {v4}/24 dev eth0"));
            ip(&format!("address add {v6}/64 dev eth0 nodad"));
            if mode == "nat" {
                ip("route add default via 10.88.0.1");
                ip("-6 route add default via fd88::1");
            }
            Backend { netns, name, v4, v6 }
        });
        let backends = backends.collect();
        Self::serve(mode, lab, Some(back), backends, &["eth0", "eth1"])
    }

    fn serve(
        mode: &str,
        lab: Lab,
        back: Option<Switch>,
        backends: Vec<Backend>,
        interfaces: &[&str],
    ) -> Self {
        let balancer = &lab.balancer().netns;
        FORWARDING.into_iter().for_each(|key| balancer.sysctl(key, "1").unwrap());
        // Answers that the kernel has to route come from the virtual address, which it expects
        // elsewhere.
        for scope in ["all", "eth0"].iter().chain(&interfaces[1..]) {
            balancer.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0").unwrap();
        }
        let webs = backends.iter().map(|b| Nginx::start(&b.netns, &b.name, PORT).unwrap());
        let webs = webs.collect();
        let others = backends.iter().map(|b| {
            let demo = Demo::start(&b.netns, &b.name, PORT + 1, UDP_PORT).unwrap();
            (Dnsmasq::start(&b.netns, &b.name).unwrap(), demo)
        });
        let others = others.collect();
        let mut config = ConfigText::on(interfaces[0]).vip(VIP4).vip(VIP6);
        for name in &interfaces[1..] {
            config.interfaces.push(((*name).to_owned(), "auto".to_owned()));
        }
        let udp = |name, vip, port| (name, SocketAddr::new(vip, port), Protocol::Udp, port);
        for (name, at, protocol, port) in [
            ("web", WEB, Protocol::Tcp, PORT),
            ("web6", WEB6, Protocol::Tcp, PORT),
            udp("dns", VIP4, 53),
            udp("dns6", VIP6, 53),
            udp("echo", VIP4, UDP_PORT),
            udp("echo6", VIP6, UDP_PORT),
            udp("closed", VIP4, CLOSED),
            udp("closed6", VIP6, CLOSED),
        ] {
            let mut service = ServiceText::dsr(name, at, protocol, PORT);
            mode.clone_into(&mut service.mode);
            let reach = |b: &Backend| -> (Option<String>, SocketAddr) {
                let address: IpAddr = if at.is_ipv4() { b.v4.into() } else { b.v6.into() };
                (Some(b.name.clone()), SocketAddr::new(address, port))
            };
            service.backends = backends.iter().map(reach).collect();
            config = config.service(service);
        }
        let mut pend = Pend::start(balancer, &config).unwrap();
        pend.wait_ready(8 * 2).unwrap();
        Self { pend, webs, _others: others, backends, _back: back, lab }
    }

    fn client(&self) -> &Netns {
        &self.lab.client().netns
    }

    /// A megabyte, no two pages of which are alike, that all backends serve.
    fn bulk(&self) -> String {
        let bulk: String = (0..131_072_u32)
            .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24 & 15).unwrap())
            .flat_map(|letter| [char::from(b'a' + letter); 8])
            .collect();
        for web in &self.webs {
            fs::write(web.files().join("bulk"), &bulk).unwrap();
        }
        bulk
    }

    /// Nobody has met a wrong checksum.
    #[track_caller]
    fn assert_checksums(&self) {
        let hosts = self.backends.iter().map(|b| &b.netns).chain([self.client()]);
        for netns in hosts {
            let read = |file: &str| netns.run(|| fs::read_to_string(file).unwrap());
            // Two lines for each protocol: names and numbers.
            let snmp = read("/proc/thread-self/net/snmp");
            let lines: Vec<Vec<&str>> =
                snmp.lines().map(|line| line.split_whitespace().collect()).collect();
            let mut seen = 0;
            for pair in lines.chunks(2) {
                for (name, number) in pair[0].iter().zip(&pair[1]) {
                    if ["InCsumErrors", "InHdrErrors"].contains(name) {
                        assert_eq!(*number, "0", "{} {name}", pair[0][0]);
                        seen += 1;
                    }
                }
            }
            for line in read("/proc/thread-self/net/snmp6").lines() {
                if line.contains("InCsumErrors") || line.contains("InHdrErrors") {
                    assert_eq!(line.split_whitespace().last(), Some("0"), "{line}");
                    seen += 1;
                }
            }
            assert!(seen >= 6, "{snmp}");
        }
    }
}

/// All is served to the client by both backends, of which it sees nothing.
fn serves(site: &Site, mode: &str) {
    let client = site.client();
    let seen_by_client = {
        let backends = site.backends.iter().map(|b| format!("host {} or host {}", b.v4, b.v6));
        // Not neighbour discovery.
        let filter = format!("(tcp or udp) and ({})", backends.collect::<Vec<_>>().join(" or "));
        Capture::start(client, "eth0", &filter).unwrap()
    };
    let seen_by_backend = {
        let host = site.lab.client();
        let filter = format!("(tcp or udp) and (host {} or host {})", host.v4, host.v6);
        Capture::start(&site.backends[0].netns, "eth0", &filter).unwrap()
    };
    let bulk = site.bulk();
    for at in [WEB, WEB6] {
        let body = curl(client, &format!("http://{at}/files/bulk")).unwrap();
        assert!(body == bulk, "{at}: {} of {} bytes, or others", body.len(), bulk.len());
        let by = count(curl_times(client, at, 60).unwrap());
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "{by:?}");
    }
    for vip in [VIP4, VIP6] {
        let at = SocketAddr::new(vip, 53);
        let by = count((0..20).map(|_| dig(client, at, Dnsmasq::WHO, "TXT").unwrap()));
        assert_eq!(by.keys().collect::<Vec<_>>(), ["\"b1\"", "\"b2\""], "{by:?}");
    }
    site.assert_checksums();
    assert_eq!(seen_by_client.stop().unwrap(), [""; 0], "the client met a backend");
    let lines = seen_by_backend.stop().unwrap();
    assert_eq!(lines.is_empty(), mode == "masquerade", "{lines:?}");
}

#[test]
fn a_client_on_the_backends_network_sees_the_service_alone() {
    for mode in MODES {
        let site = Site::on_one_network(mode);
        serves(&site, mode);
        let returned = site.pend.counter("return-transmit").unwrap();
        assert!(returned > 1000, "{returned}");
        assert_eq!(site.pend.counter("return-redirect").unwrap(), 0);
    }
}

#[test]
fn a_client_on_another_network_sees_the_service_alone() {
    for mode in MODES {
        let site = Site::between_two(mode);
        serves(&site, mode);
        let returned = site.pend.counter("return-redirect").unwrap();
        assert!(returned > 1000, "{returned}");
        assert_eq!(site.pend.counter("return-transmit").unwrap(), 0);
    }
}

/// A socket of the client that is connected to a service.
fn connected(client: &Netns, at: SocketAddr) -> UdpSocket {
    client.run(|| {
        let any: IpAddr =
            if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

#[test]
fn a_client_hears_that_nobody_listens() {
    for mode in MODES {
        for site in [Site::on_one_network(mode), Site::between_two(mode)] {
            for vip in [VIP4, VIP6] {
                let socket = connected(site.client(), SocketAddr::new(vip, CLOSED));
                socket.send(b"anybody there?").unwrap();
                let refused = socket.recv(&mut [0; 16]).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{mode}, {vip}");
            }
        }
    }
}

#[test]
fn a_datagram_in_fragments_is_answered() {
    for mode in MODES {
        for site in [Site::on_one_network(mode), Site::between_two(mode)] {
            for at in [ECHO, ECHO6] {
                let socket = connected(site.client(), at);
                socket.send(&[0x5a; 5000]).unwrap();
                let mut answer = [0; 16];
                let length = socket.recv(&mut answer).unwrap();
                assert!(["b1\n", "b2\n"].map(str::as_bytes).contains(&&answer[..length]), "{mode}");
            }
            assert_eq!(site.pend.counter("pass-fragment").unwrap(), 0);
        }
    }
}

/// The client's network takes less than the backends and the client itself believe.
#[test]
fn a_backend_learns_which_size_fits_to_the_client() {
    for mode in MODES {
        let site = Site::between_two(mode);
        site.lab.switch.set_mtu("balancer", &site.lab.balancer().netns, 1300).unwrap();
        let bulk = site.bulk();
        for at in [WEB, WEB6] {
            let body = curl(site.client(), &format!("http://{at}/files/bulk")).unwrap();
            assert!(body == bulk, "{at}: {} of {} bytes, or others", body.len(), bulk.len());
        }
        let told = site.pend.counter("too-big-reply").unwrap();
        if mode == "masquerade" {
            assert!(told >= 2, "the balancer's program has told it: {told}");
        } else {
            assert_eq!(told, 0, "the balancer's kernel has told it");
        }
        site.assert_checksums();
    }
}
